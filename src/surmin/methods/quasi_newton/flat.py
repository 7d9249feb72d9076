"""A worker's parameters as one flat vector, and such vectors by the parameters' global names."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from surmin.stages.layer import flatten


class FlatParameters:
    """Parameters that are read and moved together.

    Args:
        parameters: by global name; a vector has their entries one after the other.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = dict(parameters)
        self._sizes = [parameter.numel() for parameter in parameters.values()]

    def position(self, like: Tensor) -> Tensor:
        """A copy of the parameters as a flat vector; without any, an empty one like `like`."""
        return torch.cat(
            [like.new_zeros(0), *(parameter.detach().flatten() for parameter in self._parameters.values())]
        )

    @torch.no_grad()
    def move_to(self, position: Tensor) -> None:
        """Give the parameters the values of a flat vector."""
        for parameter, values in zip(self._parameters.values(), position.split(self._sizes), strict=True):
            parameter.copy_(values.view_as(parameter))

    def by_name(self, vectors: Sequence[Tensor]) -> dict[str, Tensor]:
        """The pieces of one or more flat vectors, (vectors, *shape) for every parameter; empty for no vectors."""
        if not vectors:
            return {}
        pieces = zip(*(vector.split(self._sizes) for vector in vectors), strict=True)
        return {
            name: torch.stack(own).view(len(vectors), *parameter.shape)
            for (name, parameter), own in zip(self._parameters.items(), pieces, strict=True)
        }

    def from_names(self, named: Mapping[str, Tensor], count: int, device: torch.device) -> list[Tensor]:
        """The `count` flat vectors that `by_name` took apart, on a device.

        Raises:
            ValueError: if they belong to other parameters.
        """
        found = {name: tuple(pieces.shape) for name, pieces in named.items()}
        if found != {name: (count, *parameter.shape) for name, parameter in self._parameters.items() if count}:
            raise ValueError(f"not {count} vectors of this network's parameters: {found}")
        if not found:
            return [torch.zeros(0, device=device)] * count
        pieces = [named[name].to(parameter) for name, parameter in self._parameters.items()]
        return [flatten([piece[index] for piece in pieces]) for index in range(count)]
