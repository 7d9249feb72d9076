import gzip
import struct
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from surmin.data import DataError
from surmin.data.idx import read_idx
from tests.data.idx_files import encode_idx, random_images, write_idx

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=6)


@given(values=arrays.arrays(np.uint8, SHAPES), suffix=st.sampled_from(["", ".gz"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, values: NDArray[np.uint8], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("idx") / f"values{suffix}"
    write_idx(path, values)
    np.testing.assert_array_equal(read_idx(path, values.ndim), values)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_truncation_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_idx(path, random_images(3))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="images"):
            read_idx(path, axes=3)


@given(position=st.integers(min_value=0), flip=st.integers(1, 255))
def test_a_damaged_gzip_never_gives_other_values(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    path = tmp_path_factory.mktemp("idx") / "images.gz"
    values = random_images(3)
    content = bytearray(gzip.compress(encode_idx(values)))
    content[position % len(content)] ^= flip
    path.write_bytes(content)
    try:
        read = read_idx(path, axes=3)
    except DataError:
        return
    np.testing.assert_array_equal(read, values)  # the damage was in gzip's own notes, such as the time


def test_a_plain_file_holds_no_more_than_its_own_size(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", 100) + bytes(4))
    with pytest.raises(DataError, match="claims 100 bytes, more than a file of 12 bytes can hold"):
        read_idx(path, axes=1)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (bytes([0, 0, 13, 1]) + struct.pack(">I", 1) + bytes(4), "not an IDX file of bytes with 1 axes"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 1, 1) + bytes(1), "not an IDX file of bytes with 1 axes"),
        (b"\x89PNG\r\n", "not an IDX file"),
        (bytes([0, 0, 8, 1, 0, 0]), "truncated in the header"),
        (bytes([0, 0, 8, 1]) + struct.pack(">I", 0), "empty"),
        (bytes([0, 0, 8, 1]) + struct.pack(">I", 5) + bytes(4), "truncated, the header says 5 bytes and 4 follow"),
        (bytes([0, 0, 8, 1]) + struct.pack(">I", 5) + bytes(6), "longer than the 5 bytes"),
        (bytes([0, 0, 8, 1]) + struct.pack(">I", 2**32 - 1) + bytes(4), "claims 4,294,967,295 bytes"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=message):
        read_idx(path, axes=1)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: .*No such file"):
        read_idx(tmp_path / "absent", axes=1)


def test_a_gz_name_without_gzip_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(encode_idx(random_images(3)))
    with pytest.raises(DataError, match="Not a gzipped file"):
        read_idx(path, axes=3)
