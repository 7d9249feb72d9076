"""What cannot be trained says so, in one line, before anything changes."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surmin import CrossEntropy, GradientOracle, LogisticLoss, SquaredError, SurrogateMinimizer
from surmin.losses import ConvexLoss
from surmin.methods.registry import build_method
from surmin.pipeline.checks.batches import check_batch
from surmin.pipeline.checks.independence import check_independence
from surmin.pipeline.checks.modules import check_modules
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.partition import partition
from surmin.stages.stage import Stage
from tests.device import here


def minimizer(*stages: nn.Module, microbatches: int = 1) -> SurrogateMinimizer:
    return SurrogateMinimizer(list(stages), CrossEntropy(), microbatches=microbatches)


with torch.inference_mode():
    FROM_INFERENCE = torch.randn(8, 3)
PARAMETER = torch.zeros(1)
INPUTS, LABELS = torch.randn(8, 3), torch.arange(8) % 2
BAD_BATCHES: dict[str, tuple[Tensor, Tensor, str]] = {
    "nan": (INPUTS.clone().index_fill_(0, torch.tensor([2]), math.nan), LABELS, "inputs contain NaN or infinite"),
    "inf": (INPUTS.clone().index_fill_(0, torch.tensor([2]), math.inf), LABELS, "inputs contain NaN or infinite"),
    "both infinities": (
        INPUTS.clone().index_fill_(0, torch.tensor([2]), math.inf) * INPUTS.sign(),
        LABELS,
        "inputs contain NaN or infinite",
    ),
    "labels too large": (INPUTS, LABELS + 1, "labels run from 1 to 2, but the network has 2 outputs"),
    "labels negative": (INPUTS, LABELS - 1, "labels run from -1 to 0"),
    "labels of a type torch has little for": (INPUTS, LABELS.to(torch.uint16), "int64 for instance, got torch.uint16"),
    "labels not integers": (INPUTS, LABELS.float(), "integer class labels"),
    "mismatched": (INPUTS, LABELS[:7], "8 inputs do not match 7 targets"),
    "empty": (INPUTS[:0], LABELS[:0], "the batch is empty"),
    "a single number": (torch.tensor(1.0), LABELS, "inputs are a single number: .* need a batch axis"),
    "a single label": (INPUTS, torch.tensor(1), "targets are a single number: .* need a batch axis"),
    "sparse": (INPUTS.to_sparse(), LABELS, r"inputs are sparse \(torch.sparse_coo\), .* call \.to_dense\(\)"),
    "from inference mode": (FROM_INFERENCE, LABELS, r"made in torch.inference_mode\(\), .* \.clone"),
    "complex": (INPUTS.to(torch.complex64), LABELS, r"inputs are complex \(torch.complex64\): give real and"),
    "wrong width": (torch.randn(8, 4), LABELS, "mat1 and mat2"),
}


@pytest.mark.parametrize(("inputs", "labels", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_bad_batches_are_refused_and_leave_everything_as_it_was(inputs: Tensor, labels: Tensor, message: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    sm, reference = minimizer(network), minimizer(_copy(network))
    before = [p.detach().clone() for p in network.parameters()]
    with pytest.raises((ValueError, RuntimeError), match=message):
        sm.step(inputs, labels)
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), before, strict=True))
    assert sm.state_dict() == reference.state_dict()
    after = [sm.step(INPUTS, LABELS).new_loss, reference.step(INPUTS, LABELS).new_loss]
    assert after[0] == after[1]


def test_finite_inputs_whose_sum_is_not_are_taken() -> None:
    check_batch(torch.full((4, 3), 3e38), LABELS[:4], 1, PARAMETER)


def _copy(network: nn.Sequential) -> nn.Sequential:
    other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    other.load_state_dict(network.state_dict())
    return other


def test_a_bad_batch_after_good_ones_is_still_checked() -> None:
    """Checks are spared only for the very same, unchanged tensors."""
    torch.manual_seed(0)
    sm = minimizer(nn.Sequential(nn.Linear(3, 2)))
    inputs, labels = INPUTS.clone(), LABELS.clone()
    sm.step(inputs, labels)
    inputs[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        sm.step(inputs, labels)
    inputs[0, 0] = 0
    labels[0] = 9
    with pytest.raises(ValueError, match="labels run"):
        sm.step(inputs, labels)


def test_microbatches_must_be_equal() -> None:
    sm = minimizer(nn.Sequential(nn.Linear(3, 2)), microbatches=3)
    with pytest.raises(ValueError, match="8 samples cannot be cut into 3 equal micro-batches"):
        sm.step(INPUTS, LABELS)
    with pytest.raises(ValueError, match="microbatches must be a whole number from 1 up, got 0"):
        minimizer(nn.Sequential(nn.Linear(3, 2)), microbatches=0)
    with pytest.raises(ValueError, match="cannot be cut"):
        check_batch(INPUTS, LABELS, 16, PARAMETER)


@pytest.mark.parametrize("bad", [[1.0, 2.0], None])
def test_a_batch_must_be_tensors(bad: object) -> None:
    with pytest.raises(TypeError, match="must be tensors"):
        check_batch(bad, LABELS, 1, PARAMETER)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be tensors"):
        check_batch(INPUTS, bad, 1, PARAMETER)  # type: ignore[arg-type]


def shared() -> nn.Module:
    first = nn.Linear(3, 3)
    second = nn.Linear(3, 3)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def aliased() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    network[2].weight.data = network[0].weight.data
    return network


def with_buffer() -> nn.Module:
    first, second = nn.Linear(3, 3), nn.Tanh()
    second.register_buffer("weight", first.weight.detach()[1:])
    return nn.Sequential(first, second)


def overlapping() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(torch.ones(1, 3).expand(3, 3))
    return layer


def repeated() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


BAD_NETWORKS: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "no stages": (lambda: [], "at least one stage"),
    "nothing trainable": (lambda: [nn.Linear(3, 2).requires_grad_(False)], "nothing to train"),
    "no parameters": (lambda: [nn.Tanh()], "nothing to train"),
    "half": (lambda: [nn.Linear(3, 2).half()], r"dtype torch.float16: the solvers need float32 or float64"),
    "bfloat16": (lambda: [nn.Linear(3, 2).bfloat16()], r"dtype torch.bfloat16"),
    "two dtypes": (lambda: [nn.Linear(3, 2), nn.Linear(2, 2).double()], "one dtype"),
    "dropout": (lambda: [nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))], "Dropout '1' in stage 0 is in training"),
    "dropout 2d": (lambda: [nn.Conv2d(1, 1, 1), nn.Dropout2d(0.5)], r"stage 1 \(Dropout2d\) is in training mode"),
    "batch norm": (lambda: [nn.Linear(3, 2), nn.BatchNorm1d(2)], r"\(BatchNorm1d\) is in training mode: batch"),
    "batch norm without statistics": (
        lambda: [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False).eval())],
        "BatchNorm1d '1'",
    ),
    "attention with dropout": (lambda: [nn.MultiheadAttention(4, 2, dropout=0.1)], "in training mode: it draws"),
    "random slopes": (lambda: [nn.Sequential(nn.Linear(3, 2), nn.RReLU())], "RReLU '1' in stage 0 is in training mode"),
    "recurrent with dropout": (lambda: [nn.GRU(4, 4, 2, dropout=0.1)], r"stage 0 \(GRU\) is in training mode"),
    "random pooling": (lambda: [nn.Conv2d(1, 1, 1), nn.FractionalMaxPool2d(2, 2).eval()], "draws a different network"),
    "instance norm": (lambda: [nn.Conv2d(1, 1, 1), nn.InstanceNorm2d(1, track_running_stats=True)], "writes its"),
    "embedding by frequency": (lambda: [nn.Embedding(5, 3, scale_grad_by_freq=True)], "leave scale_grad_by_freq out"),
    "rescaled embedding": (lambda: [nn.Embedding(5, 3, max_norm=1.0)], "leave max_norm out"),
    "sparse embedding": (lambda: [nn.Embedding(5, 3, sparse=True)], "leave sparse=True out"),
    "spectral norm": (lambda: [nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))], "estimates its norm anew"),
    "two devices": (lambda: [nn.Linear(3, 2), nn.Linear(2, 2, device="meta")], "one device, got (cpu|cuda:0), meta"),
    "a parameter over itself": (lambda: [overlapping()], "'weight' of stage 0 has several entries in one place"),
    "two parameters in one place": (lambda: [aliased()], "overlaps in memory with"),
    "a buffer in a parameter's place": (lambda: [with_buffer()], r"buffer 'weight' of .* overlaps in memory with"),
    "shared between stages": (lambda: list(shared())[::2], "shared with"),
    "shared within a stage": (lambda: [shared()], "shared with"),
    "a layer used twice": (lambda: [repeated()], "shared with"),
    "scripted": (lambda: [torch.jit.script(nn.Linear(3, 2))], "torch.jit module, .*: pass the plain module"),
    "data parallel": (lambda: [nn.Sequential(nn.DataParallel(nn.Linear(3, 2)))], r"stage 0 is an .* pass its \.module"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD_NETWORKS.values(), ids=BAD_NETWORKS.keys())
def test_bad_networks_are_refused_with_the_way_out(make: Callable[[], list[nn.Module]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_modules(make())


def test_a_stage_must_be_a_module() -> None:
    with pytest.raises(TypeError, match=r"stage 1 is a str, not an nn\.Module"):
        check_modules([nn.Linear(2, 2), "nn.ReLU"])  # type: ignore[list-item]


GOOD_NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "dropout in eval": lambda: [nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5).eval(), nn.Linear(4, 2))],
    "dropout that does nothing": lambda: [nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0), nn.Linear(4, 2))],
    "batch norm in eval": lambda: [nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 2)],
    "stages without parameters": lambda: [nn.Flatten(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Identity()],
    "an empty stage": lambda: [nn.Sequential(), nn.Linear(3, 2), nn.Sequential()],
    "an activation used twice": lambda: [nn.Sequential(nn.Linear(3, 4), (act := nn.Tanh()), nn.Linear(4, 2), act)],
    "a frozen layer used twice": lambda: frozen_twice(),
    "tied inside one module": lambda: [_Tied(), nn.Linear(3, 2)],
    "a part used three times": lambda: [_Repeated(), nn.Linear(3, 2)],
    "a part with two names": lambda: [_Named(), nn.Linear(3, 2)],
    "a parameter without numbers": lambda: [nn.Linear(3, 2), _WithoutNumbers()],
}


def frozen_twice() -> list[nn.Module]:
    layer = nn.Linear(3, 3).requires_grad_(False)
    return [nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(3, 2))]


class _Tied(nn.Module):
    """One layer whose two parts share a weight: allowed, because one block owns it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs).tanh())


