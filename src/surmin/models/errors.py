"""This package's one exception, and the check that raises it most."""


class ModelError(ValueError):
    """A network that cannot be built; the message is one line and names the argument at fault."""


def require_positive(**sizes: int) -> None:
    """Refuses a size below 1, naming it."""
    for name, size in sizes.items():
        if size < 1:
            raise ModelError(f"{name} must be at least 1, got {size}")
