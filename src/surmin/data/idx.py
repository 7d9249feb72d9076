"""Reading one IDX file of unsigned bytes, plain or gzip.

The format: two zero bytes, the type (8: unsigned byte), the number of axes, each axis's size as a big-endian 32-bit
number, then the values with the last axis fastest.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from surmin.data.checks import DEFLATE_LIMIT, check_claimed_bytes
from surmin.data.errors import DataError

UNSIGNED_BYTE = 8


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Reads an IDX file of unsigned bytes with `axes` axes; a name ending in .gz is decompressed on the way.

    Raises:
        DataError: the file is missing, unreadable, not of that kind, truncated, too long, corrupt or empty, or its
            header claims more than it can hold.
    """
    try:
        with _open(path) as stream:
            shape = _read_shape(stream, path, axes)
            return _read_values(stream, path, shape)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _read_shape(stream: IO[bytes], path: Path, axes: int) -> tuple[int, ...]:
    magic = stream.read(4)
    expected = bytes([0, 0, UNSIGNED_BYTE, axes])
    if magic != expected:
        raise DataError(f"{path}: not an IDX file of bytes with {axes} axes (begins {magic.hex()})")
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(f"{path}: truncated in the header")
    return struct.unpack(f">{axes}I", sizes)


def _read_values(stream: IO[bytes], path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    expected = math.prod(shape)
    if expected == 0:
        raise DataError(f"{path}: empty, the header says {shape}")
    check_claimed_bytes(expected, path.stat().st_size, path, DEFLATE_LIMIT if path.suffix == ".gz" else 1)
    values = stream.read(expected + 1)  # one more: finds surplus bytes, and makes gzip verify its checksum
    if len(values) < expected:
        raise DataError(f"{path}: truncated, the header says {expected:,} bytes and {len(values):,} follow")
    if len(values) > expected:
        raise DataError(f"{path}: longer than the {expected:,} bytes its header says")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)