class _Repeated(nn.Module):
    """The same layer three times over."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(3, 3)] * 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for part in self.parts:
            inputs = part(inputs).tanh()
        return inputs


class _Named(nn.Module):
    """A layer that can be reached in two ways and is used once, and a parameter with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"encoder": nn.Linear(3, 3)})
        self.encoder = self.parts["encoder"]
        self.scale = nn.Parameter(torch.ones(3))
        self.register_parameter("same_scale", self.scale)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.encoder(inputs).tanh() * self.scale + self.same_scale


class _WithoutNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0))

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * inputs


@pytest.mark.parametrize("make", [_Tied, _Repeated, _Named])
def test_a_rejected_step_leaves_parts_with_several_names_as_they_were(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(make(), nn.Linear(3, 2))
    held, before = list(network.parameters()), [parameter.detach().clone() for parameter in network.parameters()]
    sm = SurrogateMinimizer(network, CrossEntropy(), accept_above=0.999, max_tries=1, damping=1e-9)
    for _ in range(2):
        assert not sm.step(INPUTS, LABELS).accepted
    assert all(now is then for now, then in zip(network.parameters(), held, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(held, before, strict=True))


@pytest.mark.parametrize("make", [_Tied, _Repeated, _Named])
def test_a_candidate_s_loss_is_that_of_the_network_there(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(make(), nn.Linear(3, 2)).double()
    sm, inputs = SurrogateMinimizer(network, CrossEntropy()), INPUTS.double()
    for _ in range(3):
        report = sm.step(inputs, LABELS)
        expected = nn.functional.cross_entropy(network(inputs), LABELS)
        assert report.accepted and report.new_loss == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"curvature": "scalar"}], ids=["factor", "scalar"])
