"""What any method reports about one outer iteration."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """One outer iteration ("round").

    On workers, the work, bytes, messages and note are always the worker's own. Everything else is the same on all
    workers, except with methods whose workers exchange no numbers (gd, sgd, adam, locoprop, and those with delayed
    gradients or local losses): there the loss is NaN on all workers but the last, and the gradient norm is that of the
    worker's own part. So log from the last worker.

    Attributes:
        loss: mean loss over the batch before the step.
        new_loss: mean loss over the same batch after the step, even if it was rejected: the network then still has
            `loss`. NaN where the method does not evaluate it.
        predicted_decrease: by how much the local losses, without their damping terms, fall at the steps that the
            solvers return, summed over blocks; NaN for methods without a model.
            The momentum share of a step adds nothing to the prediction. In sequential order each stage's decrease is
            measured from the input it receives after the stages below have moved.
        reduction_ratio: (loss - new_loss) / predicted_decrease; NaN where either is unknown.
        damping: λ of the accepted step, or of the last one tried.
        accepted: whether the step was taken: it passed the test, or is finite where there is no test.
        tries: forward waves spent on testing steps.
        gradient_norm: Euclidean norm of the gradient before the step.
        gradient_equivalents: work, in forward and backward passes over this batch, counted from operations.
        bytes_sent: bytes that crossed between stages, without the status messages that workers compare before a step.
        messages: messages that crossed between stages, without those.
        forward_waves: upward passes through all stages, whether with activations (acceptance tests included) or with
            tangents.
        note: anything unusual, in a few words; normally empty.
    """

    loss: float
    new_loss: float
    predicted_decrease: float
    reduction_ratio: float
    damping: float
    accepted: bool
    tries: int
    gradient_norm: float
    gradient_equivalents: float
    bytes_sent: int
    messages: int
    forward_waves: int
    note: str = ""
