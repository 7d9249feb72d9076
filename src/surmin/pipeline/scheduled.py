"""Forward and gradient wave together, by the schedules of `torch.distributed.pipelining` (public interface only).

torch's schedule moves the tensors and chooses the order; what happens in a stage is the same code as in every other
wave, inside an autograd function. Torch is told shapes beforehand, so that it runs no stage to learn them.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from surmin.launch.group import answer_from
from surmin.pipeline.checks.losses import outputs_error
from surmin.pipeline.held_stages import Boundaries
from surmin.pipeline.wave import Wave
from surmin.pipeline.worker_pipeline import WorkerPipeline

OF_TORCH = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


class ScheduledGradients:
    """One schedule per batch shape, made when a batch of that shape first comes.

    Args:
        pipeline: whose stages it runs.
        name: "gpipe" or "1f1b".
        group: of the workers, used for nothing else.
    """

    def __init__(self, pipeline: WorkerPipeline, name: str, group: dist.ProcessGroup) -> None:
        self._pipeline = pipeline
        self._name = name
        self._group = group
        self._schedules: dict[tuple[torch.Size, torch.dtype], tuple[Any, _StageModule]] = {}

    def run(self, inputs: Tensor, targets: Tensor, boundaries: Boundaries | None, *, is_checked: bool) -> Wave:
        """A forward wave with its gradients; those in the inputs of `boundaries` are kept."""
        key = (inputs.shape, inputs.dtype)
        if key not in self._schedules:
            self._schedules[key] = self._build(inputs)
        schedule, module = self._schedules[key]
        wave = module.begin(inputs, targets, boundaries, is_checked=is_checked)
        arguments = (inputs,) if self._pipeline.is_first else ()
        with self._pipeline.tracer.span("W"), answer_from(None):  # F and B are spans inside
            schedule.step(*arguments, target=targets if self._pipeline.is_last else None, return_outputs=False)
        assert wave.gradients is not None
        wave.gradients = self._pipeline.averaged(self._pipeline.completed(wave.gradients))
        module.wave = None
        return wave

    def _build(self, inputs: Tensor) -> tuple[Any, "_StageModule"]:
        entering, leaving = self._pipeline.pass_through(inputs[:1])
        samples = len(inputs) // self._pipeline.microbatches
        module = _StageModule(self._pipeline)
        stage = PipelineStage(
            module,
            dist.get_rank(self._group),
            dist.get_world_size(self._group),
            self._pipeline.device,
            input_args=_example(entering, samples, root=self._pipeline.is_first),
            output_args=_example(leaving, samples, root=False),
            group=self._group,
        )
        # torch treats a schedule without a loss as one without a gradient wave, on every worker
        schedule = OF_TORCH[self._name](stage, self._pipeline.microbatches, loss_fn=module.loss, scale_grads=False)
        return schedule, module


class _StageModule(nn.Module):
    """All stages of a worker as torch sees them: a function of one tensor that records its tapes and gradients."""

    def __init__(self, pipeline: WorkerPipeline) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros((), device=pipeline.device))
        self.pipeline = pipeline
        self.wave: Wave | None = None
        self.boundaries: Boundaries | None = None
        self.is_checked = False

    def begin(self, inputs: Tensor, targets: Tensor, boundaries: Boundaries | None, *, is_checked: bool) -> Wave:
        """A new, still empty wave; one that is not checked yet keeps its activations for that."""
        self.boundaries = boundaries if is_checked else boundaries or {}
        self.is_checked = is_checked
        labels = targets.chunk(self.pipeline.microbatches)
        self.wave = Wave(inputs.shape, labels, [[] for _ in self.pipeline.stages], gradients={})
        return self.wave

    def forward(self, state: Tensor) -> Tensor:
        """The stages' output for the next micro-batch."""
        output: Tensor = _StageFunction.apply(state, self.anchor, self)  # type: ignore[no-untyped-call]
        return output

    def loss(self, output: Tensor, _targets: Tensor) -> Tensor:
        """A stand-in for the last micro-batch's loss: its gradient is the loss's, its value is not.

        The gradient is 0 if targets do not fit: all workers are told so after the wave.
        """
        assert self.wave is not None
        number = len(self.wave.tapes[-1]) - 1
        pair = output.detach(), self.wave.targets[number]
        fits = self.is_checked or outputs_error(self.pipeline.loss, [pair]) is None
        gradient = self.pipeline.top_cotangent(self.wave, number) if fits else torch.zeros_like(output)
        value: Tensor = _LossGradient.apply(output, gradient)  # type: ignore[no-untyped-call]
        return value

    def record(self, state: Tensor) -> tuple[int, Tensor]:
        """Run a micro-batch; returns its number and the output."""
        assert self.wave is not None
        number = len(self.wave.tapes[0])
        (tapes,) = self.pipeline.forward_part([state], [None], number, self.wave.part_shape)
        for own, tape in zip(self.wave.tapes, tapes, strict=True):
            own.append(tape)
        return number, self.wave.tapes[-1][number].output.detach().contiguous()  # torch compares strides

    def pull(self, number: int, cotangent: Tensor) -> Tensor | None:
        """Take a micro-batch's gradient down; returns the gradient in the stages' input."""
        assert self.wave is not None and self.wave.gradients is not None
        return self.pipeline.backward_part(self.wave, number, cotangent, self.boundaries, self.wave.gradients)

    def count_sent(self, tensor: Tensor, *, upwards: bool) -> None:
        """Count what torch's schedule sends to the next stage, or to the previous one."""
        if not (self.pipeline.is_last if upwards else self.pipeline.is_first):
            self.pipeline.traffic.send((tensor,))


class _StageFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state: Tensor, anchor: Tensor, module: _StageModule) -> Tensor:
        ctx.module = module
        with torch.enable_grad():
            # torch receives into the same memory at the next step, unseen by version counters, and inputs are cached
            ctx.number, output = module.record(state.detach() if module.pipeline.is_first else state.detach().clone())
        ctx.entered = state.shape
        module.count_sent(output, upwards=True)
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, Tensor, None]:
        below = ctx.module.pull(ctx.number, cotangents[0])
        if below is None and not ctx.module.pipeline.is_first:
            below = cotangents[0].new_zeros(ctx.entered)  # nothing trains there, but torch's schedule sends it
        if below is not None:
            ctx.module.count_sent(below, upwards=False)
        return below, torch.zeros_like(ctx.module.anchor), None


class _LossGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


def _example(sample: Tensor, samples: int, *, root: bool) -> tuple[Tensor]:
    example = torch.empty(samples, *sample.shape[1:], dtype=sample.dtype, device=sample.device)
    return (example.requires_grad_(not root and example.is_floating_point()),)
