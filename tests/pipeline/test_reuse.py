"""The wave that accepted a step is used again for the very same batch and parameters, and for nothing else."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from surmin import CrossEntropy, SquaredError, SurrogateMinimizer
from surmin.digest import strided_parts
from surmin.losses import ConvexLoss
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from surmin.pipeline.reuse import NotedBatch


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(4, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.shift + 0.5 * (not self.training)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    result = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Shifted(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    result[3].requires_grad_(False)
    return result


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, generator=generator, dtype=torch.float64), torch.rand(
        8, 2, generator=generator, dtype=torch.float64
    )


def trained(loss: ConvexLoss) -> tuple[SurrogateMinimizer, nn.Sequential, Tensor, Tensor]:
    net, (inputs, targets) = network(), batch()
    sm = SurrogateMinimizer([net], loss)
    assert sm.step(inputs, targets).accepted
    return sm, net, inputs, targets


def change_inputs(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    inputs.mul_(0.5)


def change_targets(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    targets.add_(1.0)


def change_parameters(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    with torch.no_grad():
        net[0].weight.mul_(1.5)


def load_parameters(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    net.load_state_dict({name: 1.5 * value for name, value in net.state_dict().items()})


def change_frozen_parameters(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    with torch.no_grad():
        net[3].weight.mul_(1.5)


def change_buffers(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    net[2].shift.add_(0.5)


def replace_data(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    net[0].weight.data = net[0].weight.data * 1.5


def change_unseen(tensor: Tensor) -> None:
    """As `torch.distributed` writes what it receives: the version stays as it was."""
    version = tensor._version
    tensor.data.mul_(0.5)
    assert tensor._version == version


def change_inputs_unseen(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    change_unseen(inputs)


def change_targets_unseen(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    change_unseen(targets)


def change_one_number_unseen(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    change_unseen(net[5].weight.detach()[1, 2:3])


def step_with_a_fused_optimizer(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    net[0].weight.grad = torch.ones_like(net[0].weight)
    torch.optim.Adam([net[0].weight], lr=0.1, fused=True).step()


def replace_frozen_data(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    net[3].weight.data = 1.5 * net[3].weight.data


def change_frozen_parameters_unseen(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    change_unseen(net[3].weight)


def change_buffers_unseen(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    net[2].shift.data.add_(0.5)


def change_mode(net: nn.Sequential, inputs: Tensor, targets: Tensor) -> None:
    net[2].eval()


CHANGES = [
    change_inputs, change_targets, change_parameters, load_parameters, change_frozen_parameters, change_buffers,
    replace_data, change_inputs_unseen, change_targets_unseen, change_one_number_unseen, step_with_a_fused_optimizer,
    replace_frozen_data, change_frozen_parameters_unseen, change_buffers_unseen,
    change_mode,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_after_a_change_the_loss_is_computed_anew(change: Callable[[nn.Sequential, Tensor, Tensor], None]) -> None:
    sm, net, inputs, targets = trained(SquaredError())
    change(net, inputs, targets)
    expected = 0.5 * (net(inputs) - targets).square().sum(1).mean()
    report = sm.step(inputs, targets)
    assert report.loss == pytest.approx(expected.item(), rel=1e-12)
    assert report.forward_waves == 1 + report.tries


class Held(nn.Module):
    """Holds a matrix in several places in memory, or a vector that has no version."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer("tensor", tensor)

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.tensor @ inputs.t()).t() if self.tensor.dim() == 2 else inputs + self.tensor


def without_version() -> Tensor:
    with torch.inference_mode():
        return torch.ones(4, dtype=torch.float64)


BUFFERS = {
    "sparse": lambda: torch.eye(4, dtype=torch.float64).to_sparse(),
    "compressed rows": lambda: torch.eye(4, dtype=torch.float64).to_sparse_csr(),
    "compressed columns": lambda: torch.eye(4, dtype=torch.float64).to_sparse_csc(),
    "without version": without_version,
}


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC) tensor support is in beta state")
def test_changes_of_unusual_buffers_are_seen(kind: str) -> None:
    torch.manual_seed(0)
    held = Held(BUFFERS[kind]())
    net = nn.Sequential(nn.Linear(3, 4).double(), held, nn.Linear(4, 2).double())
    sm, (inputs, targets) = SurrogateMinimizer([net], SquaredError()), batch()
    first, second = sm.step(inputs, targets), sm.step(inputs, targets)
    assert first.accepted and second.loss == pytest.approx(first.new_loss, rel=1e-12)
    assert second.forward_waves == second.tries
    with torch.inference_mode():
        strided_parts(held.tensor)[-1].mul_(2)
    expected = 0.5 * (net(inputs) - targets).square().sum(1).mean()
    third = sm.step(inputs, targets)
    assert third.loss == pytest.approx(expected.item(), rel=1e-12)
    assert third.forward_waves == 1 + third.tries


