"""Whose a parameter is: every trainable one belongs to one layer."""

from collections.abc import Hashable, Sequence

from torch import Tensor, nn

from surmin.stages.stage import leaf_modules


def check_owners(stages: Sequence[nn.Module]) -> None:
    """Raise ValueError for a trainable parameter that two layers share, or one layer that is used twice."""
    owners: dict[Hashable, str] = {}
    leaves = [(position, leaf) for position, stage in enumerate(stages) for leaf in leaf_modules(stage)]
    for index, (position, leaf) in enumerate(leaves):
        where = f"layer {index} ({type(leaf).__name__}) in stage {position}"
        for name, parameter in leaf.named_parameters():
            if parameter.requires_grad and owners.setdefault(_memory(parameter), where) != where:
                raise ValueError(
                    f"parameter {name!r} of {where} is shared with {owners[_memory(parameter)]}: a local loss owns its "
                    "parameters, so copy it or put both layers into one module"
                )


def _memory(parameter: Tensor) -> Hashable:
    """Where its numbers begin; the parameter itself where it has none of its own."""
    if parameter.device.type == "meta" or not parameter.numel():
        return id(parameter)
    return parameter.device, parameter.data_ptr()
