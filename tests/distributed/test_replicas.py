"""Replicas of a pipeline, each with its share of the batch, against one process with all of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from surmin import StepReport, SurrogateMinimizer, partition
from surmin.curvature.factor import FactorCurvature
from surmin.methods.registry import build_method
from surmin.pipeline.distributed import Pipeline
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.process_replicas import ProcessReplicas
from surmin.pipeline.schedule_names import ScheduleName
from surmin.pipeline.traffic import Traffic
from surmin.pipeline.trying_out import check_without_wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from tests.cases import BY_NAME, Case
from tests.device import here
from tests.distributed.workers import Workers

SAMPLES, STAGES, ROUNDS, TIMEOUT, DOUBLE = 12, 2, 3, 20.0, 8
ROUNDING = 1e-9 if here().type == "cpu" else 1e-7  # a GPU adds up halves of a batch in another order
TANH = BY_NAME["tanh"]
WHOLE = {"curvature_fraction": 1.0}
# few inner steps: near a local minimum rounding decides whether the next one is kept
TRIPS = {**WHOLE, "preset": "trips", "inner_steps": 2, "damping": 1.0}
CAREFUL = {**WHOLE, "preconditioner": None, "damping": 1.0, "adapt_decoupling": False, "momentum_candidates": (0.0,)}
Setting = tuple[str, str, Mapping[str, Any]]
ENGINE: list[Setting] = [("tanh", "sm", WHOLE), ("tanh", "adam", {})]
EVERYTHING: list[Setting] = [
    *ENGINE,
    ("convolution", "sm", WHOLE),
    ("positions", "sm", CAREFUL),
    ("tanh", "sm", TRIPS),
    ("tanh", "sm", {**TRIPS, "solver": "lbfgs"}),
    ("tanh", "sm", {**TRIPS, "order": "parallel"}),
    ("frozen", "sm", TRIPS),
    ("tanh", "sm", {"curvature": "sample", "delta_relative": 1.0}),
    ("tanh", "sm", {"preset": "paper", "inner_steps": 3}),
    ("tanh", "gd-armijo", {}),
    ("tanh", "lbfgs", {"inner_steps": 3}),
    ("tanh", "sso", {"inner_steps": 2}),
    ("tanh", "locoprop", {"inner_optimizer": "gd"}),
    ("tanh", "dladmm", {}),
    ("tanh", "ddg", {}),
    ("tanh", "fdg", {}),
    ("tanh", "dgl", {}),
    ("tanh", "dni", {"inner_steps": 2}),
    ("tanh", "features-replay", {}),
    ("tanh", "interlocking", {}),
    ("tanh", "cgblock", {"inner_steps": 2}),
    ("tanh", "cgblock", {"inner_steps": 2, "safeguard": "damping"}),
    ("tanh", "cgblock-ggn", {"inner_steps": 2, **WHOLE}),
    ("tanh", "kfac", {}),
    ("tanh", "newton", {}),
]
LOSS_OF_SHARE = ("adam", "locoprop", "dladmm", "ddg", "fdg", "dgl", "dni", "features-replay", "interlocking")
"""Methods whose loss is that of the worker's share, at the last stage."""
DRAWN: list[Setting] = [("tanh", "sm", {}), ("attention", "sm", {"rank": 1})]


class Outcome(NamedTuple):
    """What training left on one worker, or in one process."""

    parameters: dict[str, Any]
    reports: list[StepReport]


@pytest.mark.parametrize(
    ("pipes", "schedule", "settings"),
    [(1, "posted", ENGINE), (2, "posted", EVERYTHING), (1, "gpipe", ENGINE), (2, "gpipe", ENGINE)],
)
def test_replicas_find_what_one_process_finds(
    workers: Workers, pipes: int, schedule: ScheduleName, settings: list[Setting]
) -> None:
    found = workers.run(2 * pipes, train_all, pipes, schedule, settings)
    for index, (name, method, options) in enumerate(settings):
        case = BY_NAME[name]
        alone = InProcessPipeline(partition(case.network(), STAGES), case.loss)
        expected = train(alone, method, options, case.batch(SAMPLES))
        for parameters, reports in (worker[index] for worker in found):
            own = {name: expected.parameters[name] for name in parameters}
            torch.testing.assert_close(parameters, own, rtol=0, atol=ROUNDING)
            if method not in LOSS_OF_SHARE and options.get("safeguard") != "damping":
                torch.testing.assert_close(
                    figures(reports), figures(expected.reports), rtol=0, atol=1e-9, equal_nan=True
                )
        check_replicas(found, index, pipes)


