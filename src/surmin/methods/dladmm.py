"""dlADMM: training without gradients of the network, by alternating minimisation over decoupled layers.

Legend: W_l, b_l the weight and bias of layer l of L, a_{l-1} and z_l the variables for its input and output, f_l the
activation after it, u the dual variable of z_L = W_L a_{L-1} + b_L, ρ the penalty, n samples, ℓ the loss of one sample.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from surmin.digest import digest_of
from surmin.methods.admm.layer import AdmmLayer, admm_layers
from surmin.methods.admm.outputs import solve_hidden, solve_top
from surmin.methods.common.checks import check_positive
from surmin.methods.common.restoring import restored_on_failure
from surmin.methods.common.saved_states import check_keys
from surmin.pipeline.reuse import NotedBatch
from surmin.pipeline.step_meter import StepMeter
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport
from surmin.stages.layer import Layer

FED, ENTERING = "fed", "entering"
"""Channels: f(z) of a stage's last layer goes up, a of a stage's first layer down."""
VARIABLES = ("entering", "fed", "output", "dual")


class DlAdmm:
    """Each round updates every variable twice, from the last layer to the first and back, then the dual variable.

    It minimises the augmented Lagrangian (1/n) Σ_j [ℓ(z_L) + ⟨u, z_L - W_L a_{L-1} - b_L⟩
    + ½ρ Σ_l ‖z_l - W_l a_{l-1} - b_l‖² + ½ρ Σ_{l<L} ‖a_l - f_l(z_l)‖²], a_0 being the network's input.
    Backwards the order is z_l, b_l, W_l, a_{l-1}, and forwards a_{l-1}, W_l, b_l, z_l; finally
    u ← u + ρ(z_L - W_L a_{L-1} - b_L). W and a take a step on a quadratic upper model, b and z are minimised over
    (`AdmmLayer`, `admm/outputs.py`). Between stages a travels down in the backward sweep and f(z) up in the forward
    one: as many messages and bytes as in a gradient step.

    Source: Wang, Yu, Chen and Zhao, "ADMM for efficient deep learning with global convergence", KDD 2019. Its ν is ρ
    here, as in the authors' code. The backtracking that doubles θ and τ has a closed form, because what it bounds is
    quadratic, and every sample has its own τ, which the paper allows. ρ stays fixed; the authors' code raises it when
    the loss rises. For smooth activations, z comes from a grid and Newton's method; there it comes from a table.

    It is a full-batch method: variables belong to samples. They start from a forward pass, with u = 0, and start again
    whenever the batch changes. The loss reported is that of W_L a_{L-1} + b_L, on the last worker; the network's own,
    which nothing here needs, takes a forward pass. The counted work leaves out elementwise operations, half of a step's
    time or more: docs/methods/dladmm.md has figures for both.

    Args:
        pipeline: the network: linear layers, each but the last with ReLU or a smooth activation, or none, after it.
        penalty: ρ, in units of one sample's loss.

    Raises:
        ValueError: if ρ is not positive or a layer does not fit; on every worker.
    """

    def __init__(self, pipeline: WorkerPipeline, *, penalty: float = 0.01) -> None:
        check_positive("penalty", penalty)
        self.pipeline = pipeline
        self.penalty = penalty
        self._exchange = pipeline.exchange(upwards=[FED], downwards=[ENTERING])
        self._leading: list[Layer] = []
        self._layers: list[list[AdmmLayer]] = []
        with pipeline.agreeing():
            self._find_layers()
        self._batch = ""
        self._noted = NotedBatch()

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One backward and one forward sweep, and the dual update."""
        meter = StepMeter(self.pipeline)
        self.pipeline.forget()
        self._exchange.begin(inputs, targets)
        try:
            with torch.no_grad(), restored_on_failure(self.pipeline.parameters):
                loss = self._sweep(inputs, targets)
        except BaseException:
            self._exchange.abandon()
            self._batch, self._noted = "", NotedBatch()  # the variables will be made anew
            raise
        return meter.report(inputs.shape, loss, math.nan)

    def _sweep(self, inputs: Tensor, targets: Tensor) -> float:
        """Down and up again; returns the network's loss from before."""
        self._begin(inputs, targets)
        loss = math.nan
        if self.pipeline.is_last:
            loss = float(self.pipeline.loss.sample_losses(self._layers[-1][-1].made, targets).double().mean())
        above: list[Tensor | None] = [None] * len(self._layers)
        for position in reversed(range(len(self._layers))):
            above[position] = self._sweep_down(position, targets)
        self.pipeline.traffic.forward_waves += 1
        for position in range(len(self._layers)):
            self._sweep_up(position, above[position], targets)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The variables by their layer's weight, and the batch they belong to, as tensors: replicas have others."""
        digest = {"digest": torch.tensor(list(bytes.fromhex(self._batch)), dtype=torch.uint8)} if self._batch else {}
        state: dict[str, Any] = {"batch": digest, **{name: {} for name in VARIABLES}}
        for name, own in self._variables() if self._batch else []:
            state[name][own.name] = getattr(own, name).clone()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        check_keys(state, {"batch", *VARIABLES}, "dladmm")
        wanted = self._variables() if state["batch"] else []
        missing = [own.name for name, own in wanted if own.name not in state[name]]
        if missing:
            raise ValueError(f"the state of dladmm has no variables of {missing[0]}")
        digest = state["batch"].get("digest")
        self._batch, self._noted = "" if digest is None else bytes(digest.tolist()).hex(), NotedBatch()
        for name, own in wanted:
            setattr(own, name, state[name][own.name].to(own.weight, copy=True))

    @property
    def _flat(self) -> list[AdmmLayer]:
        return [own for layers in self._layers for own in layers]

    def _variables(self) -> list[tuple[str, AdmmLayer]]:
        """Which variables of which layer are remembered: not the network's own input, and u only at the top."""
        first = self._layers[0][0] if self.pipeline.is_first else None
        top = self._layers[-1][-1] if self.pipeline.is_last else None
        return [
            (name, own)
            for own in self._flat
            for name in VARIABLES
            if name == "output" or (own is top if name == "dual" else own is not first)
        ]

    def _find_layers(self) -> None:
        for position, stage in enumerate(self.pipeline.stages):
            ends = {"is_first": not self.pipeline.has_below(position), "is_last": not self.pipeline.has_above(position)}
            leading, layers = admm_layers(stage, self.pipeline.replicas, **ends)
            self._leading += leading
            self._layers.append(layers)

    def _begin(self, inputs: Tensor, targets: Tensor) -> None:
        """Take up the batch, with variables from a forward pass if it is a new one; then every m."""
        if not self._noted.is_same(inputs, targets):
            self._noted = NotedBatch.of(inputs, targets)
            last, self._batch = self._batch, digest_of([("inputs", inputs), ("targets", targets)])
            if self.pipeline.is_first:
                self._layers[0][0].entering = self._prepared(inputs)
            if self._batch != last:
                self.pipeline.traffic.forward_waves += 1
                for position in range(len(self._layers)):
                    self._start(position)
        for own in self._flat:
            with self._phase("make", own):
                own.make()

    def _prepared(self, inputs: Tensor) -> Tensor:
        """What enters the first linear layer."""
        for layer in self._leading:
            inputs = layer.forward(inputs)
        return inputs

    def _start(self, position: int) -> None:
        with self.pipeline.tracer.span("F"):
            for index, own in enumerate(self._layers[position]):
                self._learn_fed(position, index)
                if own.fed.numel():
                    own.entering = own.fed
                with self._phase("make", own):
                    own.make()
                own.output = own.made
                if self._is_top(position, index):
                    own.dual = torch.zeros_like(own.output)
        self._feed(position)

    def _sweep_down(self, position: int, targets: Tensor) -> Tensor | None:
        """Backwards through a stage; returns what came from above, None at the top."""
        above = came = self._take(ENTERING, position) if self.pipeline.has_above(position) else None
        with self.pipeline.tracer.span("B"):
            for own in reversed(self._layers[position]):
                with self._phase("down", own):
                    self._update_output(own, above, targets)
                    own.update_bias(self.penalty)
                    own.update_weight(self.penalty)
                    own.update_entering(self.penalty)
                above = own.entering
        if above is not None and self.pipeline.has_below(position):
            self._put(ENTERING, position, above)
        return came

    def _sweep_up(self, position: int, came: Tensor | None, targets: Tensor) -> None:
        """Forwards through a stage, with what came from above in the backward sweep."""
        layers = self._layers[position]
        for index, own in enumerate(layers):
            self._learn_fed(position, index)
            with self.pipeline.tracer.span("F"), self._phase("up", own):
                own.update_entering(self.penalty)
                own.update_weight(self.penalty)
                own.update_bias(self.penalty)
                self._update_output(own, came if own is layers[-1] else layers[index + 1].entering, targets)
                if self._is_top(position, index):
                    own.update_dual(self.penalty)
        self._feed(position)

    def _update_output(self, own: AdmmLayer, above: Tensor | None, targets: Tensor) -> None:
        """Minimise over z, against the variable above or, at the top, the loss."""
        if above is None:
            own.output = solve_top(self.pipeline.loss, targets, own.made, own.dual, self.penalty, own.output)
        else:
            own.output = solve_hidden(own.activation, own.made, above)

    def _learn_fed(self, position: int, index: int) -> None:
        own = self._layers[position][index]
        if index:
            own.fed = self._layers[position][index - 1].activated()
        elif self.pipeline.has_below(position):
            own.fed = self._take(FED, position)

    def _feed(self, position: int) -> None:
        if self.pipeline.has_above(position):
            self._put(FED, position, self._layers[position][-1].activated())

    def _put(self, channel: str, position: int, value: Tensor) -> None:
        for part in value.chunk(self.pipeline.microbatches):
            self._exchange.put(channel, position, (part,))

    def _take(self, channel: str, position: int) -> Tensor:
        return torch.cat([self._exchange.take(channel, position)[0] for _ in range(self.pipeline.microbatches)])

    def _is_top(self, position: int, index: int) -> bool:
        return index == len(self._layers[position]) - 1 and not self.pipeline.has_above(position)

    def _phase(self, sweep: str, own: AdmmLayer) -> AbstractContextManager[None]:
        return self.pipeline.work.phase(("dladmm", sweep, own.entering.shape, own.name))
