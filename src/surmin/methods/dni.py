"""Decoupled neural interfaces: a stage steps along a predicted gradient, without waiting for the true one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surmin.methods.auxiliary_networks.local_learning import LocalLearning
from surmin.methods.auxiliary_networks.synthesizer import Synthesizer, check_targets
from surmin.methods.common.checks import check_inner_steps, check_positive
from surmin.methods.common.optimizers import make_optimizer
from surmin.methods.common.saved_states import check_keys
from surmin.methods.common.stagewise import GRADIENT, Round, parts_of
from surmin.pipeline.leaving import apart_from, memory_of
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.tape import Tape


@dataclass
class _Lesson:
    """What a synthesizer learns from in the next round, once the gradients have come: outputs and targets by part."""

    outputs: list[Tensor]
    targets: list[Tensor]


class SyntheticGradients(LocalLearning):
    """DNI with synthetic gradients, conditioned on the targets (cDNI).

    Source: Jaderberg, Czarnecki, Osindero, Vinyals, Graves, Silver, Kavukcuoglu 2017, "Decoupled Neural Interfaces
    using Synthetic Gradients", ICML.

    Beside every stage but the last is a synthesizer M_k that predicts the gradient of sample j's loss in the stage's
    output. The stage steps along the prediction at once; M_k learns from what the stage above finds for that gradient:
    a prediction carried down one stage (bootstrapped) or, at the top, the truth. With h_0 = x:

        h_k = f_k(h_{k-1}, θ_k)
        ĝ_kj = M_k(h_kj, y_j) for k < K,    ĝ_Kj = ∇ℓ(h_Kj, y_j)
        θ_k ← optimizer along (1/n) Σ_j (∂h_kj/∂θ_k)ᵀ ĝ_kj
        g_kj = (∂h_{k+1,j}/∂h_kj)ᵀ ĝ_{k+1,j}, sent down
        M_k ← N steps of Adam along ∇ (1/n) Σ_j ½ ‖M_k(h_kj, y_j) - g_kj‖²

    f_k stage k, θ_k its parameters, ℓ the network's loss. M_k starts at zero (its last layer does), so at first only
    the last stage moves. g_k is taken in the next round, after that round's activations went up and before M_k predicts
    again, so that no stage waits to step; nothing in between depends on M_k.

    Differences: M_k takes N steps per round, the source's takes one; with one, a few hundred full-batch rounds do not
    get far. Gradients are in per-sample units, so that rates mean the same for every batch size. M_k has no batch
    normalisation.

    Limits: the prediction is only as good as M_k, which sees a moving target; errors add up from stage to stage, and
    the loss need not fall. The network's output must be plain vectors, or have positions that every stage but the last
    has too; targets are labels or have the outputs' shape.

    Args:
        pipeline: the network.
        lr: learning rate of the stages.
        inner_lr: learning rate of the synthesizers.
        inner_steps: N.
        optimizer: of the stages, "sgd" (momentum 0.9), "gd" or "adam".
        seed: of the synthesizers' initial weights.

    Raises:
        ValueError: if an option is not possible.
    """

    def __init__(
        self, pipeline: WorkerPipeline, *, lr: float = 2e-3, inner_lr: float = 1e-3, inner_steps: int = 10,
        optimizer: str = "adam", seed: int = 0,
    ) -> None:  # fmt: skip
        check_positive("inner_lr", inner_lr)
        check_inner_steps(inner_steps)
        self._places = range(len(pipeline.stages))
        self._guessing = [position for position in self._places if pipeline.has_above(position)]
        beside = partial(make_optimizer, name="adam", lr=inner_lr)
        super().__init__(pipeline, optimizer, lr, Synthesizer, self._guessing, beside, seed)
        self._inner_steps = inner_steps
        self._lessons: dict[int, _Lesson] = {}
        self._shape = torch.Size()

    def prepare(self, inputs: Tensor, targets: Tensor) -> None:
        """Make the synthesizers at the first batch.

        Raises:
            ValueError: on all workers, if a stage cannot have one; and for targets that they cannot use.
        """
        super().prepare(inputs, targets)
        check_targets(targets, self.auxiliary.outputs or [])

    def abandon(self) -> None:
        """The synthesizers learn nothing in the next round."""
        super().abandon()
        self._shape, self._lessons = torch.Size(), {}

    def run(self, inputs: Tensor, targets: Tensor, found: Round) -> None:
        """Activations up; synthesizers learn from the last round; every stage's gradient from what they predict now."""
        parts = parts_of(inputs, targets, self.pipeline.microbatches)
        tapes = [
            [self.forward(position, number, part) for position in self._places]
            for number, (part, _) in enumerate(parts)
        ]
        for position, lesson in self._lessons.items():
            self._learn(position, lesson)
        for number, (part, labels) in enumerate(parts):
            for position in self._places:
                with self.pipeline.tracer.span("B", number):
                    self._descend(position, tapes[number][position], part, labels, len(inputs), found)
        for position in self._guessing:
            outputs = [apart_from(memory_of(inputs), by_position[position].output.detach()) for by_position in tapes]
            self._lessons[position] = _Lesson(outputs, [labels.clone() for _, labels in parts])
        self._shape = inputs.shape

    def _descend(self, position: int, tape: Tape, part: Tensor, targets: Tensor, samples: int, found: Round) -> None:
        """A stage's gradient for a micro-batch, and what it teaches the stage below."""
        if self.pipeline.has_above(position):
            cotangent = self._predict(position, tape.output.detach(), targets) / samples
        else:
            cotangent = self.true_gradient(tape, targets, samples, found)
        self.carry_down(position, tape, cotangent, part.shape, found)

    @torch.no_grad()
    def _predict(self, position: int, output: Tensor, targets: Tensor) -> Tensor:
        """ĝ, of every sample of a micro-batch."""
        with self.pipeline.work.phase(("prediction", output.shape, position)):
            predicted: Tensor = self.auxiliary[position].module(output, targets)
        return predicted

    def _learn(self, position: int, lesson: _Lesson) -> None:
        """Step a synthesizer towards the gradients that the stage above found in the last round."""
        synthesizer, n = self.auxiliary[position], self._shape[0]
        gradients = [self.exchange.take(GRADIENT, position, self._shape)[0] for _ in lesson.outputs]
        with self.pipeline.tracer.span("U"):
            for _ in range(self._inner_steps):
                for output, targets, gradient in zip(lesson.outputs, lesson.targets, gradients, strict=True):
                    with self.pipeline.work.phase(("lesson", output.shape, position)):
                        predicted = synthesizer.module(output, targets)
                        error = predicted.detach() / n - gradient
                        synthesizer.add(torch.autograd.grad(predicted, synthesizer.parameters, error))
                synthesizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, the synthesizers, and what they have yet to learn from, which is waited for."""
        stages = self.pipeline.stages
        lessons = {stages[position].name: self._pack(position, lesson) for position, lesson in self._lessons.items()}
        return {**super().state_dict(), "shape": list(self._shape), "lessons": lessons}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.exchange.settle()  # before anything is refused: a worker that refuses would keep others waiting
        check_keys(state, {"optimizer", "auxiliary", "shape", "lessons"}, "dni")
        names = {position: self.pipeline.stages[position].name for position in self._guessing}
        missing = [name for name in names.values() if name not in state["lessons"]]
        if state["shape"] and missing:
            raise ValueError(f"the state has nothing for the stage that begins with layer {missing[0]} to learn from")
        super().load_state_dict({name: state[name] for name in ("optimizer", "auxiliary")})
        self.exchange.forget()
        self._shape, self._lessons = torch.Size(state["shape"]), {}
        if self._shape:
            self.exchange.open(self._shape)
            for position, name in names.items():
                self._unpack(position, state["lessons"][name])

    def _pack(self, position: int, lesson: _Lesson) -> dict[str, list[Tensor]]:
        gradients = self.exchange.pending(GRADIENT, position, self._shape, len(lesson.outputs))
        return {
            "outputs": [output.clone() for output in lesson.outputs],
            "targets": [targets.clone() for targets in lesson.targets],
            "gradients": [gradient.clone() for (gradient,) in gradients],
        }

    def _unpack(self, position: int, lesson: Mapping[str, Sequence[Tensor]]) -> None:
        device = self.pipeline.device
        outputs, targets, gradients = (
            [value.to(device, copy=True) for value in lesson[name]] for name in ("outputs", "targets", "gradients")
        )
        self.exchange.restore(GRADIENT, position, self._shape, [(gradient,) for gradient in gradients])
        self._lessons[position] = _Lesson(outputs, targets)
