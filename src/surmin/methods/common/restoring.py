"""Restoring parameters after a failed step, for methods that move them before everything is known."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def restored_on_failure(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the parameters their values back if the code inside raises."""
    before = [parameter.detach().clone() for parameter in parameters.values()]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, value in zip(parameters.values(), before, strict=True):
                parameter.copy_(value)
        raise
