"""A failed step leaves parameters as they were, also where a method moves them before all is known."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def restored_on_failure(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the parameters their values back where what is done inside raises."""
    before = [parameter.detach().clone() for parameter in parameters.values()]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, value in zip(parameters.values(), before, strict=True):
                parameter.copy_(value)
        raise
