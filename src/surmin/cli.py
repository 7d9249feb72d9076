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
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union

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


@dataclass(frozen=True)
class TrainArguments:
    """Train one network with one method; writes config.json, metrics.jsonl, checkpoint/ and curves.png.

    Attributes:
        out: folder to write; named under runs/ by method, data and time if not given. Must be new or empty.
        resume: folder of a run to continue, into --out if given; its options hold where no others are given.
    """

    config: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    out: Path | None = None
    resume: Path | None = None


@dataclass(frozen=True)
class CompareArguments:
    """Compare methods on the same problem; writes results.csv, report.html and pictures of the curves.

    Attributes:
        out: folder to write; named under runs/ by data and time if not given. Must be new or empty.
        resume: folder of a comparison to continue, into --out if given; finished runs are kept.
    """

    config: tyro.conf.OmitArgPrefixes[CompareConfig] = field(default_factory=CompareConfig)
    out: Path | None = None
    resume: Path | None = None


@dataclass(frozen=True)
class PaperArguments:
    """Run the paper's grid, every method tuned, with strong baselines; writes results.csv, pages and pictures.

    Attributes:
        out: folder to write; named under runs/ by data and time if not given. Must be new or empty.
        resume: folder of a grid to continue, into --out if given; finished runs are kept.
    """

    config: tyro.conf.OmitArgPrefixes[PaperConfig] = field(default_factory=PaperConfig)
    out: Path | None = None
    resume: Path | None = None


@dataclass(frozen=True)
class CheckArguments:
    """Check gradients, blocks and the bound of a small network against dense algebra; writes check.json.

    Attributes:
        out: folder to write; named under runs/ by data and time if not given. Must be new or empty.
    """

    config: tyro.conf.OmitArgPrefixes[CheckConfig] = field(default_factory=CheckConfig)
    out: Path | None = None


@dataclass(frozen=True)
class TimelineArguments:
    """Trace a few gradient steps and a few rounds of sm on workers; writes timeline.json and timeline.png.

    Attributes:
        out: folder to write; named under runs/ by data and time if not given. Must be new or empty.
    """

    config: tyro.conf.OmitArgPrefixes[TimelineConfig] = field(default_factory=TimelineConfig)
    out: Path | None = None


@dataclass(frozen=True)
class SimulateArguments:
    """Say where links make which method the fastest, from measured rounds; writes breakeven.csv and breakeven.png.

    Attributes:
        out: folder to write; named under runs/ by data and time if not given. Must be new or empty.
    """

    config: tyro.conf.OmitArgPrefixes[SimulateConfig] = field(default_factory=SimulateConfig)
    out: Path | None = None


@dataclass(frozen=True)
class TheoryArguments:
    """Try Theorem 1 on a smooth network and measure the local losses' tightness; writes tables and pictures of both.

    Attributes:
        out: folder to write; named under runs/ by data and time if not given. Must be new or empty.
    """

    config: tyro.conf.OmitArgPrefixes[TheoryConfig] = field(default_factory=TheoryConfig)
    out: Path | None = None


COMMANDS: dict[str, tuple[Any, str]] = {
    "train": (TrainArguments, "train:train"),
    "compare": (CompareArguments, "compare:compare"),
    "paper": (PaperArguments, "paper:paper"),
    "check": (CheckArguments, "check:check"),
    "timeline": (TimelineArguments, "timeline:timeline"),
    "theory": (TheoryArguments, "theory:theory"),
    "simulate": (SimulateArguments, "simulate:simulate"),
}
"""A command's arguments, and the function in `surmin.commands` that gets their fields by name."""

ON_WORKERS = ("train", "timeline")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; what it returns is the exit code. Errors are one line, unless `DEBUG_VARIABLE` is set."""
    worker = None
    try:
        worker = this_worker()
        command, arguments = parse(sys.argv[1:] if words is None else words)
        if worker is not None and command not in ON_WORKERS:
            raise ValueError(f"surmin {command} runs in one process: start it without torchrun")
        module, function = COMMANDS[command][1].split(":")
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
    kind, _ = COMMANDS[command]
    arguments = _parse_as(kind, f"surmin {command}", rest)
    if getattr(arguments, "resume", None) is not None:
        saved = replace(kind(), config=read_config(arguments.resume, type(arguments.config)))
        arguments = _parse_as(kind, f"surmin {command}", rest, saved)
        if arguments.out is not None and arguments.out.resolve() == arguments.resume.resolve():
            arguments = replace(arguments, out=arguments.resume)
    elif getattr(arguments.config, "quick", False):
        arguments = _parse_as(kind, f"surmin {command}", rest, replace(kind(), config=QUICK))
    return command, arguments


def _explain(word: str) -> NoReturn:
    """Show the commands or the version to those who ask; of any other word say that it is no command."""
    if word == "--version":
        print(f"surmin {__version__}")
        raise SystemExit(0)
    if word in ("-h", "--help"):
        kinds = [Annotated[kind, tyro.conf.subcommand(name)] for name, (kind, _) in COMMANDS.items()]
        _parse_as(Union[tuple(kinds)], "surmin", [word])  # noqa: UP007 (made at run time)
    known = ", ".join(COMMANDS)
    if not word:
        raise ValueError(f"name a command, one of {known}; see surmin --help")
    raise ValueError(f"unknown command {word!r}: {did_you_mean(word, COMMANDS)}known are {known}")


def _parse_as(kind: Any, program: str, words: Sequence[str], default: Any = tyro.MISSING_NONPROP) -> Any:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=program, args=words, default=default, config=(tyro.conf.DisallowNone,))
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
