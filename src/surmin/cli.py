"""The command line: parsing only. What a command does is in `surmin.commands`.

To add a command: a dataclass of its arguments, and a line in `COMMANDS`.
"""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, NoReturn, TypeVar, Union

import tyro

from surmin import __version__
from surmin.errors import did_you_mean
from surmin.exit_codes import INTERRUPTED
from surmin.experiments.configs.check import CheckConfig
from surmin.experiments.configs.paper import QUICK, PaperConfig
from surmin.experiments.configs.run import CompareConfig, RunConfig
from surmin.experiments.configs.saved import read_config
from surmin.experiments.configs.simulate import SimulateConfig
from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.launch.reports import DEBUG_VARIABLE, Report
from surmin.launch.worker import this_worker
from surmin.methods.registry import flag
from surmin.own_code import is_own

Config = TypeVar("Config")


@dataclass(frozen=True)
class Arguments(Generic[Config]):
    """Of every command.

    Attributes:
        out: folder to write; named under runs/ by what is run, data and time if not given. Must be new or empty.
    """

    config: tyro.conf.OmitArgPrefixes[Config]
    out: Path | None = None


@dataclass(frozen=True)
class ResumableArguments(Arguments[Config]):
    """Of a command whose work can be continued.

    Attributes:
        resume: folder to continue, into --out if given; its options hold where no others are given, and what is
            finished is kept.
    """

    resume: Path | None = None


class Command(NamedTuple):
    """What its arguments are before any are given; the function that gets their fields by name; and what it does."""

    default: Arguments[Any]
    function: str
    help: str


COMMANDS = {
    "train": Command(
        ResumableArguments(RunConfig()), "train:train",
        "Train one network with one method; writes config.json, metrics.jsonl, checkpoint/ and curves.png.",
    ),
    "compare": Command(
        ResumableArguments(CompareConfig()), "compare:compare",
        "Compare methods on the same problem; writes results.csv, report.html and pictures of the curves.",
    ),
    "paper": Command(
        ResumableArguments(PaperConfig()), "paper:paper",
        "Run the paper's grid, every method tuned, with strong baselines; writes results.csv, pages and pictures.",
    ),
    "check": Command(
        Arguments(CheckConfig()), "check:check",
        "Check gradients, blocks and the bound of a small network against dense algebra; writes check.json.",
    ),
    "timeline": Command(
        Arguments(TimelineConfig()), "timeline:timeline",
        "Trace a few gradient steps and a few rounds of sm on workers; writes timeline.json and timeline.png.",
    ),
    "theory": Command(
        Arguments(TheoryConfig()), "theory:theory",
        "Try Theorem 1 on a smooth network, measure the local losses' tightness; writes tables and pictures of both.",
    ),
    "simulate": Command(
        Arguments(SimulateConfig()), "simulate:simulate",
        "Say where links make which method the fastest, from measured rounds; writes breakeven.csv and breakeven.png.",
    ),
}  # fmt: skip

ON_WORKERS = ("train", "timeline")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; what it returns is the exit code. Errors are one line, unless `DEBUG_VARIABLE` is set."""
    worker = None
    try:
        worker = this_worker()
        command, arguments = parse(sys.argv[1:] if words is None else words)
        if worker is not None and command not in ON_WORKERS:
            raise ValueError(f"surmin {command} runs in one process: start it without torchrun")
        module, function = COMMANDS[command].function.split(":")
        code: int = getattr(import_module(f"surmin.commands.{module}"), function)(**vars(arguments))
        return code
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if worker is not None:
            worker.fail(error)
        report = Report.of(error)
        print(f"surmin: {report.message}", file=sys.stderr)
        return report.code
    except KeyboardInterrupt:
        print("surmin: interrupted", file=sys.stderr)
        return INTERRUPTED


def parse(words: Sequence[str]) -> tuple[str, Any]:
    """The command and its arguments; with `--resume`, those of the run are the defaults, with `--quick` its own.

    Raises:
        ValueError: for what cannot be parsed, in one line.
    """
    command, *rest = words or ("",)
    if command not in COMMANDS:
        _explain(command)
    default = COMMANDS[command].default
    arguments = _parse(command, rest, default)
    if getattr(arguments, "resume", None) is not None:
        saved = read_config(arguments.resume, type(arguments.config))
        _check_own_code(arguments.config, saved, arguments.resume)
        arguments = _parse(command, rest, replace(default, config=saved))
        if arguments.out is not None and arguments.out.resolve() == arguments.resume.resolve():
            arguments = replace(arguments, out=arguments.resume)
    elif getattr(arguments.config, "quick", False):
        arguments = _parse(command, rest, replace(default, config=QUICK))
    return command, arguments


def _check_own_code(given: Any, saved: Any, folder: Path) -> None:
    """Raise ValueError unless what a folder names to be imported is named by the user too."""
    for option in ("model", "method", "methods"):
        name = getattr(saved, option, "")
        if is_own(name) and getattr(given, option) != name:
            raise ValueError(
                f"{folder} was made with {flag(option)} {name}: give that again, as no code of yours is run because a "
                "file names it"
            )


def _explain(word: str) -> NoReturn:
    """Show the commands or the version to those who ask; of any other word say that it is no command."""
    if word == "--version":
        print(f"surmin {__version__}")
        raise SystemExit(0)
    if word in ("-h", "--help"):
        kinds = [
            Annotated[_kind(own.default), tyro.conf.subcommand(name, default=own.default, description=own.help)]
            for name, own in COMMANDS.items()
        ]
        _parse_as(Union[tuple(kinds)], "surmin", [word])  # noqa: UP007 (made at run time)
    known = ", ".join(COMMANDS)
    if not word:
        raise ValueError(f"name a command, one of {known}; see surmin --help")
    raise ValueError(f"unknown command {word!r}: {did_you_mean(word, COMMANDS)}known are {known}")


def _kind(default: Arguments[Any]) -> Any:
    return type(default)[type(default.config)]  # type: ignore[index]


def _parse(command: str, words: Sequence[str], default: Arguments[Any]) -> Any:
    return _parse_as(_kind(default), f"surmin {command}", words, default=default, description=COMMANDS[command].help)


def _parse_as(kind: Any, program: str, words: Sequence[str], **given: Any) -> Any:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=program, args=words, **given, config=(tyro.conf.DisallowNone,))
    except SystemExit as end:
        if end.code == 0:
            raise
        raise ValueError(_squeeze(complaint.getvalue(), program)) from None


def _squeeze(box: str, program: str) -> str:
    """The first paragraph of tyro's framed complaint, and the option it thinks was meant."""
    lines = [line.strip("│| \t") for line in box.splitlines()[1:]]
    text = " ".join(itertools.takewhile(lambda line: line.strip("─-"), lines))
    meant = re.search(r"Perhaps you meant:\W+(--[\w-]+)", " ".join(lines))
    return f"{text.rstrip('.')}; {f'did you mean {meant[1]}?' if meant else f'see {program} --help'}"
