"""Batches that do not fit the network, and what must be the same about a batch on all workers."""

import torch
from torch import Tensor

from surmin.value_types import is_whole


def check_microbatches(count: object) -> None:
    """Raise ValueError unless it is a number of micro-batches."""
    if not is_whole(count, least=1):
        raise ValueError(f"microbatches must be a whole number from 1 up, got {count!r}")


def check_batch(inputs: Tensor, targets: Tensor, microbatches: int, parameter: Tensor | None) -> None:
    """Raise for an empty, mismatched, non-finite or unequally cut batch.

    A parameter tells the network's device and precision; a worker without one cannot check these.
    """
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
        raise TypeError(f"inputs and targets must be tensors, got {type(inputs).__name__} and {type(targets).__name__}")
    if inputs.is_inference() or targets.is_inference():
        raise ValueError("the batch was made in torch.inference_mode(), and cannot be trained on: .clone() it outside")
    for name, given in (("inputs", inputs), ("targets", targets)):
        if given.layout != torch.strided:
            raise ValueError(f"{name} are sparse ({given.layout}), which stages cannot train on: call .to_dense()")
        if given.dim() == 0:
            raise ValueError(
                f"{name} are a single number: inputs and targets need a batch axis, samples along their first "
                "dimension; .unsqueeze(0) turns one sample into a batch"
            )
    if len(inputs) == 0:
        raise ValueError("the batch is empty: inputs and targets need at least one sample along their first dimension")
    if len(inputs) != len(targets):
        raise ValueError(f"{len(inputs)} inputs do not match {len(targets)} targets")
    if len(inputs) % microbatches:
        raise ValueError(
            f"a batch of {len(inputs)} samples cannot be cut into {microbatches} equal micro-batches: "
            "change the batch size or the number of micro-batches (a DataLoader leaves out a short last batch with "
            "drop_last=True)"
        )
    if inputs.is_complex():
        raise ValueError(f"inputs are complex ({inputs.dtype}): give real and imaginary parts as real numbers")
    if parameter is not None:
        _check_placement(inputs, targets, parameter)
    if inputs.is_floating_point() and not _is_finite(inputs):
        raise ValueError("inputs contain NaN or infinite values")


def _check_placement(inputs: Tensor, targets: Tensor, parameter: Tensor) -> None:
    """Raise ValueError for a batch on another device than the network, or in another precision."""
    if {inputs.device, targets.device} != {parameter.device}:
        raise ValueError(
            f"the network is on {parameter.device}, but inputs are on {inputs.device} and targets on {targets.device}: "
            "move them together"
        )
    if inputs.is_floating_point() and inputs.dtype != parameter.dtype:
        raise ValueError(
            f"inputs are {inputs.dtype}, but the network computes in {parameter.dtype}: convert one of them with .to()"
        )


def _is_finite(values: Tensor) -> bool:
    """By their sum, in a twentieth of the time; if it overflows, each is checked."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def describe_batch(inputs: Tensor, targets: Tensor, microbatches: int) -> str:
    """The signature of a batch, which must be the same on all workers."""
    described = [f"{name} {_describe_one(value)}" for name, value in (("inputs", inputs), ("targets", targets))]
    parts = f"{microbatches} micro-batch{'es' if microbatches > 1 else ''}"
    return ", ".join([*described, parts])


def _describe_one(value: object) -> str:
    return f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
