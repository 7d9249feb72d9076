"""Joining the other workers in a process group, and telling their failures from one's own."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from surmin.launch.failures import ended_by_failures, tell_failure
from surmin.launch.reports import PeerError
from surmin.launch.worker import RENDEZVOUS_VARIABLE, Worker

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK = re.compile(r"localhost|127\..*|::1")

# torch 2.13 raises plain RuntimeErrors from gloo and from a file store: only their wording distinguishes them
LATE = re.compile(r"\btime(d )?out\b", re.IGNORECASE)
LOST = re.compile(
    r"gloo/transport|connection (was likely )?(closed|reset|refused)|broken pipe|remote process exited|failed to recv",
    re.IGNORECASE,
)


@contextmanager
def joined(worker: Worker, timeout: float) -> Iterator[None]:
    """While inside, this worker is in torch's default process group, over gloo; all workers leave it together.

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
            store=_shared_file(worker, timeout),
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
    """Name the worker, if it can be known, when a communication inside fails.

    Raises:
        PeerError: if that worker is gone or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        trouble = _peer_error(error)
        if trouble is None:
            raise
        raise PeerError(trouble.late, peer, trouble.detail) from error


def are_all_here(count: int) -> bool:
    """Whether this many workers, all there are, are on this machine: torchrun gives its name as address even then."""
    address = os.environ.get("MASTER_ADDR", "")
    return LOOPBACK.fullmatch(address) is not None or os.environ.get("LOCAL_WORLD_SIZE") == str(count)


def keep_to_loopback() -> None:
    """Make this process listen on no other interface, unless the user has chosen one."""
    names = [name for _, name in socket.if_nameindex() if re.fullmatch(r"lo\d*", name)]
    for variable in INTERFACE_VARIABLES if names else ():
        os.environ.setdefault(variable, names[0])


def _shared_file(worker: Worker, timeout: float) -> Store | None:
    """The file by which workers find each other, None if they have none."""
    path = os.environ.get(RENDEZVOUS_VARIABLE)
    if path is None:
        return None
    # not by a URL of torch's, which ends at a # or ? in the path
    store: Store = dist.FileStore(path, worker.count)  # type: ignore[attr-defined]
    store.set_timeout(timedelta(seconds=timeout))
    return store


def _peer_error(error: BaseException | None) -> PeerError | None:
    """What an error, or one that led to it, says about a peer."""
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
    """The first sentence, without the source file that gloo puts before it."""
    return re.sub(r"^\[[^\]]*\] *", "", text).partition(". ")[0]
