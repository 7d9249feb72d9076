"""The interface of a training method."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from surmin.methods.common.saved_states import check_keys
from surmin.pipeline.worker_pipeline import WorkerPipeline
from surmin.report import StepReport


class Method(Protocol):
    """A method that trains a network, one outer iteration ("round") at a time.

    Attributes:
        pipeline: the network.
    """

    pipeline: WorkerPipeline

    def step(self, inputs: Tensor, targets: Tensor) -> StepReport:
        """One round on one batch; reports what it cost."""

    def state_dict(self) -> dict[str, Any]:
        """What continues the run exactly, together with the parameters: tensors, numbers, strings, freely nested."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; raises ValueError if it is another method's."""


class Stateless:
    """A method whose rounds each start afresh: the parameters are all it needs to continue."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError for the state of another method."""
        check_keys(state, (), f"a {type(self).__name__}, which has none")
