import pytest
import torch
from torch import Tensor

from surmin.losses import ConvexLoss, CrossEntropy, GradientOracle, LogisticLoss, SquaredError
from surmin.methods.hessian import loss as module
from surmin.methods.hessian.loss import loss_hessian
from tests.oracles import loss_hessians

SAMPLES, COLUMNS = 4, 3


def make_targets(loss: ConvexLoss, shape: tuple[int, ...]) -> Tensor:
    if isinstance(loss, CrossEntropy):
        return torch.randint(shape[-1], shape[:-1])
    return torch.rand(shape, dtype=torch.float64)


class ByAutograd(SquaredError):
    """Its gradient is computed as a user's may be: no forward mode goes through that."""

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.sample_losses(leaf, targets).sum(), leaf)
        return gradient


@pytest.mark.parametrize("loss", [ByAutograd(), GradientOracle(lambda outputs, targets: outputs - targets, 1.0)])
def test_where_outputs_are_many_an_unknown_loss_is_asked_for_its_factor(loss: ConvexLoss) -> None:
    outputs, targets, tangents = torch.randn(3, 2, 70), torch.randn(2, 70), torch.randn(3, 2, 70)
    torch.testing.assert_close(loss_hessian(loss, outputs[0], targets)(tangents), tangents)


@pytest.mark.parametrize("limit", [0, 64])
@pytest.mark.parametrize("positions", [(), (2, 3)])
@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(), LogisticLoss()], ids=lambda loss: type(loss).__name__)
def test_against_nested_reverse_mode(
    loss: ConvexLoss, positions: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FACTOR_COLUMNS", limit)
    torch.manual_seed(0)
    shape = (SAMPLES, *positions, 3)
    outputs, targets = torch.randn(shape, dtype=torch.float64), make_targets(loss, shape)
    tangents = torch.randn(COLUMNS, *shape, dtype=torch.float64)
    found = loss_hessian(loss, outputs, targets)(tangents)
    dense = loss_hessians(loss, outputs, targets)
    expected = torch.einsum("nij,cnj->cni", dense, tangents.flatten(2)).view(tangents.shape)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
