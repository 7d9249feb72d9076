"""What leaves a worker must be in memory that nothing writes to while it is being sent."""

from torch import Tensor


def memory_of(batch: Tensor) -> int:
    """Where a batch is in memory, possibly to be overwritten by the next one."""
    return batch.untyped_storage().data_ptr()


def apart_from(memory: int, state: Tensor) -> Tensor:
    """The state, or a copy if it lies in this memory itself."""
    return state.clone() if memory_of(state) == memory else state
