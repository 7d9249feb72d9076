"""Flushing to disk what the operating system has been given. Importing this imports no torch."""

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Flush a file's contents to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's list of files to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
