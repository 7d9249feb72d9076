"""Saving and loading a method with its network, in one process or on workers that each hold a part of both."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from surmin.checkpoints.checkpoint import Checkpoint
from surmin.checkpoints.round_folder import existing_round, newest_round, round_number
from surmin.methods.base import Method
from surmin.stages.stage import modules_of, parameters_of, stages_of
from surmin.value_types import is_whole


def save_checkpoint(folder: str | PathLike[str], minimizer: Method, round: int) -> None:
    """Write the trainable parameters and what the method remembers, named by the network's layers.

    The previous checkpoint in the folder is removed once this one is on disk: a process killed at any moment leaves one
    or the other. What does not train (frozen parameters, buffers) is not written.

    On a `Pipeline` all workers call this, replicas too. Each writes its own part; of replicas only the first's state is
    saved, without the samples that dni, dladmm, ddg, features-replay and fdg remember of the others' shares. A pipeline
    in one process saves by itself, even inside a process group.

    Args:
        folder: the same for all workers, on a disk they all see; created if it does not exist.
        minimizer: a `SurrogateMinimizer` or another method.
        round: how many rounds it has made; no fewer than at the checkpoint already there.

    Raises:
        TypeError: if the arguments are not a path and a method, in that order.
        ValueError: on all workers, if the round is impossible, the path is a file, or a parameter or something the
            method remembers is not finite; the previous checkpoint is still there then.
        OSError: if a worker could not write its part; the previous checkpoint is still there.

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
    """Continue from the newest checkpoint in a folder, whatever number of workers and stages wrote it.

    The `checkpoint/` folder of a `surmin train` run works too. Nothing in it is unpickled. On a `Pipeline` all workers
    call this.

    Args:
        folder: the folder passed to `save_checkpoint`.
        minimizer: for the same network, made with the options of the saved one; its parameters and memory are replaced.
        missing_ok: if there is no checkpoint yet, change nothing instead of raising.

    Returns:
        How many rounds had been made: the number of the next one, counted from 0.

    Raises:
        TypeError: if the arguments are not a path and a method, in that order.
        ValueError: on all workers, if there is no checkpoint, the path is a file, workers find different checkpoints, a
            file is damaged, or it is of another network, method or seed, or has parameters that are frozen here. The
            parameters are unchanged then. If one of several workers refuses what the method remembers, others may
            already have it: go on with a new pipeline and method.
    """
    _check_types("load_checkpoint(folder, minimizer)", folder, minimizer)
    path = Path(folder)
    pipeline = minimizer.pipeline
    with pipeline.agreeing():
        _check_no_file(path)
        newest = newest_round(path) if missing_ok else existing_round(path)
    pipeline.agree_on("no checkpoint" if newest is None else f"a checkpoint of round {round_number(newest)}")
    if newest is None:
        return 0
    (trainable,) = pipeline.total(torch.tensor([len(pipeline.parameters)]))
    with pipeline.agreeing():
        checkpoint = Checkpoint.read(newest, pipeline.parameters)
        checkpoint.check_method(type(minimizer).__name__)
        checkpoint.check(pipeline.parameters)
        _check_all_wanted(checkpoint, int(trainable))
    with pipeline.agreeing():
        try:
            minimizer.load_state_dict(checkpoint.state)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: {error}") from error
    checkpoint.restore(pipeline.parameters)
    pipeline.forget()
    return checkpoint.round


def load_parameters(folder: str | PathLike[str], stages: nn.Module | Sequence[nn.Module]) -> int:
    """Load the trained parameters of the newest checkpoint into a network, whatever method and workers trained it.

    This is for using a network. `load_checkpoint` continues its training: it restores what the method remembers, too.

    Args:
        folder: the folder passed to `save_checkpoint`, or the `checkpoint/` folder of a `surmin train` run.
        stages: the network in this process, as one module or as the list of its stages.

    Returns:
        How many rounds the network was trained for.

    Raises:
        ValueError: if there is no checkpoint, the path is a file, a file is damaged, or it is of another network or has
            parameters that are frozen here; nothing has changed then.
    """
    path = Path(folder)
    _check_no_file(path)
    parameters = parameters_of(stages_of(modules_of(stages)))
    checkpoint = Checkpoint.read(existing_round(path), parameters)
    checkpoint.check(parameters)
    _check_all_wanted(checkpoint, len(parameters))
    checkpoint.restore(parameters)
    return checkpoint.round


def _check_types(call: str, folder: object, minimizer: object) -> None:
    """Raise TypeError if either is something else, saying what to pass."""
    if not isinstance(folder, str | PathLike) or not hasattr(minimizer, "pipeline"):
        raise TypeError(
            f"{call} takes the path of a folder, then a SurrogateMinimizer or another method (no network), "
            f"got {type(folder).__name__} and {type(minimizer).__name__}"
        )


def _check_no_file(path: Path) -> None:
    """Raise ValueError if the path is a file."""
    if path.is_file():
        raise ValueError(f"{path} is a file: give the folder that checkpoints are saved in")


def _check_all_wanted(checkpoint: Checkpoint, trainable: int) -> None:
    """Raise ValueError if it has more than all workers train: some would be left out silently."""
    stored = len(checkpoint.parameters) + checkpoint.others
    if stored != trainable:
        raise ValueError(
            f"the checkpoint has {stored} parameters, and {trainable} train here: it is of another network, or some "
            "are frozen here; load it with these unfrozen, then freeze them and make a new pipeline and method"
        )


def _check_round(folder: Path, round: int) -> None:
    """Raise ValueError if it is not a number of rounds, or is before the existing checkpoint."""
    if not is_whole(round):
        raise ValueError(f"round must be a whole number from 0 up, got {round!r}")
    newest = newest_round(folder)
    if newest is not None and round_number(newest) > round:
        raise ValueError(f"{newest} is of a later round than {round}: load it first, or save into another folder")