def test_where_samples_are_drawn_replicas_still_agree(workers: Workers) -> None:
    found = workers.run(4, train_all, 2, "posted", DRAWN)
    for index in range(len(DRAWN)):
        check_replicas(found, index, 2)
        _, reports = found[0][index]
        assert reports[-1].new_loss < reports[0].loss


def check_replicas(found: list[list[Outcome]], index: int, pipes: int) -> None:
    """Bitwise equal."""
    for place in range(pipes):
        first, second = (worker[index].parameters for worker in found[place::pipes])
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def figures(reports: list[StepReport]) -> list[list[float]]:
    """What all workers decide by."""
    return [[own.loss, own.new_loss, own.predicted_decrease, own.damping, own.tries] for own in reports]


def train_all(pipes: int, schedule: ScheduleName, settings: list[Setting]) -> list[Outcome]:
    outcomes = []
    for name, method, options in settings:
        case = BY_NAME[name]
        pipeline = make_pipeline(case, pipes, schedule)
        outcomes.append(train(pipeline, method, options, share(case.batch(SAMPLES), pipes)))
        pipeline.flush()
    return outcomes


def train(
    pipeline: WorkerPipeline, method: str, options: Mapping[str, Any], batch: tuple[Tensor, Tensor]
) -> Outcome:  # fmt: skip
    if method == "sm":
        trained: Any = SurrogateMinimizer(pipeline, **options)
    else:
        trained = build_method(method, pipeline, **dict(options))
    reports = [trained.step(*batch) for _ in range(ROUNDS)]
    return Outcome(values(pipeline), reports)


def make_pipeline(case: Case, pipes: int, schedule: ScheduleName = "posted", seed: int = 0) -> Pipeline:
    """This worker's, in one of two replicas."""
    mesh = init_device_mesh("cpu", (2, pipes), mesh_dim_names=("dp", "pp"))
    modules = partition(case.network(seed=seed), STAGES)
    own = modules if pipes == 1 else [modules[dist.get_rank() % 2]]
    return Pipeline(own, case.loss, microbatches=pipes, schedule=schedule, timeout=TIMEOUT, mesh=mesh)


