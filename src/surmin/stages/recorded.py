"""Any number of products with the Jacobians of one recorded computation.

Forward mode is reverse mode twice: Jᵀ s is linear in s, and the transpose of s ↦ Jᵀ s is J. For many products at one
point this is faster than `torch.func`, which computes the values anew for each.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from surmin.stages.attention_kernel import math_attention
from surmin.stages.layer import Layer, flatten

WRONG_TWICE = {"WeightNormInterfaceBackward0"}
"""torch functions whose own derivative is differentiated wrongly."""


def without_checkpoints() -> AbstractContextManager[None]:
    """Inside, activation checkpoints are refused: they would compute values again at the module's own parameters."""
    return torch.autograd.graph.disable_saved_tensors_hooks("activation checkpoints cannot be differentiated twice")


@contextmanager
def recording() -> Iterator[None]:
    """Inside, results can be pulled back to tensors that require gradients, and what that gives can be again."""
    with torch.enable_grad(), math_attention(), without_checkpoints():
        yield


@contextmanager
def naming(*layers: Layer) -> Iterator[None]:
    """Name the layers that torch cannot differentiate."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        which = "layer" if len(layers) == 1 else "layers"
        names = ", ".join(f"{layer.name} ({type(layer.module).__name__})" for layer in layers)
        reason = str(error).partition("\n")[0]
        raise RuntimeError(f"{which} {names} cannot be differentiated as the curvature needs it: {reason}") from error


def pull(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], cotangents: Sequence[Tensor], *, record: bool = False
) -> tuple[Tensor, ...]:
    """Σ Jᵀ r over all outputs for every target, zero if none depends on it. The record stays for further products.

    Args:
        outputs: computed from the targets while these required gradients.
        targets: what they were computed from.
        cotangents: r for every output.
        record: whether this is recorded as well.
    """
    recorded = [(output, own) for output, own in zip(outputs, cotangents, strict=True) if output.requires_grad]
    if not recorded:
        return tuple(torch.zeros_like(target) for target in targets)
    depending, own = zip(*recorded, strict=True)
    return torch.autograd.grad(
        depending, targets, own, retain_graph=True, create_graph=record, allow_unused=True, materialize_grads=True
    )


def pull_columns(outputs: Sequence[Tensor], targets: Sequence[Tensor], columns: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`pull` of every column of cotangents: all at once if `vmap` can go through the modules, else one by one.

    Args:
        outputs: as in `pull`.
        targets: as in `pull`.
        columns: cotangents of every output with a leading axis, which the results have too.
    """
    depending = [output.requires_grad for output in outputs]
    try:
        if not any(depending):
            return tuple(target.new_zeros(len(columns[0]), *target.shape) for target in targets)
        found = torch.autograd.grad(
            list(compress(outputs, depending)), targets, list(compress(columns, depending)), retain_graph=True,
            allow_unused=True, is_grads_batched=True,
        )  # fmt: skip
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        each = [pull(outputs, targets, [own[column] for own in columns]) for column in range(len(columns[0]))]
        return tuple(torch.stack(own) for own in zip(*each, strict=True))
    return tuple(
        target.new_zeros(len(columns[0]), *target.shape) if own is None else own
        for target, own in zip(targets, found, strict=True)
    )


def functions_by_hand(output: Tensor) -> set[str]:
    """Names of the autograd functions in a record that are not torch's: their backward may hide what it depends on.

    Torch's own functions raise when they cannot be differentiated twice; these may give zeros instead.
    """
    by_hand = [node for node in _functions(output) if isinstance(node, BackwardCFunction) or "CppNode" in node.name()]
    return {node.name().removesuffix("Backward") for node in by_hand}


def _functions(output: Tensor) -> set[Any]:
    """All autograd functions in a record."""
    seen: set[Any] = set()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return seen


@torch.no_grad()
def check_transpose(output: Tensor, gradient: Sequence[Tensor], cotangent: Tensor) -> None:
    """Raise RuntimeError unless ⟨Jᵀs, Jᵀs⟩ = ⟨J Jᵀs, s⟩: handwritten backward passes may hide that they depend on s.

    Args:
        output: recorded.
        gradient: Jᵀ s, recorded as well.
        cotangent: s.
    """
    if by_hand := functions_by_hand(output):
        (image,) = pull(gradient, [cotangent], gradient)
        found, expected = (image.double() * cotangent).sum(), flatten(gradient).double().square().sum()
        if not torch.isclose(found, expected, rtol=1e-3, atol=0.0, equal_nan=True):  # NaN is reported as divergence
            raise RuntimeError(f"the backward of {', '.join(sorted(by_hand))} is not differentiable")


def require_second_derivatives(output: Tensor) -> None:
    """Refuse what may silently give wrong ones: handwritten functions, whose products go unchecked, some of torch's.

    Raises:
        RuntimeError: if there is one in a record.
    """
    if WRONG_TWICE.intersection(node.name() for node in _functions(output)):
        raise RuntimeError(
            "torch's second derivative of weight_norm is wrong: it treats norms as constants; remove it "
            '(torch.nn.utils.parametrize.remove_parametrizations), use curvature="factor", or a method that needs no '
            "Hessian"
        )
    if by_hand := functions_by_hand(output):
        raise RuntimeError(
            f"{', '.join(sorted(by_hand))}, written by hand, may hide a part of its second derivative; use "
            'curvature="factor", or a method that needs no Hessian'
        )
