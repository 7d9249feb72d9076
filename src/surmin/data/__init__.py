"""Data to train on: digits, MNIST, folders of IDX files, NumPy archives and text, behind `load_dataset`."""

from surmin.data.dataset import Dataset
from surmin.data.errors import DataError
from surmin.data.loading import load_dataset

__all__ = ["DataError", "Dataset", "load_dataset"]
