"""Surrogate Minimization (Algorithm 1): waves, local losses minimised on their own, and a test of the step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from surmin.curvature.factor import FactorCurvature
from surmin.curvature.output_curvature import OutputCurvature, draw_seed
from surmin.curvature.scalar import ScalarCurvature
from surmin.damping import Damping, is_acceptable, reduction_ratio
from surmin.local_phase import LocalPhase, Problem
from surmin.losses import ConvexLoss
from surmin.options import Options, OptionValues, resolve_options
from surmin.pipeline.in_process import InProcessPipeline, StageParameters, Wave
from surmin.pipeline.reuse import AcceptedWave
from surmin.report import StepReport
from surmin.solvers.result import Reason, SolverResult
from surmin.stages.block import cut_blocks
from surmin.stages.stage import Stage
from surmin.surrogates.decoupling import check_decoupling, uniform_decoupling


@dataclass(frozen=True)
class _Point:
    """The current parameters with all that the waves left there."""

    wave: Wave
    problems: Sequence[Problem]
    gradient_square: Tensor


@dataclass(frozen=True)
class _Trial:
    """A step that has been computed, where it leads, and what it promised."""

    damping: Damping
    results: Sequence[SolverResult]
    parameters: StageParameters
    wave: Wave | None
    loss: float
    gradient_norm: float
    new_loss: float
    predicted: float

    @property
    def ratio(self) -> float:
        return reduction_ratio(self.loss, self.new_loss, self.predicted)


class SurrogateMinimizer:
    """Trains a network cut into stages by minimising a local loss in every block.

    Args:
        stages: the network as a list of modules, from `partition` or of your own; or a pipeline that holds them.
        loss: the convex loss ℓ of the network's output. Left out when a pipeline is given, which has one.
        preset: "compute" (least time where trips are cheap), "trips" (fewest trips where links are slow), or "paper".
        microbatches: equal parts that a batch is cut into, when `stages` is a list.
        **options: any field of `Options`; explicit options override the preset.

    Raises:
        ValueError: for modules or options that cannot work, saying why and what to do.

    Example:
        >>> import torch, surmin
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> sm = surmin.SurrogateMinimizer(surmin.partition(model, 2), surmin.CrossEntropy())
        >>> inputs, targets = torch.randn(30, 4), torch.randint(3, (30,))
        >>> reports = [sm.step(inputs, targets) for _ in range(5)]
        >>> reports[-1].new_loss < reports[0].loss
        True
    """

    def __init__(
        self,
        stages: Sequence[nn.Module] | InProcessPipeline,
        loss: ConvexLoss | None = None,
        *,
        preset: str = "compute",
        microbatches: int = 1,
        **options: Unpack[OptionValues],
    ) -> None:
        self.options = resolve_options(preset, options)
        if isinstance(stages, InProcessPipeline):
            self.pipeline = stages
        elif loss is None:
            raise ValueError("a loss is needed with a list of stages, for instance surmin.CrossEntropy()")
        else:
            self.pipeline = InProcessPipeline(stages, loss, microbatches=microbatches)
        self.blocks = cut_blocks(self.pipeline.stages, self.options.blocks)
        self._curvature = _output_curvature(self.options)
        self._inflation = self._choose_inflation()
        self._boundaries = {
            own[0].stage: [block.start for block in own] for own in self.blocks if self._curvature.needs_cotangents
        }
        self._local_phase = LocalPhase(self.options, self.pipeline.work)
        self._damping = Damping(self.options.damping)
        self._round = 0
        self._accepted: AcceptedWave | None = None

    @classmethod
    def paper(
        cls, stages: Sequence[nn.Module], loss: ConvexLoss, *, inner_steps: int = 20, delta: float = 1.0,
        power_steps: int = 20, microbatches: int = 1,
    ) -> "SurrogateMinimizer":  # fmt: skip
        """Appendix A to the letter: layer blocks, one scalar curvature, plain CG, no damping and no acceptance test."""
        return cls(
            stages, loss, preset="paper", microbatches=microbatches, inner_steps=inner_steps, delta=delta,
            power_steps=power_steps,
        )  # fmt: skip

    @property
    def damping(self) -> float:
        """λ of the next step."""
        return self._damping.value

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One outer iteration: waves 1 to 3, the local phase, and the test of the step.

        With the same tensors as in the last step, the forward wave that accepted it is used again; parameters changed
        through `.data` are the one change this cannot notice.

        Args:
            inputs: a batch (n, *in), floating point or token ids.
            targets: what the loss expects, (n, ...).

        Returns:
            What happened. When the step was rejected or failed, the parameters are bit for bit as they were.

        Raises:
            ValueError: for a batch that does not fit, or a loss that is not finite to begin with; nothing has changed then.
        """
        before, operations = self.pipeline.traffic.copy(), self.pipeline.work.operations
        point = self._expand(self._wave(inputs, targets))
        trial, tries = self._search(inputs, targets, point)
        accepted = self._is_accepted(trial)
        if accepted:
            self._commit(trial, inputs, targets)
            self._damping = trial.damping.after_acceptance(trial.ratio, tighten=self.options.adapt_decoupling)
        elif self.options.adapt_damping:
            self._damping = trial.damping.after_rejection()
        self._round += 1
        sent = self.pipeline.traffic
        work = self.pipeline.work.operations - operations
        return StepReport(
            loss=trial.loss,
            new_loss=trial.new_loss,
            predicted_decrease=trial.predicted,
            reduction_ratio=trial.ratio,
            damping=trial.damping.value,
            accepted=accepted,
            tries=tries,
            gradient_norm=trial.gradient_norm,
            gradient_equivalents=work / self.pipeline.gradient_operations(point.wave.shape),
            bytes_sent=sent.bytes - before.bytes,
            messages=sent.messages - before.messages,
            forward_waves=sent.forward_waves - before.forward_waves,
            note=_note(trial.results, accepted),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers that, with the network's parameters, continue the run exactly."""
        return {
            "round": self._round,
            "damping": self._damping.value,
            "inflation_share": self._damping.inflation_share,
            "seed": self.options.seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: when keys or values are not those of a SurrogateMinimizer; nothing has changed then.
        """
        expected = self.state_dict()
        if set(state) != set(expected):
            raise ValueError(f"not the state of a SurrogateMinimizer: expected {sorted(expected)}, got {sorted(state)}")
        damping, share = float(state["damping"]), float(state["inflation_share"])
        if not (math.isfinite(damping) and damping >= 0 and 0 < share <= 1 and int(state["round"]) >= 0):
            raise ValueError(f"the state of a SurrogateMinimizer is out of range: {dict(state)}")
        if state["seed"] != self.options.seed:
            raise ValueError(f"the state was saved with seed {state['seed']}, this minimizer has {self.options.seed}")
        self._damping = Damping(damping, share)
        self._round = int(state["round"])
        self._accepted = None

    def _wave(self, inputs: Tensor, targets: Tensor) -> Wave:
        """Wave 1, or the accepted one of the last step if nothing changed since."""
        accepted, self._accepted = self._accepted, None
        if accepted is not None and accepted.fits(inputs, targets, self.pipeline.stages):
            return accepted.wave
        return self.pipeline.forward(inputs, targets)

    def _expand(self, wave: Wave) -> _Point:
        """Waves 2 and 3: gradients and curvature of every block, made into local problems."""
        seed = draw_seed(self.options.seed, self._round)
        gradients = self.pipeline.backward(wave, self._boundaries)
        blocks = self.pipeline.curvature(wave, gradients, self.blocks, self._curvature, seed)
        problems = [
            self._local_phase.problem(block, wave.inputs, draw_seed(seed, block.block.index)) for block in blocks
        ]
        return _Point(wave, problems, torch.stack([block.gradient.dot(block.gradient) for block in blocks]).sum())

    def _search(self, inputs: Tensor, targets: Tensor, point: _Point) -> tuple[_Trial, int]:
        """Raise the damping until a step passes the test; solving again needs no new backward wave."""
        damping = self._damping
        for tries in range(1, self.options.max_tries + 1):
            trials = self._attempt(inputs, targets, point, damping)
            best = min(trials, key=lambda trial: trial.new_loss if math.isfinite(trial.new_loss) else math.inf)
            if self._is_accepted(best) or not self.options.adapt_damping:
                break
            damping = damping.after_rejection()
        return best, tries

    def _attempt(self, inputs: Tensor, targets: Tensor, point: _Point, damping: Damping) -> list[_Trial]:
        """Waves 4 and 5 for every damping candidate: solve, try all in one forward wave, add up over stages."""
        dampings = [damping.scaled(factor) for factor in self.options.damping_candidates]
        solved = [self._solve(point.problems, candidate) for candidate in dampings]
        moved = [self._moved(point.problems, results) for results in solved]
        waves: list[Wave | None] = [None] * len(moved)
        if self.options.adapt_damping:
            waves = list(self.pipeline.forward_candidates(inputs, targets, moved))
        unknown = torch.full_like(point.wave.loss, math.nan)
        numbers = [point.wave.loss, point.gradient_square]
        for results, wave in zip(solved, waves, strict=True):
            numbers += [unknown if wave is None else wave.loss, torch.stack([r.decrease for r in results]).sum()]
        loss, gradient_square, *pairs = self.pipeline.total(torch.stack(numbers))
        self._check_start(loss, gradient_square)
        return [
            _Trial(candidate, results, parameters, wave, loss, math.sqrt(gradient_square), new_loss, predicted)
            for candidate, results, parameters, wave, new_loss, predicted in zip(
                dampings, solved, moved, waves, pairs[::2], pairs[1::2], strict=True
            )
        ]

    def _solve(self, problems: Sequence[Problem], damping: Damping) -> list[SolverResult]:
        """Every block minimises its local loss at this λ and share of κ."""
        with torch.no_grad():
            return [
                problem.solve(max(1.0, damping.inflation_share * self._inflation[problem.block.index]), damping.value)
                for problem in problems
            ]

    def _moved(self, problems: Sequence[Problem], results: Sequence[SolverResult]) -> StageParameters:
        """The parameters θ̄ + d as tensors of their own; the network's stay as they are."""
        moved: dict[Stage, list[Mapping[str, Tensor]]] = {stage: [{}] * len(stage.layers) for stage in self.pipeline.stages}
        for problem, result in zip(problems, results, strict=True):
            block = problem.block
            moved[block.stage][block.start : block.stop] = block.moved(result.step)
        return moved

    def _is_accepted(self, trial: _Trial) -> bool:
        if self.options.adapt_damping:
            return is_acceptable(trial.loss, trial.new_loss, trial.predicted)
        return math.isfinite(trial.predicted)

    @torch.no_grad()
    def _commit(self, trial: _Trial, inputs: Tensor, targets: Tensor) -> None:
        for stage, values in trial.parameters.items():
            for layer, own in zip(stage.layers, values, strict=True):
                for name, value in own.items():
                    layer.parameters[name].copy_(value)
        if trial.wave is not None:
            self._accepted = AcceptedWave.of(trial.wave, inputs, targets, self.pipeline.stages)

    def _check_start(self, loss: float, gradient_square: float) -> None:
        if not math.isfinite(gradient_square) or (self.options.adapt_damping and not math.isfinite(loss)):
            raise ValueError(
                f"the loss is {loss:g} and its gradient's norm {math.sqrt(max(gradient_square, 0)):g} at the current "
                "parameters: no step can be computed or tested from there; check the data's scale and the initialisation "
                "(a gradient oracle has no loss value and needs adapt_damping=False)"
            )

    def _choose_inflation(self) -> list[float]:
        """κ of every trainable block; curvatures that are decoupled already have κ = 1."""
        count = sum(1 for own in self.blocks for block in own if block.size)
        if self._curvature.decoupled:
            return [1.0] * count
        if self.options.decoupling is not None:
            return check_decoupling(self.options.decoupling, count)
        return uniform_decoupling(count)


def _output_curvature(options: Options) -> OutputCurvature:
    if options.curvature == "factor":
        return FactorCurvature(options.rank, options.curvature_fraction, top_factor=options.top_factor)
    return ScalarCurvature(
        options.curvature == "sample", options.delta, options.delta_relative, options.power_steps, options.eigenvalue
    )


def _note(results: Sequence[SolverResult], accepted: bool) -> str:
    """The unusual reasons for which solvers stopped, and a rejection."""
    reasons = {Reason(code) for code in torch.stack([result.code for result in results]).tolist()}
    unusual = sorted(reason.name.lower().replace("_", " ") for reason in reasons - {Reason.MAX_STEPS, Reason.CONVERGED})
    return ", ".join(([] if accepted else ["rejected"]) + unusual)