def share(batch: tuple[Tensor, Tensor], pipes: int) -> tuple[Tensor, Tensor]:
    """The half of this worker's replica."""
    inputs, targets = (tensor.chunk(2)[dist.get_rank() // pipes] for tensor in batch)
    return inputs, targets


def values(pipeline: WorkerPipeline) -> dict[str, Any]:
    return {name: parameter.detach().cpu().clone().numpy() for name, parameter in pipeline.parameters.items()}


def test_replicas_draw_differently_from_equal_shares(workers: Workers) -> None:
    alone = InProcessPipeline(partition(TANH.network(), STAGES), TANH.loss)
    first, second = workers.run(2, drawn_by_this_worker)
    assert first == drawn(alone) != second


def drawn_by_this_worker() -> list[int]:
    return drawn(make_pipeline(TANH, 1))


def drawn(pipeline: WorkerPipeline) -> list[int]:
    """The rows of the batch that carry the curvature."""
    wave = pipeline.forward(*TANH.batch(32))
    blocks, _ = pipeline.cut("layer")
    found = pipeline.curvature(wave, pipeline.backward(wave, {}), blocks, FactorCurvature(fraction=0.5), seed=0)
    ((_, rows),) = found[0].messages
    return rows.tolist()


def test_all_reduces_are_counted(workers: Workers) -> None:
    """Beside what a pipe sends: a mean of the gradient, of every product, and of four numbers for the decision."""
    messages, bytes_ = (sum(counts) for counts in zip(*workers.run(4, sent_in_a_round)[:2], strict=True))
    case_share = TANH.batch(SAMPLES // 2)
    pipe = InProcessPipeline(partition(TANH.network(), STAGES), TANH.loss, microbatches=2)
    minimizer = SurrogateMinimizer(pipe, **CAREFUL)
    assert minimizer.step(*case_share).tries == 1
    blocks = sum(len(own) for own in minimizer.blocks)
    size, products = sum(parameter.numel() for parameter in pipe.parameters.values()), minimizer.options.inner_steps
    assert messages - pipe.traffic.messages == 2 * (2 + products * blocks + 1)
    assert bytes_ - pipe.traffic.bytes == DOUBLE * (size + products * size + 4)


def sent_in_a_round() -> tuple[int, int]:
    pipeline = make_pipeline(TANH, 2)
    report = SurrogateMinimizer(pipeline, **CAREFUL).step(*share(TANH.batch(SAMPLES), 2))
    pipeline.flush()
    assert report.tries == 1
    return report.messages, report.bytes_sent


def test_mean_and_largest_over_three(workers: Workers) -> None:
    results = workers.run(3, reduced)
    assert results == [results[0]] * 3
    mean, largest, empty, messages, bytes_ = results[0]
    assert mean == pytest.approx([1.0, 5 / 3]) and largest == [2.0, 4.0] and empty == []
    hops = 4
    assert (messages, bytes_) == (3 * hops, 2 * (hops * 2 * DOUBLE // 3))


def reduced() -> tuple[list[float], list[float], list[float], int, int]:
    traffic, rank = Traffic(), dist.get_rank()
    assert dist.group.WORLD is not None
    replicas = ProcessReplicas(dist.group.WORLD, torch.device("cpu"), traffic)
    own = torch.tensor([rank, rank**2], dtype=torch.float64)
    results = [replicas.mean(own), replicas.largest(own), replicas.mean(own[:0])]
    assert own.tolist() == [rank, rank**2] and list(replicas.means([])) == []
    return *(result.tolist() for result in results), traffic.messages, traffic.bytes


def test_a_bad_share_is_refused_by_all_and_changes_nothing(workers: Workers) -> None:
    told = workers.run(4, refusals)
    assert told == [told[0]] * 4
    short, infinite, label = told[0]
    assert "worker 0 has inputs [6, 4]" in short and "worker 2 has inputs [4, 4]" in short
    assert infinite.startswith("worker 3: ") and "infinite" in infinite
    assert label.startswith("worker 3: ")


def refusals() -> list[str]:
    pipeline = make_pipeline(TANH, 2)
    minimizer, good = SurrogateMinimizer(pipeline), share(TANH.batch(SAMPLES), 2)
    minimizer.step(*good)
    before, rank, told = values(pipeline), dist.get_rank(), []
    short = (good[0][:4], good[1][:4]) if rank >= 2 else good
    infinite = (torch.full_like(good[0], torch.inf), good[1]) if rank == 3 else good
    label = (good[0], torch.full_like(good[1], TANH.classes)) if rank >= 2 else good
    for inputs, targets in (short, infinite, label):
        with pytest.raises(ValueError) as refused:
            minimizer.step(inputs.clone(), targets.clone())
        told.append(str(refused.value))
        torch.testing.assert_close(values(pipeline), before, rtol=0, atol=0)
    assert minimizer.step(good[0].clone(), good[1].clone()).accepted
    pipeline.flush()
    return told


def test_replicas_must_begin_with_equal_parameters(workers: Workers) -> None:
    told = workers.run(4, refused_parameters)
    assert told == [told[0]] * 4
    assert "worker 2 does not begin with the parameters of worker 0" in told[0]
    assert "worker 3 does not begin with the parameters of worker 1" in told[0]


def refused_parameters() -> str:
    with pytest.raises(ValueError) as refused:
        make_pipeline(TANH, 2, seed=dist.get_rank() // 2)
    return str(refused.value)


def test_a_mesh_that_does_not_fit_is_refused(workers: Workers) -> None:
    named, small, uneven = workers.run(4, refused_meshes)[0]
    assert named == "a mesh needs the dimensions ('dp', 'pp'), got ('replica', 'stage')"
    assert small == "a mesh needs all 4 processes, each once, got [[0], [1]]"
    assert uneven == "a mesh needs equally many processes in every pipe, got [[0, 1], [2]]"


def refused_meshes() -> list[str]:
    told = []
    meshes = [
        init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "stage")),
        DeviceMesh("cpu", [[0], [1]], mesh_dim_names=("dp", "pp")),
        [[0, 1], [2]],
    ]
    for mesh in meshes:
        with pytest.raises(ValueError) as refused:
            Pipeline(TANH.network(), TANH.loss, mesh=mesh)
        told.append(str(refused.value))
    return told


def traffic_of_trying_out() -> Traffic:
    pipeline = make_pipeline(TANH, 1)
    check_without_wave(pipeline, pipeline._links, *share(TANH.batch(SAMPLES), 1))
    pipeline.flush()
    return pipeline.traffic


def test_trying_a_batch_out_is_not_counted(workers: Workers) -> None:
    assert workers.run(2, traffic_of_trying_out) == [Traffic()] * 2
