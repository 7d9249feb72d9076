"""Features Replay: delayed gradients without old weights."""

from surmin.methods.delayed_gradients.delayed import Delayed
from surmin.stages.stage import Stage


class FeaturesReplay(Delayed):
    """w_k(t+1) = w_k(t) - γ (∂F_k(h_k(t-K+k); w_k(t)) / ∂w_k)ᵀ δ_k(t): earlier inputs through the present weights.

    Legend: K stages, k = 1 … K from below; t the round; F_k what stage k computes with weights w_k; h_k(s) its input in
    round s; γ the learning rate, through momentum or Adam. δ_K(t) is the gradient of round t's loss in the network's
    output, and stage k sends down (∂F_k(h_k(t-K+k); w_k(t)) / ∂h_k)ᵀ δ_k(t) = δ_{k-1}(t+1).

    As in DDG, no stage waits for another's backward. But a stage keeps only the input of a batch under way: when the
    gradient has come, it runs forward on that input again, with the current weights. This costs one more forward pass a
    round, and every stage's gradient is taken at other weights than that of the stage above; stages whose gradient has
    not come yet stay as they are.

    Source: Z. Huo, B. Gu, H. Huang, "Training Neural Networks Using Features Replay", NeurIPS 2018. There the optimizer
    is SGD with momentum 0.9, weight decay and a falling learning rate. Here the rate is constant and the default is
    Adam, with which deep networks leave their first plateau.

    Args:
        pipeline: the network, each stage of which is a module in the source.
        lr: γ.
        optimizer: "sgd" (momentum 0.9, as in the source), "gd" or "adam".

    Raises:
        ValueError: for an unknown optimizer, a learning rate that is not positive, or a stage without a layer.
    """

    def weights(self, stage: Stage) -> None:
        """None are kept."""
