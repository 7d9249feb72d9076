"""Whose a parameter is: every trainable one belongs to one layer, and has its numbers to itself."""

from collections.abc import Sequence
from itertools import starmap
from typing import NamedTuple

import torch
from torch import nn

from surmin.stages.stage import leaf_modules


class _Owned(NamedTuple):
    """A parameter: from where to where in memory its numbers lie, its place among all, and which layer has it."""

    device: str
    start: int
    end: int
    place: int
    name: str
    where: str
    parameter: nn.Parameter


def check_owners(stages: Sequence[nn.Module]) -> None:
    """Raise ValueError for a trainable parameter that two layers share, or that overlaps another one in memory.

    A layer that is used twice shares all of its own.
    """
    leaves = [(position, leaf) for position, stage in enumerate(stages) for leaf in leaf_modules(stage)]
    parameters = [
        (parameter, name, f"layer {index} ({type(leaf).__name__}) in stage {position}")
        for index, (position, leaf) in enumerate(leaves)
        for name, parameter in leaf.named_parameters()
    ]
    furthest: dict[tuple[str, bool], _Owned] = {}
    overlapping: list[list[_Owned]] = []
    for own in sorted(starmap(_owned, enumerate(parameters)), key=lambda one: one[:3]):
        trains = own.parameter.requires_grad
        for other in [furthest.get((own.device, kind)) for kind in ((True, False) if trains else (True,))]:
            if other is not None and own.start < other.end:
                overlapping.append(sorted((other, own), key=lambda one: one.place))
        last = furthest.get((own.device, trains))
        furthest[own.device, trains] = own if last is None or own.end > last.end else last
    if overlapping:
        raise ValueError(_complaint(*min(overlapping, key=lambda pair: pair[1].place)))


def _owned(place: int, named: tuple[nn.Parameter, str, str]) -> _Owned:
    parameter, name, where = named
    if parameter.layout != torch.strided or parameter.device.type == "meta" or not parameter.numel():
        return _Owned("none", id(parameter), id(parameter) + 1, place, name, where, parameter)
    last = sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    start = parameter.data_ptr()
    end = start + (last + 1) * parameter.element_size()
    return _Owned(f"{parameter.device}", start, end, place, name, where, parameter)


def _complaint(first: _Owned, second: _Owned) -> str:
    what = f"parameter {second.name!r} of {second.where}"
    if first.parameter is second.parameter:
        way_out = "copy it or put both layers into one module"
        return f"{what} is shared with {first.where}: a local loss owns its parameters, so {way_out}"
    return (
        f"{what} overlaps in memory with {first.name!r} of {first.where}: parameters are moved one by one, so copy it, "
        "or have one nn.Parameter for both"
    )