@pytest.mark.parametrize("make", GOOD_NETWORKS.values(), ids=GOOD_NETWORKS.keys())
def test_what_looks_similar_and_is_fine_trains(make: Callable[[], list[nn.Module]], options: dict[str, str]) -> None:
    torch.manual_seed(0)
    sm = SurrogateMinimizer(make(), CrossEntropy(), **options)  # type: ignore[arg-type]
    reports = [sm.step(INPUTS, LABELS) for _ in range(3)]
    assert any(report.accepted for report in reports)
    assert reports[-1].new_loss < reports[0].loss


def test_an_output_that_does_not_fit_the_targets() -> None:
    sm = SurrogateMinimizer([nn.Linear(3, 2)], SquaredError())
    with pytest.raises(ValueError, match=r"targets of shape \(8, 3\) do not fit outputs of shape \(8, 2\)"):
        sm.step(INPUTS, torch.zeros(8, 3))


class _Folding(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.view(len(inputs) // 2, 2, -1).sum(1)


def test_a_network_that_mixes_samples() -> None:
    sm = minimizer(nn.Sequential(nn.Linear(3, 2), _Folding()))
    with pytest.raises(ValueError, match=r"layer 1 \(_Folding\) turned inputs of shape \(8, 2\) into \(4, 2\)"):
        sm.step(INPUTS, LABELS)


def test_samples_and_positions_merged_on_the_way() -> None:
    sm = minimizer(nn.Sequential(nn.Linear(3, 4), nn.Flatten(0, 1), nn.Unflatten(0, (8, 5)), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"layer 1 \(Flatten\) turned .* one that restores the shape in one module"):
        sm.step(torch.randn(8, 5, 3), torch.zeros(8, 5, dtype=torch.int64))


class _Dropping(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(inputs, 0.1, self.training)


class _Centred(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(0)


class _Summed(nn.Module):
    """Samples come after others, as in a recurrent network that takes the batch for a sequence."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.cumsum(0)


class _Trimmed(nn.Module):
    """To the width that the batch needs."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, : len(inputs[:, 0].unique())]


@pytest.mark.parametrize("method", ["sm", "adam", "dgl"])
@pytest.mark.parametrize("module", [_Dropping(), _Centred(), _Summed()])
def test_forwards_that_draw_or_tie_samples_together_are_seen(module: nn.Module, method: str) -> None:
    network = nn.Sequential(nn.Linear(3, 40), module, nn.Linear(40, 2))
    before = [p.detach().clone() for p in network.parameters()]
    pipeline = InProcessPipeline([network], CrossEntropy(), microbatches=2)
    with pytest.raises(ValueError, match=rf"layer 1 \({type(module).__name__}\) gives a sample a different output"):
        build_method(method, pipeline).step(INPUTS, LABELS)
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), before, strict=True))


def test_samples_that_are_tied_are_seen_after_a_batch_of_one() -> None:
    sm = minimizer(nn.Linear(3, 40), _Centred(), nn.Linear(40, 2))
    sm.step(INPUTS[:1], LABELS[:1])
    with pytest.raises(ValueError, match=r"layer 1 \(_Centred\) gives a sample a different output"):
        sm.step(INPUTS, LABELS)


def test_outputs_as_wide_as_a_batch_needs_are_seen() -> None:
    stage = Stage.of(_Trimmed())
    with pytest.raises(ValueError, match=r"layer 0 \(_Trimmed\) gives a sample a different output"):
        check_independence([stage], [stage.forward(torch.randn(6, 8))])


class _Exact(nn.Module):
    """Takes two thousand samples and no others."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.view(2000, 3) - 0.0


def test_modules_that_take_whole_large_batches_are_let_be() -> None:
    sm = minimizer(_Exact(), nn.Linear(3, 2))
    inputs, labels = torch.randn(2000, 3), torch.arange(2000) % 2
    assert sm.step(inputs, labels).accepted
    tied = minimizer(nn.Linear(3, 20), _Centred(), nn.Linear(20, 2))
    for _ in range(2):
        with pytest.raises(ValueError, match="gives a sample a different output"):
            tied.step(inputs, labels)


def test_outputs_without_numbers_have_nothing_to_compare() -> None:
    stage = Stage.of(nn.Sequential(nn.Unflatten(1, (2, 4)), nn.AvgPool1d(4), nn.Flatten()))
    check_independence([stage], [stage.forward(torch.randn(6, 8))])
    empty = Stage.of(nn.Flatten())
    check_independence([empty], [empty.forward(torch.randn(6, 0))])


def test_forwards_that_draw_in_training_mode_are_seen_when_they_get_there() -> None:
    network = nn.Sequential(nn.Linear(3, 40), _Dropping(), nn.Linear(40, 2)).eval()
    sm = minimizer(network)
    assert sm.step(INPUTS, LABELS).accepted
    network.train()
    with pytest.raises(ValueError, match=r"layer 1 \(_Dropping\) gives a sample a different output"):
        sm.step(INPUTS, LABELS)


class _Particular(nn.Module):
    """Takes twenty samples, and them only column by column in memory."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.t().view(4 * 20).view(4, 20).t()


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_few_samples_are_no_reason_to_refuse(samples: int) -> None:
    sm = minimizer(nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)))
    assert sm.step(INPUTS[:samples], LABELS[:samples]).accepted


