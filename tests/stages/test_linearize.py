"""Every layer's products against dense Jacobians from nested reverse mode."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from surmin import CrossEntropy, SurrogateMinimizer
from surmin.errors import NonFiniteError
from surmin.models.attention import TransformerBlock
from surmin.models.gpt import TokenEmbedding
from surmin.stages.convolution import ConvolutionAtPoint
from surmin.stages.elementwise import (
    ELEMENTWISE,
    ElementwiseAtPoint,
    elementwise_derivative,
    elementwise_second_derivative,
)
from surmin.stages.fixed_map import AveragePoolAtPoint, FlattenAtPoint
from surmin.stages.generic import GenericAtPoint
from surmin.stages.layer import Layer
from surmin.stages.linear import LinearAtPoint
from surmin.stages.linearize import linearize
from tests.device import here
from tests.modules import Checkpointed, Cubed, CubedOnce, Last
from tests.oracles import DenseBlock

SAMPLES = 3


def frozen(module: nn.Module, name: str) -> nn.Module:
    module.get_parameter(name).requires_grad_(False)
    return module


class Doubled(nn.Linear):
    """A subclass that computes something else: the fast path must not take it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


class Reversed(nn.Flatten):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).flip(1)


class Summed(nn.AvgPool2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return 4 * super().forward(inputs)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, arguments, output: output.sin())
    return module


