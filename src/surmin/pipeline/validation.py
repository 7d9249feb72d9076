"""Clear errors for what cannot be trained, before anything changes."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm

from surmin.losses import ConvexLoss, GradientOracle
from surmin.stages.owners import check_owners
from surmin.stages.stage import leaf_modules

HALF = (torch.float16, torch.bfloat16)
MAX_TRIED_OUTPUTS = 1024
"""Outputs per sample up to which a loss's factor is tried out: it is their square in size."""


def check_modules(stages: Sequence[nn.Module], *, others_train: bool = False) -> None:
    """Raise ValueError for stages whose local losses would not mean anything, naming the module and the way out."""
    if not stages:
        raise ValueError("a network needs at least one stage")
    for position, stage in enumerate(stages):
        if not isinstance(stage, nn.Module):
            raise TypeError(f"stage {position} is a {type(stage).__name__}, not an nn.Module")
        check_mode(stage, f"stage {position}")
        for layer in leaf_modules(stage):
            _check_kind(layer, f"a layer of stage {position}")
    check_owners(stages)
    _check_parameters(stages, others_train)


def _check_kind(layer: nn.Module, place: str) -> None:
    """Raise ValueError for wrappers whose parameters curvature cannot reach."""
    if isinstance(layer, torch.jit.ScriptModule) and any(True for _ in layer.parameters()):
        raise ValueError(f"{place} is a torch.jit module, which curvature cannot look into: pass the plain module")
    if isinstance(layer, nn.DataParallel):
        raise ValueError(f"{place} is an nn.DataParallel, which curvature cannot look into: pass its .module")


def check_loss(loss: object) -> None:
    """Raise TypeError for what is no loss of this package's kind."""
    if isinstance(loss, type) or not isinstance(loss, ConvexLoss):
        name = loss.__name__ if isinstance(loss, type) else type(loss).__name__
        hint = f"{name}()" if isinstance(loss, type) else "surmin.CrossEntropy() or surmin.SquaredError()"
        raise TypeError(
            f"{name} is not a loss that stages can work with: pass {hint}, or a loss of your own by the protocol "
            "surmin.ConvexLoss"
        )


def check_microbatches(count: object) -> None:
    """Raise ValueError for what is no number of micro-batches."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"microbatches must be a whole number from 1 up, got {count!r}")


def _check_placement(inputs: Tensor, targets: Tensor, parameter: Tensor) -> None:
    """Raise ValueError for a batch on another device than the network, or of another precision."""
    if {inputs.device, targets.device} != {parameter.device}:
        raise ValueError(
            f"the network is on {parameter.device}, but inputs are on {inputs.device} and targets on {targets.device}: "
            "move them together"
        )
    if inputs.is_floating_point() and inputs.dtype != parameter.dtype:
        raise ValueError(
            f"inputs are {inputs.dtype}, but the network computes in {parameter.dtype}: convert one of them with .to()"
        )


def check_batch(inputs: Tensor, targets: Tensor, microbatches: int, parameter: Tensor | None) -> None:
    """Raise ValueError for an empty, mismatched, non-finite or unequally cut batch.

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
                "dimension; .unsqueeze(0) makes one sample a batch"
            )
    if len(inputs) == 0:
        raise ValueError("the batch is empty: inputs and targets need at least one sample along their first dimension")
    if len(inputs) != len(targets):
        raise ValueError(f"{len(inputs)} inputs do not match {len(targets)} targets")
    if len(inputs) % microbatches:
        raise ValueError(
            f"a batch of {len(inputs)} samples cannot be cut into {microbatches} equal micro-batches: "
            "change the batch size or the number of micro-batches"
        )
    if inputs.is_complex():
        raise ValueError(f"inputs are complex ({inputs.dtype}): give real and imaginary parts as real numbers")
    if parameter is not None:
        _check_placement(inputs, targets, parameter)
    if inputs.is_floating_point() and not _is_finite(inputs):
        raise ValueError("inputs contain NaN or infinite values")


def _is_finite(values: Tensor) -> bool:
    """By their sum, at a twentieth of the time; one that overflows tells nothing, and all are looked at."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


@torch.no_grad()
def outputs_error(loss: ConvexLoss, pairs: Iterable[tuple[Tensor, Tensor]]) -> ValueError | TypeError | None:
    """What is wrong with targets for the outputs they meet, at the network's last stage."""
    try:
        for output, targets in pairs:
            loss.check(output, targets)
            _check_members(loss, output, targets)
    except (ValueError, TypeError) as error:
        return error
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of a loss of the user's own: as an answer it reaches all workers
        return ValueError(f"{type(loss).__name__} cannot be computed for these outputs and targets: {error}")
    return None


def _check_members(loss: ConvexLoss, output: Tensor, targets: Tensor) -> None:
    """Try a loss's members out on few samples: the losses always, the others on the first outputs of a shape.

    What stands for outputs of a shape seen before is one sample expanded, of stride 0. An oracle is not asked: calls
    may be dear, and it looks at what comes back itself.
    """
    count = 3 if 2 in output.shape[1:] else 2  # unlike other sizes, so that a wrong order of axes shows
    few, labels = output[:count].nan_to_num(0.0, 0.0, 0.0), targets[:count]
    each, shape = tuple(few.shape[:1]), tuple(few.shape)
    _check_member(loss, "sample_losses", few, labels, "one number a sample", each)
    if output.stride(0) == 0 or isinstance(loss, GradientOracle):
        return
    generator = torch.Generator(few.device).manual_seed(0)
    _check_member(loss, "gradient", few, labels, "one gradient a sample", shape)
    _check_member(loss, "trace", few, labels, "one number a sample", each)
    _check_member(loss, "sampled_factor", few, labels, "`rank` columns first", (1, *shape), 1, generator)
    if few[0].numel() <= MAX_TRIED_OUTPUTS:
        _check_member(loss, "factor", few, labels, "columns first", ("columns", *shape))


