"""Having the disk know what the operating system has been told. Importing this imports no torch."""

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Have the disk know what is in the file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Have the disk know which files are in the folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
