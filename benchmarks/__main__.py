"""`python -m benchmarks`: runs benchmarks by name, prints their tables and writes their results as JSON."""

import argparse
import sys
import traceback
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.harness import (
    SAVED,
    CannotRunError,
    Result,
    Settings,
    alone,
    describe_machine,
    is_busy,
    print_result,
    wait_until_quiet,
    write_result,
)
from surmin.experiments.runs.processor import set_up_processor

NAMES = (
    "rounds",
    "trips",
    "minibatch",
    "products",
    "growth",
    "outputs",
    "softmax",
    "memory",
    "models",
    "waves",
    "rate",
    "tracing",
)
ON_REQUEST = ("links.race", "links.goal", "links.trips", "links.columns", "links.simulate")
"""Long ones, or such that need more rights than others."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks asked for; 1 if one of them broke, 0 otherwise, whether or not targets were reached."""
    options = _parse(arguments)
    set_up_processor(options.threads)
    settings = Settings(quick=options.quick, device=torch.device(options.device), most_seeds=options.seeds)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    with alone() if options.save else nullcontext():
        return max([_run(name, settings, options, console) for name in options.names or NAMES])


def _run(name: str, settings: Settings, options: argparse.Namespace, console: Console) -> int:
    module = import_module(f"benchmarks.{name}")
    settings = replace(settings, processes=getattr(module, "WORKERS", 1))
    if options.save:
        wait_until_quiet(settings)
    machine = describe_machine(settings)
    if options.save and is_busy(machine):
        sys.exit(f"other work is running on this machine (load {machine['load_before']}): --save needs a quiet one")
    console.rule(f"{name}{' (quick: cut down, targets not judged)' if settings.quick else ''}")
    try:
        result: Result = module.run(settings)
    except CannotRunError as missing:
        console.print(f"skipped: {missing}")
        return 0
    except Exception:
        console.print(f"broke:\n{traceback.format_exc()}", markup=False)
        return 1
    print_result(console, result, settings, machine)
    folder = SAVED if options.save else options.out
    for path in write_result(folder, name, result, settings, machine):
        console.print(f"written: {path}", markup=False)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (all of these if none is given), {', '.join(ON_REQUEST)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="each cut down to less than a minute, to see that it works"
    )
    parser.add_argument("--seeds", type=int, help="at most so many, instead of each benchmark's own number")
    parser.add_argument("--threads", type=int, default=1, help="that torch computes with (default 1)")
    parser.add_argument("--device", default="cpu", help="that torch computes on (default cpu)")
    parser.add_argument(
        "--out", type=Path, default=SAVED.parent, help="folder for results (default benchmarks/results)"
    )
    parser.add_argument(
        "--save", action="store_true", help="write to benchmarks/results/saved, which git does not ignore"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - {*NAMES, *ON_REQUEST})
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}: known are {', '.join((*NAMES, *ON_REQUEST))}")
    if options.save and (options.quick or options.seeds):
        parser.error("--save keeps full results, not those of --quick or --seeds")
    return options


if __name__ == "__main__":
    sys.exit(main())
