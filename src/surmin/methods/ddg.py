"""Decoupled parallel backpropagation with delayed gradients (DDG)."""

from surmin.methods.delayed_gradients.delayed import Delayed
from surmin.stages.stage import Stage
from surmin.stages.tape import LayerParameters


class DelayedGradients(Delayed):
    """w_k(t+1) = w_k(t) - γ ∇_k f_{x(t-K+k)}(w(t-K+k)): backward unlocked by gradients of earlier batches.

    Legend: K stages, k = 1 … K from below; t the round, x(t) its batch, f the mean loss, ∇_k its gradient in the
    weights w_k of stage k; γ the learning rate, through momentum or Adam. Up to round K - k - 1 stage k stays as it is.

    The forward wave of a round goes through all stages. Then every stage takes the gradient that the stage above sent
    in the previous round, so that none waits for another's backward. It belongs to the batch from K - k rounds before,
    and is taken through the stage at its weights of that time, of which the stage keeps K - k copies, with the batches'
    inputs and activations.

    Source: Z. Huo, B. Gu, Q. Yang, H. Huang, "Decoupled Parallel Backpropagation with Convergence Guarantee", ICML
    2018. There the optimizer is SGD with momentum 0.9, weight decay and a falling learning rate. Here the rate is
    constant and the default is Adam, with which deep networks leave their first plateau.

    Args:
        pipeline: the network, each stage of which is a module in the source.
        lr: γ.
        optimizer: "sgd" (momentum 0.9, as in the source), "gd" or "adam".

    Raises:
        ValueError: for an unknown optimizer, a learning rate that is not positive, or a stage without a layer.
    """

    def weights(self, stage: Stage) -> LayerParameters:
        """A copy of all of them."""
        return [
            {name: value.detach().clone().requires_grad_() for name, value in layer.parameters.items()}
            for layer in stage.layers
        ]
