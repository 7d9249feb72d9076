"""Give torch the emulated GPU, in every Python that has this folder on its path, before anything imports torch."""

import ctypes
from contextlib import nullcontext
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

device = ctypes.CDLL(str(Path(__file__).parents[3] / "build" / "emulated_gpu.so"), mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
import torch.multiprocessing  # noqa: E402

STREAM = SimpleNamespace(synchronize=lambda: None, wait_stream=lambda other: None, device=torch.device("cuda", 0))
PROPERTIES = SimpleNamespace(name="emulated", uuid="emulated", total_memory=2**33, major=9, minor=0)
clone = torch.UntypedStorage.clone


def seed(number: int) -> None:
    """Of the default generator."""
    device.seed_device(ctypes.c_uint64(number % 2**64))


def clone_storage(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """A copy: torch makes none of a storage on a device it does not know."""
    if storage.device.type != "cuda":
        return clone(storage)
    copy = torch.empty(storage.nbytes(), dtype=torch.uint8, device="cuda")
    return copy.copy_(torch.empty(0, dtype=torch.uint8, device="cuda").set_(storage)).untyped_storage()


def rebuild(kind: type, host: Any, name: str, requires_grad: bool) -> Any:
    """A tensor or a parameter out of what went to another process."""
    tensor = torch.from_numpy(host).to(name)
    if issubclass(kind, torch.nn.Parameter):
        return kind(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_(requires_grad)


def reduce(tensor: torch.Tensor) -> Any:
    """What goes to another process: by value, as the device's memory cannot be shared."""
    return rebuild, (type(tensor), tensor.detach().cpu().numpy(), str(tensor.device), tensor.requires_grad)


REPLACED = {
    "_is_in_bad_fork": lambda: False,
    "_lazy_init": lambda: None,
    "current_device": lambda: 0,
    "current_stream": lambda of=None: STREAM,
    "default_stream": lambda of=None: STREAM,
    "device_count": lambda: 1,
    "empty_cache": lambda: None,
    "get_device_name": lambda of=None: "emulated",
    "get_device_properties": lambda of=None: PROPERTIES,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "manual_seed": seed,
    "manual_seed_all": seed,
    "set_device": lambda of: None,
    "stream": lambda of: nullcontext(),
    "synchronize": lambda of=None: None,
}
for name, function in REPLACED.items():
    setattr(torch.cuda, name, function)
setattr(torch.cuda, "default_generators", (torch.Generator("cuda"),))  # noqa: B010
setattr(torch.backends.cudnn, "is_acceptable", lambda tensor: False)  # noqa: B010
setattr(torch.UntypedStorage, "clone", clone_storage)  # noqa: B010
for kind in (torch.Tensor, torch.nn.Parameter):
    ForkingPickler.register(kind, reduce)
