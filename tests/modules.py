"""Modules that are not differentiated as most are: recurrent, computed again, or with functions written by hand."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


class Last(nn.Module):
    """A recurrent layer's last output."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.inner = kind(2, 3, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.inner(inputs)[0][:, -1]
        return output


class Checkpointed(nn.Linear):
    """Computed again in the backward pass."""

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = checkpoint(lambda z: super(Checkpointed, self).forward(z).sin(), inputs, use_reentrant=False)
        return output


class Cube(torch.autograd.Function):
    """Written as before `torch.func`: forward and context in one."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs**3

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        return 3 * inputs**2 * cotangent


class CubeOnce(Cube):
    """The same, not to be differentiated again."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return Cube.backward(ctx, cotangent)


class CubeApart(Cube):
    """The same, with a backward of which autograd does not see that it depends on anything."""

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return Cube.backward(ctx, cotangent.detach())


class Cubing(nn.Module):
    """The function alone."""

    def __init__(self, function: type[torch.autograd.Function] = Cube) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.function.apply(inputs)
        return output


class Cubed(nn.Linear):
    """A linear layer, then a function by hand."""

    function: type[torch.autograd.Function] = Cube

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.function.apply(super().forward(inputs))
        return output


class CubedOnce(Cubed):
    function = CubeOnce
