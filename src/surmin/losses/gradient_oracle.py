"""A loss of which only the gradient is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surmin.losses.columns import identity_factor, random_sign_factor
from surmin.losses.outputs import check_outputs


@dataclass(frozen=True)
class GradientOracle:
    """A loss known only through its gradient and a smoothness constant, which is all that Algorithm 1 asks for.

    `oracle(outputs, targets)` returns per-sample gradients in the shape of the outputs, a tensor or a NumPy array;
    `constant` is L, with ∇²ℓ_j ⪯ L I.
    The loss has no value, so no step can be tested against it: use `adapt_damping=False`.
    """

    oracle: Callable[[Tensor, Tensor], Tensor | NDArray[Any]]
    constant: float

    def __post_init__(self) -> None:
        """Raise if the oracle cannot be called, or the constant is not a positive number."""
        try:
            is_positive = 0 < self.constant < math.inf
        except TypeError:
            raise TypeError(f"GradientOracle needs a number as its constant, got {self.constant!r}") from None
        if not callable(self.oracle) or not is_positive:
            raise ValueError(
                f"GradientOracle needs a function and a positive constant, got {self.oracle!r} and {self.constant!r}"
            )

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError unless the numbers of samples agree; nothing else is known to matter."""
        check_outputs(outputs)
        if len(targets) != len(outputs):
            raise ValueError(f"{len(targets)} targets do not fit {len(outputs)} samples")

    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Unknown: NaN for every sample."""
        return outputs.new_full((len(outputs),), math.nan)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The oracle's answer, in the outputs' precision and on their device; raises unless it has their shape."""
        gradient: object = self.oracle(outputs, targets)
        if isinstance(gradient, np.ndarray):
            gradient = torch.tensor(np.ascontiguousarray(gradient))  # a copy: simulators reuse their arrays
        if not isinstance(gradient, Tensor):
            raise TypeError(
                "the gradient oracle must return a tensor or a NumPy array, one gradient per sample, got "
                f"{type(gradient).__name__}"
            )
        if gradient.shape != outputs.shape:
            raise ValueError(
                f"the gradient oracle returned shape {tuple(gradient.shape)} "
                f"for outputs of shape {tuple(outputs.shape)}"
            )
        return gradient.to(outputs.device, outputs.dtype)

    def smoothness(self, outputs: Tensor) -> float:
        """The constant given."""
        return self.constant

    def trace(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Unknown: the same for every sample."""
        return outputs.new_ones(len(outputs))

    def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """√L I: the bound stands in for the unknown Hessian."""
        return identity_factor(outputs, self.constant)

    def sampled_factor(self, outputs: Tensor, targets: Tensor, rank: int, generator: torch.Generator) -> Tensor:
        """Random signs times √L."""
        return random_sign_factor(outputs, self.constant, rank, generator)