class _Transposed(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.t().contiguous().t()


def test_modules_that_need_their_samples_so_many_and_so_laid_out() -> None:
    network = nn.Sequential(_Transposed(), _Particular(), nn.Dropout(0.0), nn.Linear(4, 2)).eval()
    sm = minimizer(network)
    inputs, labels = torch.randn(20, 4), torch.arange(20) % 2
    assert sm.step(inputs, labels).accepted
    network.train()
    assert sm.step(inputs, labels).accepted


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_gradients_are_refused(register: str) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    sm = minimizer(network)
    handle = getattr(network[1].bias, register)(lambda _: None)
    with pytest.raises(ValueError, match=r"'bias' of layer 1 \(Linear\) has a hook on its gradient"):
        sm.step(INPUTS, LABELS)
    with pytest.raises(ValueError, match=r"'1.bias' of stage 0 has a hook on its gradient"):
        minimizer(network)
    handle.remove()
    assert sm.step(INPUTS, LABELS).accepted


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
@pytest.mark.parametrize("place", ["0", "0.1"])
def test_hooks_on_a_module_s_backward_pass_are_refused(register: str, place: str) -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    sm = minimizer(network)
    handle = getattr(network.get_submodule(place), register)(lambda *_: None)
    with pytest.raises(ValueError, match=rf"'{place}' in stage 0 has a hook on its backward pass"):
        minimizer(network)
    if place == "0.1":
        with pytest.raises(ValueError, match=r"layer 1 \(Linear\) has a hook on its backward pass"):
            sm.step(INPUTS, LABELS)
    handle.remove()
    assert sm.step(INPUTS, LABELS).accepted


def test_autocast_is_refused() -> None:
    sm = minimizer(nn.Linear(3, 2))
    with torch.autocast(here().type, torch.bfloat16), pytest.raises(ValueError, match=r"torch\.autocast is on"):
        sm.step(INPUTS, LABELS)
    assert sm.step(INPUTS, LABELS).accepted


def test_a_module_list_is_a_list_of_stages() -> None:
    sm = SurrogateMinimizer(nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)]), CrossEntropy())
    assert len(sm.pipeline.stages) == 2


