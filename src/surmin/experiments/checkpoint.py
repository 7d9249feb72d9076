"""Checkpoints: one safetensors file, replaced in one step, with nothing pickled in it.

Parameters are stored under their global names, so that a network cut into 4 stages resumes on 2 or 1. The method's
state is a JSON document in the file's metadata whose tensors stand beside the parameters, under names that begin with
`method/`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from surmin.experiments.files import replacing

FORMAT = "surmin checkpoint 1"
PREFIX = "method/"
TENSOR = "tensor:"


@dataclass(frozen=True)
class Checkpoint:
    """A network after `round` rounds and what its method remembers."""

    round: int
    method: str
    parameters: Mapping[str, Tensor]
    state: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the file, on the disk before it takes the place of the last one."""
        tensors = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}
        document = {"round": self.round, "method": self.method, "state": _pack(self.state, tensors)}
        with replacing(path) as unfinished:
            unfinished.write_bytes(save(tensors, {"format": FORMAT, "surmin": json.dumps(document)}))

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a file.

        Raises:
            ValueError: when it is not a whole checkpoint, in one line with the file's name.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: not a checkpoint that can be read: {error}") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: not a checkpoint of surmin, or of another version")
        try:
            document = json.loads(metadata["surmin"])
            parameters = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
            checkpoint = cls(document["round"], document["method"], parameters, _unpack(document["state"], tensors))
            if not (type(checkpoint.round) is int and checkpoint.round >= 0 and isinstance(checkpoint.state, dict)):
                raise ValueError("round or state is none")
            return checkpoint
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: the checkpoint is damaged: {error}") from error

    def check(self, method: str, parameters: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless this is a checkpoint of that method for a network with these parameters."""
        if self.method != method:
            raise ValueError(f"the checkpoint is of method {self.method}, not {method}")
        stored = {name: (tuple(value.shape), value.dtype) for name, value in self.parameters.items()}
        wanted = {name: (tuple(value.shape), value.dtype) for name, value in parameters.items()}
        for name in sorted(stored.keys() | wanted.keys()):
            if stored.get(name) != wanted.get(name):
                raise ValueError(
                    f"the checkpoint is of another network: parameter {name} is {_describe(stored.get(name))} there "
                    f"and {_describe(wanted.get(name))} here"
                )

    @torch.no_grad()
    def restore(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the parameters into a network's; `check` first."""
        for name, parameter in parameters.items():
            parameter.copy_(self.parameters[name])


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value with every tensor moved into `tensors` and its name left in its place."""
    if isinstance(value, Tensor):
        name = f"{PREFIX}{len(tensors)}"
        tensors[name] = value.detach().cpu().clone()
        return f"{TENSOR}{name}"
    if isinstance(value, Mapping):
        return {key: _pack(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was packed."""
    if isinstance(value, str) and value.startswith(TENSOR):
        return tensors[value.removeprefix(TENSOR)]
    if isinstance(value, dict):
        return {key: _unpack(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    return value


def _describe(kind: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "missing" if kind is None else f"{str(kind[1]).removeprefix('torch.')} {list(kind[0])}"
