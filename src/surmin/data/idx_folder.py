"""A folder of four IDX files under the names MNIST uses (Fashion-MNIST, KMNIST and others share them)."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from surmin.data.checks import check_pair, check_same_shape, count_classes, samples_to_keep
from surmin.data.dataset import Dataset
from surmin.data.errors import DataError
from surmin.data.idx import read_idx
from surmin.data.pixels import labels_to_tensor, scale_pixels

IMAGES = {"training": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
LABELS = {"training": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}


def find_idx_file(folder: Path, file_name: str) -> Path | None:
    """Returns the path of the file, plain or with .gz appended, or None if the folder has neither."""
    candidates = (folder / file_name, folder / f"{file_name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def load_idx_folder(folder: Path, train_samples: int | None, dtype: torch.dtype) -> Dataset:
    """Loads images as (n, 1, height, width), scaled as MNIST is; training images are the first in file order.

    `classes` is one more than the largest label in either label file, whatever `train_samples` is.
    """
    train_images, train_labels = _read_part(folder, "training")
    test_images, test_labels = _read_part(folder, "test")
    check_same_shape(train_images, test_images, str(folder))
    classes = count_classes(train_labels, test_labels, str(folder))
    kept = samples_to_keep(train_samples, len(train_images), str(folder))
    return Dataset(
        scale_pixels(train_images[:kept], dtype),
        labels_to_tensor(train_labels[:kept]),
        scale_pixels(test_images, dtype),
        labels_to_tensor(test_labels),
        classes,
    )


def _read_part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = read_idx(_require(folder, IMAGES[part]), axes=3)
    labels = read_idx(_require(folder, LABELS[part]), axes=1)
    check_pair(images, labels, f"{folder} ({part})")
    return images, labels


def _require(folder: Path, file_name: str) -> Path:
    path = find_idx_file(folder, file_name)
    if path is None:
        raise DataError(f"{folder}: no file {file_name} or {file_name}.gz")
    return path
