"""What curvature costs: a product and a local phase over their bare matrix products, and a round over a gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import linearize as linearized
from torch.func import vjp

from benchmarks.clock import in_turns, ratios
from benchmarks.harness import Result, Settings, Table, Target, median, spread
from benchmarks.problems import gaussian_mlp
from benchmarks.round_cost import measure_rounds
from surmin import CrossEntropy, partition
from surmin.curvature.factor import FactorCurvature
from surmin.curvature.gauss_newton import FactorPiece, GaussNewton, projection
from surmin.local_phase import LocalPhase
from surmin.models.attention import TransformerBlock
from surmin.options import Options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.wave import BlockExpansion
from surmin.stages.block import cut_blocks
from surmin.stages.layer import Layer, LayerAtPoint
from surmin.stages.linear import LinearAtPoint
from surmin.stages.linearize import linearize
from surmin.work import WorkMeter

SAMPLES = 5000
WIDTHS = (256, 512, 1024)
LIMIT = 1.5
BLOCKS = 4
TURNS = 40
SEQUENCES, HEADS = 64, 4
COLUMNS, ROWS = 9, 1250
"""Of a sample, one less than there are classes; samples that carry curvature."""


def run(settings: Settings) -> Result:
    """Products and local phases of a linear block, columns times vectors, a transformer block; rounds at 8 × 256."""
    result = Result(figures={"blocks": [], "projections": [], "recorded": []})
    _blocks(result, settings)
    _projections(result, settings)
    _recorded(result, settings)
    measure_rounds(result, settings)
    return result


def _blocks(result: Result, settings: Settings) -> None:
    rows = []
    for width in (64, 128) if settings.quick else WIDTHS:
        settings.note(f"products at width {width}")
        expansion = hidden_block(width, 1000 if settings.quick else SAMPLES, settings.device)
        product = _over_bare(_product(expansion), _bare_products(expansion), settings)
        phase = _over_bare(_local_phase(expansion), _bare_local_phase(expansion), settings)
        rows.append((str(width), *(text for found in (product, phase) for text in _block_row(found))))
        result.figures["blocks"].append({"width": width, "product": product, "local_phase": phase})
        if width >= 512:
            what = f"curvature product at width {width} over its two matrix products"
            result.targets.append(Target(what, median(product["ratios"]), LIMIT))
    columns = ("width", "product, ms", "bare, ms", "ratio", "local phase, ms", "bare, ms", "ratio")
    result.tables.append(Table("One linear block, a quarter of the batch, exact rank: median (range)", columns, rows))


def _projections(result: Result, settings: Settings) -> None:
    """Rᵀ t of every sample, against the way torch has for such products."""
    rows = []
    for width in (64, 128) if settings.quick else (32, 64, *WIDTHS):
        columns = torch.randn(COLUMNS, ROWS, width, device=settings.device)
        tangents = torch.randn(ROWS, width, device=settings.device)
        found = _over_bare(
            partial(projection, columns, tangents), partial(torch.linalg.vecdot, columns, tangents), settings
        )
        rows.append((str(width), *_block_row(found)))
        result.figures["projections"].append({"width": width, **found})
    columns_of_table = ("width", "ours, ms", "torch.linalg.vecdot, ms", "ratio")
    result.tables.append(Table("Columns times vectors, Rᵀ t: median (range)", columns_of_table, rows))


def _recorded(result: Result, settings: Settings) -> None:
    """J v and Jᵀ s of a transformer block in its parameters, a pair as conjugate gradient wants it.

    Both ways record the block once, off the clock.
    """
    rows = []
    for width, positions in ((8, 4),) if settings.quick else ((32, 16), (64, 32), (128, 64)):
        torch.manual_seed(0)
        layer = Layer.of(TransformerBlock(positions, width, HEADS, "gelu").to(settings.device), "0")
        inputs = torch.randn(SEQUENCES, positions, width, device=settings.device)
        direction, cotangent = torch.randn(layer.size, device=settings.device), torch.randn_like(inputs)
        point = linearize(layer, inputs)
        values, tangent = {name: own.detach() for name, own in layer.parameters.items()}, layer.unflatten(direction)
        _, push = linearized(partial(layer.forward, inputs), values)
        pull = vjp(partial(layer.forward, inputs), values)[1]

        def ours(point: LayerAtPoint = point, v: Tensor = direction, s: Tensor = cotangent) -> None:
            point.parameter_jvp(v)
            point.parameter_vjp(s)

        def theirs(push: Any = push, pull: Any = pull, v: Any = tangent, s: Tensor = cotangent) -> None:
            push(v)
            pull(s)

        found = _over_bare(ours, theirs, settings)
        rows.append((f"{width}, {positions} positions", *_block_row(found)))
        result.figures["recorded"].append({"width": width, "positions": positions, **found})
    columns_of_table = ("width", "ours, ms", "torch.func, ms", "ratio")
    title = f"A transformer block on {SEQUENCES} sequences, J v and Jᵀ s: median (range)"
    result.tables.append(Table(title, columns_of_table, rows))


def hidden_block(width: int, samples: int, device: torch.device) -> BlockExpansion:
    """What the waves of a round at the defaults leave in a hidden layer."""
    problem, options = gaussian_mlp(device, BLOCKS, width, samples, features=width), Options()
    pipeline = InProcessPipeline(partition(problem.network(0), 2), CrossEntropy())
    curvature = FactorCurvature(options.rank, options.curvature_fraction)
    wave = pipeline.forward(problem.inputs, problem.targets)
    gradients = pipeline.backward(wave, {})
    return pipeline.curvature(wave, gradients, cut_blocks(pipeline.stages, "layer"), curvature, 0)[1]


def _over_bare(ours: Callable[[], Any], bare: Callable[[], Any], settings: Settings) -> dict[str, list[float]]:
    with torch.no_grad():
        ours_seconds, bare_seconds = in_turns([ours, bare], 5 if settings.quick else TURNS, settings.device, warm_up=2)
    return {"seconds": ours_seconds, "bare": bare_seconds, "ratios": ratios(ours_seconds, bare_seconds)}


def _block_row(found: dict[str, list[float]]) -> tuple[str, str, str]:
    ours, bare = (f"{median(found[what]) * 1e3:.2f}" for what in ("seconds", "bare"))
    return ours, bare, spread(found["ratios"], 2)


def _product(expansion: BlockExpansion) -> Callable[[], Any]:
    direction = torch.randn_like(expansion.gradient)
    return lambda: expansion.curvature.product(direction)


def _bare_products(expansion: BlockExpansion) -> Callable[[], Any]:
    """The two matrix products of G v in a linear layer: z Vᵀ and sᵀ z."""
    inputs, weight = _inputs(expansion), torch.randn(_sizes(expansion), device=expansion.gradient.device)
    cotangents = inputs @ weight.t()
    return lambda: (inputs @ weight.t(), cotangents.t() @ inputs)


def _local_phase(expansion: BlockExpansion) -> Callable[[], Any]:
    """Moments, preconditioner and N steps of conjugate gradient."""
    options = Options()
    phase = LocalPhase(options, WorkMeter())
    return lambda: phase.problem(expansion, 0).solve(BLOCKS, options.damping)


def _bare_local_phase(expansion: BlockExpansion) -> Callable[[], Any]:
    """Its matrix products: two a CG step, two an application of the preconditioner, and two moments."""
    inputs, columns, steps = _inputs(expansion), _piece(expansion).columns.flatten(0, -2), Options().inner_steps
    outputs, width = _sizes(expansion)
    left = torch.randn(outputs, outputs, device=inputs.device)
    right, vector = torch.randn(width + 1, width + 1, device=inputs.device), torch.randn(outputs, width + 1)
    vector = vector.to(inputs.device)
    products = _bare_products(expansion)

    def compute() -> None:
        inputs.t() @ inputs
        columns.t() @ columns
        for _ in range(steps):
            products()
            left @ vector @ right

    return compute


def _piece(expansion: BlockExpansion) -> FactorPiece:
    assert isinstance(expansion.curvature, GaussNewton)
    return expansion.curvature.pieces[0]


def _inputs(expansion: BlockExpansion) -> Tensor:
    point = _piece(expansion).point
    assert isinstance(point, LinearAtPoint)
    return point.inputs


def _sizes(expansion: BlockExpansion) -> tuple[int, int]:
    outputs, inputs = expansion.block.layers[0].parameters["weight"].shape
    return outputs, inputs
