"""This package's one exception."""


class DataError(ValueError):
    """Data that cannot be loaded; the message is one line and names the file or the argument at fault."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))
