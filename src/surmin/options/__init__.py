"""What a `SurrogateMinimizer` is told: its options, presets of them, and which fit together."""

from surmin.options.options import CUBIC_SOLVERS, NONLINEAR_SOLVERS, Options, OptionValues, SolverName

__all__ = ["CUBIC_SOLVERS", "NONLINEAR_SOLVERS", "OptionValues", "Options", "SolverName"]
