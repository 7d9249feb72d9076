"""What one outer iteration of any method tells about itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """One outer iteration ("round").

    On workers the work, the bytes, the messages and the note are always the worker's own. All else is the same on all
    of them, but for methods whose workers tell each other no numbers (gd, sgd, adam, locoprop, and those of delayed
    gradients and of local losses): there the loss is NaN on all workers but the last, and the gradient's norm is that
    of the worker's own part. So log from the last worker.

    Attributes:
        loss: mean loss over the batch before the step.
        new_loss: mean loss over the same batch after it; NaN where the method does not evaluate it.
        predicted_decrease: decrease of the summed local losses at their minimisers, NaN for methods without a model; a
            share of the last step that is added to those (momentum) predicts nothing of its own. Where stages solve in
            sequence each decrease counts from where the stages below have moved its stage's input.
        reduction_ratio: (loss - new_loss) / predicted_decrease; NaN where either is unknown.
        damping: λ of the accepted step, or of the last one tried.
        accepted: whether the step was taken: it passed the test, or is finite where none is made.
        tries: forward waves spent on testing steps.
        gradient_norm: Euclidean norm of the gradient before the step.
        gradient_equivalents: work, in forward and backward passes over this batch, counted from operations.
        bytes_sent: bytes that crossed between stages.
        messages: messages that crossed between stages.
        forward_waves: ways up through all stages, with activations, of acceptance tests too, or with tangents.
        note: a word on what was unusual, empty as a rule.
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
