import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev, jvp, vjp, vmap

from surmin.models import ModelError, gpt
from surmin.models.attention import CausalSelfAttention, TransformerBlock

VOCABULARY, CONTEXT, WIDTH = 7, 5, 8
Parameters = dict[str, Tensor]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return gpt(VOCABULARY, CONTEXT, layers=2, width=WIDTH, heads=2).double()


@pytest.fixture
def tokens() -> Tensor:
    return torch.arange(3 * CONTEXT).reshape(3, CONTEXT) * 5 % VOCABULARY


def as_function(model: nn.Module, inputs: Tensor) -> Callable[[Parameters], Tensor]:
    return lambda parameters: functional_call(model, parameters, (inputs,))


def parameters_of(model: nn.Module) -> Parameters:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def random_like(parameters: Parameters, seed: int) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in parameters.items()
    }


def dot(left: Parameters, right: Parameters) -> Tensor:
    return torch.stack([(left[name] * right[name]).sum() for name in left]).sum()


def test_it_is_a_plain_sequence(model: nn.Sequential, tokens: Tensor) -> None:
    assert [type(module).__name__ for module in model] == [
        "TokenEmbedding",
        "TransformerBlock",
        "TransformerBlock",
        "LayerNorm",
        "Linear",
    ]
    assert model(tokens).shape == (3, CONTEXT, VOCABULARY)
    assert not any("hidden" in name for name in model.state_dict())


def test_no_position_sees_a_later_one(model: nn.Sequential, tokens: Tensor) -> None:
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % VOCABULARY
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
    assert (before[:, 3:] - after[:, 3:]).abs().amax(dim=(0, 2)).min() > 1e-6


def test_a_shorter_sample_is_a_prefix(model: nn.Sequential, tokens: Tensor) -> None:
    torch.testing.assert_close(model(tokens[:, :2]), model(tokens)[:, :2])


def test_a_longer_sample_is_refused(model: nn.Sequential) -> None:
    with pytest.raises(ModelError, match="samples of 6 tokens are longer than the context of 5"):
        model(torch.zeros(1, 6, dtype=torch.int64))


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    ours = CausalSelfAttention(CONTEXT, WIDTH, heads=2).double()
    theirs = nn.MultiheadAttention(WIDTH, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.project_in.weight)
        theirs.in_proj_bias.copy_(ours.project_in.bias)
        theirs.out_proj.weight.copy_(ours.project_out.weight)
        theirs.out_proj.bias.copy_(ours.project_out.bias)
    inputs = torch.randn(3, CONTEXT, WIDTH, dtype=torch.float64)
    masked = torch.full((CONTEXT, CONTEXT), -math.inf, dtype=torch.float64).triu(1)
    expected, _ = theirs(inputs, inputs, inputs, attn_mask=masked, need_weights=False)
    torch.testing.assert_close(ours(inputs), expected)


def test_jvp_agrees_with_finite_differences(model: nn.Sequential, tokens: Tensor) -> None:
    function, parameters = as_function(model, tokens), parameters_of(model)
    direction = random_like(parameters, seed=1)
    _, product = jvp(function, (parameters,), (direction,))
    ahead, behind = (
        function({name: value + step * direction[name] for name, value in parameters.items()}) for step in (1e-6, -1e-6)
    )
    torch.testing.assert_close(product, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5)


def test_jvp_and_vjp_are_adjoint(model: nn.Sequential, tokens: Tensor) -> None:
    function, parameters = as_function(model, tokens), parameters_of(model)
    direction = random_like(parameters, seed=1)
    outputs, product = jvp(function, (parameters,), (direction,))
    cotangent = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2), dtype=outputs.dtype)
    _, pull_back = vjp(function, parameters)
    torch.testing.assert_close((product * cotangent).sum(), dot(direction, pull_back(cotangent)[0]))


def test_products_can_be_batched(model: nn.Sequential, tokens: Tensor) -> None:
    function, parameters = as_function(model, tokens), parameters_of(model)
    directions = [random_like(parameters, seed) for seed in range(3)]
    stacked = {name: torch.stack([direction[name] for direction in directions]) for name in parameters}
    products = vmap(lambda direction: jvp(function, (parameters,), (direction,))[1])(stacked)
    for product, direction in zip(products, directions, strict=True):
        torch.testing.assert_close(product, jvp(function, (parameters,), (direction,))[1])
    outputs, pull_back = vjp(function, parameters)
    pulled = vmap(lambda cotangent: pull_back(cotangent)[0])(products)
    for name, value in pull_back(products[1])[0].items():
        torch.testing.assert_close(pulled[name][1], value)
    assert outputs.shape == products.shape[1:]


def test_samples_can_be_batched_by_vmap(model: nn.Sequential, tokens: Tensor) -> None:
    parameters = parameters_of(model)
    outputs = vmap(lambda sample: functional_call(model, parameters, (sample,)))(tokens)
    torch.testing.assert_close(outputs, model(tokens))


def test_nested_derivatives(model: nn.Sequential, tokens: Tensor) -> None:
    """A product with the Hessian, forward over reverse, against differences of gradients."""
    function, parameters = as_function(model, tokens), parameters_of(model)

    def gradient(at: Parameters) -> Parameters:
        outputs, pull_back = vjp(lambda point: function(point).square().mean(), at)
        result: Parameters = pull_back(torch.ones_like(outputs))[0]
        return result

    direction = random_like(parameters, seed=1)
    _, product = jvp(gradient, (parameters,), (direction,))
    ahead, behind = (
        gradient({name: value + step * direction[name] for name, value in parameters.items()}) for step in (1e-6, -1e-6)
    )
    for name, value in product.items():
        torch.testing.assert_close(value, (ahead[name] - behind[name]) / 2e-6, rtol=1e-4, atol=1e-5)


def test_the_hessian_in_a_block_s_input_is_symmetric_and_finite() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(3, 4, heads=2, activation="gelu").double()
    inputs = torch.randn(3, 4, dtype=torch.float64)
    dense = hessian(lambda point: block(point).square().sum())(inputs).reshape(12, 12)
    assert dense.isfinite().all()
    torch.testing.assert_close(dense, dense.T)
    reverse = jacrev(jacrev(lambda point: block(point).square().sum()))(inputs).reshape(12, 12)
    torch.testing.assert_close(dense, reverse)


@pytest.mark.parametrize("name", ["vocabulary", "context", "layers", "width", "heads"])
def test_sizes_below_one(name: str) -> None:
    sizes = {"vocabulary": 7, "context": 5, "layers": 1, "width": 8, "heads": 2, name: 0}
    with pytest.raises(ModelError, match=f"{name} must be at least 1, got 0"):
        gpt(**sizes)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ModelError, match="width 10 is not divisible by 4 heads"):
        gpt(7, 5, layers=1, width=10)


def test_an_unknown_activation() -> None:
    with pytest.raises(ModelError, match="unknown activation"):
        gpt(7, 5, layers=1, width=8, activation="swish")
