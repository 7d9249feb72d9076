"""From bytes to network inputs."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels after division by 255


def scale_pixels(pixels: NDArray[np.uint8], dtype: torch.dtype) -> Tensor:
    """Returns (x / 255 - 0.1307) / 0.3081 in `dtype`; images (n, height, width) gain a channel axis, (n, 1, h, w)."""
    images = torch.from_numpy(pixels.copy()).to(dtype).div_(255).sub_(MEAN).div_(DEVIATION)
    return images.unsqueeze(1) if images.ndim == 3 else images


def labels_to_tensor(labels: NDArray[np.generic]) -> Tensor:
    """Returns integer labels, of any width and byte order, as int64."""
    return torch.from_numpy(labels.astype(np.int64))
