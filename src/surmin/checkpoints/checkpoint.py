"""Checkpoints: written by all workers together, each its own part, and readable by any other number of them.

Parameters are stored under their global names, so that a network cut into 4 stages resumes on 2 or 1. Every worker adds
a document, JSON in a tensor of bytes under `worker/` and its number: the round, the method's class and its state, whose
tensors are stored beside the parameters under `method/` and their path. The whole is the union of the documents.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import ProcessGroup

from surmin.checkpoints.round_folder import existing_round, open_round, rank_and_count, round_number, write_round
from surmin.checkpoints.tensor_tree import StoredTensors, leaves, merge, pack, unpack, without
from surmin.methods.base import Method
from surmin.value_types import is_whole

FORMAT = "surmin checkpoint 7"
STATE = "method"
WORKER = "worker"


@dataclass(frozen=True)
class Checkpoint:
    """A network after `round` rounds and what its method remembers.

    On several workers, parameters and the state's tensors are those of one worker, under the parameters' global names;
    everything else in the state is the same on all.

    `others` counts further parameters in it, which were not requested when it was read.
    """

    round: int
    method: str
    parameters: Mapping[str, Tensor]
    state: Mapping[str, Any]
    others: int = 0

    @classmethod
    def of(cls, method: Method, round: int) -> "Checkpoint":
        """This worker's part of a method and its network."""
        return cls(round, type(method).__name__, method.pipeline.parameters, method.state_dict())

    def save(self, folder: Path, group: ProcessGroup | None) -> None:
        """Write it to disk before the last one is removed; every worker of the group must call this.

        Args:
            folder: where a run's checkpoints are, the same folder for all workers.
            group: the workers; None for a single process.

        Raises:
            OSError: if a worker could not write its part; the last checkpoint is still there.
            ValueError: if the workers' parts are not one checkpoint; the last one is still there.
        """
        rank, workers = rank_and_count(group)
        tensors = dict(self.parameters)
        document = {
            "format": FORMAT,
            "workers": workers,
            "round": self.round,
            "method": self.method,
            "state": pack(self.state, STATE, tensors),
        }
        tensors[f"{WORKER}/{rank}"] = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
        write_round(folder, self.round, {name: _copy(value) for name, value in tensors.items()}, _check_whole, group)

    @classmethod
    def load(cls, folder: Path, names: Collection[str] | None = None) -> "Checkpoint":
        """Read the newest checkpoint of a run.

        Args:
            folder: where the run's checkpoints are.
            names: the parameters wanted, None for all. State stored under other parameters' names is left out.

        Raises:
            ValueError: if there is no whole checkpoint, in one line with the file's name.
        """
        return cls.read(existing_round(folder), names)

    @classmethod
    def read(cls, path: Path, names: Collection[str] | None = None) -> "Checkpoint":
        """Read the checkpoint in the folder of a round, as `load` reads the newest."""
        with open_round(path) as stored:
            try:
                document = _read_document(stored)
                if document["round"] != round_number(path):
                    raise ValueError(f"it says that it is of round {document['round']}")
                everything = {name for name in stored if not name.startswith((f"{STATE}/", f"{WORKER}/"))}
                own = everything if names is None else everything.intersection(names)
                state = unpack(without(document["state"], everything - own), stored)
                parameters = {name: stored[name]() for name in own}
                return cls(document["round"], document["method"], parameters, state, len(everything - own))
            except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"{path}: not a checkpoint that can be read: {error}") from error

    def check_method(self, method: str) -> None:
        """Raise ValueError unless this is a checkpoint of that method."""
        if self.method != method:
            raise ValueError(f"the checkpoint is of method {self.method}, not {method}")

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless this is a whole checkpoint of a network with these parameters."""
        stored = {name: (tuple(value.shape), value.dtype) for name, value in self.parameters.items()}
        wanted = {name: (tuple(value.shape), value.dtype) for name, value in parameters.items()}
        for name in sorted(stored.keys() | wanted.keys()):
            if stored.get(name) != wanted.get(name):
                raise ValueError(
                    f"the checkpoint is of another network: parameter {name} is {_describe(stored.get(name))} there "
                    f"and {_describe(wanted.get(name))} here"
                )
        broken = self.not_finite()
        if broken is not None:
            raise ValueError(f"the checkpoint is damaged: {broken} is not finite")

    def not_finite(self) -> str | None:
        """The first thing in it that is not finite, if any: training could not be continued from there."""
        parts: dict[str, Any] = {f"parameter {name}": value for name, value in self.parameters.items()}
        parts |= {f"{path} of what the method remembers": leaf for path, leaf in leaves(self.state)}
        return next((name for name, value in parts.items() if not _is_finite(value)), None)

    @torch.no_grad()
    def restore(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the parameters into a network's; `check` first."""
        for name, parameter in parameters.items():
            parameter.copy_(self.parameters[name])


def _is_finite(value: object) -> bool:
    return (
        bool(torch.isfinite(value).all())
        if isinstance(value, Tensor)
        else not isinstance(value, float) or isfinite(value)
    )


def _copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU with its own memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _check_whole(path: Path) -> None:
    """Read the documents back: what cannot be loaded must not replace the last checkpoint."""
    with open_round(path) as stored:
        try:
            _read_document(stored)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; do all workers write the same round to the same folder?") from error


def _read_document(stored: StoredTensors) -> dict[str, Any]:
    """The union of all workers' documents."""
    document = _read_part(stored, 0)
    for rank in range(1, document["workers"]):
        document = merge(document, _read_part(stored, rank))
    if not (is_whole(document["round"]) and isinstance(document["state"], dict)):
        raise ValueError("round or state is missing or of another kind")
    return document


def _read_part(stored: StoredTensors, rank: int) -> dict[str, Any]:
    name = f"{WORKER}/{rank}"
    if name not in stored:
        raise ValueError(f"the part of worker {rank} is missing")
    document: dict[str, Any] = json.loads(stored[name]().numpy().tobytes())
    if document["format"] != FORMAT:
        raise ValueError("it is of another version of surmin")
    return document


def _describe(kind: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "missing" if kind is None else f"{str(kind[1]).removeprefix('torch.')} {list(kind[0])}"
