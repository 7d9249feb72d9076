"""Many products with one record."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from surmin.stages.recorded import pull, pull_columns, recording


class Looking(torch.autograd.Function):
    """Twice its input; the backward looks at a number, which `vmap` refuses."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return 2 * inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return 2 * cotangent if cotangent.isfinite().all().item() else cotangent


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elementwise": lambda z: z.sin() * z,
    "of neighbours": lambda z: z[:, 1:] * z[:, :-1],
    "one by one": lambda z: Looking.apply(z * z),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_columns_are_pulled_as_one_by_one(name: str) -> None:
    torch.manual_seed(0)
    z, unused = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with recording():
        output = FUNCTIONS[name](z)
    constant, columns = torch.ones(2), torch.randn(5, *output.shape, dtype=torch.float64)
    found = pull_columns([output, constant], [z, unused], [columns, torch.ones(5, 2)])
    expected = [pull([output], [z], [column])[0] for column in columns]
    torch.testing.assert_close(found[0], torch.stack(expected))
    assert torch.equal(found[1], torch.zeros(5, 3, 4, dtype=torch.float64))
    assert pull_columns([constant], [z], [torch.ones(5, 2)])[0].shape == (5, 3, 4)


def test_vmap_refuses_what_looks_at_numbers() -> None:
    """Or the test above does not go one by one."""
    z = torch.randn(3, 4, requires_grad=True)
    output = FUNCTIONS["one by one"](z)
    with pytest.raises(RuntimeError, match=r"atching rule|vmap"):
        torch.autograd.grad(output, z, torch.randn(5, *output.shape), is_grads_batched=True)
