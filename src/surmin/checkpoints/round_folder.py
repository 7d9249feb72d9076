"""The folder `checkpoint/`: `round-000012/` in it is complete or absent, with one safetensors file per worker.

The files are written by `torch.distributed.checkpoint` and read by safetensors alone: one file after the other, so that
an error names it, and nothing pickled is read. No file contains anything pickled; but while several workers save, torch
sends what each is to write, and has written, from one to another pickled, inside their own process group.
"""

import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult

from surmin.checkpoints.disk import sync_file, sync_folder
from surmin.checkpoints.tensor_tree import StoredTensors

UNFINISHED, REPLACED = ".unfinished", ".replaced"
"""Suffixes of a round's folder while it is being written, and while another for the same round replaces it."""
ROUND = re.compile(rf"round-(\d+)({re.escape(UNFINISHED)}|{re.escape(REPLACED)})?")


def newest_round(folder: Path) -> Path | None:
    """The folder of the last round that has a checkpoint."""
    whole = [path for path in _rounds(folder) if path.suffix != UNFINISHED]
    return max(whole, key=lambda path: (round_number(path), path.suffix != REPLACED), default=None)


def existing_round(folder: Path) -> Path:
    """The same; raises ValueError if there is none."""
    newest = newest_round(folder)
    if newest is None:
        raise ValueError(f"{folder}: no checkpoint in it")
    return newest


def round_number(path: Path) -> int:
    """The round a folder is named after."""
    return int(path.stem.removeprefix("round-"))


def write_round(
    folder: Path,
    number: int,
    tensors: Mapping[str, Tensor],
    check: Callable[[Path], None],
    group: dist.ProcessGroup | None,
) -> None:
    """Write this worker's tensors; all workers of the group write at the same time. Older rounds are then removed.

    Args:
        folder: the same for all workers.
        number: the round.
        tensors: by name, contiguous on the CPU. If several workers have the same name, the first one's is written.
        check: inspects the unfinished folder on worker 0, and raises if it must not be put in place.
        group: the workers; None for a single process.

    Raises:
        OSError: also if another worker failed; the last checkpoint is still there.
    """
    writer = _RoundWriter(folder / f"round-{number:06}", check)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
            save(dict(tensors), storage_writer=writer, planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _cause(error, rank_and_count(group)[0]) from error


@contextmanager
def open_round(path: Path) -> Iterator[StoredTensors]:
    """The tensors in the folder of a round, by name.

    Raises:
        ValueError: if a file cannot be read, in one line with its name.
    """
    with ExitStack() as stack:
        tensors: dict[str, Callable[[], Tensor]] = {}
        for file_path in sorted(path.glob("*.safetensors")):
            try:
                file = stack.enter_context(safe_open(file_path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{file_path}: not a checkpoint that can be read: {error}") from error
            tensors |= {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        yield tensors


def rank_and_count(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """This worker's number in the group and the number of workers."""
    return (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))


class _RoundWriter(HuggingFaceStorageWriter):
    """Writes beside `place`; when all workers have written, worker 0 moves the result there."""

    def __init__(self, place: Path, check: Callable[[Path], None]) -> None:
        self.place, self.check = place, check
        self.unfinished, self.replaced = (place.with_name(f"{place.name}{end}") for end in (UNFINISHED, REPLACED))
        super().__init__(str(self.unfinished), save_distributed=True)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On worker 0, before any worker writes: files left by a crash are not part of this checkpoint."""
        shutil.rmtree(self.unfinished)
        self.unfinished.mkdir()
        return super().prepare_global_plan(plans)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On worker 0, when all have written; if it raises, `save` raises on all workers."""
        self.check(self.unfinished)
        for path in _list(self.unfinished):
            sync_file(path)
        sync_folder(self.unfinished)
        if self.place.exists():
            shutil.rmtree(self.replaced, ignore_errors=True)
            self.place.rename(self.replaced)  # which is what is read until the next line is done
        self.unfinished.rename(self.place)
        sync_folder(self.place.parent)
        for path in _rounds(self.place.parent):
            if path != self.place:
                shutil.rmtree(path, ignore_errors=True)


def _list(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _rounds(folder: Path) -> list[Path]:
    """The folders of rounds, including unfinished ones."""
    return [path for path in _list(folder) if ROUND.fullmatch(path.name)]


def _cause(error: CheckpointException, rank: int) -> BaseException:
    """What this worker raises: its own error if it has one, otherwise one that names the worker at fault."""
    if rank in error.failures:
        return error.failures[rank][0]
    worker = min(error.failures)
    cause = error.failures[worker][0]
    return OSError(f"worker {worker} could not write the checkpoint: {type(cause).__name__}: {cause}")
