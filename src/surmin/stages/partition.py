"""Cutting a model into stages of nearly equal cost."""

import copy
import time
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from surmin.stages.layer import Layer
from surmin.stages.owners import check_owners
from surmin.stages.stage import group_by_trainable, leaf_modules

PASSES = 3
"""Forward passes timed for `balance="time"`; each module's fastest counts."""


def partition(
    model: nn.Module,
    num_stages: int,
    *,
    balance: Literal["parameters", "time"] = "parameters",
    sample_inputs: Tensor | None = None,
) -> list[nn.Module]:
    """Cut a model into consecutive stages that share its parameters.

    Args:
        model: an `nn.Sequential`, possibly nested. Cut anything else by hand: pass your own list of modules.
        num_stages: at most the number of layers with parameters.
        balance: what to spread evenly, the number of parameters or the time of a forward pass on `sample_inputs`.
        sample_inputs: a batch (n, *in); needed for `balance="time"`.

    Returns:
        `num_stages` modules; running them in order runs the model.

    Raises:
        ValueError: if the model cannot be cut this way, or layers share parameters; the message says what to do.
    """
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            f"cannot cut a {type(model).__name__}: partition() takes an nn.Sequential; "
            "for any other model pass your own list of modules, one per stage"
        )
    modules = list(leaf_modules(model))
    groups = group_by_trainable([Layer.of(module, str(i)) for i, module in enumerate(modules)])
    if not 1 <= num_stages <= len(groups):
        raise ValueError(
            f"cannot cut a model with {len(groups)} trainable layers into {num_stages} stages: "
            f"ask for 1 to {len(groups)}"
        )
    costs = _costs(modules, balance, sample_inputs)
    bounds = balanced_bounds([sum(costs[i] for i in group) for group in groups], num_stages)
    stages: list[nn.Module] = [
        nn.Sequential(*(modules[i] for group in groups[start:stop] for i in group)) for start, stop in pairwise(bounds)
    ]
    check_owners(stages)  # here: workers see only their own
    return stages


def balanced_bounds(costs: Sequence[float], parts: int) -> list[int]:
    """Bounds 0 = b_0 < ... < b_parts = len(costs) of consecutive parts with the least sum of squared costs.

    >>> balanced_bounds([1, 1, 1, 3], 2)
    [0, 3, 4]
    """
    total = [0.0, *accumulate(costs)]
    count = len(costs)
    best = [[float("inf")] * (count + 1) for _ in range(parts + 1)]
    cut = [[0] * (count + 1) for _ in range(parts + 1)]
    best[0][0] = 0.0
    for part in range(1, parts + 1):
        for end in range(part, count + 1):
            for start in range(part - 1, end):
                cost = best[part - 1][start] + (total[end] - total[start]) ** 2
                if cost < best[part][end]:
                    best[part][end], cut[part][end] = cost, start
    bounds = [count]
    for part in range(parts, 0, -1):
        bounds.append(cut[part][bounds[-1]])
    return bounds[::-1]


def _costs(modules: Sequence[nn.Module], balance: str, sample_inputs: Tensor | None) -> list[float]:
    if balance == "parameters":
        return [float(sum(p.numel() for p in module.parameters())) for module in modules]
    if balance != "time":
        raise ValueError(f"unknown balance {balance!r}: use 'parameters' or 'time'")
    if sample_inputs is None:
        raise ValueError("balance='time' needs sample_inputs, a batch to run the model on")
    return _forward_seconds(modules, sample_inputs)


@torch.no_grad()
def _forward_seconds(modules: Sequence[nn.Module], inputs: Tensor) -> list[float]:
    """Least time of each module over a few passes; copies are run, as modules may write to their buffers or draw."""
    modules = [copy.deepcopy(module).eval() for module in modules]
    seconds = [float("inf")] * len(modules)
    for _ in range(PASSES):
        state = inputs.clone()  # the first module may work in place
        for index, module in enumerate(modules):
            start = time.perf_counter()
            state = module(state)
            if state.is_cuda:
                torch.cuda.synchronize(state.device)
            seconds[index] = min(seconds[index], time.perf_counter() - start)
    return seconds