@pytest.mark.parametrize("error", [RuntimeError("of its own"), AttributeError("of its own")])
def test_a_loss_that_cannot_be_computed_is_named(error: Exception) -> None:
    class Strict(SquaredError):
        def check(self, outputs: Tensor, targets: Tensor) -> None:
            raise error

    sm, words = SurrogateMinimizer([nn.Linear(3, 2)], Strict()), "cannot be computed for these outputs and targets"
    with pytest.raises(ValueError, match=rf"^Strict {words}: {type(error).__name__}: of its own$") as caught:
        sm.step(INPUTS, torch.zeros(8, 2))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_labels_of_any_integers(dtype: torch.dtype) -> None:
    sm = minimizer(nn.Linear(3, 2))
    assert sm.step(INPUTS, LABELS.to(dtype)).accepted


def test_parameters_replaced_or_frozen_behind_the_minimizer_s_back() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    sm = minimizer(network)
    assert sm.step(INPUTS, LABELS).accepted
    network.load_state_dict({name: value.clone() for name, value in network.state_dict().items()}, assign=True)
    with pytest.raises(ValueError, match=r"parameter 'weight' of layer 0 \(Linear\) was replaced since"):
        sm.step(INPUTS, LABELS)
    other = minimizer(network)
    network[2].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"parameter 'bias' of layer 2 \(Linear\) was frozen since"):
        other.step(INPUTS, LABELS)


