"""Who owns a parameter: every trainable one belongs to one layer and shares no memory."""

from collections.abc import Sequence
from itertools import starmap
from typing import NamedTuple

import torch
from torch import Tensor, nn

from surmin.stages.stage import leaf_modules


class _Owned(NamedTuple):
    """A parameter or buffer: where it starts and ends in memory, its place among all, and the layer that has it."""

    device: str
    start: int
    end: int
    place: int
    name: str
    where: str
    tensor: Tensor


def check_owners(stages: Sequence[nn.Module]) -> None:
    """Raise ValueError if a trainable parameter is shared by two layers or overlaps another in memory.

    A layer used twice shares all of its own.
    """
    leaves = [(position, leaf) for position, stage in enumerate(stages) for leaf in leaf_modules(stage)]
    held = [
        (tensor, f"{kind} {name!r}", f"layer {index} ({type(leaf).__name__}) in stage {position}")
        for index, (position, leaf) in enumerate(leaves)
        for kind, named in (("parameter", leaf.named_parameters()), ("buffer", leaf.named_buffers()))
        for name, tensor in named
    ]
    furthest: dict[tuple[str, bool], _Owned] = {}
    overlapping: list[list[_Owned]] = []
    for own in sorted(starmap(_owned, enumerate(held)), key=lambda one: one[:3]):
        trains = isinstance(own.tensor, nn.Parameter) and own.tensor.requires_grad
        for other in [furthest.get((own.device, kind)) for kind in ((True, False) if trains else (True,))]:
            if other is not None and own.start < other.end:
                overlapping.append(sorted((other, own), key=lambda one: one.place))
        last = furthest.get((own.device, trains))
        furthest[own.device, trains] = own if last is None or own.end > last.end else last
    if overlapping:
        raise ValueError(_complaint(*min(overlapping, key=lambda pair: pair[1].place)))


def _owned(place: int, named: tuple[Tensor, str, str]) -> _Owned:
    tensor, name, where = named
    if tensor.layout != torch.strided or tensor.device.type == "meta" or not tensor.numel():
        return _Owned("none", id(tensor), id(tensor) + 1, place, name, where, tensor)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    end = start + (last + 1) * tensor.element_size()
    return _Owned(f"{tensor.device}", start, end, place, name, where, tensor)


def _complaint(first: _Owned, second: _Owned) -> str:
    what = f"{second.name} of {second.where}"
    if first.tensor is second.tensor:
        way_out = "copy it or put both layers into one module"
        return f"{what} is shared with {first.where}: a local loss owns its parameters, so {way_out}"
    return (
        f"{what} overlaps in memory with {first.name} of {first.where}: parameters are moved one by one, so copy it, "
        "or use one nn.Parameter for both"
    )
