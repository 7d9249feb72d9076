"""MNIST: where its files are, and where to get them if they are missing."""

import os
from pathlib import Path

import torch

from surmin.data.checks import expanded
from surmin.data.dataset import Dataset
from surmin.data.download import download_gzip
from surmin.data.errors import DataError
from surmin.data.idx_folder import find_idx_file, load_idx_folder

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CHECKSUMS = {  # MD5 of the uncompressed bytes, as published
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
CLASSES = 10


def load_mnist(data_dir: Path | None, train_samples: int | None, dtype: torch.dtype) -> Dataset:
    """Loads MNIST from `data_dir`, else from $SURMIN_DATA, else from the user's cache, filled by download if need be.

    A folder that was named is never written to, and must have all four files.
    """
    dataset = load_idx_folder(_named_folder(data_dir) or _filled_cache(), train_samples, dtype)
    if dataset.classes != CLASSES:
        raise DataError(f"mnist: label {dataset.classes - 1} is out of range, or digits are missing; labels are 0 to 9")
    return dataset


def _named_folder(data_dir: Path | None) -> Path | None:
    if data_dir is not None:
        return data_dir
    named = os.environ.get("SURMIN_DATA")
    return expanded(named) if named else None


def _filled_cache() -> Path:
    folder = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "surmin" / "mnist"
    for file_name, checksum in CHECKSUMS.items():
        if find_idx_file(folder, file_name) is None:
            download_gzip(f"{file_name}.gz", checksum, MIRRORS, folder)
    return folder
