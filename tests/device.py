"""Running the tests on another device: what a test makes lies there, what surmin makes lies where surmin puts it.

Random numbers are drawn on the processor and moved, so that tests see the same data and initial weights on all devices.
"""

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import surmin.models

TESTS = str(Path(__file__).parent)
THROUGH = (str(Path(torch.__file__).parent), str(Path(surmin.models.__file__).parent))
"""Code that makes what its caller asks for."""
MAKERS = {
    torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.from_numpy, torch.full, torch.linspace, torch.logspace,
    torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.tensor, torch.zeros,
}  # fmt: skip
CPU = torch.device("cpu")


class MadeOn(TorchFunctionMode):
    """While entered, tensors and modules that code of the tests makes come out on a device, unless it names one."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in MAKERS and kwargs.get("device") is None and _asked_by_tests():
            made = function(*args, **kwargs)
            moved = made.detach().to(self.device)
            return moved.requires_grad_() if made.requires_grad else moved
        if getattr(function, "__module__", None) == "torch.nn.init" and _asked_by_tests():
            tensor, *others = args or (kwargs.pop("tensor"),)
            with torch.no_grad():
                return tensor.copy_(function(torch.empty_like(tensor, device=CPU), *others, **kwargs))
        return function(*args, **kwargs)


def use(name: str) -> None:
    """Have everything that tests make from now on in this process lie on a device.

    Raises:
        ValueError: when there is no such device here.
    """
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: no CUDA device is available here")
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # equal products give equal numbers
        device = torch.device("cuda", torch.cuda.current_device())
    if device != CPU:
        MadeOn(device).__enter__()


def here() -> torch.device:
    """The device that tests make their tensors on."""
    return torch.empty(0).device


def is_shared(workers: int) -> bool:
    """Whether so many workers have to share a GPU, over which torch's schedules cannot send."""
    return here().type == "cuda" and workers > torch.cuda.device_count()


def _asked_by_tests() -> bool:
    """Whether the call comes from the tests, directly or through code that makes what it is asked for."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(THROUGH):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(TESTS)
