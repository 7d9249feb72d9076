"""LocoProp: every layer takes many steps towards its own target, for one trip through the network.

Legend: θ a layer's parameters, θ̄ those at the round's start, D the layer's local loss (`LocalMatching`), γ the step to
its target, λ the weight of the regulariser, N the number of local steps, β their size.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

from torch import Tensor

from surmin.methods.common.checks import check_inner_steps, check_not_negative, check_positive
from surmin.methods.common.gradients import Gradients
from surmin.methods.common.loss_and_norm import own_report
from surmin.methods.common.optimizers import load_optimizer_state, make_optimizer, optimizer_state, step_along
from surmin.methods.common.restoring import restored_on_failure
from surmin.methods.local_matching import LocalMatching, boundaries, local_layers
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.stages.layer import flatten

LEAST_SHARE = 0.25
DEFAULT_INNER_LR = {"gd": 0.1, "adam": 1e-3}


class LocoProp:
    """After one forward and one backward wave every layer minimises D(θ) + ½λ ‖θ - θ̄‖² by N steps, without messages.

    D compares the layer's output a = f(x, θ) with a target one gradient step away, at fixed input x: "squared"
    (LocoProp-S) is ½‖a - (ā - γ g)‖², "matching" (LocoProp-M) the Bregman divergence whose gradient in a is
    s(a) - (s(ā) - γ g), s the activation after the layer; g is the loss's gradient in a, all per sample and averaged.
    Local step k has size β max(1 - k/N, ¼). The first gradient of D is γ times the loss's own: with N = 1 and plain
    gradient descent a round is one step of gradient descent of size γβ.

    Source: Amid, Anil and Warmuth, "LocoProp: Enhancing BackProp via Local Loss Optimization", AISTATS 2022. The
    authors' code steps by RMSprop, whose memory carries over from round to round; here by Adam, likewise, or by
    gradient descent. The regulariser, which their code leaves out, is off unless `damping` is given. The last layer's
    matching loss is the Bregman divergence of the network's loss (softmax for cross-entropy, as in the source). A layer
    with no activation after it (such as an attention block) is compared by the squared loss, its matching loss.

    Args:
        pipeline: the network.
        lr: γ, in units of one sample's loss.
        inner_steps: N.
        inner_lr: β; 0.001 for adam and 0.1 for gd if not given.
        inner_optimizer: "adam" or "gd".
        local_loss: "matching" or "squared".
        damping: λ.

    Raises:
        ValueError: if a value is not possible, or an activation has no matching loss; on every worker.
    """

    def __init__(
        self, pipeline: WorkerPipeline, *, lr: float = 1.0, inner_steps: int = 10, inner_lr: float | None = None,
        inner_optimizer: Literal["adam", "gd"] = "adam", local_loss: Literal["squared", "matching"] = "matching",
        damping: float = 0.0,
    ) -> None:  # fmt: skip
        if inner_optimizer not in DEFAULT_INNER_LR or local_loss not in ("squared", "matching"):
            raise ValueError(
                "locoprop takes inner_optimizer adam or gd and local_loss squared or matching, "
                f"got {inner_optimizer!r} and {local_loss!r}"
            )
        inner_lr = DEFAULT_INNER_LR[inner_optimizer] if inner_lr is None else inner_lr
        check_positive("lr", lr)
        check_inner_steps(inner_steps)
        check_positive("inner_lr", inner_lr)
        check_not_negative("damping", damping)
        self.pipeline = pipeline
        self.lr = lr
        self.inner_steps = inner_steps
        self.inner_lr = inner_lr
        self.local_loss: Literal["squared", "matching"] = local_loss
        self.damping = damping
        with pipeline.agreeing():
            self._layers = local_layers(pipeline, local_loss)
        self._optimizer = make_optimizer(pipeline.parameters.values(), inner_optimizer, inner_lr)

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One trip and the local steps of every layer, all or none; workers exchange nothing else."""
        meter = StepMeter(self.pipeline)
        wanted = boundaries(self._layers)
        wave = self.pipeline.forward(inputs, targets, wanted)
        gradients = self.pipeline.backward(wave, wanted)
        with self.pipeline.tracer.span("U"):
            losses = [LocalMatching.of(local, wave, self.pipeline, self.lr, self.local_loss) for local in self._layers]
            with restored_on_failure(self.pipeline.parameters), self._remembered_on_failure():
                self._descend(losses, gradients)
        return own_report(meter, self.pipeline, wave, gradients)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's memory and settings by parameter."""
        return optimizer_state(self._optimizer, self.pipeline.parameters)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        load_optimizer_state(self._optimizer, self.pipeline.parameters, state)

    @contextmanager
    def _remembered_on_failure(self) -> Iterator[None]:
        """Give the inner optimizer its memory back if the code inside raises."""
        before = deepcopy(self._optimizer.state_dict())
        try:
            yield
        except BaseException:
            self._optimizer.load_state_dict(before)
            raise

    def _descend(self, losses: list[LocalMatching], gradients: Gradients) -> None:
        """The local steps of all layers here; the first one's gradient is known from the backward wave."""
        start = [_position(local) for local in losses]
        found = {stage: [self.lr * flat for flat in own] for stage, own in gradients.items()}
        for number in range(self.inner_steps):
            if number:
                pulled = self._pulled(losses, start)
                for local, flat in zip(self._layers, pulled, strict=True):
                    found[local.stage][local.index] = flat
            for group in self._optimizer.param_groups:
                group["lr"] = self.inner_lr * max(1 - number / self.inner_steps, LEAST_SHARE)
            step_along(self._optimizer, found)

    def _pulled(self, losses: list[LocalMatching], start: list[Tensor]) -> list[Tensor]:
        """The gradients of all regularised local losses here, over all replicas."""
        means = self.pipeline.replicas.means([local.gradient() for local in losses])
        return [
            mean + self.damping * (_position(local) - before)
            for mean, local, before in zip(means, losses, start, strict=True)
        ]


def _position(local: LocalMatching) -> Tensor:
    """The layer's parameters as a flat vector."""
    return flatten([parameter.detach() for parameter in local.layer.parameters.values()])
