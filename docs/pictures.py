"""Draws the pictures of docs/method.md again: python docs/pictures.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import surmin
from surmin.experiments.theory.decoupled import DecoupledBlock, decoupled_blocks
from surmin.experiments.theory.dense import DenseNetwork
from surmin.experiments.traces.timeline import Timeline
from surmin.losses import ConvexLoss
from surmin.options import Options
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.tracing import Letter, Span
from surmin.plots.style import PALETTE, RC
from surmin.plots.timeline import draw_timelines

IMAGES = Path(__file__).parent / "images"
WORKERS, MICROBATCHES = 4, 4
COSTS: dict[Letter, int] = {"F": 1, "B": 2, "C": 1}
"""Of one micro-batch in one stage."""
GRADIENT_UPDATE, LOCAL_PHASE, ALL_REDUCE = 1, 20, 1
MILLISECOND = 1_000_000
BLACK, BLUE, ORANGE, GREEN = PALETTE[6], PALETTE[0], PALETTE[1], PALETTE[2]
DAMPING = 0.05


class Schedule:
    """What workers do when each begins as soon as it can, and messages take no time. Until then they wait."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._free = [0] * WORKERS

    def wave(self, letter: Letter, order: Sequence[int]) -> None:
        """All micro-batches go through the workers in this order."""
        for microbatch in range(MICROBATCHES):
            arrived = 0
            for worker in order:
                arrived = self._add(letter, worker, max(arrived, self._free[worker]), COSTS[letter], microbatch)

    def apart(self, letter: Letter, duration: int) -> None:
        """Every worker for itself."""
        for worker in range(WORKERS):
            self._add(letter, worker, self._free[worker], duration)

    def together(self, letter: Letter, duration: int) -> None:
        """All workers, when the last one can."""
        start = max(self._free)
        for worker in range(WORKERS):
            self._add(letter, worker, start, duration)

    def _add(self, letter: Letter, worker: int, start: int, duration: int, microbatch: int | None = None) -> int:
        if start > self._free[worker]:
            self.spans.append(Span("W", worker, self._free[worker] * MILLISECOND, start * MILLISECOND))
        end = self._free[worker] = start + duration
        self.spans.append(Span(letter, worker, start * MILLISECOND, end * MILLISECOND, microbatch))
        return end


def draw_waves(path: Path) -> None:
    """Four steps of gradient descent on GPipe, and one and a half rounds of SM, over the same time."""
    down, up = range(WORKERS), range(WORKERS)[::-1]
    descent, surrogates = Schedule(), Schedule()
    for _ in range(4):
        descent.wave("F", down)
        descent.wave("B", up)
        descent.apart("U", GRADIENT_UPDATE)
    surrogates.wave("F", down)
    for _ in range(2):
        surrogates.wave("B", up)
        surrogates.wave("C", up)
        surrogates.apart("U", LOCAL_PHASE)
        surrogates.wave("F", down)
        surrogates.together("A", ALL_REDUCE)
    panels = {"Gradient descent": Timeline.merge([descent.spans]), "SM": Timeline.merge([surrogates.spans])}
    draw_timelines(path, "The waves, drawn from a schedule (not measured)", panels)


@dataclass(frozen=True)
class Bound:
    """A network's loss, and the sum of its local losses at one point."""

    dense: DenseNetwork
    blocks: Sequence[DecoupledBlock]

    @classmethod
    def of(
        cls, stages: Sequence[nn.Module], loss: ConvexLoss, inputs: Tensor, targets: Tensor, options: Options
    ) -> "Bound":
        """At the current parameters."""
        pipeline = InProcessPipeline(stages, loss)
        wave = pipeline.forward(inputs, targets)
        dense = DenseNetwork.of(stages, loss, inputs, targets, options.blocks)
        return cls(dense, decoupled_blocks(pipeline, wave, dense, options))

    def loss(self, steps: Sequence[Tensor]) -> float:
        """h(θ + d), d block by block."""
        moved = [block.vector() for block in self.dense.blocks]
        for found, step in zip(self.blocks, steps, strict=True):
            moved[found.position] = moved[found.position] + step
        return float(self.dense.value(moved))

    def model(self, steps: Sequence[Tensor], share: float = 1.0) -> float:
        """h(θ) + Σ L_i(d_i), with this share of the curvature's inflation κ."""
        start = self.loss([torch.zeros_like(step) for step in steps])
        linear = sum(float(own.gradient @ step) for own, step in zip(self.blocks, steps, strict=True))
        local = sum(float(own.local_loss(step, 0.0)) for own, step in zip(self.blocks, steps, strict=True))
        return start + linear + share * (local - linear)

    def steps(self, damping: float) -> list[Tensor]:
        """d = -(κ G + λ I)⁻¹ g, which each block finds for itself."""
        return [
            -torch.linalg.solve(
                own.inflation * own.matrix + damping * torch.eye(len(own.gradient), dtype=torch.float64), own.gradient
            )
            for own in self.blocks
        ]


