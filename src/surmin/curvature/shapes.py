"""Numbers per sample or column beside tensors that have further axes."""

from torch import Tensor


def spread_over(values: Tensor, like: Tensor) -> Tensor:
    """One value for each entry of the first axes of `like`, in a shape to be multiplied with it."""
    return values.view(*values.shape, *[1] * (like.dim() - values.dim()))


def flat_outputs(tensor: Tensor, first: int) -> Tensor:
    """All axes after the `first` ones as one; (n,), a single number a sample, as (n, 1)."""
    return tensor.flatten(first) if tensor.dim() > first else tensor.unsqueeze(first)
