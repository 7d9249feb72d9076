"""Joining the other workers in a process group, and telling their failures from one's own."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from surmin.launch.failures import ended_by_failures, tell_failure
from surmin.launch.reports import PeerError
from surmin.launch.worker import RENDEZVOUS_VARIABLE, Worker

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK = re.compile(r"localhost|127\..*|::1")

# torch 2.13 raises plain RuntimeErrors from gloo and from a file store: only their words tell them apart
LATE = re.compile(r"\btime(d )?out\b", re.IGNORECASE)
LOST = re.compile(
    r"gloo/transport|connection (was likely )?(closed|reset|refused)|broken pipe|remote process exited|failed to recv",
    re.IGNORECASE,
)


@contextmanager
def joined(worker: Worker, timeout: float) -> Iterator[None]:
    """While inside, this worker is in torch's default process group, of gloo; all workers leave it together.

    An error inside ends the process (`Worker.fail`): with its peers waiting, nothing else could end it in time. Its
    peers then end too, by their supervisor or by themselves (`ended_by_failures`).

    Args:
        worker: this process.
        timeout: seconds to wait for another worker, here and in every communication.
    """
    try:
        if are_all_here(worker.count):
            keep_to_loopback()
        dist.init_process_group(
            "gloo",
            init_method=os.environ.get(RENDEZVOUS_VARIABLE, "env://"),
            rank=worker.rank,
            world_size=worker.count,
            timeout=timedelta(seconds=timeout),
        )
        with ended_by_failures(worker, timeout):
            yield
        dist.barrier()
        dist.destroy_process_group()
    except (Exception, KeyboardInterrupt) as error:
        tell_failure(worker)
        worker.fail(_peer_error(error) or error)


@contextmanager
def answer_from(peer: int | None) -> Iterator[None]:
    """Say which worker it was, where that can be known, when a communication inside fails.

    Raises:
        PeerError: when that worker is gone or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        trouble = _peer_error(error)
        if trouble is None:
            raise
        raise PeerError(trouble.late, peer, trouble.detail) from error


def are_all_here(count: int) -> bool:
    """Whether so many workers, all there are, are on this machine: torchrun meets them by its name even then."""
    address = os.environ.get("MASTER_ADDR", "")
    return LOOPBACK.fullmatch(address) is not None or os.environ.get("LOCAL_WORLD_SIZE") == str(count)


def keep_to_loopback() -> None:
    """Have this process listen on no other interface, unless the user has chosen one."""
    names = [name for _, name in socket.if_nameindex() if re.fullmatch(r"lo\d*", name)]
    for variable in INTERFACE_VARIABLES if names else ():
        os.environ.setdefault(variable, names[0])


def _peer_error(error: BaseException | None) -> PeerError | None:
    """What an error says of a peer, itself or by what led to it."""
    while error is not None:
        if isinstance(error, PeerError):
            return error
        if type(error) is RuntimeError or isinstance(error, dist.DistError):
            text = str(error)
            late = LATE.search(text) is not None
            if late or LOST.search(text):
                return PeerError(late, None, _without_place(text))
        error = error.__cause__ or error.__context__
    return None


def _without_place(text: str) -> str:
    """The first sentence, without the source file that gloo puts in front of it."""
    return re.sub(r"^\[[^\]]*\] *", "", text).partition(". ")[0]
