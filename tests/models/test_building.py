import pytest
import torch
from torch import nn

from surmin.models import ModelError, build_model


def module_types(model: nn.Sequential) -> set[str]:
    return {type(module).__name__ for module in model.modules()}


def test_mlp() -> None:
    model = build_model("mlp", input_shape=(1, 8, 8), outputs=10, layers=3, width=16)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert "ReLU" in module_types(model)


def test_cnn() -> None:
    model = build_model("cnn", input_shape=(1, 8, 8), outputs=10, layers=3, width=4, activation="tanh")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert {"Conv2d", "Tanh"} <= module_types(model)


def test_gpt() -> None:
    model = build_model("gpt", input_shape=(6,), outputs=9, layers=2, width=8, heads=2, tokens=True)
    assert model(torch.zeros(2, 6, dtype=torch.int64)).shape == (2, 6, 9)
    assert "GELU" in module_types(model)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_same_seed_gives_the_same_network(kind: str) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(5)
        models.append(build_model(kind, input_shape=(1, 4, 4), outputs=3, layers=2, width=4))
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("kind", "shape", "tokens", "message"),
    [
        ("rnn", (8,), False, "unknown model 'rnn': choose one of mlp, cnn, gpt"),
        ("gpt", (1, 8, 8), False, r"gpt needs rows of token ids, as text has; .* shape \(1, 8, 8\)"),
        ("gpt", (8,), False, "gpt needs rows of token ids"),
        ("mlp", (8,), True, "mlp needs numbers, this data has token ids"),
        ("cnn", (8,), True, "cnn needs numbers, this data has token ids"),
        ("cnn", (8,), False, "cnn needs images"),
    ],
)
def test_what_does_not_fit(kind: str, shape: tuple[int, ...], tokens: bool, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(kind, input_shape=shape, outputs=10, layers=2, width=8, tokens=tokens)
