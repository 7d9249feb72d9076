"""Small networks beside the stages, which train along but are no part of the network: heads and synthesizers.

What such a network has to fit, the shapes of its stage's output and of the network's, is known with the first batch.
Its initial weights depend on the seed and the stage's place in the network alone, so that it is the same on any number
of workers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surmin.curvature.output_curvature import draw_seed
from surmin.methods.common.optimizers import load_named_state, named_state
from surmin.methods.common.saved_states import check_keys, check_stage
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.replicas import Replicas
from surmin.stages.layer import flatten
from surmin.stages.stage import Stage

Shape = Sequence[int]
"""Of one sample."""
Build = Callable[[Shape, Shape], nn.Module]
"""A network for a stage's output and the network's output of such shapes; raises ValueError where there is none."""


class Auxiliary:
    """One such network with an optimizer of its own.

    Args:
        module: the network; its parameters' names must not be those of the network's parameters (no numbers).
        optimizer: over its parameters.
        shape: of the stage's output, one sample of it.
        replicas: that train the same network on other shares of the batch.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, shape: Shape, replicas: Replicas) -> None:
        self.module = module
        self.parameters = list(module.parameters())
        self._optimizer = optimizer
        self._shape = list(shape)
        self._replicas = replicas

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Add a micro-batch's share of the parameters' gradients."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def step(self) -> None:
        """One step of the optimizer along the gradients added since the last, averaged over replicas."""
        sizes = [parameter.numel() for parameter in self.parameters]
        gradients = flatten([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        (mean,) = self._replicas.means([gradients])
        for parameter, own in zip(self.parameters, mean.split(sizes), strict=True):
            parameter.grad = own.view_as(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Its weights, the optimizer's memory, and the shape it was made for."""
        weights = {name: value.detach().clone() for name, value in self.module.named_parameters()}
        optimizer = named_state(self._optimizer, dict(self.module.named_parameters()))
        return {"shape": self._shape, "weights": weights, "optimizer": optimizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.module.load_state_dict(state["weights"])
        load_named_state(self._optimizer, dict(self.module.named_parameters()), state["optimizer"])


class AuxiliaryNetworks:
    """The networks beside the stages of a worker.

    Args:
        pipeline: the network.
        build: makes one; its modules are initialised as torch does by default.
        positions: of the stages here that get one.
        optimizer: makes one over parameters.
        seed: of the initial weights.
    """

    def __init__(
        self, pipeline: WorkerPipeline, build: Build, positions: Iterable[int],
        optimizer: Callable[[list[nn.Parameter]], Optimizer], seed: int,
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self._build = build
        self._positions = list(positions)
        self._optimizer = optimizer
        self._seed = seed
        self._networks: dict[int, Auxiliary] = {}
        self.outputs: list[int] | None = None
        """Shape of one sample of the network's output, once it is known."""

    def __getitem__(self, position: int) -> Auxiliary:
        """The one beside the stage at a position, after `prepare`."""
        return self._networks[position]

    def __contains__(self, position: int) -> bool:
        """Whether the stage at a position has one."""
        return position in self._networks

    def prepare(self, inputs: Tensor, outputs: Shape) -> None:
        """Make them all at the first batch, for a network whose output has that shape.

        Raises:
            ValueError: on every worker, when there is none for a stage of one, saying which and why.
        """
        if self.outputs is not None:
            return
        states = self._states(inputs[:1])
        networks: dict[int, Auxiliary] = {}
        with self._pipeline.agreeing():
            for position in self._positions:
                networks[position] = self._make(position, states[position].shape[1:], outputs, states[position])
        self._networks, self.outputs = networks, list(outputs)

    def abandon(self) -> None:
        """Let go of the gradients added since the last step."""
        for network in self._networks.values():
            network.module.zero_grad()

    def step(self) -> None:
        """One step of each."""
        with self._pipeline.tracer.span("U"):
            for network in self._networks.values():
                network.step()

    def state_dict(self) -> dict[str, Any]:
        """Each one's state by the name of its stage's first layer, and every stage's number of layers by the same."""
        stages = {_name(self._pipeline.stages[at]): own.state_dict() for at, own in self._networks.items()}
        cut = {_name(stage): len(stage.layers) for stage in self._pipeline.stages if stage.layers}
        return {"outputs": self.outputs, "cut": cut, "stages": stages}

    def restored(self, state: Mapping[str, Any]) -> "AuxiliaryNetworks":
        """Those that `state_dict()` was asked of, with what other workers' stages have left aside.

        Raises:
            ValueError: when it is none, or of other stages than those here.
        """
        check_keys(state, {"outputs", "cut", "stages"}, "auxiliary networks")
        networks: dict[int, Auxiliary] = {}
        if state["outputs"] is not None:
            self._check_stages(state)
            networks = {position: self._restored(position, state) for position in self._positions}
        made = copy(self)
        made._networks, made.outputs = networks, state["outputs"]
        return made

    def _check_stages(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError for a stage here that the state is not of, or that has no network in it."""
        for position, stage in enumerate(self._pipeline.stages):
            if stage.layers:
                check_stage(stage, state["cut"].get(_name(stage)), "auxiliary networks belong to stages")
            if position in self._positions and _name(stage) not in state["stages"]:
                raise ValueError(
                    f"the state has no auxiliary network for the stage that begins with layer {_name(stage)}"
                )

    def _restored(self, position: int, state: Mapping[str, Any]) -> Auxiliary:
        own = state["stages"][_name(self._pipeline.stages[position])]
        like = next(iter(self._pipeline.parameters.values()), next(iter(own["weights"].values())))
        network = self._make(position, own["shape"], state["outputs"], like)
        network.load_state_dict(own)
        return network

    def _make(self, position: int, shape: Shape, outputs: Shape, like: Tensor) -> Auxiliary:
        stage = self._pipeline.stages[position]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed(self._seed, int(_name(stage))))
            try:
                module = self._build(shape, outputs)
            except ValueError as error:
                raise ValueError(f"{error} (the stage that begins with layer {_name(stage)})") from error
        module.to(like.device, like.dtype)
        return Auxiliary(module, self._optimizer(list(module.parameters())), shape, self._pipeline.replicas)

    @torch.no_grad()
    def _states(self, sample: Tensor) -> list[Tensor]:
        """The output of every stage here for one sample; not counted."""
        state, _ = self._pipeline.pass_through(sample)
        states = []
        for stage in self._pipeline.stages:
            for layer in stage.layers:
                state = layer.forward(state)
            states.append(state)
        return states


def _name(stage: Stage) -> str:
    if not stage.layers:
        raise ValueError("an auxiliary network needs a stage with layers: one stage has none; leave it out")
    return stage.layers[0].name
