import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from surmin.data import DataError, load_dataset


def valid_arrays() -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.normal(size=(30, 5)),
        "y_train": np.arange(30) % 3,
        "x_test": generator.normal(size=(12, 5)),
        "y_test": np.arange(12) % 3,
    }


def write(path: Path, **changes: NDArray[Any]) -> Path:
    np.savez(path, **{**valid_arrays(), **changes})
    return path


def replace_member(path: Path, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, old in members.items():
            archive.writestr(member, content if member == f"{name}.npy" else old)


def npy(header: str, values: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + values


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numbers_are_taken_as_they_are(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "mine.npz"
    save(path, **valid_arrays())
    dataset = load_dataset(str(path), dtype=torch.float64)
    np.testing.assert_array_equal(dataset.train_inputs.numpy(), valid_arrays()["x_train"])
    np.testing.assert_array_equal(dataset.test_targets.numpy(), valid_arrays()["y_test"])
    assert (dataset.classes, dataset.input_shape) == (3, (5,))
    dataset.train_inputs.add_(1)  # the tensors are the caller's own


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "<i4", ">u2", "i1"])
def test_every_number_type_and_byte_order(tmp_path: Path, dtype: str) -> None:
    values = (np.arange(150).reshape(30, 5) % 100).astype(dtype)
    labels = (np.arange(30) % 3).astype(">i2")
    dataset = load_dataset(write(tmp_path / "a.npz", x_train=values, y_train=labels))
    np.testing.assert_array_equal(dataset.train_inputs.numpy(), values.astype(np.float32))
    assert dataset.train_targets.tolist() == labels.tolist()


def test_column_major_arrays(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(150.0).reshape(30, 5))
    dataset = load_dataset(write(tmp_path / "a.npz", x_train=values))
    np.testing.assert_array_equal(dataset.train_inputs.numpy(), values.astype(np.float32))
    assert dataset.train_inputs.is_contiguous()


def test_bytes_are_pixels(tmp_path: Path) -> None:
    train = np.full((30, 8, 6), 255, dtype=np.uint8)
    test = np.zeros((12, 8, 6), dtype=np.uint8)
    dataset = load_dataset(write(tmp_path / "a.npz", x_train=train, x_test=test))
    assert dataset.input_shape == (1, 8, 6)
    assert dataset.train_inputs.unique().item() == pytest.approx((1 - 0.1307) / 0.3081)
    assert dataset.test_inputs.unique().item() == pytest.approx(-0.1307 / 0.3081)


def test_first_samples_and_too_many(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    assert load_dataset(path, train_samples=4).train_targets.tolist() == [0, 1, 2, 0]
    with pytest.raises(DataError, match="cannot take 31 training samples, there are 1 to 30"):
        load_dataset(path, train_samples=31)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.full((30, 5), np.nan)}, "x_train: contains NaN or infinity"),
        ({"x_test": np.full((12, 5), np.inf)}, "x_test: contains NaN or infinity"),
        ({"x_train": np.full((30, 5), 1e300)}, "x_train: contains NaN or infinity"),  # too large for float32
        ({"x_train": np.array([["a"] * 5] * 30)}, "x_train must hold numbers"),
        ({"x_train": np.zeros((30, 5), dtype=complex)}, "x_train must hold numbers"),
        ({"x_train": np.zeros(30)}, "inputs must be"),
        ({"x_train": np.float64(3)}, "inputs must be"),
        ({"x_train": np.zeros((0, 5))}, "x_train: empty"),
        ({"x_train": np.zeros((30, 0))}, "x_train: empty"),
        ({"x_train": np.zeros((29, 5))}, r"\(train\): 29 inputs but 30 labels"),
        ({"x_test": np.zeros((12, 5), dtype=np.uint8)}, "x_train has type float64 and x_test uint8"),
        ({"x_train": np.zeros((30, 5), dtype=np.uint8)}, "x_train has type uint8 and x_test float64"),
        ({"x_test": np.zeros((12, 6))}, r"training inputs are \(5,\) each, test inputs \(6,\)"),
        ({"y_test": np.arange(12.0)}, "y_train has type int64 and y_test float64: both must hold integers"),
        ({"y_test": np.ones(12, dtype=bool)}, "y_test must hold integers or floating-point numbers, has type bool"),
        ({"y_train": np.zeros((30, 1), dtype=int)}, "labels must be one number per sample"),
        ({"y_train": np.zeros((30, 1, 1))}, r"or floating-point numbers \(samples, outputs\), got float64 of shape"),
        ({"y_train": -np.ones(30, dtype=int)}, "label -1 is out of range"),
        ({"y_test": np.full(12, 10**12)}, "label 1000000000000 is out of range"),
        ({"y_test": np.full(12, 10**5)}, "label 100000 is out of range, labels end at 99999"),
        ({"y_train": np.zeros(30, dtype=int), "y_test": np.zeros(12, dtype=int)}, "at least two classes"),
        ({"y_test": np.array([0, 1, {}] * 4, dtype=object)}, "y_test: holds pickled objects"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(write(tmp_path / "a.npz", **changes))


def test_the_largest_label_there_can_be(tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path / "a.npz", y_test=np.full(12, 99_999))).classes == 100_000


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    arrays = valid_arrays()
    del arrays["y_test"]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match="y_test: missing"):
        load_dataset(tmp_path / "a.npz")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.npz: cannot be read as an .npz file: .*No such file"):
        load_dataset(tmp_path / "absent.npz")