def test_without_a_change_the_wave_is_used_again_and_nothing_differs() -> None:
    sm, _, inputs, targets = trained(SquaredError())
    other, _, _, _ = trained(SquaredError())
    first, second = sm.step(inputs, targets), other.step(inputs.clone(), targets.clone())
    assert first.forward_waves == first.tries
    assert second.forward_waves == 1 + second.tries
    assert (first.loss, first.new_loss, first.gradient_norm) == (second.loss, second.new_loss, second.gradient_norm)
    pairs = zip(sm.pipeline.parameters.values(), other.pipeline.parameters.values(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_another_batch_of_equal_values_is_another_batch() -> None:
    for copied in range(2):
        sm, _, *pair = trained(SquaredError())
        pair[copied] = pair[copied].clone()
        report = sm.step(*pair)
        assert report.forward_waves == 1 + report.tries


def test_other_targets_of_the_same_inputs_are_another_batch() -> None:
    sm, net, inputs, _ = trained(SquaredError())
    other = torch.zeros(8, 2, dtype=torch.float64)
    expected = 0.5 * net(inputs).square().sum(1).mean()
    assert sm.step(inputs, other).loss == pytest.approx(expected.item(), rel=1e-12)


def test_labels_out_of_range_that_are_received_into_the_last_batch_are_refused() -> None:
    net, (inputs, _) = network(), batch()
    labels = torch.zeros(8, dtype=torch.int64)
    sm = SurrogateMinimizer([net], CrossEntropy())
    sm.step(inputs, labels)
    labels.data.fill_(9)
    with pytest.raises(ValueError, match="labels run from 9 to 9"):
        sm.step(inputs, labels)


def test_a_part_of_the_batch_is_another_batch() -> None:
    """It starts at the same place in memory."""
    net, (inputs, targets) = network(), batch()
    sm = SurrogateMinimizer([net], SquaredError())
    assert sm.step(inputs, targets).accepted
    expected = 0.5 * (net(inputs[:4]) - targets[:4]).square().sum(1).mean()
    assert sm.step(inputs[:4], targets[:4]).loss == pytest.approx(expected.item(), rel=1e-12)


def test_labels_changed_in_place() -> None:
    net, (inputs, _) = network(), batch()
    labels = torch.zeros(8, dtype=torch.int64)
    sm = SurrogateMinimizer([net], CrossEntropy())
    assert sm.step(inputs, labels).accepted
    labels.fill_(1)
    expected = nn.functional.cross_entropy(net(inputs), labels)
    assert sm.step(inputs, labels).loss == pytest.approx(expected.item(), rel=1e-12)


def test_batches_with_missing_numbers_are_known_again() -> None:
    targets = torch.full((8, 2), torch.nan)
    inputs = torch.randn(8, 4, 5).transpose(1, 2)
    noted = NotedBatch.of(inputs, targets)
    assert noted.is_same(inputs, targets)
    inputs.data[7, 4, 3] += 1
    assert not noted.is_same(inputs, targets)


def test_a_copy_of_a_pipeline_does_not_copy_the_batch() -> None:
    pipeline, (inputs, targets) = InProcessPipeline([network()], SquaredError()), batch()
    attached = inputs.requires_grad_() * 1.0
    pipeline.forward(attached, targets)
    assert copy.deepcopy(pipeline).batches._last == NotedBatch()


def test_lbfgs_looks_at_the_parameters_too() -> None:
    net, (inputs, targets) = network(), batch()
    method = build_method("lbfgs", InProcessPipeline([net], SquaredError()), inner_steps=2)
    method.step(inputs, targets)
    step_with_a_fused_optimizer(net, inputs, targets)
    expected = 0.5 * (net(inputs) - targets).square().sum(1).mean()
    assert method.step(inputs, targets).loss == pytest.approx(expected.item(), rel=1e-12)


def test_a_rejected_step_leaves_no_wave_behind() -> None:
    """Nothing improves on a stationary point, so there is nothing to use again; and no model is to blame."""
    net, (inputs, _) = network(), batch()
    targets = net(inputs).detach()
    sm = SurrogateMinimizer([net], SquaredError(), max_tries=2)
    first, damping = sm.step(inputs, targets), sm.damping
    assert not first.accepted
    assert sm.step(inputs, targets).forward_waves == 2
    assert sm.damping == damping
