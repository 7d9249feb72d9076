"""Writing small IDX files."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surmin.data.idx_folder import IMAGES, LABELS


def encode_idx(values: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    content = encode_idx(values)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def random_images(count: int, height: int = 4, width: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, height, width), dtype=np.uint8)


def cyclic_labels(count: int, classes: int = 10) -> NDArray[np.uint8]:
    return (np.arange(count) % classes).astype(np.uint8)


def write_folder(folder: Path, suffix: str = "", train: int = 30, test: int = 20) -> None:
    """Writes a valid folder of 4 x 3 images in ten classes."""
    for part, count in (("training", train), ("test", test)):
        write_idx(folder / f"{IMAGES[part]}{suffix}", random_images(count))
        write_idx(folder / f"{LABELS[part]}{suffix}", cyclic_labels(count))
