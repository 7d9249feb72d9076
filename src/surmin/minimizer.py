"""Surrogate Minimization (Algorithm 1): waves, local losses minimised independently, and a test of the step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from surmin.acceptance.candidates import Point
from surmin.acceptance.damping import Damping
from surmin.acceptance.parallel import ParallelOrder
from surmin.acceptance.search import Search, Trial
from surmin.acceptance.sequential import SequentialOrder
from surmin.acceptance.untested import UntestedStep
from surmin.curvature.factor import FactorCurvature
from surmin.local_phase import LocalPhase
from surmin.losses import ConvexLoss
from surmin.minimizer_state import MinimizerState
from surmin.options import OptionValues
from surmin.options.presets import resolve_options
from surmin.options.rules import check_options
from surmin.pipeline.in_process import pipeline_of
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.seeds import draw_seed
from surmin.solvers.result import Reason, named
from surmin.stages.block import Block, inner_boundaries, named_steps
from surmin.surrogates.output_surrogate import NetworkLoss
from surmin.upper_bound import inflation, output_curvature


class SurrogateMinimizer:
    """Trains a network cut into stages by minimising a local loss in every block.

    Args:
        stages: the network as a list of modules, from `partition` or your own; a single module as one stage; or a
            pipeline that holds them.
        loss: the convex loss ℓ of the network's output. Leave it out with a pipeline, which has one.
        preset: "compute" (least time where trips are cheap), "links" (half the bytes, less work, a few more rounds),
            "trips" (fewest trips and bytes for more work: least time over slow links), or "paper".
        microbatches: equal parts that a batch is cut into, when `stages` is a list.
        **options: any field of `Options`; explicit options override the preset.

    Raises:
        ValueError: if modules or options cannot work; the message says why and what to do.
        TypeError: if `stages` are not modules or `loss` is not a loss.

    Examples:
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
        stages: nn.Module | Sequence[nn.Module] | WorkerPipeline,
        loss: ConvexLoss | None = None,
        *,
        preset: str = "compute",
        microbatches: int = 1,
        **options: Unpack[OptionValues],
    ) -> None:
        self.options = resolve_options(preset, options)
        self.pipeline = pipeline_of(stages, loss, microbatches)
        self.pipeline.agree_on(self.options.described())
        self.blocks, count = self.pipeline.cut(self.options.blocks)
        self._curvature = output_curvature(self.options, self.pipeline.replicas, self.pipeline.work)
        kappas = inflation(self.options, count)
        self._search = self._way_to_step(kappas)
        keep = self._curvature.needs_cotangents or self.options.local == "nonlinear"
        self._boundaries = inner_boundaries(self.blocks) if keep else {}
        self._local_phase = LocalPhase(self.options, self.pipeline.work, self.pipeline.replicas)
        least_share = 1 / max(kappas) if self.options.adapt_decoupling else 1.0
        self._damping = Damping(self.options.damping, least_share=least_share)
        self._round = 0
        self._previous: Mapping[str, Tensor] | None = None

    @classmethod
    def paper(
        cls, stages: nn.Module | Sequence[nn.Module] | WorkerPipeline, loss: ConvexLoss | None = None, *,
        microbatches: int = 1, **options: Unpack[OptionValues],
    ) -> "SurrogateMinimizer":  # fmt: skip
        """Appendix A: layer blocks, scalar curvature, plain CG, no damping, no acceptance test.

        Products are exact; with ``hessian_products="finite-difference"`` they are the paper's.
        """
        return cls(stages, loss, preset="paper", microbatches=microbatches, **options)

    @property
    def damping(self) -> float:
        """λ of the next step. It can be set between steps, say by a schedule; set the same value on every worker.

        Raises:
            ValueError: if the value is not allowed.
        """
        return self._damping.value

    @damping.setter
    def damping(self, value: float) -> None:
        check_options(replace(self.options, damping=value))
        self._damping = replace(self._damping, value=value)

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One outer iteration: waves 1 to 3, the local phase, and the test of the step.

        With the same tensors as in the last step, the forward wave that accepted it is reused if parameters and buffers
        are unchanged since. If NumPy or `.data` changes only a few of many numbers in a batch, frozen parameters or
        buffers, the change may go unnoticed, as torch's version counters do not show it. So may a change of any state
        your module uses that is neither a parameter nor a buffer.

        Args:
            inputs: a batch (n, *in), floating point or token ids.
            targets: what the loss expects, (n, ...).

        Returns:
            What happened. When the step was rejected or failed, the parameters are bit for bit as they were.

        Raises:
            ValueError: if the batch does not fit, or the loss is not finite to begin with; nothing has changed then.
            TypeError: if inputs are not a tensor, or a layer returns anything else; nothing has changed then.
        """
        meter = StepMeter(self.pipeline)
        point = self._expand(inputs, targets)
        trial, tries, self._damping = self._search.run(point, self._damping)
        if trial.accepted:
            self._commit(trial, point)
        self._round += 1
        return meter.report(
            inputs.shape,
            trial.loss,
            trial.gradient_norm,
            new_loss=trial.step.new_loss,
            predicted_decrease=trial.step.predicted,
            reduction_ratio=trial.ratio,
            damping=trial.step.damping.value,
            accepted=trial.accepted,
            tries=tries,
            note=_note(trial, point),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and the last step by global parameter name: with the parameters, enough to continue the run."""
        previous = self._previous and {name: step.clone() for name, step in self._previous.items()}
        damping = self._damping
        return MinimizerState(
            self._round, damping.value, damping.inflation_share, self.options.seed, previous
        ).as_dict()  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: if the state is not a SurrogateMinimizer's, or is that of one with other options or another
                network; nothing has changed then.
        """
        parameters = self.pipeline.parameters
        loaded = MinimizerState.checked(state, self.options, self.damping, parameters)
        step = loaded.previous_step if any(self.options.momentum_candidates) else None
        self._previous = step and {n: own.to(parameters[n].detach()).clone() for n, own in step.items()}
        self._damping = replace(self._damping, value=loaded.damping, inflation_share=loaded.inflation_share)
        self._round = loaded.round

    def _expand(self, inputs: Tensor, targets: Tensor) -> Point:
        """Waves 1 to 3: gradients and curvature of every block, made into local problems."""
        wave = self.pipeline.forward(inputs, targets, self._boundaries, self._curvature)
        seed = draw_seed(self.options.seed, self._round)
        gradients = self.pipeline.backward(wave, self._boundaries)
        blocks = self.pipeline.curvature(wave, gradients, self.blocks, self._curvature, seed)
        with self.pipeline.tracer.span("U"):
            problems = [
                self._local_phase.problem(block, draw_seed(seed, block.block.index), self._top(block.block, wave))
                for block in blocks
            ]
        square = sum((block.gradient.dot(block.gradient) for block in blocks), torch.zeros_like(wave.loss))
        return Point(inputs, targets, wave.loss, problems, square, self._previous)

    def _commit(self, trial: Trial, point: Point) -> None:
        self.pipeline.move_to(trial.step.parameters)
        if any(self.options.momentum_candidates):
            blocks = [problem.block for problem in point.problems]
            self._previous = named_steps(zip(blocks, trial.step.steps, strict=True))
        if trial.step.wave is not None:
            self.pipeline.accept(trial.step.wave)

    def _way_to_step(self, kappas: Sequence[float]) -> Search | UntestedStep:
        if self.options.order == "sequential":
            return Search(SequentialOrder(self.pipeline), self.options)
        order = ParallelOrder(self.pipeline, kappas)
        return Search(order, self.options) if self.options.adapt_damping else UntestedStep(order)

    def _top(self, block: Block, wave: Wave) -> NetworkLoss | None:
        """The loss itself for the network's last stage, if no other stage moves while that one does."""
        is_top = self.pipeline.is_last and block.stage is self.pipeline.stages[-1]
        if self.options.order == "parallel" or not is_top:
            return None
        assert isinstance(self._curvature, FactorCurvature)
        return NetworkLoss(self.pipeline.loss, torch.cat(list(wave.targets)), self._curvature)


def _note(trial: Trial, point: Point) -> str:
    """A rejection, and unusual reasons why solvers stopped, each with the first layers of the blocks concerned."""
    results = trial.step.results
    codes = torch.stack([result.code for result in results]).tolist() if results else []
    layers: dict[int, list[str]] = {}
    for code, problem in zip(codes, point.problems, strict=True):
        layers.setdefault(code, []).append(problem.block.first_trainable_layer.name)
    unusual = [
        named(code) + (f" in layer {' and '.join(own)}" if len(own) < len(codes) else "")
        for code, own in sorted(layers.items())
        if code not in (Reason.MAX_STEPS, Reason.CONVERGED)
    ]
    return ", ".join(["rejected"] * (not trial.accepted) + unusual)
