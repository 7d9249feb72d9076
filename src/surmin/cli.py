"""The command line: parsing only. What a command does is in the function and file of its name in `surmin.commands`.

To add a command: such a function, which takes the fields of its arguments by name, and a line in `COMMANDS`.
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
from surmin.commands.output import drop_lost_output, flush_output, say
from surmin.errors import did_you_mean
from surmin.exit_codes import INTERRUPTED
from surmin.experiments.configs.check import CheckConfig
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.configs.paper import QUICK, PaperConfig
from surmin.experiments.configs.run import RunConfig
from surmin.experiments.configs.saved import check_own_code, read_config
from surmin.experiments.configs.simulate import SimulateConfig
from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.configs.timeline import TimelineConfig
from surmin.launch.reports import DEBUG_VARIABLE, Report
from surmin.launch.worker import this_worker

Config = TypeVar("Config")


@dataclass(frozen=True)
class Arguments(Generic[Config]):
    """Arguments of every command.

    Attributes:
        out: folder to write to, new or empty; if not given, named under runs/ by what is run, data and time.
    """

    config: tyro.conf.OmitArgPrefixes[Config]
    out: Path | None = None


@dataclass(frozen=True)
class ResumableArguments(Arguments[Config]):
    """Arguments of a command whose work can be continued.

    Attributes:
        resume: folder to continue, into --out if given; its options hold unless others are given, and what is finished
            is kept.
    """

    resume: Path | None = None


class Command(NamedTuple):
    """A command: its arguments before any are given, and its help."""

    default: Arguments[Any]
    help: str


COMMANDS = {
    "train": Command(
        ResumableArguments(RunConfig()),
        "Train one network with one method; writes config.json, metrics.jsonl, checkpoint/ and curves.png.",
    ),
    "compare": Command(
        ResumableArguments(CompareConfig()),
        "Compare methods on the same problem; writes results.csv, report.html and plots of the curves.",
    ),
    "paper": Command(
        ResumableArguments(PaperConfig()),
        "Run the paper's grid, every method tuned, with strong baselines; writes results.csv, pages and plots.",
    ),
    "check": Command(
        Arguments(CheckConfig()),
        "Check gradients, blocks and the bound of a small network against dense algebra; writes check.json.",
    ),
    "timeline": Command(
        Arguments(TimelineConfig()),
        "Trace a few gradient steps and a few rounds of sm on workers; writes timeline.json and timeline.png.",
    ),
    "theory": Command(
        Arguments(TheoryConfig()),
        "Test Theorem 1 on a smooth network and measure the local losses' tightness; writes tables and plots of both.",
    ),
    "simulate": Command(
        Arguments(SimulateConfig()),
        "Tell which method is fastest over which links, from measured rounds; writes breakeven.csv and breakeven.png.",
    ),
}  # fmt: skip

ON_WORKERS = ("train", "timeline")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Errors are one line, unless `DEBUG_VARIABLE` is set."""
    worker = None
    _keep_to_encodings()
    try:
        worker = this_worker()
        command, arguments = parse(sys.argv[1:] if words is None else words)
        if worker is not None and command not in ON_WORKERS:
            raise ValueError(f"surmin {command} runs in one process: start it without torchrun")
        run = getattr(import_module(f"surmin.commands.{command}"), command)
        code: int = run(**vars(arguments))
        flush_output()
        return code
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if worker is not None:
            worker.fail(error)
        report = Report.of(error)
        say(report.message)
        return report.code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    finally:
        drop_lost_output()


def parse(words: Sequence[str]) -> tuple[str, Any]:
    """The command and its arguments; with `--resume`, the run's are the defaults, with `--quick` its own.

    Raises:
        ValueError: if the words cannot be parsed; one line.
    """
    command, *rest = words or ("",)
    if command not in COMMANDS:
        _explain(command)
    default = COMMANDS[command].default
    arguments = _parse(command, rest, default)
    if getattr(arguments, "resume", None) is not None:
        given, saved = arguments.config, read_config(arguments.resume, type(arguments.config))
        arguments = _parse(command, rest, replace(default, config=saved))
        check_own_code(given, arguments.config, arguments.resume)
        if arguments.out is not None and arguments.out.resolve() == arguments.resume.resolve():
            arguments = replace(arguments, out=arguments.resume)
    elif getattr(arguments.config, "quick", False):
        arguments = _parse(command, rest, replace(default, config=QUICK))
    return command, arguments


def _keep_to_encodings() -> None:
    """Write a question mark for what a stream's encoding lacks: a λ is not worth the work's end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _explain(word: str) -> NoReturn:
    """Show the commands or the version if asked; say of any other word that it is not a command."""
    if word == "--version":
        print(f"surmin {__version__}", flush=True)
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
    raise ValueError(f"unknown command {word!r}: {did_you_mean(word, COMMANDS)}choose one of {known}")


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
            flush_output()
            raise
        raise ValueError(_squeeze(complaint.getvalue(), program)) from None


def _squeeze(box: str, program: str) -> str:
    """The first paragraph of tyro's framed complaint, and its guess of the option that was meant."""
    lines = [line.strip("│| \t") for line in box.splitlines()[1:]]
    text = " ".join(itertools.takewhile(lambda line: line.strip("─-"), lines))
    meant = re.search(r"Perhaps you meant:\W+(--[\w-]+)", " ".join(lines))
    return f"{text.rstrip('.')}; {f'did you mean {meant[1]}?' if meant else f'see {program} --help'}"
