"""What links a worker's stages to the others', as the waves see it; and a single process, which has no others."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Literal, Protocol, TypeVar, cast

from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.errors import AgreedError
from surmin.pipeline.traffic import Traffic

Kind = tuple[Hashable, ...]
"""The wave a message belongs to, and all that its shapes depend on. Messages of one kind have equal shapes."""


class Links(Protocol):
    """Links to the workers with the stages before and after this one's, and to all for joint decisions.

    Every worker makes the same calls in the same order, except `send` and `receive`, of which a worker makes those that
    its place in the pipe requires.
    """

    is_first: bool
    """Whether the network's first stage is held here."""
    is_last: bool
    """Whether its last stage is."""

    def trainable_blocks(self, blocks: Literal["layer", "stage"]) -> tuple[int, int]:
        """Number of blocks with parameters on the workers before this one, and on all together (0: only this one)."""

    def stages_beyond(self) -> tuple[int, int]:
        """Number of stages in the network below those here, and above."""

    def prepare(self, kind: Kind, count: int) -> None:
        """A wave of so many messages of a kind is about to begin."""

    def send(self, kind: Kind, message: Message) -> None:
        """Send to the next worker of that wave: upwards in forward waves, downwards in the others."""

    def receive(self, kind: Kind) -> Message:
        """The next message of that wave."""

    def compare(self, description: str, complaint: ValueError | TypeError | None, *, wait: bool) -> None:
        """Tell all workers what this one is about to do, and raise on all of them if one complains or they differ.

        Replicas' workers are among them.

        Args:
            description: must be the same on all workers.
            complaint: what keeps this worker from it.
            wait: for the other workers' answers now; otherwise they are checked as the next waves begin.
        """

    def total(self, values: Tensor, traffic: Traffic) -> list[float]:
        """Sum numbers over a pipe's workers, average them over replicas, and count what was sent for it."""

    def break_off(self, error: BaseException) -> None:
        """This worker left a wave midway: messages of it may still come, and must not be mistaken for others."""


class NoLinks:
    """Links of a process that holds all stages.

    Args:
        workers: number of workers for which a sum over all of them is counted.
    """

    is_first = is_last = True

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def trainable_blocks(self, blocks: Literal["layer", "stage"]) -> tuple[int, int]:
        """None elsewhere."""
        return 0, 0

    def stages_beyond(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    def prepare(self, kind: Kind, count: int) -> None:
        """Nothing comes."""

    def send(self, kind: Kind, message: Message) -> None:
        """There is nobody to send to."""
        raise AssertionError(f"sent {kind} to nobody")

    def receive(self, kind: Kind) -> Message:
        """There is nobody to receive from."""
        raise AssertionError(f"waits for {kind} from nobody")

    def compare(self, description: str, complaint: ValueError | TypeError | None, *, wait: bool) -> None:
        """The complaint is raised here."""
        if complaint is not None:
            raise complaint

    def total(self, values: Tensor, traffic: Traffic) -> list[float]:
        """Already summed; counted as a sum up the pipe to the last worker and its way back."""
        for _ in range(2 * (self._workers - 1)):
            traffic.send((values,))
        return [float(value) for value in values.tolist()]

    def break_off(self, error: BaseException) -> None:
        """Nothing is under way."""


SendingMethod = TypeVar("SendingMethod", bound=Callable[..., Any])


def breaks_off_on_error(wave: SendingMethod) -> SendingMethod:
    """Decorates a pipeline method that sends and takes a wave: after any error but an agreed one, none can follow."""

    @wraps(wave)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return wave(self, *args, **options)
        except AgreedError:
            raise
        except BaseException as error:
            self._links.break_off(error)
            raise

    return cast(SendingMethod, run)


@contextmanager
def agreeing(links: Links) -> Iterator[None]:
    """Let all workers know of an error raised inside; an error that is no ValueError or TypeError is raised as is."""
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if failure is None or isinstance(failure, ValueError | TypeError):
        links.compare("", failure, wait=True)
        return
    with suppress(ValueError):
        links.compare("", ValueError(f"{type(failure).__name__}: {failure}"), wait=True)
    raise failure