def replaced(network: nn.Sequential) -> None:
    network[1] = nn.ReLU()


def appended(network: nn.Sequential) -> None:
    network.append(nn.Softplus())


def hooked(network: nn.Sequential) -> None:
    network.register_forward_hook(lambda _module, _inputs, output: 2 * output)


@pytest.mark.parametrize("change", [replaced, appended, hooked])
def test_layers_changed_behind_the_minimizer_s_back(change: Callable[[nn.Sequential], None]) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    sm = minimizer(nn.Linear(3, 3), network)
    assert sm.step(INPUTS, LABELS).accepted
    change(network)
    with pytest.raises(ValueError, match=r"layers of stage 1 were added, removed or replaced, or .* given hooks"):
        sm.step(INPUTS, LABELS)


def test_a_parameter_that_is_gone_from_within_a_layer() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    sm = minimizer(layer)
    assert sm.step(INPUTS, LABELS).accepted
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    with pytest.raises(ValueError, match=r"parameter 'parametrizations.weight.original0' of layer 0 .* was replaced"):
        sm.step(INPUTS, LABELS)


def test_a_loss_is_needed_with_a_list_of_stages() -> None:
    with pytest.raises(ValueError, match="a loss is needed"):
        SurrogateMinimizer([nn.Linear(3, 2)])


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(("loss", "targets"), [(CrossEntropy(), LABELS), (LogisticLoss(), torch.ones(8, 2))])
def test_a_start_that_is_not_finite_is_named(loss: ConvexLoss, targets: Tensor, rank: int | None) -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight.fill_(1e38)
        network[0].weight[0, 0] = -math.inf
    sm = SurrogateMinimizer([network], loss, rank=rank)
    with pytest.raises(ValueError, match="no step can be computed or tested from there"):
        sm.step(1e5 * INPUTS, targets)


def test_a_batch_of_another_precision_is_named() -> None:
    sm = SurrogateMinimizer([nn.Linear(3, 2)], CrossEntropy())
    with pytest.raises(ValueError, match=r"inputs are torch.float64, but the network computes in torch.float32"):
        sm.step(torch.randn(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))


def test_training_goes_on_in_another_precision() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    sm = SurrogateMinimizer([network], CrossEntropy(), momentum_candidates=(0.9,))
    before = [sm.step(INPUTS, LABELS) for _ in range(2)][-1]
    network.double()
    after = sm.step(INPUTS.double(), LABELS)
    assert after.loss == pytest.approx(before.new_loss, rel=1e-5)


def test_a_batch_on_another_device_is_named() -> None:
    sm = SurrogateMinimizer([nn.Linear(3, 2)], CrossEntropy())
    with pytest.raises(ValueError, match=f"the network is on {here()}, but inputs are on meta"):
        sm.step(torch.randn(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64))


def test_a_module_that_goes_to_training_mode_is_refused_in_the_next_step() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    sm = minimizer(network)
    sm.step(INPUTS, LABELS)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    network.train()
    with pytest.raises(ValueError, match=r"^layer 1 \(Dropout\) is in training mode"):
        sm.step(INPUTS, LABELS)
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), before, strict=True))
    network.eval()
    assert sm.step(INPUTS, LABELS).accepted


