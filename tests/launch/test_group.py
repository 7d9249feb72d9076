"""With workers that communicate over gloo."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from surmin.launch.group import answer_from, are_all_here, keep_to_loopback
from surmin.launch.reports import PeerError, Report
from tests.launch.cases import IN_A_GROUP, Launch, SupervisedRun, wait_until

SUM = (
    IN_A_GROUP
    + """
with joined(worker, 30):
    total = torch.tensor([float(worker.rank)])
    dist.all_reduce(total)
    os.write(1, f"worker {worker.rank} of {worker.count}: {total.item():g}\\n".encode())  # at once: prints may mix
"""
)
FAILING = (
    IN_A_GROUP
    + """
with joined(worker, 30):
    for step in range(1000):
        dist.barrier()
        if worker.rank == 1 and step == 5:
            raise ValueError("it broke")
"""
)
ENDLESS = (
    IN_A_GROUP
    + """
with joined(worker, 30):
    Path(f"ready-{worker.rank}").touch()
    while True:
        dist.barrier()
"""
)
RING = (
    IN_A_GROUP
    + """
after, before = (worker.rank + 1) % worker.count, (worker.rank - 1) % worker.count
with joined(worker, 4.4):
    Path(f"ready-{worker.rank}").touch()
    while True:
        request = dist.irecv(torch.zeros(1), after)
        dist.send(torch.zeros(1), before)
        with answer_from(after):
            request.wait()
"""
)
STOPPING_TOGETHER = (
    IN_A_GROUP
    + """
from surmin.launch.interrupts import deferred_interrupt
rounds, stop = 0, torch.zeros(1)
with joined(worker, 30), deferred_interrupt() as is_interrupted:
    Path(f"ready-{worker.rank}").touch()
    while not stop:
        rounds += 1
        stop.fill_(is_interrupted())
        dist.all_reduce(stop)
    time.sleep(1.0)  # a checkpoint is written then: torchrun may signal one worker after the others have heard of it
Path(f"rounds-{worker.rank}").write_text(str(rounds))
sys.exit(130)
"""
)
HANGING = (
    IN_A_GROUP
    + """
from surmin.launch.interrupts import deferred_interrupt
with joined(worker, 8), deferred_interrupt():
    dist.barrier()
    while worker.rank == 1:
        time.sleep(0.1)
    Path("waiting").touch()
    dist.barrier()
