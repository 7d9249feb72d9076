"""A NumPy archive (.npz) with the arrays x_train, y_train, x_test and y_test.

- x_train, x_test: (samples, ...), of any number type. Unsigned bytes are treated as pixels: scaled like MNIST's, and a
  (samples, height, width) array gains a channel axis. Anything else is used as is.
- y_train, y_test: (samples,), of an integer type, class numbers from 0; or of a floating-point type, (samples,) or
  (samples, outputs), used as they are.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surmin.data.checks import check_finite, check_pair, check_same_shape, count_classes, samples_to_keep
from surmin.data.dataset import Dataset
from surmin.data.errors import DataError
from surmin.data.npy import read_npy
from surmin.data.pixels import labels_to_tensor, scale_pixels

NAMES = ("x_train", "y_train", "x_test", "y_test")


def load_arrays(path: Path, train_samples: int | None, dtype: torch.dtype) -> Dataset:
    """Loads the archive; `classes` is one more than the largest label, whatever `train_samples` is; 0 for numbers."""
    x_train, y_train, x_test, y_test = _read_archive(path)
    for inputs, labels, part in ((x_train, y_train, "train"), (x_test, y_test, "test")):
        _check_types(inputs, labels, part, path)
        check_pair(inputs, labels, f"{path} ({part})")
    check_same_shape(x_train, x_test, str(path))
    _check_same_scale(x_train, x_test, path)
    classes = _count_classes(y_train, y_test, path)
    kept = samples_to_keep(train_samples, len(x_train), str(path))
    return Dataset(
        _to_inputs(x_train[:kept], dtype, f"{path}: x_train"),
        _to_targets(y_train[:kept], dtype, f"{path}: y_train"),
        _to_inputs(x_test, dtype, f"{path}: x_test"),
        _to_targets(y_test, dtype, f"{path}: y_test"),
        classes,
    )


def _read_archive(path: Path) -> list[NDArray[np.generic]]:
    try:
        stored = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            return [read_npy(archive, name, stored, f"{path}: {name}") for name in NAMES]
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as an .npz file: {error}") from error


def _check_types(inputs: NDArray[np.generic], labels: NDArray[np.generic], part: str, path: Path) -> None:
    if inputs.dtype.kind not in "fiu":
        raise DataError(f"{path}: x_{part} must hold numbers, has type {inputs.dtype}")
    if labels.dtype.kind not in "fiu":
        raise DataError(f"{path}: y_{part} must hold integers or floating-point numbers, has type {labels.dtype}")


def _check_same_scale(train: NDArray[np.generic], test: NDArray[np.generic], path: Path) -> None:
    if (train.dtype == np.uint8) != (test.dtype == np.uint8):
        raise DataError(
            f"{path}: x_train has type {train.dtype} and x_test {test.dtype}: unsigned bytes are scaled as pixels and "
            "other numbers are not, so both must be bytes or neither"
        )


def _count_classes(train: NDArray[np.generic], test: NDArray[np.generic], path: Path) -> int:
    """Of labels; 0 for floating-point targets, which must be as many numbers in either part."""
    are_numbers = [targets.dtype.kind == "f" for targets in (train, test)]
    if not any(are_numbers):
        return count_classes(train, test, str(path))
    if not all(are_numbers):
        raise DataError(
            f"{path}: y_train has type {train.dtype} and y_test {test.dtype}: both must hold integers, which are class "
            "numbers, or both floating-point numbers"
        )
    if train[0].size != test[0].size:
        raise DataError(f"{path}: targets are of width {train[0].size} in y_train and {test[0].size} in y_test")
    return 0


def _to_inputs(values: NDArray[np.generic], dtype: torch.dtype, where: str) -> Tensor:
    if values.dtype == np.uint8:
        return scale_pixels(values.view(np.uint8), dtype)
    return _to_numbers(values, dtype, where)


def _to_targets(values: NDArray[np.generic], dtype: torch.dtype, where: str) -> Tensor:
    if values.dtype.kind != "f":
        return labels_to_tensor(values)
    return _to_numbers(values.reshape(len(values), -1), dtype, where)


def _to_numbers(values: NDArray[np.generic], dtype: torch.dtype, where: str) -> Tensor:
    numbers = torch.from_numpy(np.array(values, dtype=np.float64, order="C")).to(dtype)
    check_finite(numbers, where)
    return numbers
