"""What every worker tells every other before a step: what it is about to do, or why it cannot."""

import hashlib
from collections.abc import Collection, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from surmin.errors import AgreedError
from surmin.pipeline.channel import Receiver, Route, Sender, TensorSpec

STATUS_BYTES = 1024
STATUS_TAG = 0
Status = tuple[str, str]
"""A worker's complaint, empty if none, and what it is about to do."""


class StatusComparison:
    """One small message from every worker to every other, once per step.

    Args:
        places: every worker's place in its pipe, by rank.
        route: to the workers.
    """

    def __init__(self, places: Mapping[int, int], route: Route) -> None:
        self._places = places
        self._told: dict[int, Status] = {}
        self._broken: str | None = None
        others = [rank for rank in sorted(places) if rank != dist.get_rank()]
        shapes: list[TensorSpec] = [(torch.uint8, (STATUS_BYTES,))]
        self._senders = [Sender(route, rank, STATUS_TAG, shapes) for rank in others]
        self._receivers = {rank: Receiver(route, rank, STATUS_TAG, shapes) for rank in others}
        for receiver in self._receivers.values():
            receiver.prepare(2)

    def tell(self, description: str, complaint: str) -> None:
        """Begin the next comparison.

        Raises:
            AgreedError: if there was trouble in the last one that had not been heard of yet.
            RuntimeError: if there was trouble in the middle of an earlier wave.
        """
        self.hear()
        broken = None
        if self._broken is not None:
            complaint = broken = f"this pipeline cannot go on after an error in the middle of a wave: {self._broken}"
        status = encode_status((complaint, description))
        for sender in self._senders:
            sender.send((status,))
        if broken is not None:
            raise RuntimeError(broken)  # the others may not be, and would wait
        self._told = {dist.get_rank(): decode_status(status)}

    def hear(self, places: Collection[int] | None = None, *, in_wave: bool = True) -> None:
        """Wait for the messages of the workers at some places, or of all; nothing is waited for twice.

        Args:
            places: in the pipe, of all replicas.
            in_wave: whether messages of a wave may be under way; if only some workers have trouble then, the pipeline
                cannot go on.

        Raises:
            AgreedError: if any complains or they differ, naming all that do.
        """
        if not self._told:
            return
        self._listen(places)
        if _trouble(self._told) is not None:
            self._listen(None)
        trouble = _trouble(self._told)
        has_begun = in_wave and not all(complaint for complaint, _ in self._told.values())  # complainers begin none
        if len(self._told) == len(self._places):
            self._told = {}
        if trouble is not None:
            self._broken = trouble if has_begun else None
            raise AgreedError(trouble)

    def break_off(self, reason: str) -> None:
        """From the next comparison on, tell all workers that this one cannot go on."""
        self._broken = self._broken or reason

    def flush(self) -> None:
        """Wait until everything has been sent."""
        for sender in self._senders:
            sender.flush()

    def _listen(self, places: Collection[int] | None) -> None:
        for rank, receiver in self._receivers.items():
            if rank not in self._told and (places is None or self._places[rank] in places):
                self._told[rank] = decode_status(receiver.receive()[0])


def encode_status(status: Status) -> Tensor:
    """As bytes; a part that is too long is cut, and ends with a digest of the whole."""
    half = STATUS_BYTES // 2
    parts = [_fitting(part.encode(), half).ljust(half, b"\0") for part in status]
    return torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8)


def _fitting(text: bytes, size: int) -> bytes:
    if len(text) <= size:
        return text
    tail = f"… [{hashlib.sha256(text).hexdigest()[:16]}]".encode()
    return text[: size - len(tail)] + tail


def decode_status(told: Tensor) -> Status:
    """What was encoded."""
    content, half = bytes(told.tolist()), STATUS_BYTES // 2
    complaint, description = (part.rstrip(b"\0").decode(errors="replace") for part in (content[:half], content[half:]))
    return complaint, description


def complaints_of(told: Mapping[int, str]) -> str | None:
    """The complaints of workers by rank, "" for none, in one line: once if all say the same; None without any."""
    said = {rank: text for rank, text in sorted(told.items()) if text}
    if len(said) == len(told) and len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"worker {rank}: {text}" for rank, text in said.items()) or None


def _trouble(told: Mapping[int, Status]) -> str | None:
    """What keeps the workers from going on, from each one's complaint and description of what it is about to do."""
    complaint = complaints_of({rank: complaint for rank, (complaint, _) in told.items()})
    if complaint is not None:
        return complaint
    (first, (_, expected)), *others = sorted(told.items())
    for rank, (_, description) in others:
        if description != expected:
            return (
                "the workers are out of step. Possible causes: batches with different shapes or targets, the same "
                "batch in different tensors, different options, or parameters changed on only some workers (then call "
                "the pipeline's forget() on all): "
                f"worker {first} has {expected}; worker {rank} has {description}"
            )
    return None
