"""Small networks beside the stages, trained along but not part of the network: heads and synthesizers.

What such a network must fit, the shapes of its stage's output and of the network's, is known with the first batch.
Its initial weights depend only on the seed and the stage's place in the network, so that it is the same on any number
of workers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surmin.methods.common.optimizers import load_optimizer_state, optimizer_state
from surmin.methods.common.saved_states import check_keys, check_stage
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.replicas import Replicas
from surmin.seeds import draw_seed
from surmin.stages.layer import flatten

Build = Callable[[Sequence[int], Sequence[int]], nn.Module]
"""Makes a network for the shapes of one sample of a stage's output and of the network's, or raises ValueError."""


class Auxiliary:
    """One such network with its own optimizer.

    Args:
        module: the network; its parameters' names must not be those of the network's parameters (no numbers).
        optimizer: over its parameters.
        shape: of one sample of the stage's output.
        replicas: those that train the same network on other shares of the batch.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, shape: Sequence[int], replicas: Replicas) -> None:
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
        """Its weights, the optimizer's memory and settings, and the shape it was made for."""
        weights = {name: value.detach().clone() for name, value in self.module.named_parameters()}
        optimizer = optimizer_state(self._optimizer, dict(self.module.named_parameters()))
        return {"shape": self._shape, "weights": weights, "optimizer": optimizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.module.load_state_dict(state["weights"])
        load_optimizer_state(self._optimizer, dict(self.module.named_parameters()), state["optimizer"])


class AuxiliaryNetworks:
    """The networks beside the stages of a worker.

    Args:
        pipeline: the network.
        build: makes one; its modules are initialised as by torch's defaults.
        positions: of the stages here that get one.
        optimizer: makes one for given parameters.
        seed: of the initial weights.

    Raises:
        ValueError: on every worker, if a stage that gets one has no layer.
    """

    def __init__(
        self, pipeline: WorkerPipeline, build: Build, positions: Iterable[int],
        optimizer: Callable[[list[nn.Parameter]], Optimizer], seed: int,
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self._build = build
        self._positions = list(positions)
        with pipeline.agreeing():
            if not all(pipeline.stages[position].layers for position in self._positions):
                raise ValueError("an auxiliary network needs a stage with layers: one stage has none; leave it out")
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

    def prepare(self, inputs: Tensor, outputs: Sequence[int]) -> None:
        """Make them all at the first batch, for a network whose output has that shape.

        Raises:
            ValueError: on every worker, if a stage of any cannot have one; the message says which and why.
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
        """Drop the gradients added since the last step."""
        for network in self._networks.values():
            network.module.zero_grad()

    def step(self) -> None:
        """One step of each."""
        with self._pipeline.tracer.span("U"):
            for network in self._networks.values():
                network.step()

    def state_dict(self) -> dict[str, Any]:
        """Each one's state by the name of its stage's first layer, and likewise every stage's number of layers."""
        stages = {self._pipeline.stages[at].name: own.state_dict() for at, own in self._networks.items()}
        cut = {stage.name: len(stage.layers) for stage in self._pipeline.stages if stage.layers}
        return {"outputs": self.outputs, "cut": cut, "stages": stages}

    def restored(self, state: Mapping[str, Any]) -> "AuxiliaryNetworks":
        """The networks that `state_dict()` described, ignoring those of other workers' stages.

        Raises:
            ValueError: if it is not such a state, or not of the stages here.
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
        """Raise ValueError if the state is not of a stage here, or has no network for it."""
        for position, stage in enumerate(self._pipeline.stages):
            if stage.layers:
                check_stage(stage, state["cut"].get(stage.name), "auxiliary networks belong to stages")
            if position in self._positions and stage.name not in state["stages"]:
                raise ValueError(
                    f"the state has no auxiliary network for the stage that begins with layer {stage.name}"
                )

    def _restored(self, position: int, state: Mapping[str, Any]) -> Auxiliary:
        own = state["stages"][self._pipeline.stages[position].name]
        like = next(iter(self._pipeline.parameters.values()), next(iter(own["weights"].values())))
        network = self._make(position, own["shape"], state["outputs"], like)
        network.load_state_dict(own)
        return network

    def _make(self, position: int, shape: Sequence[int], outputs: Sequence[int], like: Tensor) -> Auxiliary:
        stage = self._pipeline.stages[position]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_seed(self._seed, int(stage.name)))
            try:
                module = self._build(shape, outputs)
            except ValueError as error:
                raise ValueError(f"{error} (the stage that begins with layer {stage.name})") from error
        module.to(like.device, like.dtype)
        return Auxiliary(module, self._optimizer(list(module.parameters())), shape, self._pipeline.replicas)

    @torch.no_grad()
    def _states(self, sample: Tensor) -> list[Tensor]:
        """The output of every stage here for one sample; not counted."""
        state, _ = self._pipeline.pass_through(sample)
        states = []
        for stage in self._pipeline.stages:
            states.append(state := stage.output(state))
        return states
