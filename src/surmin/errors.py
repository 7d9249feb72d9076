"""The errors of our own that callers tell apart."""


class NonFiniteError(ValueError):
    """The loss or its gradient is not finite at the current parameters: training has diverged."""
