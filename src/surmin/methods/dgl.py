"""Decoupled greedy learning: every stage has its own loss, and no gradient goes from stage to stage."""

from functools import partial

from torch import Tensor

from surmin.methods.auxiliary_networks.heads import build_head, local_gradient
from surmin.methods.auxiliary_networks.local_learning import LocalLearning
from surmin.methods.common.optimizers import make_optimizer
from surmin.methods.common.stagewise import Round, parts_of
from surmin.pipeline.worker_pipeline import WorkerPipeline


class DecoupledGreedyLearning(LocalLearning):
    """DGL.

    Source: Belilovsky, Eickenberg, Oyallon 2020, "Decoupled Greedy Learning of CNNs", ICML.

    Every stage but the last has a head that predicts the targets from the stage's output. Stage and head step along the
    gradient of that local loss, all stages at once; the last stage's loss is the true one. With h_0 = x:

        h_k = f_k(stop(h_{k-1}), θ_k)
        θ_k, a_k ← optimizer along ∇ (1/n) Σ_j ℓ(A_k(h_kj; a_k), y_j)    for k < K
        θ_K      ← optimizer along ∇ (1/n) Σ_j ℓ(h_Kj, y_j)

    f_k stage k, θ_k its parameters, A_k its head, a_k the head's parameters, ℓ the network's loss, stop(·) blocks
    gradients. Only activations cross the pipe, upwards: a stage steps without an answer and goes on with the next batch
    while the stage above works on this one.

    Differences: the source's heads for convolutions pool in two steps, with 1 x 1 convolutions between, before an MLP
    of three layers; here images are pooled to 2 x 2 at once and the MLP has one hidden layer. The source's buffer
    between stages, from which a stage may draw old activations, is left out: each is used once, in order.

    Limits: each stage learns what its own head can use, not what the stages above could. The network's output must be
    plain vectors, or have positions that every stage but the last has too.

    Args:
        pipeline: the network.
        lr: learning rate, also of the heads.
        optimizer: "sgd" (momentum 0.9), "gd" or "adam".
        seed: of the heads' initial weights.

    Raises:
        ValueError: if an option is not possible.
    """

    def __init__(self, pipeline: WorkerPipeline, *, lr: float = 2e-2, optimizer: str = "adam", seed: int = 0) -> None:
        positions = [position for position in range(len(pipeline.stages)) if pipeline.has_above(position)]
        beside = partial(make_optimizer, name=optimizer, lr=lr)
        super().__init__(pipeline, optimizer, lr, build_head, positions, beside, seed, downwards=())

    def run(self, inputs: Tensor, targets: Tensor, found: Round) -> None:
        """Micro-batch by micro-batch up the stages, each of which finds its gradient on the way."""
        pipeline, samples = self.pipeline, len(inputs)
        for number, (part, labels) in enumerate(parts_of(inputs, targets, pipeline.microbatches)):
            for position in range(len(pipeline.stages)):
                tape = self.forward(position, number, part)
                with pipeline.tracer.span("B", number):
                    if position in self.auxiliary:
                        head = self.auxiliary[position]
                        cotangent = local_gradient(pipeline, head, position, tape.output, labels, samples)
                    else:
                        cotangent = self.true_gradient(tape, labels, samples, found)
                    self.add_gradients(position, tape, cotangent, part, found)
        self.auxiliary.step()
