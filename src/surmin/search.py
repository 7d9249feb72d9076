"""Looking for a step that passes the test: local phase and forward wave at ever larger damping (waves 4 and 5)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surmin.damping import Damping, is_acceptable, reduction_ratio
from surmin.errors import NonFiniteError
from surmin.local_phase import Problem
from surmin.options import Options
from surmin.pipeline.wave import StageParameters, Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.solvers.result import SolverResult
from surmin.stages.stage import Stage


@dataclass(frozen=True)
class Point:
    """The current parameters with all that waves 1 to 3 left there.

    Attributes:
        inputs: the whole batch.
        targets: of the whole batch.
        loss: h(θ̄), 0-dimensional.
        problems: what every trainable block has to minimise.
        gradient_square: ‖∂h/∂θ‖², 0-dimensional.
        previous: the last accepted step by the parameters' global names; None before there is one.
    """

    inputs: Tensor
    targets: Tensor
    loss: Tensor
    problems: Sequence[Problem]
    gradient_square: Tensor
    previous: Mapping[str, Tensor] | None


@dataclass(frozen=True)
class Trial:
    """A step that has been computed, where it leads, and what it promised.

    Attributes:
        damping: what it was computed with.
        results: of every block's solver.
        steps: d of every block: the solver's step, and a share of the previous step where momentum is tried.
        parameters: θ̄ + d, tensors of their own.
        wave: the forward wave there; None where steps are not tested.
        loss: h(θ̄).
        gradient_norm: ‖∂h/∂θ‖ at θ̄.
        new_loss: h(θ̄ + d); NaN where steps are not tested.
        predicted: the decrease of the summed local losses.
        accepted: whether it passed the test.
    """

    damping: Damping
    results: Sequence[SolverResult]
    steps: Sequence[Tensor]
    parameters: StageParameters
    wave: Wave | None
    loss: float
    gradient_norm: float
    new_loss: float
    predicted: float
    accepted: bool

    @property
    def ratio(self) -> float:
        """Actual over predicted decrease."""
        return reduction_ratio(self.loss, self.new_loss, self.predicted)


@dataclass(frozen=True)
class Search:
    """How a step is looked for.

    Attributes:
        pipeline: runs the forward waves.
        options: of the minimizer.
        inflation: κ of every trainable block, by its index.
    """

    pipeline: WorkerPipeline
    options: Options
    inflation: Sequence[float]

    def run(self, point: Point, damping: Damping) -> tuple[Trial, int, Damping]:
        """Solve and test, raising the damping until a step passes; solving again needs no new backward wave.

        Returns:
            The accepted trial or the best of the last rejected ones, the number of forward waves spent, and the damping
            for the next round.
        """
        for tries in range(1, self.options.max_tries + 1):
            trials = self._attempt(point, damping, tries)
            best = min(trials, key=lambda trial: (not trial.accepted, _or_infinity(trial.new_loss)))
            if best.accepted:
                return best, tries, best.damping.after_acceptance(best.ratio, tighten=self.options.adapt_decoupling)
            if not self.options.adapt_damping:
                break
            damping = damping.after_rejection(best.ratio, max(self.options.damping_candidates))
        return best, tries, damping

    def _momenta(self, tries: int) -> Sequence[float]:
        """More damping does not shorten the last step's share: where all candidates had one, a retry does without."""
        candidates = self.options.momentum_candidates
        return candidates if tries == 1 or 0 in candidates else (0.0,)

    def _attempt(self, point: Point, damping: Damping, tries: int) -> list[Trial]:
        """Every candidate: solve, try all in one forward wave, add up over stages."""
        candidates = self._candidates(point, damping, self._momenta(tries))
        moved = [self._moved(point.problems, steps) for _, _, steps in candidates]
        waves: list[Wave | None] = [None] * len(moved)
        if self.options.adapt_damping:
            waves = list(self.pipeline.forward_candidates(point.inputs, point.targets, moved))
        zero, unknown = torch.zeros_like(point.loss), torch.full_like(point.loss, math.nan)
        numbers = [point.loss, point.gradient_square]
        for (_, results, _), wave in zip(candidates, waves, strict=True):
            numbers += [unknown if wave is None else wave.loss, sum((r.decrease for r in results), zero)]
        loss, gradient_square, *pairs = self.pipeline.total(torch.stack([number.double() for number in numbers]))
        self._check_start(loss, gradient_square)
        ends = zip(pairs[::2], pairs[1::2], strict=True)
        norm = math.sqrt(gradient_square)
        return [
            Trial(*candidate, parameters, wave, loss, norm, *end, self._is_accepted(loss, *end, tries))
            for candidate, parameters, wave, end in zip(candidates, moved, waves, ends, strict=True)
        ]

    def _candidates(
        self, point: Point, damping: Damping, momenta: Sequence[float]
    ) -> list[tuple[Damping, list[SolverResult], list[Tensor]]]:
        """For every damping the blocks' solutions, and for every momentum β the steps d + β d_previous.

        Momentum costs no solving: the step that the last round took is added as it is, and predicts nothing of its own.
        """
        candidates = []
        for factor in self.options.damping_candidates:
            scaled = damping.candidate(factor, tighten=self.options.adapt_decoupling)
            results = self._solve(point.problems, scaled)
            for momentum in (0.0,) if point.previous is None else momenta:
                steps = [result.step for result in results]
                if momentum and point.previous is not None:
                    previous = [problem.block.flatten(point.previous) for problem in point.problems]
                    steps = [step + momentum * last for step, last in zip(steps, previous, strict=True)]
                candidates.append((scaled, results, steps))
        return candidates

    def _solve(self, problems: Sequence[Problem], damping: Damping) -> list[SolverResult]:
        """Every block minimises its local loss at this λ and share of κ."""
        with torch.no_grad(), self.pipeline.tracer.span("U"):
            return [
                problem.solve(max(1.0, damping.inflation_share * self.inflation[problem.block.index]), damping.value)
                for problem in problems
            ]

    def _moved(self, problems: Sequence[Problem], steps: Sequence[Tensor]) -> StageParameters:
        """The parameters θ̄ + d as tensors of their own; the network's stay as they are."""
        moved: dict[Stage, list[Mapping[str, Tensor]]] = {
            stage: [{}] * len(stage.layers) for stage in self.pipeline.stages
        }
        for problem, step in zip(problems, steps, strict=True):
            block = problem.block
            moved[block.stage][block.start : block.stop] = block.moved(step)
        return moved

    def _is_accepted(self, loss: float, new_loss: float, predicted: float, tries: int) -> bool:
        """Accept anything finite where steps are not tested."""
        if self.options.adapt_damping:
            return is_acceptable(loss, new_loss, predicted, self.options.accept_above, tries)
        return math.isfinite(predicted)

    def _check_start(self, loss: float, gradient_square: float) -> None:
        if not math.isfinite(gradient_square) or (self.options.adapt_damping and not math.isfinite(loss)):
            raise NonFiniteError(
                f"the loss is {loss:g} and its gradient's square {gradient_square:g} at the current parameters: "
                "no step can be computed or tested from there; check the data's scale and the initialisation "
                "(a gradient oracle has no loss value and needs adapt_damping=False)"
            )


def _or_infinity(value: float) -> float:
    return value if math.isfinite(value) else math.inf