@pytest.mark.parametrize("name", ["sm", "gd", "dgl"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_step_needs_gradients(name: str, mode: Callable[[], AbstractContextManager[None]]) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    method = build_method(name, InProcessPipeline(partition(network, 2), CrossEntropy()))
    for _ in range(2):
        with mode(), pytest.raises(ValueError, match="gradients are switched off"):
            method.step(INPUTS, LABELS)
        method.step(INPUTS, LABELS)


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter 'weight' of stage 0 is complex \(torch\.complex64\)"):
        minimizer(nn.Linear(3, 2, dtype=torch.complex64))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_predictions_may_be_made_in_inference_mode(mode: Callable[[], AbstractContextManager[None]]) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    pipeline = InProcessPipeline(partition(network, 2), CrossEntropy())
    with mode():
        inputs = INPUTS.clone()
        found = pipeline.predict(inputs)
        torch.testing.assert_close(found, network(inputs))


def test_a_parameter_made_trainable_later_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 2))
    sm = minimizer(network)
    network.requires_grad_(True)
    with pytest.raises(ValueError, match=r"'weight' of layer 0 \(Linear\) was made trainable since"):
        sm.step(INPUTS, LABELS)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.functional.cross_entropy, CrossEntropy, None])
def test_what_is_no_loss_is_refused(loss: Any) -> None:
    with pytest.raises(TypeError, match=r"is not a loss that stages can work with: pass (surmin\.)?CrossEntropy\(\)"):
        InProcessPipeline([nn.Linear(3, 2)], loss)


def test_a_loss_that_returns_no_number_a_sample_is_named() -> None:
    class Elementwise(SquaredError):
        def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square()

    sm = SurrogateMinimizer([nn.Linear(3, 2)], Elementwise())
    with pytest.raises(ValueError, match=r"^Elementwise.sample_losses must return one number per sample, shape \(3,\)"):
        sm.step(INPUTS, torch.zeros(8, 2))


MISTAKES: dict[str, tuple[str, Callable[..., Any], str]] = {
    "gradient of the mean": ("gradient", lambda z, y: z.mean(0), r"shape \(3, 2\) for 3 samples, got \(2,\)"),
    "gradient in double": ("gradient", lambda z, y: z.double(), r"returns torch.float64 .*\.to\(outputs\.dtype\)"),
    "gradient in place": ("gradient", lambda z, y: z.sub_(y), "changes the outputs or targets it is given: avoid"),
    "no gradient": ("gradient", lambda z, y: None, "must return a tensor, got NoneType"),
    "trace of all": ("trace", lambda z, y: z.sum(), r"one number per sample, shape \(3,\) for 3 samples, got \(\)"),
    "samples first": ("factor", lambda z, y: z.diag_embed(), r"shape \(columns, 3, 2\) for .*got \(3, 2, 2\)"),
    "no columns": ("sampled_factor", lambda z, y, rank, generator: z, r"`rank` columns first, shape \(1, 3, 2\) for"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "member", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_loss_with_a_wrong_member_is_named(name: str, member: Callable[..., Any], message: str) -> None:
    loss = type("Own", (SquaredError,), {name: lambda self, *given: member(*given)})()
    network = nn.Linear(3, 2)
    before = network.weight.detach().clone()
    with pytest.raises((ValueError, TypeError), match=rf"^Own\.{name} .*{message}"):
        SurrogateMinimizer([network], loss).step(INPUTS, torch.zeros(8, 2))
    assert torch.equal(network.weight, before)


def test_members_that_are_not_known_may_raise_where_nobody_needs_them() -> None:
    class Unknown(SquaredError):
        def factor(self, outputs: Tensor, targets: Tensor) -> Tensor:
            raise NotImplementedError

    assert SurrogateMinimizer([nn.Linear(3, 2)], Unknown(), rank=2).step(INPUTS, torch.zeros(8, 2)).accepted


def test_members_are_tried_out_once_for_a_shape_and_an_oracle_is_not() -> None:
    calls: list[int] = []

    class Own(SquaredError):
        def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
            calls.append(len(outputs))
            return super().gradient(outputs, targets)

    sm = SurrogateMinimizer([nn.Linear(3, 2)], Own())
    for _ in range(3):
        sm.step(torch.randn(8, 3), torch.zeros(8, 2))
    assert calls.count(3) == 1
    calls.clear()
    oracle = GradientOracle(Own().gradient, 1.0)
    SurrogateMinimizer([nn.Linear(3, 2)], oracle, adapt_damping=False).step(INPUTS, torch.zeros(8, 2))
    assert calls == [8]
