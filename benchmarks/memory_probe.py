"""One fresh process's part of `memory`: prints the peak memory of a few steps, beyond the network and the data."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.problems import Problem, cross_entropy, gaussian_mlp
from benchmarks.runs import adam_step, surrogate

STEPS = 2
PEAK_RESET = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def _gradient(problem: Problem) -> Callable[[], Any]:
    model = problem.network(0)

    def step() -> None:
        model.zero_grad()
        cross_entropy(model(problem.inputs), problem.targets).backward()

    return step


def _adam(problem: Problem) -> Callable[[], Any]:
    step = adam_step(problem.network(0), 1e-3)
    return lambda: step(problem.inputs, problem.targets)


def _surrogate(**options: Any) -> Callable[[Problem], Callable[[], Any]]:
    def make(problem: Problem) -> Callable[[], Any]:
        minimizer = surrogate(problem.network(0), 0, **options)
        return lambda: minimizer.step(problem.inputs, problem.targets)

    return make


METHODS: dict[str, Callable[[Problem], Callable[[], Any]]] = {
    "gradient": _gradient,
    "adam": _adam,
    "sm": _surrogate(),
    "sm, 4 micro-batches": _surrogate(microbatches=4),
    "trips": _surrogate(preset="trips"),
}


def main(arguments: Sequence[str]) -> None:
    """Warm up on a small problem, which loads code, then measure."""
    method, *sizes, name = arguments
    layers, width, samples = map(int, sizes)
    device = torch.device(name)
    _take_steps(METHODS[method](gaussian_mlp(device, 4, 8, 64)))
    step = METHODS[method](gaussian_mlp(device, layers, width, samples))
    print(_peak_on_cuda(step, device) if device.type == "cuda" else _peak_on_linux(step))


def _take_steps(step: Callable[[], Any]) -> None:
    for _ in range(STEPS):
        step()


def _peak_on_cuda(step: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _take_steps(step)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_linux(step: Callable[[], Any]) -> int:
    """Growth of the resident memory's high-water mark, which is set back to the present first."""
    PEAK_RESET.write_text("5", encoding="ascii")
    before = _status("VmRSS")
    _take_steps(step)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
