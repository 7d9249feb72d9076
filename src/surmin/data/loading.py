"""The entry point of this package: from what a user names to a `Dataset`."""

from pathlib import Path

import torch

from surmin.data.arrays import load_arrays
from surmin.data.checks import expanded
from surmin.data.dataset import Dataset
from surmin.data.digits import load_digits
from surmin.data.errors import DataError
from surmin.data.idx_folder import load_idx_folder
from surmin.data.mnist import load_mnist
from surmin.data.text import load_text


def load_dataset(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    train_samples: int | None = None,
    dtype: torch.dtype = torch.float32,
    context: int = 64,
) -> Dataset:
    """Loads a whole dataset into memory. It neither depends on nor changes any global random state.

    Args:
        source: one of

            - ``digits``: scikit-learn's 8 x 8 digits, embedded; 1,437 to train on and 360 to test;
            - ``mnist``: from `data_dir`, else the folder $SURMIN_DATA, else the user's cache, into which the published
              files are downloaded, checked against their MD5 sums;
            - ``text``: characters of `data_dir` (a UTF-8 file or a folder of .txt files), else Python's help topics;
            - a folder of four IDX files, plain or .gz, under the names MNIST uses;
            - an ``.npz`` file with the arrays x_train, y_train, x_test, y_test; integers in y are class numbers, and
              floating-point numbers, (samples,) or (samples, outputs), are targets as they are.
        data_dir: folder of the ``mnist`` or ``text`` files; no other source uses it.
        train_samples: keep only this many training samples, the first ones (windows, for text); None keeps all.
        dtype: floating-point type of the inputs, and of targets that are not classes; token ids are always int64.
        context: characters per sample, for ``text`` only.

    Raises:
        DataError: anything missing, damaged, out of range or inconsistent; one line that says what and where.

    Examples:
        >>> dataset = load_dataset("digits", train_samples=100)
        >>> tuple(dataset.train_inputs.shape), dataset.classes
        ((100, 1, 8, 8), 10)
    """
    if not dtype.is_floating_point:
        raise DataError(f"dtype must be a floating-point type, got {dtype}")
    folder = None if data_dir is None else expanded(data_dir)
    if source == "mnist":
        return load_mnist(folder, train_samples, dtype)
    if source == "text":
        return load_text(folder, train_samples, context)
    if folder is not None:
        raise DataError(f"data_dir is for the sources mnist and text, {str(source)!r} does not use it")
    if source == "digits":
        return load_digits(train_samples, dtype)
    return _load_path(expanded(source), train_samples, dtype)


def _load_path(path: Path, train_samples: int | None, dtype: torch.dtype) -> Dataset:
    if path.is_dir():
        return load_idx_folder(path, train_samples, dtype)
    if path.suffix == ".npz":
        return load_arrays(path, train_samples, dtype)
    raise DataError(f"no data {str(path)!r}: give digits, mnist, text, a folder of IDX files or an .npz file")
