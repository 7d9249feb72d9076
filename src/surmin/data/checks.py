"""Checks that the loaders share; each raises a one-line `DataError` that says where and what."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from surmin.data.errors import DataError

MAX_CLASSES = 100_000  # a larger label is a mistake: it would ask for a network with as many outputs
DEFLATE_LIMIT = 1032  # no deflate stream expands by more (https://zlib.net/zlib_tech.html)


def expanded(path: str | Path) -> Path:
    """The path with ~ or ~name, for a home folder, written out; refuses that of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {error}") from error


def samples_to_keep(train_samples: int | None, available: int, where: str) -> int:
    """How many training samples to keep of those `available`; None keeps them all."""
    if train_samples is None:
        return available
    if not 1 <= train_samples <= available:
        raise DataError(f"{where}: cannot take {train_samples} training samples, there are 1 to {available:,} to take")
    return train_samples


def check_claimed_bytes(claimed: int, stored: int, path: Path | str, expansion: int = DEFLATE_LIMIT) -> None:
    """Refuses a header that claims more than `stored` bytes could expand to, before anything is allocated."""
    if claimed > stored * expansion:
        raise DataError(f"{path}: the header claims {claimed:,} bytes, more than a file of {stored:,} bytes can hold")


def check_pair(inputs: NDArray[np.generic], labels: NDArray[np.generic], where: str) -> None:
    """Requires inputs of shape (n, ...) and one label for each, of shape (n,); floating-point targets may be more."""
    if inputs.ndim < 2:
        raise DataError(f"{where}: inputs must be (samples, ...), got shape {inputs.shape}")
    if labels.ndim != 1 and not (labels.ndim == 2 and labels.dtype.kind == "f"):
        raise DataError(
            f"{where}: labels must be one number per sample, or floating-point numbers (samples, outputs), "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if len(inputs) != len(labels):
        raise DataError(f"{where}: {len(inputs):,} inputs but {len(labels):,} labels")


def check_same_shape(train: NDArray[np.generic], test: NDArray[np.generic], where: str) -> None:
    """Requires training and test inputs of one shape per sample."""
    if train.shape[1:] != test.shape[1:]:
        raise DataError(f"{where}: training inputs are {train.shape[1:]} each, test inputs {test.shape[1:]}")


def count_classes(train: NDArray[np.generic], test: NDArray[np.generic], where: str) -> int:
    """Number of classes of integer labels, taken as 0 to the largest one seen in either part."""
    lowest = min(int(train.min()), int(test.min()))
    classes = max(int(train.max()), int(test.max())) + 1
    if lowest < 0:
        raise DataError(f"{where}: label {lowest} is out of range, labels start at 0")
    if classes > MAX_CLASSES:
        raise DataError(f"{where}: label {classes - 1} is out of range, labels end at {MAX_CLASSES - 1}")
    if classes < 2:
        raise DataError(f"{where}: every label is 0, need at least two classes")
    return classes


def check_finite(inputs: Tensor, where: str) -> None:
    """Refuses NaN and infinity."""
    if not inputs.isfinite().all():
        raise DataError(f"{where}: contains NaN or infinity")