class FusedAttention(nn.Module):
    """Torch's own attention, whose fused kernels know no forward mode."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.project(inputs).chunk(3, -1), is_causal=True)


def encoder_layer_in_eval() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True).eval()


class Doubling(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrized() -> nn.Module:
    module = nn.Linear(4, 3)
    nn.utils.parametrize.register_parametrization(module, "weight", Doubling())
    return module


RECURRENT: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], type]] = [
    ("lstm", lambda: Last(nn.LSTM), (4, 2), GenericAtPoint),
    ("gru", lambda: Last(nn.GRU), (4, 2), GenericAtPoint),
]
if here().type == "cuda":
    RECURRENT.clear()  # cuDNN's backward is not differentiable
POOLING: list[dict[str, Any]] = [
    {"kernel_size": 3, "stride": 1}, {"kernel_size": (2, 3), "stride": (1, 2)}, {"kernel_size": 3, "padding": 1},
    {"kernel_size": 2, "ceil_mode": True}, {"kernel_size": 3, "padding": (1, 0), "count_include_pad": False},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    {"kernel_size": 2, "divisor_override": 3},
]  # fmt: skip
LAYERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], type]] = [
    ("linear", lambda: nn.Linear(4, 3), (4,), LinearAtPoint),
    ("linear without bias", lambda: nn.Linear(4, 3, bias=False), (4,), LinearAtPoint),
    ("linear on positions", lambda: nn.Linear(4, 3), (2, 4), LinearAtPoint),
    ("linear, frozen bias", lambda: frozen(nn.Linear(4, 3), "bias"), (4,), GenericAtPoint),
    ("linear, frozen weight", lambda: frozen(nn.Linear(4, 3), "weight"), (4,), GenericAtPoint),
    ("linear, frozen", lambda: nn.Linear(4, 3).requires_grad_(False), (4,), LinearAtPoint),
    ("linear, frozen, without bias", lambda: nn.Linear(4, 3, bias=False).requires_grad_(False), (2, 4), LinearAtPoint),
    ("linear, subclass", lambda: Doubled(4, 3), (4,), GenericAtPoint),
    ("linear, forward hook", lambda: hooked(nn.Linear(4, 3)), (4,), GenericAtPoint),
    ("linear, parametrized", parametrized, (4,), GenericAtPoint),
    ("convolution", lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 4, 4), ConvolutionAtPoint),
    ("convolution without bias", lambda: nn.Conv2d(2, 3, 2, bias=False), (2, 3, 3), ConvolutionAtPoint),
    ("convolution, stride", lambda: nn.Conv2d(1, 2, (2, 3), (1, 2), padding=(1, 0)), (1, 4, 5), ConvolutionAtPoint),
    ("convolution, dilation", lambda: nn.Conv2d(2, 2, 2, dilation=(2, 1)), (2, 4, 3), ConvolutionAtPoint),
    ("convolution, groups", lambda: nn.Conv2d(2, 4, 2, groups=2), (2, 3, 3), GenericAtPoint),
    ("convolution, padding same", lambda: nn.Conv2d(1, 2, 3, padding="same"), (1, 3, 3), GenericAtPoint),
    ("convolution, padded", lambda: nn.Conv2d(1, 2, 2, padding=1, padding_mode="circular"), (1, 3, 3), GenericAtPoint),
    ("convolution, frozen weight", lambda: frozen(nn.Conv2d(1, 2, 2), "weight"), (1, 3, 3), GenericAtPoint),
    ("convolution, frozen", lambda: nn.Conv2d(2, 3, 2).requires_grad_(False), (2, 3, 3), ConvolutionAtPoint),
    ("convolution in 1-d", lambda: nn.Conv1d(2, 3, 2), (2, 4), GenericAtPoint),
    ("layer norm", lambda: nn.LayerNorm(4), (2, 4), GenericAtPoint),
    ("group norm", lambda: nn.GroupNorm(2, 4), (4, 3), GenericAtPoint),
    ("batch norm, eval", lambda: nn.BatchNorm1d(4).eval(), (4,), GenericAtPoint),
    ("prelu", lambda: nn.PReLU(), (4,), GenericAtPoint),
    ("transformer block", lambda: TransformerBlock(3, 4, 2, "gelu"), (3, 4), GenericAtPoint),
    ("fused attention", lambda: FusedAttention(), (3, 4), GenericAtPoint),
    ("encoder layer", lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), (3, 4), GenericAtPoint),
    ("encoder layer, eval", lambda: encoder_layer_in_eval(), (3, 4), GenericAtPoint),
    *RECURRENT,
    ("weight norm", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (4,), GenericAtPoint),
    ("spectral norm", lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)).eval(), (4,), GenericAtPoint),
    ("function by hand", lambda: Cubed(4, 3), (4,), GenericAtPoint),
    ("flatten", nn.Flatten, (2, 3), FlattenAtPoint),
    ("flatten, some axes", lambda: nn.Flatten(2, 3), (2, 2, 3, 2), FlattenAtPoint),
    ("flatten, subclass", lambda: Reversed(), (2, 3), GenericAtPoint),
    ("flatten, forward hook", lambda: hooked(nn.Flatten()), (2, 3), GenericAtPoint),
    ("average pooling", lambda: nn.AvgPool2d(2), (2, 4, 4), AveragePoolAtPoint),
    ("average pooling, subclass", lambda: Summed(2), (1, 4, 4), GenericAtPoint),
    ("average pooling, forward hook", lambda: hooked(nn.AvgPool2d(2)), (1, 4, 4), GenericAtPoint),
    *[(f"average pooling, {own}", partial(nn.AvgPool2d, **own), (2, 5, 6), AveragePoolAtPoint) for own in POOLING],
    ("max pooling", lambda: nn.MaxPool2d(2), (1, 4, 4), GenericAtPoint),
    ("softmax", lambda: nn.Softmax(-1), (4,), GenericAtPoint),
]  # fmt: skip
TOKEN_LAYERS: list[tuple[str, Callable[[], nn.Module]]] = [
    ("embedding", lambda: nn.Embedding(5, 3)),
    ("token embedding", lambda: TokenEmbedding(5, 4, 3)),
]


def build(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[Layer, Tensor]:
    torch.manual_seed(0)
    module = make().double()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # LayerNorm's ones and zeros would hide mistakes
    return Layer.of(module, "0"), torch.randn(SAMPLES, *shape, dtype=torch.float64)


@pytest.mark.parametrize(("make", "shape", "kind"), [row[1:] for row in LAYERS], ids=[row[0] for row in LAYERS])
@pytest.mark.filterwarnings("ignore:.*padding='same'.*:UserWarning")
def test_products_equal_dense_jacobians(make: Callable[[], nn.Module], shape: tuple[int, ...], kind: type) -> None:
    layer, inputs = build(make, shape)
    point = linearize(layer, inputs)
    assert type(point) is kind
    block = DenseBlock(nn.Sequential(layer.module))
    theta, output = block.vector(), layer.forward(inputs).detach()
    by_theta = jacobian(lambda vector: block(inputs, vector).flatten(), theta)
    by_input = jacobian(lambda z: block(z.view(inputs.shape), theta).flatten(), inputs.flatten())
    v, s = torch.randn_like(theta), torch.randn_like(output)
    u, r = torch.randn_like(inputs), torch.randn(2, *output.shape, dtype=torch.float64)
    close = torch.testing.assert_close
    close(point.parameter_jvp(v).flatten(), by_theta @ v)
    close(point.parameter_vjp(s), by_theta.t() @ s.flatten())
    close(point.input_jvp(u).flatten(), by_input @ u.flatten())
    close(point.input_vjp(r).flatten(1), r.flatten(1) @ by_input)
    assert point.input_vjp(r).shape == (2, *inputs.shape)


@pytest.mark.parametrize(("make", "shape"), [(lambda: nn.Linear(4, 3), (4,)), (lambda: nn.Conv2d(2, 3, 2), (2, 3, 3))])
def test_a_bias_registered_before_its_weight(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """As `prune.remove` and `remove_weight_norm` leave it."""
    first, second = make().double(), make().double()
    weight = second.weight
    del second.weight
    second.weight = weight
    second.load_state_dict(first.state_dict())
    assert [name for name, _ in second.named_parameters()] == ["bias", "weight"]
    inputs = torch.randn(SAMPLES, *shape, dtype=torch.float64)
    layers = [Layer.of(module, "0") for module in (first, second)]
    points = [linearize(layer, inputs) for layer in layers]
    assert type(points[0]) is type(points[1])
    cotangent = torch.randn_like(layers[0].forward(inputs).detach())
    expected, found = (
        layer.unflatten(point.parameter_vjp(cotangent)) for layer, point in zip(layers, points, strict=True)
    )
    assert list(found) == ["weight", "bias"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [row[1] for row in TOKEN_LAYERS], ids=[row[0] for row in TOKEN_LAYERS])
def test_parameter_products_with_token_inputs(make: Callable[[], nn.Module]) -> None:
    layer, _ = build(make, (4,))
    tokens = torch.randint(5, (SAMPLES, 4))
    point, block = linearize(layer, tokens), DenseBlock(nn.Sequential(layer.module))
    by_theta = jacobian(lambda vector: block(tokens, vector).flatten(), block.vector())
    v, s = torch.randn(block.size, dtype=torch.float64), torch.randn(SAMPLES, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(point.parameter_jvp(v).flatten(), by_theta @ v)
    torch.testing.assert_close(point.parameter_vjp(s), by_theta.t() @ s.flatten())


@pytest.mark.parametrize("make", [nn.Flatten, *[partial(nn.AvgPool2d, **own) for own in POOLING]], ids=str)
def test_fixed_maps_are_what_automatic_differentiation_finds_bit_for_bit(make: Callable[[], nn.Module]) -> None:
    layer, inputs = build(make, (2, 5, 6))
    point, generic = linearize(layer, inputs), GenericAtPoint(layer, inputs, {})
    columns = torch.randn(3, *layer.forward(inputs).shape, dtype=torch.float64)
    below = point.input_vjp(columns)
    assert torch.equal(below, generic.input_vjp(columns))
    assert below.is_contiguous()


def test_average_pooling_of_images_without_channels_has_no_closed_form() -> None:
    assert type(linearize(Layer.of(nn.AvgPool2d(2), "0"), torch.zeros(SAMPLES, 4, 4))) is GenericAtPoint


def in_place(kind: type[nn.Module]) -> bool:
    return "inplace" in kind.__init__.__annotations__


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_elementwise_derivatives(kind: type[nn.Module]) -> None:
    points = torch.tensor([-7.3, -3.1, -2.9, -0.7, -0.3, 0.2, 0.6, 1.3, 2.9, 3.1, 6.5], dtype=torch.float64)
    layer = Layer.of(kind(), "0")
    inputs = points.view(1, -1)
    first, second = elementwise_derivative(layer, inputs), elementwise_second_derivative(layer, inputs)
    step, module = 1e-4, kind()

    def at(shift: float) -> Tensor:
        return module(inputs + shift)

    # fourth-order central differences
    expected = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    bent = (16 * (at(step) + at(-step)) - (at(2 * step) + at(-2 * step)) - 30 * at(0)) / (12 * step**2)
    # torch has hardsigmoid's 1/6 in single precision, on a GPU hardswish's too
    single = 1e-8 if here().type == "cpu" else 1e-7
    torch.testing.assert_close(first, expected, rtol=1e-9, atol=single)
    torch.testing.assert_close(second, bent, rtol=1e-5, atol=1e-6)
    point = linearize(layer, inputs)
    assert type(point) is ElementwiseAtPoint
    u, r = torch.randn_like(inputs), torch.randn(2, *inputs.shape, dtype=torch.float64)
    torch.testing.assert_close(point.input_jvp(u), first * u)
    torch.testing.assert_close(point.input_vjp(r), first * r)
    assert point.parameter_vjp(u).shape == (0,)
    assert torch.equal(point.parameter_jvp(inputs.new_zeros(0)), torch.zeros_like(inputs))


@pytest.mark.parametrize("kind", [kind for kind in ELEMENTWISE if in_place(kind)], ids=lambda kind: kind.__name__)
def test_in_place_activations_leave_their_input_alone(kind: type[nn.Module]) -> None:
    inputs = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4)
    kept = inputs.clone()
    plain, in_place_one = Layer.of(kind(), "0"), Layer.of(kind(inplace=True), "0")
    for derivative in (elementwise_derivative, elementwise_second_derivative):
        torch.testing.assert_close(derivative(in_place_one, inputs), derivative(plain, inputs), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(in_place_one.forward(inputs), plain.forward(inputs), rtol=0, atol=0)
    assert torch.equal(inputs, kept)


class InPlaceInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.ELU(inplace=True)
        self.linear = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.activation(inputs))


class ChangesItsInput(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mul_(2).sin()


def test_a_composite_with_an_in_place_module_inside_leaves_its_input_alone() -> None:
    layer, inputs = build(InPlaceInside, (4,))
    kept = inputs.clone()
    layer.forward(inputs)
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize("leaf", [False, True])
def test_a_layer_that_changes_its_input_itself_is_named(leaf: bool) -> None:
    layer, inputs = build(ChangesItsInput, (4,))
    with pytest.raises(ValueError, match=r"layer 0 \(ChangesItsInput\) changes its input in place"):
        layer.forward(inputs.requires_grad_(leaf))


def test_a_layer_that_does_not_return_one_tensor_is_named() -> None:
    layer = Layer.of(nn.LSTM(3, 3), "4")
    with pytest.raises(TypeError, match=r"layer 4 \(LSTM\) returned tuple"):
        layer.forward(torch.zeros(2, 1, 3))


def test_an_empty_batch_of_columns_is_no_special_case() -> None:
    """A micro-batch none of whose samples carries curvature."""
    for name, make, shape, _ in LAYERS:
        layer, inputs = build(make, shape)
        columns = torch.zeros(2, 0, *layer.forward(inputs).shape[1:], dtype=torch.float64)
        point = linearize(layer, inputs[:0])
        assert point.input_vjp(columns).shape == (2, 0, *inputs.shape[1:]), name
        assert point.parameter_vjp(columns[0]).abs().sum() == 0, name
        assert point.parameter_jvp(torch.ones(layer.size, dtype=torch.float64)).shape == columns[0].shape, name


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_checkpoints_are_refused_where_blocks_are_minimised_through_their_layers(solver: Any) -> None:
    network = nn.Sequential(Checkpointed(4, 3), nn.Linear(3, 2))
    sm = SurrogateMinimizer([network], CrossEntropy(), local="nonlinear", blocks="stage", solver=solver)
    with pytest.raises(RuntimeError, match=r"^layers 0 \(Checkpointed\), 1 \(Linear\) cannot .*: activation check"):
        sm.step(torch.randn(6, 4), torch.arange(6) % 2)


def weight_normed(inputs: int, outputs: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(inputs, outputs))


def test_weight_norm_trains_where_no_second_derivative_is_needed() -> None:
    torch.manual_seed(0)
    sm = SurrogateMinimizer([nn.Sequential(weight_normed(4, 3), nn.Linear(3, 2))], CrossEntropy())
    inputs, targets = torch.randn(6, 4), torch.arange(6) % 2
    reports = [sm.step(inputs, targets) for _ in range(5)]
    assert reports[-1].new_loss < reports[0].loss / 2


@pytest.mark.parametrize(
    ("kind", "curvature", "expected"),
    [
        (CubedOnce, "factor", r"^layer 0 \(CubedOnce\) cannot .*: the backward of CubeOnce is not differentiable"),
        (CubedOnce, "sample", r"^layer 0 \(CubedOnce\) cannot .*: CubeOnce, written by hand, may hide a part of its "),
        (
            weight_normed,
            "sample",
            r"^layer 0 \(.*Linear\) cannot .*: torch's second derivative of weight_norm is wrong",
        ),
        (Checkpointed, "factor", r"^layer 0 \(Checkpointed\) cannot .*: activation checkpoints cannot be"),
        (Checkpointed, "sample", r"^layer 0 \(Checkpointed\) cannot .*: activation checkpoints cannot be"),
    ],
)
def test_what_cannot_be_differentiated_twice_is_refused(
    kind: Callable[[int, int], nn.Module], curvature: Any, expected: str
) -> None:
    network = nn.Sequential(kind(4, 3), nn.Linear(3, 2))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    sm = SurrogateMinimizer([network], CrossEntropy(), curvature=curvature)
    with pytest.raises(RuntimeError, match=expected):
        sm.step(torch.randn(6, 4), torch.arange(6) % 2)
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), before, strict=True))


def test_a_function_by_hand_is_not_blamed_for_a_loss_that_is_not_finite() -> None:
    network = nn.Sequential(nn.Linear(4, 3), Cubed(3, 3), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight *= 1e25
    with pytest.raises(NonFiniteError, match="the loss is"):
        SurrogateMinimizer([network], CrossEntropy()).step(torch.randn(6, 4), torch.arange(6) % 2)
