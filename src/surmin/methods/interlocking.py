"""Interlocking backpropagation: every stage learns from the local loss of the stage above it."""

from functools import partial

import torch
from torch import Tensor

from surmin.methods.auxiliary_networks.heads import build_head, local_gradient
from surmin.methods.auxiliary_networks.local_learning import LocalLearning
from surmin.methods.common.optimizers import make_optimizer
from surmin.methods.common.stagewise import GRADIENT, Round, parts_of
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.tape import Tape


class InterlockingBackpropagation(LocalLearning):
    """Pairwise interlocking backpropagation.

    Source: Gomez, Key, Perlin, Gou, Frosst, Dean, Gal 2022, "Interlocking Backpropagation: Improving depthwise
    model-parallelism", JMLR 23(171).

    Between local learning (DGL) and backpropagation: the gradient of a stage's local loss goes down to the stage below,
    and no further. With L_k = (1/n) Σ_j ℓ(A_k(h_kj; a_k), y_j) for k < K and L_K = (1/n) Σ_j ℓ(h_Kj, y_j):

        h_k = f_k(h_{k-1}, θ_k)
        θ_k ← optimizer along ∂L_{k+1}/∂θ_k = (∂h_k/∂θ_k)ᵀ (∂h_{k+1}/∂h_k)ᵀ ∂L_{k+1}/∂h_{k+1}    for k < K
        θ_K ← optimizer along ∂L_K/∂θ_K
        a_k ← optimizer along ∂L_k/∂a_k, which goes no further

    f_k stage k, θ_k its parameters, A_k its head, a_k the head's parameters, ℓ the network's loss. This is the N-wise
    method, where θ_k follows L_{min(k+N-1, K)}, for N = 2. With two stages it is backpropagation. The first stage has
    no head, since nothing would use it. There are as many messages as in backpropagation, but a stage waits only for
    its upper neighbour's forward pass.

    Differences: the heads are DGL's here. N is 2.

    Limits: a stage looks ahead by only one stage. The network's output must be plain vectors, or have positions that
    every stage between the first and the last has too.

    Args:
        pipeline: the network.
        lr: learning rate, also of the heads.
        optimizer: "sgd" (momentum 0.9), "gd" or "adam".
        seed: of the heads' initial weights.

    Raises:
        ValueError: if an option is not possible.
    """

    def __init__(self, pipeline: WorkerPipeline, *, lr: float = 1e-2, optimizer: str = "adam", seed: int = 0) -> None:
        places = range(len(pipeline.stages))
        between = [place for place in places if pipeline.has_below(place) and pipeline.has_above(place)]
        beside = partial(make_optimizer, name=optimizer, lr=lr)
        super().__init__(pipeline, optimizer, lr, build_head, between, beside, seed)

    def run(self, inputs: Tensor, targets: Tensor, found: Round) -> None:
        """All micro-batches up, each stage's local gradient down by one at once; then the parameters' gradients."""
        pipeline = self.pipeline
        parts, places = parts_of(inputs, targets, pipeline.microbatches), range(len(pipeline.stages))
        tapes: dict[tuple[int, int], Tape] = {}
        for number, (part, labels) in enumerate(parts):
            for position in places:
                tape = tapes[number, position] = self.forward(position, number, part)
                with pipeline.tracer.span("B", number):
                    if pipeline.has_above(position):
                        self._send_local_gradient(position, tape, part, labels, len(inputs))
                    else:
                        cotangent = self.true_gradient(tape, labels, len(inputs), found)
                        self.carry_down(position, tape, cotangent, part.shape, found)
        for number, (part, _) in enumerate(parts):
            for position in filter(pipeline.has_above, places):
                (cotangent,) = self.exchange.take(GRADIENT, position)
                with pipeline.tracer.span("B", number):
                    self.add_gradients(position, tapes.pop((number, position)), cotangent, part, found)
        self.auxiliary.step()

    def _send_local_gradient(self, position: int, tape: Tape, part: Tensor, targets: Tensor, samples: int) -> None:
        """Send the gradient of the stage's own loss to the stage below; the tape stays for the gradient from above."""
        if position not in self.auxiliary:
            return
        head = self.auxiliary[position]
        cotangent = local_gradient(self.pipeline, head, position, tape.output, targets, samples)
        with self.pipeline.work.phase(("input's gradient", part.shape, position)):
            (below,) = torch.autograd.grad(tape.output, tape.inputs[0], cotangent, retain_graph=True)
        self.exchange.put(GRADIENT, position, (below,))
