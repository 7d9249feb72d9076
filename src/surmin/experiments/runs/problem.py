"""From a configuration to data, a network and its pipeline."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surmin.data import Dataset, load_dataset
from surmin.digest import digest_of
from surmin.experiments.configs.run import ExperimentConfig
from surmin.experiments.configs.surrogate import EXACT, idle_options
from surmin.experiments.runs.losses import are_right, fit_targets, labels_of, make_loss
from surmin.experiments.runs.metrics import Evaluation
from surmin.experiments.runs.position import Position
from surmin.experiments.runs.team import Team, choose_device
from surmin.methods.registry import takes
from surmin.models import build_model
from surmin.own_code import is_own, load_own
from surmin.pipeline.distributed import Pipeline
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.placement import spread
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.partition import partition
from surmin.stages.stage import leaf_modules

DEFAULT_STAGES = 4
EVALUATED_AT_ONCE = 2048
TOKEN_RANK = 2
MANY_WINDOWS = 1000
"""Windows of 64 characters; the network of default size takes 5 GB for a batch of this many."""
MANY_CLASSES, MANY_CLASSES_RANK = 64, 32
"""At 100 classes, 32 random columns take 0.6 of the exact factor's time (`benchmarks outputs`)."""


@dataclass(frozen=True)
class Problem:
    """A network on its device, cut into stages, and the data on the same device.

    Attributes:
        data: all of it, on every worker.
        modules: of the stages that this worker holds.
        stages: how many the whole network has.
        pipeline: over the stages this worker holds.
        team: of workers.
        position: of this worker among them.
    """

    data: Dataset
    modules: list[nn.Module]
    stages: int
    pipeline: WorkerPipeline
    team: Team
    position: Position

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """By forward passes that are not counted; replicas take turns with what goes through the pipe at once.

        Raises:
            ValueError: on the worker with the last stage, when targets do not fit its outputs.
        """
        data, losses_of = self.data, self.pipeline.loss.sample_losses
        losses = self._sum(data.train_inputs, data.train_targets, losses_of)
        tested = self._sum(data.test_inputs, data.test_targets, are_right if data.classes else losses_of)
        all_losses, all_tested = self.team.sum(losses, tested)
        loss = all_losses / len(data.train_inputs)
        if data.classes:
            return Evaluation(loss, test_accuracy=all_tested / labels_of(data.test_targets).numel())
        return Evaluation(loss, test_loss=all_tested / len(data.test_inputs))

    def _sum(self, inputs: Tensor, targets: Tensor, figure: Callable[[Tensor, Tensor], Tensor]) -> float:
        """This worker's share of the sum over samples of a figure of outputs and targets."""
        total = torch.zeros((), dtype=torch.float64)
        for some, of_these in self._parts(inputs, targets):
            outputs = self.pipeline.predict(some)
            if outputs is not None:
                self.pipeline.loss.check(outputs, of_these)
                total += figure(outputs, of_these).sum().double().cpu()
        return float(total)

    def _parts(self, inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        parts = list(zip(inputs.split(EVALUATED_AT_ONCE), targets.split(EVALUATED_AT_ONCE), strict=True))
        return parts[self.position.replica :: self.position.replicas]


def load_data(config: ExperimentConfig, team: Team) -> Dataset:
    """The data, with targets for its loss, on the device the experiment runs on."""
    dtype = getattr(torch, config.dtype)
    data = load_dataset(config.data, data_dir=config.data_dir, train_samples=config.train_samples, dtype=dtype)
    data = fit_targets(config, data)
    _check_same(data, team)
    return data.to(choose_device(config.device, team.place))


def _check_same(data: Dataset, team: Team) -> None:
    """Raise ValueError, on all members, if they have loaded different data."""
    if team.count == 1:
        return
    names = ("train_inputs", "train_targets", "test_inputs", "test_targets")
    told = team.gather(digest_of((name, getattr(data, name)) for name in names))
    for rank, other in enumerate(told):
        if other != told[0]:
            raise ValueError(f"worker {rank} has loaded different data than worker 0: give all machines the same files")


def build_network(config: ExperimentConfig, data: Dataset) -> nn.Sequential:
    """The network for the configuration's seed, on the CPU and in torch's default dtype.

    Raises:
        ValueError: if it cannot be built for this data.
    """
    torch.manual_seed(config.seed)
    if is_own(config.model):
        return _own_network(config, data)
    return build_model(
        config.model,
        input_shape=data.input_shape,
        outputs=data.outputs,
        layers=config.layers,
        width=config.width,
        activation=config.activation,
        tokens=data.has_tokens,
    )


def _own_network(config: ExperimentConfig, data: Dataset) -> nn.Sequential:
    build = load_own(config.model)
    offered = {"input_shape": data.input_shape, "outputs": data.outputs}
    offered |= {name: getattr(config, name) for name in ("layers", "width", "activation")}
    asked = inspect.signature(build).parameters
    network = build(**{name: value for name, value in offered.items() if name in asked})
    if not isinstance(network, nn.Module):
        raise ValueError(f"{config.model} must return a torch.nn.Module, it returned {type(network).__name__}")
    return network if isinstance(network, nn.Sequential) else nn.Sequential(network)


def trainable_layers(model: nn.Sequential) -> int:
    """The number of stages it can be cut into."""
    return sum(any(parameter.requires_grad for parameter in leaf.parameters()) for leaf in leaf_modules(model))


def build_problem(config: ExperimentConfig, data: Dataset, team: Team) -> Problem:
    """The network for the configuration's seed, the same on every device and in every dtype (up to rounding).

    A worker keeps only its own stages.

    Raises:
        ValueError: if the network cannot be built for this data or cut into so many stages, or it was not said how much
            of a long text a round should take.
    """
    model = build_network(config, data)
    _check_batch(config, data)
    position = Position.of(team.rank, team.count, config.replicas)
    count = config.stages or max(position.length, min(DEFAULT_STAGES, trainable_layers(model)))
    own = spread(count, position.length)[position.place]
    modules = partition(model, count)[own.start : own.stop]
    for module in modules:
        module.to(data.train_inputs.device, getattr(torch, config.dtype))
    loss, microbatches = make_loss(config.loss), config.microbatches
    if team.count == 1:
        pipeline: WorkerPipeline = InProcessPipeline(modules, loss, microbatches=microbatches)
    else:
        pipeline = Pipeline(
            modules,
            loss,
            microbatches=microbatches,
            schedule=config.schedule,
            timeout=config.waiting,
            mesh=position.pipes,
            device=data.train_inputs.device,
        )
    return Problem(data, modules, count, pipeline, team, position)


def _check_batch(config: ExperimentConfig, data: Dataset) -> None:
    """Raise ValueError for the full batch of a long text unless it was requested: it fills most machines' memory."""
    samples = len(data.train_inputs)
    if data.has_tokens and samples > MANY_WINDOWS and not config.batch_size and config.train_samples is None:
        raise ValueError(
            f"a round on all {samples:,} windows of this text takes a lot of memory: give --batch-size or "
            f"--train-samples, 64 for example, or --train-samples {samples} to take them all"
        )


def method_options(method: str, data: Dataset, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options, and a rank if none is given and exact factors would be wide."""
    options = dict(given)
    has_columns = takes(method, "rank") and "rank" not in idle_options(given.get("preset"), given.get("curvature"))
    if has_columns and (data.has_tokens or data.outputs > MANY_CLASSES):
        options.setdefault("rank", TOKEN_RANK if data.has_tokens else MANY_CLASSES_RANK)
    if options.get("rank") == EXACT:
        del options["rank"]
    return options
