"""Checks at every step that the network can still be trained, and is still the one that training began with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surmin.pipeline.checks.independence import check_independence
from surmin.pipeline.checks.modules import check_hooks, check_mode, hooks_backward
from surmin.stages.layer import Layer
from surmin.stages.stage import Stage
from surmin.stages.tape import Tape

ROWS = 16
"""Samples kept to be tried in other modes."""


class NetworkWatch:
    """Watches stages from now on.

    Args:
        stages: whose parameters must not be replaced, frozen or unfrozen from now on.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._layers = [layer for stage in stages for layer in stage.layers]
        self._modules = [module for layer in self._layers for module in layer.module.modules()]
        self._parameters = [(layer, *named) for layer in self._layers for named in layer.module.named_parameters()]
        self._modes = self._modes_now()
        self._inputs: list[Tensor] = []
        self._kinds: list[tuple[torch.dtype, torch.device]] = []

    def keep_kinds(self) -> None:
        """From now on, parameters must also keep their types and devices: other workers know them."""
        self._kinds = [(parameter.dtype, parameter.device) for _, _, parameter in self._parameters]

    def check(self) -> None:
        """Raise ValueError if a step cannot be made now.

        Gradients are switched off or autocast is on; a module is in a training mode it must not be in, or has a hook on
        its backward pass; a layer or a parameter is not the one that training began with, so that its gradient would
        be lost silently; a parameter has a hook; or it was converted though it must not be.
        """
        for (layer, name, parameter), (dtype, device) in zip(self._parameters, self._kinds, strict=False):
            if (parameter.dtype, parameter.device) != (dtype, device):
                raise ValueError(
                    f"{_described(layer, name)} was {dtype} on {device} when the pipeline was made, and is "
                    f"{parameter.dtype} on {parameter.device}: make a new one"
                )
        if not torch.is_grad_enabled():
            raise ValueError("gradients are switched off, by torch.no_grad() or inference_mode(): step outside it")
        if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            raise ValueError("torch.autocast is on: curvature needs the parameters' own precision, so step outside it")
        modes = self._modes_now()
        if modes != self._modes or any(map(hooks_backward, self._modules)):
            for layer in self._layers:
                check_mode(layer.module, f"layer {layer.name}")
            self._check_samples_again()
            self._modes = modes
        for position, stage in enumerate(self._stages):
            if stage.has_changed:
                raise ValueError(
                    f"layers of stage {position} were added, removed or replaced, or its nn.Sequential was given "
                    "hooks, since the pipeline was made: make a new one"
                )
        for layer, name, parameter in self._parameters:
            if _find(layer, name) is not parameter:
                raise ValueError(
                    f"{_described(layer, name)} was replaced since the pipeline was made, perhaps by "
                    "load_state_dict(assign=True): make a new one, or copy values in place"
                )
            if parameter.requires_grad != (name in layer.parameters):
                change = "made trainable" if parameter.requires_grad else "frozen"
                raise ValueError(f"{_described(layer, name)} was {change} since the pipeline was made: make a new one")
            if parameter.requires_grad:
                check_hooks(parameter, _described(layer, name))

    def check_samples(self, tapes: Sequence[Tape]) -> None:
        """Raise ValueError if samples are not independent; checked once, and by `check` in other modes.

        Args:
            tapes: of a forward pass, one per stage.
        """
        if not self._inputs:
            check_independence(self._stages, tapes)
            if all(len(tape.inputs[0]) > 1 for tape in tapes):  # a single sample says nothing about others
                self._inputs = [tape.inputs[0].detach()[:ROWS].clone() for tape in tapes]

    @torch.no_grad()
    def _check_samples_again(self) -> None:
        """In the modules' current modes, on a few samples; modules that do not take so few are skipped."""
        for stage, inputs in zip(self._stages, self._inputs, strict=False):
            try:
                tape = stage.forward(inputs)
            except RuntimeError:
                continue
            check_independence([stage], [tape])

    def _modes_now(self) -> list[bool]:
        return [module.training for module in self._modules]


def _find(layer: Layer, name: str) -> nn.Parameter | None:
    try:
        return layer.module.get_parameter(name) if "." in name else layer.module._parameters.get(name)
    except AttributeError:  # the module it was in is gone, or has something else of that name
        return None


def _described(layer: Layer, name: str) -> str:
    return f"parameter {name!r} of {layer}"