"""
)
MOMENTS = 6
ADVICE = "the other workers were ended; continue with --resume run\n"


@pytest.mark.parametrize("name", ["plain", "50%? #1"])
def test_all_succeed(launch: Launch, tmp_path: Path, name: str) -> None:
    """They meet by a file in the folder for temporary ones."""
    (tmp_path / name).mkdir()
    assert launch(SUM, TMPDIR=str(tmp_path / name)).result() == (0, "worker 0 of 2: 1\n", "")


def test_the_one_that_raises_is_named(launch: Launch) -> None:
    run = launch(FAILING)
    assert run.result() == (2, "", "surmin: worker 1: it broke\n")
    assert run.survivors() == []


def test_the_one_that_is_killed_is_named(launch: Launch) -> None:
    run = launch(ENDLESS)
    run.wait_for("ready")
    check_a_kill(run, 0)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_at_any_moment(launch: Launch, moment: int) -> None:
    """From the first imports to many rounds; at random ones of a training run in tests/distributed/test_train.py."""
    run, rank = launch(ENDLESS, 3), moment % 3
    run.pid(rank)
    with pytest.raises(subprocess.TimeoutExpired):
        run.supervisor.wait(5 * (moment + 0.5) / MOMENTS)
    check_a_kill(run, rank)


def check_a_kill(run: SupervisedRun, rank: int) -> None:
    os.kill(run.pid(rank), signal.SIGKILL)
    code, output, errors = run.result(20)
    said = [line for line in errors.splitlines(keepends=True) if "/gloo/transport/" not in line]
    # gloo's own log speaks up as well where the one it is connecting to is gone
    assert (code, output, "".join(said)) == (3, "", f"surmin: worker {rank} was killed by SIGKILL; {ADVICE}")
    assert run.survivors() == []


def test_the_one_that_hangs_is_named(launch: Launch) -> None:
    run = launch(RING, 3, timeout=6)
    run.wait_for("ready")
    os.kill(run.pid(1), signal.SIGSTOP)
    assert run.result() == (3, "", f"surmin: worker 1 did not answer within 4.4 s; {ADVICE}")
    assert run.survivors() == []


@pytest.mark.slow
def test_the_one_that_does_not_join_is_named(launch: Launch) -> None:
    run = launch(IN_A_GROUP + "while worker.rank == 1:\n    pass\nwith joined(worker, 1.7):\n    pass\n", timeout=3)
    assert run.result() == (3, "", f"surmin: worker 1 did not answer within 1.7 s; {ADVICE}")
    assert run.survivors() == []


def test_an_interrupt_ends_all_after_the_same_round(launch: Launch) -> None:
    run = launch(STOPPING_TOGETHER)
    run.wait_for("ready")
    os.kill(run.supervisor.pid, signal.SIGINT)
    assert run.result() == (130, "", "")
    first, second = ((run.folder / f"rounds-{rank}").read_text() for rank in range(2))
    assert first == second


@pytest.mark.slow
def test_no_worker_outlives_a_supervisor_that_is_killed(launch: Launch) -> None:
    run = launch(ENDLESS)
    run.wait_for("ready")
    run.supervisor.kill()
    wait_until(lambda: run.survivors() == [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "code", "output", "errors"),
    [
        (SUM, 0, ["worker 0 of 2: 1", "worker 1 of 2: 1"], ""),
        (FAILING, 1, [], "surmin: worker 1: it broke\n"),
    ],
)
def test_torchrun(tmp_path: Path, script: str, code: int, output: list[str], errors: str) -> None:
    with torchrun(tmp_path, script) as started:
        said, complained = started.communicate(timeout=60)
    assert started.returncode == code
    assert sorted(said.splitlines()) == output
    assert errors in complained


@pytest.mark.slow
def test_a_hang_under_torchrun_ends_before_torchrun_would_end_it(tmp_path: Path) -> None:
    with torchrun(tmp_path, HANGING) as started:
        _, errors = started.communicate(timeout=60)
    seconds = time.time() - (tmp_path / "waiting").stat().st_mtime
    assert seconds < 25  # 8 of waiting, and some for ending; torchrun would wait for 30 more
    assert "surmin: worker 0: timed out waiting for another worker (" in errors
    assert "surmin: worker 1: lost worker 0 (it has failed, and this worker did not notice by itself)\n" in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_torchrun_ends_all_after_the_same_round(tmp_path: Path, number: int) -> None:
    with torchrun(tmp_path, STOPPING_TOGETHER) as started:
        wait_until(lambda: all((tmp_path / f"ready-{rank}").exists() for rank in range(2)))
        started.send_signal(number)
        _, errors = started.communicate(timeout=60)
    assert "surmin:" not in errors
    first, second = ((tmp_path / f"rounds-{rank}").read_text() for rank in range(2))
    assert first == second


@contextmanager
def torchrun(folder: Path, script: str) -> Iterator[subprocess.Popen[str]]:
    """Two workers that run a script in a folder."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize(
    ("address", "here", "kept"),
    [
        ("127.0.0.1", None, True),
        ("localhost", "1", True),
        ("a-machine", "2", True),
        ("a-machine", "1", False),
        ("a-machine", None, False),
        ("", None, False),
    ],
)
def test_whether_all_workers_are_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, address: str, here: str | None, kept: bool
) -> None:
    monkeypatch.setattr(os, "environ", {"MASTER_ADDR": address} | ({} if here is None else {"LOCAL_WORLD_SIZE": here}))
    assert are_all_here(2) is kept


def test_an_interface_that_was_chosen_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    monkeypatch.setattr(os, "environ", {"GLOO_SOCKET_IFNAME": "eth0"})
    keep_to_loopback()
    assert os.environ == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "lo"}


@pytest.mark.parametrize(
    ("text", "late", "detail"),
    [
        ("[/x/unbound_buffer.cc:78] Timed out waiting 3000ms for recv", True, "Timed out waiting 3000ms for recv"),
        ("Wait timeout", True, "Wait timeout"),
        ("[/x/gloo/transport/tcp/pair.cc:1] Connection closed by peer [::1]:8. Check the logs", False, None),
    ],
)
def test_a_communication_that_fails_names_the_peer(text: str, late: bool, detail: str | None) -> None:
    with pytest.raises(PeerError) as raised, answer_from(2):
        raise RuntimeError(text)
    assert (raised.value.late, raised.value.peer) == (late, 2)
    what = "timed out waiting for" if late else "lost"
    assert str(raised.value) == f"{what} worker 2 ({detail or 'Connection closed by peer [::1]:8'})"
    assert Report.of(raised.value).peer == 2


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("timed out")])
def test_other_errors_are_one_s_own(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, answer_from(2):
        raise error
    assert raised.value is error
