"""Messages of one kind from one worker to another, over a process group."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from surmin.curvature.output_curvature import Message
from surmin.launch.group import answer_from

TensorSpec = tuple[torch.dtype, tuple[int, ...]]
DTYPES = (
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.uint8,
    torch.bfloat16,
    torch.float16,
    torch.bool,
    torch.int8,
)
MAX_TENSORS, MAX_DIMENSIONS = 4, 8
CPU = torch.device("cpu")
MOST_UNDERWAY = 64
"""Messages that a sender has under way before it waits for the oldest, unless given another number."""
HEADER = 1 + MAX_TENSORS * (2 + MAX_DIMENSIONS)
"""Numbers in a header: how many tensors, and for each its type, its number of dimensions and its shape."""


@dataclass(frozen=True)
class Route:
    """How two workers reach each other.

    Attributes:
        group: the process group.
        device: where its tensors must be.
        home: where received tensors belong.
        posts_ahead: whether a receive may be posted long before its message is sent. gloo then delivers in one latency
            instead of two or three; it would block NCCL's queue.
    """

    group: dist.ProcessGroup
    device: torch.device
    home: torch.device
    posts_ahead: bool

    @classmethod
    def of_processor(cls, group: dist.ProcessGroup, home: torch.device = CPU) -> "Route":
        """Through CPU memory, by gloo."""
        return cls(group, CPU, home, posts_ahead=True)

    @classmethod
    def of_devices(cls, group: dist.ProcessGroup, device: torch.device) -> "Route":
        """Straight from a GPU to another, by NCCL, which delivers in the order of sending whatever the tags are."""
        return cls(group, device, device, posts_ahead=False)


def connect(route: Route, pipe: Sequence[int]) -> None:
    """Link this worker to its neighbours in a pipe, while all are known to be there.

    NCCL links two workers at their first message, and the one that sends it would wait without limit for the other.
    """
    place = pipe.index(dist.get_rank())
    token = torch.zeros(1, device=route.device)
    for peers, pass_on in ((pipe[:place][-1:], dist.recv), (pipe[place + 1 :][:1], dist.send)):
        for peer in peers:
            with answer_from(peer):
                pass_on(token, peer, group=route.group)


@dataclass
class _End:
    """One end of a channel.

    Attributes:
        route: to the other worker.
        peer: its rank.
        tag: distinguishes this channel from others between the two, where the route can.
        shapes: of its messages, if both ends know them beforehand; otherwise the first message tells. All messages have
            the same.
    """

    route: Route
    peer: int
    tag: int
    shapes: list[TensorSpec] | None = None

    @property
    def _header_tag(self) -> int:
        return 2 * self.tag if self.route.posts_ahead else 0

    @property
    def _message_tag(self) -> int:
        return 2 * self.tag + 1 if self.route.posts_ahead else 0


@dataclass
class Sender(_End):
    """The end that sends. It waits for the other end only if that is far behind.

    What is sent is held until it is known to have left, which gloo only tells those who wait.
    """

    _underway: deque[list[tuple[dist.Work, Tensor]]] = field(default_factory=deque, init=False)
    _most: int = field(default=MOST_UNDERWAY, init=False)

    def prepare(self, count: int) -> None:
        """A wave of so many messages is coming: by then the last wave's have arrived, and are released one by one."""
        self._most = count

    def send(self, message: Message) -> None:
        """Start to send; the tensors must not be written to afterwards.

        Raises:
            RuntimeError: if its shapes are not those of the first message.
            PeerError: if the other worker is gone.
        """
        tensors = [tensor.detach().to(self.route.device).contiguous() for tensor in message]
        shapes = _shapes(tensors)
        while len(self._underway) >= self._most:
            self._finish_oldest()
        begun = []
        if self.shapes is None:
            begun.append(self._begin(_header(shapes, self.route.device), self._header_tag))
            self.shapes = shapes
        if shapes != self.shapes:
            raise RuntimeError(f"a message of shapes {shapes} after others of {self.shapes}")
        begun += [self._begin(tensor, self._message_tag) for tensor in tensors]
        self._underway.append(begun)

    def flush(self) -> None:
        """Wait until everything has been sent."""
        while self._underway:
            self._finish_oldest()

    def _begin(self, tensor: Tensor, tag: int) -> tuple[dist.Work, Tensor]:
        with answer_from(self.peer):
            work = dist.isend(tensor, self.peer, group=self.route.group, tag=tag)
        assert work is not None
        return work, tensor

    def _finish_oldest(self) -> None:
        for work, _ in self._underway.popleft():
            with answer_from(self.peer):
                work.wait()


@dataclass
class Receiver(_End):
    """The end that receives; if the route allows it, receives are posted ahead."""

    _posted: deque[list[tuple[dist.Work, Tensor]]] = field(default_factory=deque, init=False)
    _ahead: int = field(default=0, init=False)

    def prepare(self, count: int) -> None:
        """So many messages will come soon; from now on, as many receives stay posted."""
        self._ahead = count if self.route.posts_ahead else 0
        self._post_ahead()

    def receive(self) -> Message:
        """The next message.

        Raises:
            PeerError: if the other worker is gone or does not answer in time.
        """
        if self.shapes is None:
            header = torch.empty(HEADER, dtype=torch.int64, device=self.route.device)
            with answer_from(self.peer):
                dist.recv(header, self.peer, group=self.route.group, tag=self._header_tag)
            self.shapes = _parse(header.tolist())
            self._post_ahead()
        if not self._posted:
            self._post()
        arriving = self._posted.popleft()
        for work, _ in arriving:
            with answer_from(self.peer):
                work.wait()
        self._post_ahead()
        return tuple(tensor.to(self.route.home) for _, tensor in arriving)

    def _post_ahead(self) -> None:
        while self.shapes is not None and len(self._posted) < self._ahead:
            self._post()

    def _post(self) -> None:
        assert self.shapes is not None
        posted = []
        for dtype, shape in self.shapes:
            tensor = torch.empty(shape, dtype=dtype, device=self.route.device)
            with answer_from(self.peer):
                work = dist.irecv(tensor, self.peer, group=self.route.group, tag=self._message_tag)
            assert work is not None
            posted.append((work, tensor))
        self._posted.append(posted)


def _shapes(tensors: Sequence[Tensor]) -> list[TensorSpec]:
    return [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]


def _header(shapes: Sequence[TensorSpec], device: torch.device) -> Tensor:
    if len(shapes) > MAX_TENSORS:
        raise ValueError(f"a message between stages has at most {MAX_TENSORS} tensors, got {len(shapes)}")
    numbers = [len(shapes)]
    for dtype, shape in shapes:
        if len(shape) > MAX_DIMENSIONS or dtype not in DTYPES:
            raise ValueError(f"a tensor of type {dtype} and shape {list(shape)} cannot be sent between stages")
        numbers += [DTYPES.index(dtype), len(shape), *shape, *[0] * (MAX_DIMENSIONS - len(shape))]
    return torch.tensor(numbers + [0] * (HEADER - len(numbers)), device=device)


def _parse(numbers: Sequence[int]) -> list[TensorSpec]:
    width = 2 + MAX_DIMENSIONS
    starts = range(1, 1 + width * numbers[0], width)
    return [(DTYPES[numbers[at]], tuple(numbers[at + 2 : at + 2 + numbers[at + 1]])) for at in starts]
