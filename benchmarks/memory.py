"""Peak memory of a step as a multiple of a plain forward and backward pass's, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.harness import CannotRunError, Result, Settings, Table, number
from benchmarks.memory_probe import METHODS, PEAK_RESET

SIZES = ((8, 64, 5000), (8, 256, 5000), (32, 64, 5000), (8, 64, 20000))
QUICK_SIZES = ((4, 32, 1000),)
PROJECT_ROOT = Path(__file__).resolve().parent.parent
RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Makes malloc give freed tensors back at once, so that resident memory is what is in use."""


def run(settings: Settings) -> Result:
    """A gradient, Adam, `sm` at its defaults and with micro-batches, and the `trips` preset."""
    if settings.device.type == "cpu" and not os.access(PEAK_RESET, os.W_OK):
        raise CannotRunError(f"peak memory on a CPU is measured through {PEAK_RESET}, which Linux has")
    result, peaks = Result(), {}
    for size in QUICK_SIZES if settings.quick else SIZES:
        name = "gaussian data, relu {} × {}, {} samples".format(*size)
        settings.note(name)
        methods = ("gradient", "sm") if settings.quick else METHODS
        peaks[name] = own = {method: _peak(method, size, settings.device) for method in methods}
        rows = [(method, f"{peak / 1e6:.1f}", number(peak / own["gradient"], 2)) for method, peak in own.items()]
        result.tables.append(Table(name, ("method", "peak, MB", "over the gradient's"), rows))
    result.figures["peak_bytes"] = peaks
    return result


def _peak(method: str, size: tuple[int, int, int], device: torch.device) -> int:
    command = [sys.executable, "-m", "benchmarks.memory_probe", method, *map(str, size), str(device)]
    environment = {**os.environ, **RETURN_FREED, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    found = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{method}: {found.stderr}")
    return int(found.stdout)
