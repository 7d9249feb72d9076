"""Collections of runs: comparisons, the paper's grid, and what they show."""
