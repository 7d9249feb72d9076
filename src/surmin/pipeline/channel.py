"""Messages of one kind from one worker to another, over a process group."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.launch.group import answer_from

Shape = tuple[torch.dtype, tuple[int, ...]]
DTYPES = (
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bfloat16,
    torch.float16,
    torch.bool,
)
MAX_TENSORS, MAX_DIMENSIONS = 4, 8
HEADER = 1 + MAX_TENSORS * (2 + MAX_DIMENSIONS)
"""Numbers in a header: how many tensors, and for each its type, its number of dimensions and its shape."""


@dataclass(frozen=True)
class Route:
    """How two workers reach each other.

    Attributes:
        group: the process group.
        device: where tensors are to be for it.
        posts_ahead: whether a receive may be posted long before its message is sent. gloo then delivers in one latency
            instead of two or three; NCCL's queue would be blocked by it.
    """

    group: dist.ProcessGroup
    device: torch.device
    posts_ahead: bool


class _End:
    """What both ends know: the shapes of the first message, which all later ones have too."""

    def __init__(self, route: Route, peer: int, tag: int, shapes: list[Shape] | None = None) -> None:
        self.route = route
        self.peer = peer
        self._header_tag, self._tag = 2 * tag, 2 * tag + 1
        self._shapes = shapes


class Sender(_End):
    """The end that sends. Nothing waits here for the other end, unless that is far behind.

    Args:
        route: to the other worker.
        peer: its rank.
        tag: tells this channel from others between the two.
        shapes: of its messages, where both ends know them beforehand; otherwise the first message tells.
    """

    MOST_UNDERWAY = 64

    def __init__(self, route: Route, peer: int, tag: int, shapes: list[Shape] | None = None) -> None:
        super().__init__(route, peer, tag, shapes)
        self._underway: deque[tuple[dist.Work, Tensor]] = deque()

    def send(self, message: Message) -> None:
        """Begin to send; the tensors must not be written to afterwards.

        Raises:
            RuntimeError: when its shapes are not those of the first message.
            PeerError: when the other worker is gone.
        """
        tensors = [tensor.detach().contiguous() for tensor in message]
        shapes = _shapes(tensors)
        if self._shapes is None:
            self._begin(_header(shapes, self.route.device), self._header_tag)
            self._shapes = shapes
        if shapes != self._shapes:
            raise RuntimeError(f"a message of shapes {shapes} after others of {self._shapes}")
        for tensor in tensors:
            self._begin(tensor, self._tag)

    def flush(self) -> None:
        """Wait until all has been sent."""
        while self._underway:
            self._finish_oldest()

    def _begin(self, tensor: Tensor, tag: int) -> None:
        while self._underway and (len(self._underway) > self.MOST_UNDERWAY or self._underway[0][0].is_completed()):
            self._finish_oldest()
        with answer_from(self.peer):
            work = dist.isend(tensor, self.peer, group=self.route.group, tag=tag)
        assert work is not None
        self._underway.append((work, tensor))

    def _finish_oldest(self) -> None:
        work, _ = self._underway.popleft()
        with answer_from(self.peer):
            work.wait()


class Receiver(_End):
    """The end that receives; where the route allows it, receives are posted ahead.

    Args:
        route: to the other worker.
        peer: its rank.
        tag: tells this channel from others between the two.
        shapes: of its messages, where both ends know them beforehand; otherwise the first message tells.
    """

    def __init__(self, route: Route, peer: int, tag: int, shapes: list[Shape] | None = None) -> None:
        super().__init__(route, peer, tag, shapes)
        self._posted: deque[list[tuple[dist.Work, Tensor]]] = deque()
        self._ahead = 0

    def prepare(self, count: int) -> None:
        """So many messages will come soon; as many receives stay posted from now on."""
        self._ahead = count if self.route.posts_ahead else 0
        self._post_ahead()

    def receive(self) -> Message:
        """The next message.

        Raises:
            PeerError: when the other worker is gone or does not answer in time.
        """
        if self._shapes is None:
            header = torch.empty(HEADER, dtype=torch.int64, device=self.route.device)
            with answer_from(self.peer):
                dist.recv(header, self.peer, group=self.route.group, tag=self._header_tag)
            self._shapes = _parse(header.tolist())
            self._post_ahead()
        if not self._posted:
            self._post()
        arriving = self._posted.popleft()
        for work, _ in arriving:
            with answer_from(self.peer):
                work.wait()
        self._post_ahead()
        return tuple(tensor for _, tensor in arriving)

    def _post_ahead(self) -> None:
        while self._shapes is not None and len(self._posted) < self._ahead:
            self._post()

    def _post(self) -> None:
        assert self._shapes is not None
        posted = []
        for dtype, shape in self._shapes:
            tensor = torch.empty(shape, dtype=dtype, device=self.route.device)
            with answer_from(self.peer):
                work = dist.irecv(tensor, self.peer, group=self.route.group, tag=self._tag)
            assert work is not None
            posted.append((work, tensor))
        self._posted.append(posted)


def _shapes(tensors: Sequence[Tensor]) -> list[Shape]:
    return [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]


def _header(shapes: Sequence[Shape], device: torch.device) -> Tensor:
    numbers = [len(shapes)]
    for dtype, shape in shapes:
        if len(shape) > MAX_DIMENSIONS or dtype not in DTYPES:
            raise ValueError(f"a tensor of type {dtype} and shape {list(shape)} cannot be sent between stages")
        numbers += [DTYPES.index(dtype), len(shape), *shape, *[0] * (MAX_DIMENSIONS - len(shape))]
    return torch.tensor(numbers + [0] * (HEADER - len(numbers)), device=device)


def _parse(numbers: Sequence[int]) -> list[Shape]:
    width = 2 + MAX_DIMENSIONS
    starts = range(1, 1 + width * numbers[0], width)
    return [(DTYPES[numbers[at]], tuple(numbers[at + 2 : at + 2 + numbers[at + 1]])) for at in starts]
