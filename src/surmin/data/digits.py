"""scikit-learn's digits: 1,797 images of 8 x 8, ten classes, embedded in the package (no download)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surmin.data.checks import samples_to_keep
from surmin.data.dataset import Dataset
from surmin.data.pixels import labels_to_tensor

TEST_SAMPLES = 360  # a fifth
MEAN, DEVIATION = 0.3054, 0.3759  # of all training pixels, after division by 16, their largest value


def load_digits(train_samples: int | None, dtype: torch.dtype) -> Dataset:
    """Loads the digits as (n, 1, 8, 8), scaled to mean 0 and deviation 1 over all pixels.

    The split is the same on every machine: the file's order is writer by writer, so it is shuffled by a fixed
    permutation (NumPy's frozen legacy generator); the last 360 samples are the test set.
    """
    rows = _read()
    pixels, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    order = np.random.RandomState(0).permutation(len(pixels))
    train, test = order[:-TEST_SAMPLES], order[-TEST_SAMPLES:]
    train = train[: samples_to_keep(train_samples, len(train), "digits")]
    images = torch.from_numpy(pixels).to(dtype).div_(16).sub_(MEAN).div_(DEVIATION).reshape(-1, 1, 8, 8)
    targets = labels_to_tensor(labels)
    return Dataset(images[train], targets[train], images[test], targets[test], classes=10)


def _read() -> "np.ndarray[Any, np.dtype[np.float64]]":
    """One row per image, its label last. From the file in scikit-learn's package, whose import would take seconds."""
    package = find_spec("sklearn")
    assert package is not None and package.submodule_search_locations is not None
    return np.loadtxt(Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"), delimiter=",")
