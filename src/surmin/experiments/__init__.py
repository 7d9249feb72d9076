"""Experiments: configuration, the run folder, training with checkpoints, and comparisons."""
