import pytest
import torch
from torch import nn

from surmin.models import ACTIVATIONS, ModelError, mlp


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_layers_are_counted_as_linear_layers(layers: int) -> None:
    model = mlp((1, 8, 8), outputs=10, layers=layers, width=16, activation="tanh")
    linears = [module for module in model if isinstance(module, nn.Linear)]
    assert [linear.in_features for linear in linears] == [64, *[16] * (layers - 1)]
    assert [linear.out_features for linear in linears] == [*[16] * (layers - 1), 10]
    assert sum(isinstance(module, nn.Tanh) for module in model) == layers - 1
    assert isinstance(model[-1], nn.Linear)
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_the_initialisation_is_torchs_and_nothing_else_is_drawn() -> None:
    torch.manual_seed(3)
    model = mlp((4,), outputs=2, layers=2, width=5)
    after_model = torch.rand(1)
    torch.manual_seed(3)
    expected = [nn.Linear(4, 5), nn.Linear(5, 2)]
    assert torch.equal(torch.rand(1), after_model)
    parameters = [parameter for linear in expected for parameter in linear.parameters()]
    for parameter, other in zip(model.parameters(), parameters, strict=True):
        assert torch.equal(parameter, other)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_runs_in_double_and_spares_its_input(activation: str) -> None:
    module = ACTIVATIONS[activation]()
    assert module is not ACTIVATIONS[activation]()
    inputs = torch.linspace(-2, 2, 9, dtype=torch.float64)
    before = inputs.clone()
    assert module(inputs).shape == inputs.shape
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("name", ["outputs", "layers", "width"])
def test_sizes_below_one(name: str) -> None:
    sizes = {"outputs": 10, "layers": 2, "width": 16, name: 0}
    with pytest.raises(ModelError, match=f"{name} must be at least 1, got 0"):
        mlp((64,), **sizes)


def test_empty_samples() -> None:
    with pytest.raises(ModelError, match="inputs must be at least 1, got 0"):
        mlp((3, 0), outputs=2, layers=1, width=1)


def test_an_unknown_activation_lists_the_choices() -> None:
    with pytest.raises(ModelError, match="unknown activation 'swish': choose one of relu, tanh"):
        mlp((4,), outputs=2, layers=2, width=5, activation="swish")
