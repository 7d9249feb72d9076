"""Continuing is advised where there is something to continue."""

from pathlib import Path

import pytest
import torch

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.checkpoints.round_folder import REPLACED, UNFINISHED, newest_round
from surmin.experiments.runs.folder import RunFolder
from surmin.launch.supervisor import CHECKPOINTS
from tests.launch.cases import WORKER, Launch

KILLED = WORKER + "if worker.rank == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(100)\n"
FAILING = WORKER + "if worker.rank == 1:\n    worker.fail(ERROR)\ntime.sleep(100)\n"
DISK_FULL = FAILING.replace("ERROR", "OSError(28, 'No space left on device', 'run/metrics.jsonl')")
REFUSED = FAILING.replace("ERROR", "ValueError('it cannot change')")
ADVICE = "; continue with --resume run"


@pytest.mark.parametrize(
    ("script", "code", "message", "advice"),
    [
        (KILLED, 3, "worker 1 was killed by SIGKILL; the other workers were ended", ADVICE),
        (DISK_FULL, 2, "worker 1: run/metrics.jsonl: No space left on device", ADVICE),
        (REFUSED, 2, "worker 1: it cannot change", ""),
    ],
)
def test_a_checkpoint_is_pointed_at(launch: Launch, script: str, code: int, message: str, advice: str) -> None:
    assert launch(script).result() == (code, "", f"surmin: {message}{advice}\n")


def test_one_whose_replacement_was_interrupted_is_too(launch: Launch) -> None:
    message = "worker 1 was killed by SIGKILL; the other workers were ended"
    run = launch(KILLED, checkpoint=f"round-000012{REPLACED}")
    assert run.result() == (3, "", f"surmin: {message}{ADVICE}\n")


@pytest.mark.parametrize("checkpoint", [".", f"round-000000{UNFINISHED}"])
@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        (KILLED, 3, "worker 1 was killed by SIGKILL; the other workers were ended"),
        (DISK_FULL, 2, "worker 1: run/metrics.jsonl: No space left on device"),
    ],
)
def test_before_there_is_one_none_is(launch: Launch, checkpoint: str, script: str, code: int, message: str) -> None:
    assert launch(script, checkpoint=checkpoint).result() == (code, "", f"surmin: {message}\n")


def test_a_checkpoint_is_where_it_is_looked_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for number in (9, 1_234_567):
        Checkpoint(number, "adam", {"0.weight": torch.ones(1)}, {}).save(folder.checkpoint, None)
        assert [path for name in CHECKPOINTS for path in tmp_path.glob(name)] == [newest_round(folder.checkpoint)]