def draw_bounds(path: Path) -> None:
    """Left: one weight, descending by bounds. Right: a deep network along the step of its blocks."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(12.0, 5.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_one_weight(left)
        _draw_deep_network(right)
        figure.savefig(path)


def _draw_one_weight(axes: Axes) -> None:
    """Logistic regression with one weight; its local loss bounds the loss everywhere."""
    torch.manual_seed(0)
    inputs = torch.randn(40, 1, dtype=torch.float64) * 2
    targets = ((inputs + torch.randn_like(inputs)) > 0).double()
    layer = nn.Linear(1, 1, bias=False).double()
    model = nn.Sequential(layer)
    weights = torch.linspace(-2.2, 2.2, 200, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(-1.8)
    minimizer = surmin.SurrogateMinimizer.paper([model], surmin.LogisticLoss())
    for index, color in enumerate((BLUE, ORANGE, GREEN)):
        here = layer.weight.item()
        bound = Bound.of([model], surmin.LogisticLoss(), inputs, targets, minimizer.options)
        steps = [[(weight - here).reshape(1)] for weight in weights]
        values = [bound.model(step) for step in steps]
        if not index:
            axes.plot(weights, [bound.loss(step) for step in steps], color=BLACK, linewidth=2, label="loss h(θ)")
        axes.plot(weights, values, color=color, linestyle="--", label=f"bound at θ, round {index}")
        axes.plot([here], [bound.model([torch.zeros(1, dtype=torch.float64)])], "o", color=color)
        minimizer.step(inputs, targets)
    axes.set(ylim=(0, 4), xlabel="the one weight θ", ylabel="loss")
    axes.set_title("One weight: minimise the bound, draw the next one")
    _explain(axes)


def _draw_deep_network(axes: Axes) -> None:
    """The factor curvature's bound along the step it leads to; beside it the same without κ, and the scalar's."""
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(size, 12), nn.Tanh()) for size in (6, 12, 12)]
    model = nn.Sequential(*hidden, nn.Linear(12, 3)).double()
    inputs = torch.randn(60, 6, dtype=torch.float64)
    targets = inputs[:, :3].argmax(1)
    loss = surmin.CrossEntropy()
    minimizer = surmin.SurrogateMinimizer([model], loss, curvature_fraction=1.0)
    for _ in range(2):
        minimizer.step(inputs, targets)
    factor = Bound.of([model], loss, inputs, targets, Options())
    scalar = Bound.of([model], loss, inputs, targets, Options(curvature="scalar", preconditioner=None))
    whole, count = factor.steps(DAMPING), len(factor.blocks)
    shares = torch.linspace(-1, 3, 200).tolist()
    steps = [[share * step for step in whole] for share in shares]
    losses = [factor.loss(step) for step in steps]
    axes.plot(shares, losses, color=BLACK, linewidth=2, label="loss h(θ + t d)")
    for bound, share, color, dashes, label in (
        (factor, 1.0, BLUE, "--", f"factor, κ = m = {count}: local losses summed"),
        (factor, 1 / count, GREEN, "-.", "factor, κ = 1"),
        (scalar, 1.0, ORANGE, ":", "scalar, δ = 1 (Appendix A)"),
    ):
        axes.plot(shares, [bound.model(step, share) for step in steps], color=color, linestyle=dashes, label=label)
    axes.plot([0, 1], [factor.loss([share * step for step in whole]) for share in (0, 1)], "o", color=BLACK)
    axes.set(ylim=(0.5 * min(losses), 1.6 * max(losses)), xlabel="t, share of the step d of all blocks", ylabel="loss")
    axes.set_title(f"{count} layers: along the step that the blocks find")
    _explain(axes)


def _explain(axes: Axes) -> None:
    """The legend, below the axes: no curve or line of the grid crosses it."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=10, columnspacing=1)


def main() -> None:
    """Draw them all."""
    torch.set_num_threads(1)
    draw_waves(IMAGES / "waves.png")
    draw_bounds(IMAGES / "bounds.png")


if __name__ == "__main__":
    main()
