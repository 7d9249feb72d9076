"""Checks that a loss is one, and tries out its members on the first outputs of a shape."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from surmin.errors import as_value_error
from surmin.losses import ConvexLoss, GradientOracle

MAX_TRIED_OUTPUTS = 1024
"""Outputs per sample up to which a loss's factor is tried out: its size grows with their square."""


def check_loss(loss: object) -> None:
    """Raise TypeError unless it is a loss of this package's kind."""
    if isinstance(loss, type) or not isinstance(loss, ConvexLoss):
        name = loss.__name__ if isinstance(loss, type) else type(loss).__name__
        hint = f"{name}()" if isinstance(loss, type) else "surmin.CrossEntropy() or surmin.SquaredError()"
        raise TypeError(
            f"{name} is not a loss that stages can work with: pass {hint}, or your own loss that follows the protocol "
            "surmin.ConvexLoss"
        )


@torch.no_grad()
def outputs_error(loss: ConvexLoss, pairs: Iterable[tuple[Tensor, Tensor]]) -> ValueError | TypeError | None:
    """What is wrong with targets for these outputs, at the network's last stage."""
    try:
        for output, targets in pairs:
            loss.check(output, targets)
            _check_members(loss, output, targets)
    except (ValueError, TypeError) as error:
        return error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # from the user's own loss: as a returned error it reaches all workers
        return as_value_error(f"{type(loss).__name__} cannot be computed for these outputs and targets", error)
    return None


def _check_members(loss: ConvexLoss, output: Tensor, targets: Tensor) -> None:
    """Try a loss's members on a few samples: the losses always, the others on the first outputs of a shape.

    Outputs of a shape seen before are represented by one sample expanded, with stride 0. An oracle is not called: calls
    may be expensive, and it checks its results itself.
    """
    count = 3 if 2 in output.shape[1:] else 2  # unlike other sizes, so that a wrong order of axes shows
    few, labels = output[:count].nan_to_num(0.0, 0.0, 0.0), targets[:count]
    each, shape = tuple(few.shape[:1]), tuple(few.shape)
    _check_member(loss, "sample_losses", few, labels, "one number per sample", each)
    if output.stride(0) == 0 or isinstance(loss, GradientOracle):
        return
    generator = torch.Generator(few.device).manual_seed(0)
    _check_member(loss, "gradient", few, labels, "one gradient per sample", shape)
    _check_member(loss, "trace", few, labels, "one number per sample", each)
    _check_member(loss, "sampled_factor", few, labels, "`rank` columns first", (1, *shape), 1, generator)
    if few[0].numel() <= MAX_TRIED_OUTPUTS:
        _check_member(loss, "factor", few, labels, "columns first", ("columns", *shape))


def _check_member(
    loss: ConvexLoss, name: str, outputs: Tensor, targets: Tensor, what: str, expected: tuple[object, ...], *more: Any
) -> None:
    """Raise ValueError or TypeError if it returns anything but what it must, or changes its arguments.

    If trace or factors raise, as members that are not known may, nothing is said: whoever needs them will see it.
    """
    called, outputs, targets = f"{type(loss).__name__}.{name}", outputs.clone(), targets.clone()
    versions = outputs._version, targets._version
    try:
        found = getattr(loss, name)(outputs, targets, *more)
    except Exception:
        if name in ("sample_losses", "gradient"):
            raise
        return
    if (outputs._version, targets._version) != versions:
        raise ValueError(
            f"{called} changes the outputs or targets it is given: avoid in-place operations such as sub_()"
        )
    if not isinstance(found, Tensor):
        raise TypeError(f"{called} must return a tensor, got {type(found).__name__}")
    shape = str(expected).replace("'", "")
    sizes = found.shape[1:] if "columns" in expected else found.shape
    if found.dim() != len(expected) or sizes != expected[-len(sizes) :]:
        raise ValueError(
            f"{called} must return {what}, shape {shape} for {len(outputs)} sample{'s' * (len(outputs) > 1)}, "
            f"got {tuple(found.shape)}"
        )
    if len(expected) > 1 and found.dtype != outputs.dtype:
        raise ValueError(
            f"{called} returns {found.dtype} for outputs of {outputs.dtype}: convert what it computes with, such as "
            "targets, with .to(outputs.dtype)"
        )