def _check_member(
    loss: ConvexLoss, name: str, outputs: Tensor, targets: Tensor, what: str, expected: tuple[object, ...], *more: Any
) -> None:
    """Raise ValueError or TypeError for one that returns something else than it must, or changes what it is given.

    Where trace or factors raise, as those that are not known may, nothing is said: who needs them will hear it.
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
            f"{called} changes the outputs or targets it is given: leave out what works in place, such as sub_()"
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
            f"{called} returns {found.dtype} for outputs of {outputs.dtype}: convert what it computes with, targets "
            "for instance, by .to(outputs.dtype)"
        )


def describe_batch(inputs: Tensor, targets: Tensor, microbatches: int) -> str:
    """The signature of a batch, which must be the same on all workers."""
    described = [f"{name} {_describe_one(value)}" for name, value in (("inputs", inputs), ("targets", targets))]
    parts = f"{microbatches} micro-batch{'es' if microbatches > 1 else ''}"
    return ", ".join([*described, parts])


def _describe_one(value: object) -> str:
    return f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def check_hooks(parameter: nn.Parameter, described: str) -> None:
    """Raise ValueError for hooks on a parameter's gradient: its curvature would know nothing of them."""
    if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
        raise ValueError(
            f"{described} has a hook on its gradient, which steps would not heed: remove it, and freeze what is not to "
            "move (whole parameters, by requires_grad_(False))"
        )


def hooks_backward(module: nn.Module) -> bool:
    """Whether the module has hooks on its backward pass, of which curvature would know nothing."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


def check_mode(outer: nn.Module, place: str) -> None:
    """Raise ValueError for modules that draw, tie samples together, or write in their forward pass; for their hooks."""
    for name, module in outer.named_modules():
        where = f"{type(module).__name__} {name!r} in {place}" if name else f"{place} ({type(module).__name__})"
        if hooks_backward(module):
            raise ValueError(
                f"{where} has a hook on its backward pass, which curvature would not heed: remove it, or write what it "
                "does as an autograd function in a module's forward"
            )
        if _is_random(module):
            raise ValueError(
                f"{where} is in training mode: it draws another network at every pass, so no bound and no comparison "
                "of losses would hold; call .eval() on it or remove it"
            )
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            why = "is in training mode" if module.training else "keeps no running statistics"
            raise ValueError(
                f"{where} {why}: batch statistics tie the samples of a batch together, and local "
                "losses need one sample's output to depend on that sample alone; call .eval() on it, or use LayerNorm "
                "or GroupNorm"
            )
        if isinstance(module, _InstanceNorm) and module.training and module.track_running_stats:
            raise ValueError(f"{where} writes its running statistics in every wave: call .eval() on it")
        if isinstance(module, _SpectralNorm) and module.training:
            raise ValueError(f"{where} estimates its norm anew in every wave: call .eval() on the layer it belongs to")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ValueError(f"{where} has sparse gradients, which the solvers cannot use: leave sparse=True out")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise ValueError(f"{where} rescales its weights in the forward pass: leave max_norm out")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.scale_grad_by_freq:
            raise ValueError(
                f"{where} divides gradients by how often a token comes in a micro-batch, so that they are not the mean "
                "loss's: leave scale_grad_by_freq out"
            )


def _is_random(module: nn.Module) -> bool:
    if isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return True
    if not module.training:
        return False
    drops = isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout > 0
    return drops or isinstance(module, nn.RReLU) or (isinstance(module, _DropoutNd) and module.p > 0)


def _check_parameters(stages: Sequence[nn.Module], others_train: bool) -> None:
    trainable = []
    for position, stage in enumerate(stages):
        for name, parameter in stage.named_parameters():
            if parameter.dtype in HALF:
                raise ValueError(
                    f"parameter {name!r} of stage {position} has dtype {parameter.dtype}: "
                    "the solvers need float32 or float64"
                )
            if parameter.is_complex():
                raise ValueError(
                    f"parameter {name!r} of stage {position} is complex ({parameter.dtype}): the solvers need real "
                    "numbers, keep real and imaginary parts as two of them"
                )
            if parameter.requires_grad:
                check_hooks(parameter, f"parameter {name!r} of stage {position}")
                if any(size > 1 and not step for size, step in zip(parameter.shape, parameter.stride(), strict=True)):
                    raise ValueError(
                        f"parameter {name!r} of stage {position} has several entries in one place of memory: "
                        "make it of a .clone()"
                    )
                trainable.append(parameter)
    if not trainable and not others_train:
        raise ValueError("no parameter of the network requires a gradient: there is nothing to train")
    for name, found in (("dtype", {p.dtype for p in trainable}), ("device", {p.device for p in trainable})):
        if len(found) > 1:
            raise ValueError(f"all parameters here must have one {name}, got {', '.join(sorted(map(str, found)))}")
