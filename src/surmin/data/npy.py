"""Reading one array of a NumPy archive, without pickle and without trusting the sizes it claims."""

import math
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from surmin.data.checks import check_claimed_bytes
from surmin.data.errors import DataError

HEADER_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def read_npy(archive: zipfile.ZipFile, name: str, stored: int, where: str) -> NDArray[np.generic]:
    """Reads the array `name` of an archive that takes `stored` bytes on disk.

    Raises:
        DataError: the array is missing, empty, pickled, truncated, too long, or claims more than it can hold. What
            `zipfile` finds wrong with the archive itself passes through.
    """
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise DataError(f"{where}: missing")
    if archive.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where}: compressed in another way than NumPy's")
    with archive.open(member) as stream:
        shape, column_major, dtype = _read_header(stream, where)
        if dtype.hasobject:
            raise DataError(f"{where}: holds pickled objects, which are not loaded")
        expected = math.prod(shape) * dtype.itemsize
        if expected <= 0 or min(shape, default=1) < 0:
            raise DataError(f"{where}: empty, has shape {shape}")
        check_claimed_bytes(expected, stored, where)
        values = stream.read(expected + 1)  # one more: finds surplus bytes, and makes zip verify its checksum
    if len(values) != expected:
        raise DataError(f"{where}: {'shorter' if len(values) < expected else 'longer'} than its header says")
    return np.frombuffer(values, dtype=dtype).reshape(shape, order="F" if column_major else "C")


def _read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    try:
        return HEADER_READERS[npy_format.read_magic(stream)](stream)
    except Exception as error:  # NumPy parses it as Python source: a damaged one can raise almost anything
        raise DataError(f"{where}: damaged header: {error}") from error
