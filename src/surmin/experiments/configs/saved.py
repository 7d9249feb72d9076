"""The options a folder of results was made with. Importing this imports no torch."""

from collections.abc import Mapping, Set
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from surmin import __version__
from surmin.experiments.configs.lists import names
from surmin.experiments.files import read_json
from surmin.methods.registry import flag
from surmin.own_code import is_own

MAY_CHANGE = frozenset(
    {
        "rounds",
        "evaluate_every",
        "target_loss",
        "stages",
        "microbatches",
        "workers",
        "replicas",
        "schedule",
        "timeout",
        "checkpoint_seconds",
        "threads",
        "device",
        "data_dir",
    }
)
"""Options that may change when a run is continued; the rest decide what is computed."""


class CommandConfig(Protocol):
    """The options of a command."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    command: ClassVar[str]

    def check(self) -> None:
        """Raise ValueError for an impossible value, naming the option."""


Config = TypeVar("Config", bound=CommandConfig)


def document(config: CommandConfig, **beside: Any) -> dict[str, Any]:
    """What a folder records of the options it was made with, and what else goes beside them."""
    return {"command": config.command, "options": asdict(config), **beside}


def read_config(path: Path, kind: type[Config]) -> Config:
    """The options in a folder's `config.json`.

    Raises:
        ValueError: if there is no such file or its options are not of that kind.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder to resume")
    config: Config = read_json(path / "config.json", lambda found: parse_options(_options(found, kind), kind))
    return config


def parse_options(values: Any, kind: type[Config]) -> Config:
    """The config with these plain values, lists standing for tuples.

    Raises:
        ValueError: if they are not valid, saying which option is wrong.
    """
    if not isinstance(values, dict):
        raise ValueError("not a table of options")
    foreign = sorted(set(values) - {field.name for field in fields(kind)})
    if foreign:
        raise ValueError(f"unknown option {foreign[0]!r}")
    config = kind(**{name: tuple(item) if isinstance(item, list) else item for name, item in values.items()})
    config.check()
    return config


def check_version(path: Path) -> None:
    """Raise ValueError if a folder of results was written by another version: tables do not mix versions."""

    def version(document: Any) -> str:
        try:
            return str(document["environment"]["surmin"])
        except (KeyError, TypeError) as error:
            raise ValueError("no environment and version in it") from error

    found = read_json(path / "config.json", version)
    if found != __version__:
        raise ValueError(
            f"{path}: written by surmin {found}, and this is {__version__}: results of two versions do not belong in "
            "one table; start another folder"
        )


def check_unchanged(old: Any, new: Any, may_change: Set[str] = MAY_CHANGE) -> None:
    """Raise ValueError if an option changed between two configs of one kind that must not."""
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after and field.name not in may_change:
            raise ValueError(f"{flag(field.name)} cannot change on resuming: the run has {before}, not {after}")


def check_own_code(given: Any, config: Any, folder: Path) -> None:
    """Raise ValueError unless the user, too, names the code that is in the options only because a folder has it."""
    for option in ("model", "loss", "method", "methods"):
        known = names(getattr(given, option, ""))
        for name in names(getattr(config, option, "")):
            if is_own(name) and name not in known:
                raise ValueError(
                    f"{folder} was made with {flag(option)} {name}: pass it again: surmin does not run code just "
                    "because a saved file names it"
                )


def _options(document: Any, kind: type[CommandConfig]) -> Any:
    if not isinstance(document, Mapping) or not {"command", "options"} <= document.keys():
        raise ValueError("no command and options in it")
    if document["command"] != kind.command:
        raise ValueError(f"written by surmin {document['command']}, not surmin {kind.command}")
    return document["options"]
