"""Fully decoupled learning with delayed gradients (FDG): neither forward nor backward waits for other stages."""

from torch import Tensor

from surmin.methods.ddg import DelayedGradients
from surmin.pipeline.worker_pipeline import WorkerPipeline


class FullyDecoupled(DelayedGradients):
    """Stage k runs forward on the batch from k - 1 rounds before, and steps along gradients 2(K - k) rounds old.

    Legend: K stages, k = 1 … K from below; t the round; w_k the weights of stage k, F_k what it computes, h_k(s) its
    input for the batch of round s; γ the learning rate, through momentum or Adam; β the shrinking factor.

        up:    in round t on batch s = t - k + 1, with w_k(t): h_{k+1}(s) = F_k(h_k(s); w_k(t)), for round t + 1
        down:  in round t, s = t - 2K + k + 1, u = t - 2(K - k), δ_K from the loss:
               w_k(t+1) = w_k(t) - γ (∂F_k(h_k(s); w_k(u)) / ∂w_k)ᵀ β δ_k(s)     (without β for k = K)
               δ_{k-1}(s) = (∂F_k(h_k(s); w_k(u)) / ∂h_k)ᵀ β δ_k(s), for round t + 1

    No message is waited for in the round it is sent in, upwards or downwards. β multiplies what every stage receives,
    so stage k steps along β^(K-k) times its gradient: stages with older gradients take smaller steps. A round
    consumes one batch; the loss reported is that of the batch that has just reached the last stage, K - 1 rounds old.

    Source: H. Zhuang, Y. Wang, Q. Liu, Z. Lin, "Fully Decoupled Neural Network Learning Using Delayed Gradients", IEEE
    Transactions on Neural Networks and Learning Systems, 2022. The authors' program steps before it runs forward, which
    makes the gradients of stages below the last one round younger; its weight decay and falling learning rate are left
    out here.

    Args:
        pipeline: the network, each stage of which is a module in the source.
        lr: γ.
        optimizer: "sgd" (momentum 0.9, as in the source), "gd" or "adam".
        shrinking: β, above 0 and up to 1; at 1 nothing shrinks. Adam divides out any other value.

    Raises:
        ValueError: for an unknown optimizer, an impossible value, or a stage without a layer.
    """

    lag = 1

    def __init__(
        self, pipeline: WorkerPipeline, *, lr: float = 5e-4, optimizer: str = "adam", shrinking: float = 1.0
    ) -> None:
        if not 0 < shrinking <= 1:
            raise ValueError(f"shrinking must be above 0 and at most 1, got {shrinking}")
        super().__init__(pipeline, lr=lr, optimizer=optimizer)
        self.shrinking = shrinking

    def arrived(self, gradient: Tensor) -> Tensor:
        """Shrunk."""
        return self.shrinking * gradient