def test_a_single_array_or_a_pickle_under_the_name(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    for content in (stream.getvalue(), b"\x80\x04N.", b""):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read as an .npz file: File is not a zip file"):
            load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged header"),
        (b"not an array", "damaged header"),
        (b"\x93NUMPY\x09\x00", "damaged header"),
        (npy("{'descr': '<f8', 'shape': (30, 5)}"), "damaged header"),
        (npy("("), "damaged header"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (30, 5)}" + " " * 20_000), "damaged header"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10**9,)}"), "damaged header"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 5)}"), "claims 40,000,000,000 bytes"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -5)}", bytes(40)), "empty"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (30, 5)}", bytes(1199)), "shorter than its header"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (30, 5)}", bytes(1201)), "longer than its header"),
    ],
)
def test_an_array_that_lies_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "a.npz")
    replace_member(path, "x_train", content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


def test_foreign_compression_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    replace_member(path, "x_train", b"", zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match="compressed in another way"):
        load_dataset(path)


def test_truncation_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cannot be read"):
            load_dataset(path)


@given(position=st.integers(min_value=0), flip=st.integers(1, 255))
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, position: int, flip: int) -> None:
    path = write(tmp_path_factory.mktemp("npz") / "a.npz")
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= flip
    path.write_bytes(content)
    try:
        dataset = load_dataset(path, dtype=torch.float64)
    except DataError:
        return
    np.testing.assert_array_equal(dataset.train_inputs.numpy(), valid_arrays()["x_train"])
    np.testing.assert_array_equal(dataset.test_targets.numpy(), valid_arrays()["y_test"])


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "f2"])
def test_floating_point_targets_are_numbers(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    numbers = np.random.default_rng(1).normal(size=(30, *shape)).astype(dtype)
    dataset = load_dataset(write(tmp_path / "a.npz", y_train=numbers, y_test=numbers[:12]), train_samples=20)
    width = shape[0] if shape else 1
    assert (dataset.classes, dataset.outputs) == (0, width)
    assert dataset.train_targets.dtype == torch.float32
    np.testing.assert_array_equal(dataset.train_targets.numpy(), numbers[:20].reshape(20, width).astype(np.float32))
    np.testing.assert_array_equal(dataset.test_targets.numpy(), numbers[:12].reshape(12, width).astype(np.float32))


def test_a_network_for_labels_has_an_output_a_class(tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path / "a.npz")).outputs == 3


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (np.zeros((30, 2)), np.zeros((12, 3)), "targets are of width 2 in y_train and 3 in y_test"),
        (np.zeros(30), np.zeros((12, 3)), "targets are of width 1 in y_train and 3 in y_test"),
        (np.full(30, np.nan), np.zeros(12), "y_train: contains NaN or infinity"),
        (np.zeros(30), np.full((12, 1), np.inf), "y_test: contains NaN or infinity"),
        (np.full(30, 1e300), np.zeros(12), "y_train: contains NaN or infinity"),  # too large for float32
        (np.zeros(29), np.zeros(12), r"\(train\): 30 inputs but 29 labels"),
    ],
)
def test_bad_numbers_are_refused(tmp_path: Path, train: NDArray[Any], test: NDArray[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(write(tmp_path / "a.npz", y_train=train, y_test=test))
