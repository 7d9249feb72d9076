"""Checks for modules that cannot be trained, or are in a mode or have hooks in which they cannot."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm

from surmin.stages.owners import check_owners
from surmin.stages.stage import leaf_modules

HALF = (torch.float16, torch.bfloat16)


def check_modules(stages: Sequence[nn.Module], *, others_train: bool = False) -> None:
    """Raise ValueError for stages whose local losses would be meaningless, naming the module and the way out."""
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


def check_hooks(parameter: nn.Parameter, described: str) -> None:
    """Raise ValueError for hooks on a parameter's gradient, which its curvature would miss."""
    if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
        raise ValueError(
            f"{described} has a hook on its gradient, which steps would ignore: remove it, and freeze what should not "
            "be trained (whole parameters, by requires_grad_(False))"
        )


def hooks_backward(module: nn.Module) -> bool:
    """Whether the module has hooks on its backward pass, which curvature would miss."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


def check_mode(outer: nn.Module, place: str) -> None:
    """Raise ValueError for modules that draw, tie samples together or write in their forward pass, and for hooks."""
    for name, module in outer.named_modules():
        where = f"{type(module).__name__} {name!r} in {place}" if name else f"{place} ({type(module).__name__})"
        if hooks_backward(module):
            raise ValueError(
                f"{where} has a hook on its backward pass, which curvature would ignore: remove it, or write what it "
                "does as an autograd function in a module's forward"
            )
        if _is_random(module):
            raise ValueError(
                f"{where} is in training mode: it draws a different network at every pass, so no bound or comparison "
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
                f"{where} divides gradients by how often a token occurs in a micro-batch, so that they are not those "
                "of the mean loss: leave scale_grad_by_freq out"
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
                    "numbers, keep real and imaginary parts as two parameters"
                )
            if parameter.requires_grad:
                check_hooks(parameter, f"parameter {name!r} of stage {position}")
                if any(size > 1 and not step for size, step in zip(parameter.shape, parameter.stride(), strict=True)):
                    raise ValueError(
                        f"parameter {name!r} of stage {position} has several entries in one place of memory: "
                        "replace it with a .clone()"
                    )
                trainable.append(parameter)
    if not trainable and not others_train:
        raise ValueError("no parameter of the network requires a gradient: there is nothing to train")
    for name, found in (("dtype", {p.dtype for p in trainable}), ("device", {p.device for p in trainable})):
        if len(found) > 1:
            raise ValueError(f"all parameters here must have one {name}, got {', '.join(sorted(map(str, found)))}")
