"""Saving and loading a method with its network, alone or on workers, each of which has its own part of both."""

from os import PathLike
from pathlib import Path

import torch

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.checkpoints.round_folder import newest_round, round_number
from surmin.methods.base import Method


def save_checkpoint(folder: str | PathLike[str], minimizer: Method, round: int) -> None:
    """Write the trainable parameters and what the method remembers, named by the network's layers.

    The last checkpoint in the folder is removed when this one is on the disk: a process that is killed at any moment
    leaves one or the other. What does not train (frozen parameters, buffers) is not written.

    On a `Pipeline` all workers call this, replicas too; each writes its own part, and replicas what the first of them
    has: not the samples of their own shares that dni, dladmm, ddg, features-replay and fdg remember. In one process
    nobody else is asked, whether there is a process group or not.

    Args:
        folder: the same for all workers, on a disk that all of them see; made if it is not there.
        minimizer: a `SurrogateMinimizer` or another method.
        round: how many rounds it has made; no fewer than at the checkpoint that is there.

    Raises:
        TypeError: when it is given something else than a path and a method, or both the other way round.
        ValueError: on all workers, for such a round, a path that is a file, or where a parameter or something that the
            method remembers is not finite; the last checkpoint is still there then.
        OSError: when a worker could not write its part; the last checkpoint is still there.

    Examples:
        >>> import tempfile, torch, surmin
        >>> inputs, targets = torch.randn(30, 4), torch.randint(3, (30,))
        >>> def make(stages):
        ...     model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        ...     return surmin.SurrogateMinimizer(surmin.partition(model, stages), surmin.CrossEntropy())
        >>> first, second, folder = make(2), make(1), tempfile.mkdtemp()
        >>> _ = first.step(inputs, targets)
        >>> surmin.save_checkpoint(folder, first, round=1)
        >>> surmin.load_checkpoint(folder, second)
        1
        >>> abs(first.step(inputs, targets).loss - second.step(inputs, targets).loss) < 1e-5
        True
    """
    _check_types("save_checkpoint(folder, minimizer, round)", folder, minimizer)
    pipeline = minimizer.pipeline
    with pipeline.agreeing():
        _check_no_file(Path(folder))
        _check_round(Path(folder), round)
    checkpoint = Checkpoint.of(minimizer, round)
    with pipeline.agreeing():
        broken = checkpoint.not_finite()
        if broken is not None:
            raise ValueError(f"{broken} is not finite: a checkpoint of it could not be continued")
    checkpoint.save(Path(folder), pipeline.group)


def load_checkpoint(folder: str | PathLike[str], minimizer: Method, *, missing_ok: bool = False) -> int:
    """Continue from the newest checkpoint in a folder, whatever number of workers and stages it was written by.

    It can be that of a run of `surmin train`, in the run's folder under `checkpoint`. Nothing in it is unpickled. On a
    `Pipeline` all workers call this.

    Args:
        folder: that was given to `save_checkpoint`.
        minimizer: for the same network, made with the options of the one that was saved; its parameters and its memory
            are replaced.
        missing_ok: leave all as it is where there is no checkpoint yet, instead of raising.

    Returns:
        How many rounds had been made: the number of the next one, counted from 0.

    Raises:
        TypeError: when it is given something else than a path and a method, or both the other way round.
        ValueError: on all workers, when there is no checkpoint, the path is a file, they find different checkpoints, a
            file is damaged, or it is of another network, method or seed, or has parameters that are frozen here; the
            parameters are as they were then. Where one worker of several refuses what the method remembers, others may
            have it already: go on with a new pipeline and method.
    """
    _check_types("load_checkpoint(folder, minimizer)", folder, minimizer)
    path = Path(folder)
    pipeline, newest = minimizer.pipeline, newest_round(path)
    with pipeline.agreeing():
        _check_no_file(path)
    pipeline.agree_on("no checkpoint" if newest is None else f"a checkpoint of round {round_number(newest)}")
    if missing_ok and newest is None:
        return 0
    (trainable,) = pipeline.total(torch.tensor([len(pipeline.parameters)]))
    with pipeline.agreeing():
        checkpoint = Checkpoint.load(path, pipeline.parameters)
        checkpoint.check(type(minimizer).__name__, pipeline.parameters)
        _check_all_wanted(checkpoint, int(trainable))
    with pipeline.agreeing():
        try:
            minimizer.load_state_dict(checkpoint.state)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: {error}") from error
    checkpoint.restore(pipeline.parameters)
    pipeline.forget()
    return checkpoint.round


def _check_types(call: str, folder: object, minimizer: object) -> None:
    """Raise TypeError where one of them is something else, saying what to pass."""
    if not isinstance(folder, str | PathLike) or not hasattr(minimizer, "pipeline"):
        raise TypeError(
            f"{call} takes the path of a folder, then a SurrogateMinimizer or another method (no network), "
            f"got {type(folder).__name__} and {type(minimizer).__name__}"
        )


def _check_no_file(path: Path) -> None:
    """Raise ValueError for a path that cannot be a folder with checkpoints."""
    if path.is_file():
        raise ValueError(f"{path} is a file: give the folder that checkpoints are saved in")


def _check_all_wanted(checkpoint: Checkpoint, trainable: int) -> None:
    """Raise ValueError where it has more than all workers train: some would be left out, and nobody told."""
    stored = len(checkpoint.parameters) + checkpoint.others
    if stored != trainable:
        raise ValueError(
            f"the checkpoint has {stored} parameters, and {trainable} train here: it is of another network, or some "
            "are frozen here; load it with these unfrozen, then freeze them and make a new pipeline and method"
        )


def _check_round(folder: Path, round: int) -> None:
    """Raise ValueError for what is no number of rounds, or before the checkpoint that is there."""
    if isinstance(round, bool) or not isinstance(round, int) or round < 0:
        raise ValueError(f"round must be a whole number from 0 up, got {round!r}")
    newest = newest_round(folder)
    if newest is not None and round_number(newest) > round:
        raise ValueError(f"{newest} is of a later round than {round}: load it first, or save into another folder")
