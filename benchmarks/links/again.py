"""`python -m benchmarks.links.again MS,MBIT …`: cells of the saved `links.race` measured again, and put into it.

For cells that other work on the machine had disturbed. Rounds needed are those saved; every cell has its own date.
"""

import json
import sys
from typing import Any

import torch

from benchmarks.harness import SAVED, Settings, alone, describe_machine, is_busy, write_result
from benchmarks.links.entries import Need
from benchmarks.links.race import race_cells, result_of
from surmin.experiments.runs.processor import set_up_processor


def main(words: list[str]) -> None:
    """Measure each cell, then replace the saved race."""
    set_up_processor(1)
    settings = Settings(quick=False, device=torch.device("cpu"))
    machine = describe_machine(settings)
    if is_busy(machine):
        sys.exit(f"other work is running on this machine (load {machine['load_before']}): a race needs a quiet one")
    saved = json.loads((SAVED / "links.race.json").read_text(encoding="utf-8"))
    needs = {name: Need(**need) for name, need in saved["needs"].items()}
    wanted = [_cell(word, saved["cells"]) for word in words]
    with alone():
        measured = {_key(cell): cell for cell in race_cells(settings, needs, wanted)}
    cells = [measured.get(_key(cell), cell) for cell in saved["cells"]]
    write_result(SAVED, "links.race", result_of(needs, cells), settings, saved["machine"])


def _cell(word: str, cells: list[dict[str, Any]]) -> tuple[float, float]:
    """Latency and rate of the saved cell that a word means."""
    for cell in cells:
        if word == f"{1e3 * cell['latency']:g},{cell['rate'] / 1e6:g}":
            return _key(cell)
    sys.exit(f"{word!r} is no cell of the race: give milliseconds and Mbit/s, for instance 0.1,1000")


def _key(cell: dict[str, Any]) -> tuple[float, float]:
    return cell["latency"], cell["rate"]


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit(__doc__))
