"""A run's folder: `config.json`, `metrics.jsonl` and `checkpoint/`. Importing this imports no torch."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from surmin import __version__
from surmin.experiments.configs.saved import CommandConfig, document
from surmin.experiments.files import read_json, write_json

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RunFolder:
    """Where a run's files are. `curves.png` is drawn from them later."""

    path: Path

    @property
    def config(self) -> Path:
        """The options, and what they ran on."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row per round."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The network and the method's memory, after the last saved round."""
        return self.path / "checkpoint"


def default_folder(command: str, data: str) -> Path:
    """A new folder under runs/, named by what is run, when, and in which process, and by a number if that is taken.

    It is not made yet, so that a refused command leaves nothing: other processes choose other names.
    """
    name = f"{command.replace(':', '.')}-{data_name(data)}-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    paths = (Path("runs") / f"{name}{ending}" for ending in chain([""], (f"-{number}" for number in count(2))))
    return next(path for path in paths if not path.exists())


def data_name(data: str) -> str:
    """What folders and titles call the data: a word as is, a file without .npz, a folder by its name, even "."."""
    path = Path(os.path.abspath(os.path.expanduser(data)))  # follows no link: a folder mnist may be one
    return path.stem if path.suffix == ".npz" else path.name


def claim_folder(path: Path) -> None:
    """Make an empty folder, or take one that exists and is empty.

    Raises:
        ValueError: if it is not empty; nothing has changed then.
    """
    check_unclaimed(path)
    path.mkdir(parents=True, exist_ok=True)


def check_unclaimed(path: Path) -> None:
    """Raise ValueError if it is not empty, or no folder can be made there."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, not a folder to write a run into")
    if path.is_dir() and any(path.iterdir()):
        continued = f"; a run, a comparison or a grid that was cut off there is continued with --resume {path}"
        raise ValueError(
            f"{path} is not empty: name another folder with --out" + continued * RunFolder(path).config.exists()
        )
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise ValueError(f"{path} cannot be made, {nearest} is a file: name another folder with --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be made, nothing may be written in {nearest}: name another folder with --out")


class FolderInUseError(ValueError):
    """Another process writes there."""


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """An empty folder, made if need be, that no other process claims or writes into meanwhile.

    What was made for it is removed again if nothing is written there.

    Raises:
        ValueError: if it is not empty.
        FolderInUseError: if another process is about to write there.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    claim_folder(path)
    with written_by_one(path):
        check_unclaimed(path)  # once more: another may have claimed and left it since
        try:
            yield
        finally:
            with suppress(OSError):  # not empty
                for folder in missing:
                    folder.rmdir()


@contextmanager
def written_by_one(path: Path) -> Iterator[None]:
    """No other process writes into the folder meanwhile, if its file system has locks.

    Raises:
        FolderInUseError: if another process does.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise FolderInUseError(f"{path} is being written by another run: wait for its end, or stop it") from error
    except OSError:
        pass  # there are no locks there
    try:
        yield
    finally:
        os.close(folder)


def write_config(path: Path, config: CommandConfig, device: "torch.device") -> None:
    """Write `config.json`: the options under their names, and beside them what they ran with."""
    import torch  # here: looking at a folder need not wait for it

    environment = {
        "surmin": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": _device_name(device),
        "device_type": device.type,
    }
    write_json(path, document(config, environment=environment))


def check_device(path: Path, device: "torch.device") -> None:
    """Raise ValueError if a folder of results was written on another kind of device: a table has times of one."""
    found, here = read_json(path / "config.json", lambda it: it["environment"].get("device")), _device_name(device)
    if found != here:
        raise ValueError(
            f"{path}: its times are of {found}, and this is {here}: times of two devices do not belong in one table; "
            "start another folder"
        )


def _device_name(device: "torch.device") -> str:
    """The GPU's, or that of the processor's kind."""
    import torch  # here: who only looks at a folder need not wait for it

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
