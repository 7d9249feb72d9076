"""What methods with auxiliary networks beside the stages have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from surmin.methods.auxiliary_networks.auxiliary import AuxiliaryNetworks, Build
from surmin.methods.common.saved_states import check_keys
from surmin.methods.common.stagewise import ACTIVATION, GRADIENT, Round, Stagewise
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.stages.tape import Tape


class LocalLearning(Stagewise):
    """A method whose stages have networks beside them, trained along.

    Args:
        pipeline: the network.
        optimizer: of the stages, "sgd" (momentum 0.9), "gd" or "adam".
        lr: its learning rate.
        build: makes the network beside a stage.
        positions: of the stages here that get one.
        beside: makes its optimizer for given parameters.
        seed: of their initial weights.
        downwards: names of the channels that lead to the stage below.
    """

    def __init__(
        self, pipeline: WorkerPipeline, optimizer: str, lr: float, build: Build, positions: Iterable[int],
        beside: Callable[[list[nn.Parameter]], Optimizer], seed: int, downwards: Sequence[str] = (GRADIENT,),
    ) -> None:  # fmt: skip
        super().__init__(pipeline, optimizer, lr, downwards=downwards)
        self.auxiliary = AuxiliaryNetworks(pipeline, build, positions, beside, seed)

    def prepare(self, inputs: Tensor, targets: Tensor) -> None:
        """Make the networks at the first batch.

        Raises:
            ValueError: on all workers, if a stage cannot have one.
        """
        super().prepare(inputs, targets)
        self.auxiliary.prepare(inputs, self.exchange.output_shape)

    def abandon(self) -> None:
        """Drop the gradients given to the networks, too."""
        super().abandon()
        self.auxiliary.abandon()

    def forward(self, position: int, number: int, part: Tensor) -> Tape:
        """Run a stage on a micro-batch of what the stage below sent, or of the inputs, and send its output up."""
        pipeline = self.pipeline
        entering = self.exchange.take(ACTIVATION, position)[0] if pipeline.has_below(position) else part
        with pipeline.tracer.span("F", number):
            tape = pipeline.forward_stage(position, entering, part.shape)
        if pipeline.has_above(position):
            self.exchange.put(ACTIVATION, position, (tape.output.detach(),))
        return tape

    def add_gradients(self, position: int, tape: Tape, cotangent: Tensor, part: Tensor, found: Round) -> None:
        """Take a gradient to a stage's parameters, but not to its input."""
        stage = self.pipeline.stages[position]
        with self.pipeline.work.phase(("parameters' gradient", part.shape, position)):
            found.gradients[stage] = stage.backward(tape, cotangent, total=found.gradients.get(stage))

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state by parameter, and the networks beside the stages."""
        return {**super().state_dict(), "auxiliary": self.auxiliary.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        check_keys(state, {"optimizer", "auxiliary"}, "a method with auxiliary networks")
        restored = self.auxiliary.restored(state["auxiliary"])
        super().load_state_dict({"optimizer": state["optimizer"]})
        self.auxiliary = restored
