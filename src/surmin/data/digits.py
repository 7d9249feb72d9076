"""scikit-learn's digits: 1,797 images of 8 x 8, ten classes, embedded in the package (no download)."""

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
    from sklearn.datasets import load_digits as load_sklearn_digits  # here: importing it takes a second

    pixels, labels = load_sklearn_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(pixels))
    train, test = order[:-TEST_SAMPLES], order[-TEST_SAMPLES:]
    train = train[: samples_to_keep(train_samples, len(train), "digits")]
    images = torch.from_numpy(pixels).to(dtype).div_(16).sub_(MEAN).div_(DEVIATION).reshape(-1, 1, 8, 8)
    targets = labels_to_tensor(labels)
    return Dataset("digits", images[train], targets[train], images[test], targets[test], classes=10)
