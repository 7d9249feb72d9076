"""An MLP of 8 layers on scikit-learn's digits, in 4 stages: Surrogate Minimization beside Adam.

Run it: python examples/digits_mlp.py
"""

import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import surmin
from surmin.data import Dataset, load_dataset
from surmin.models import build_model

TARGET, LIMIT = 1e-3, 300
ADAM_RATE = 1e-2


def network(data: Dataset) -> nn.Sequential:
    """The same start for both."""
    torch.manual_seed(0)
    return build_model("mlp", input_shape=data.input_shape, outputs=data.classes, layers=8, width=64)


def train_by_surrogates(data: Dataset) -> tuple[nn.Module, int]:
    """The network, and after how many rounds its training loss was at the target."""
    model = network(data)
    sm = surmin.SurrogateMinimizer(surmin.partition(model, num_stages=4), surmin.CrossEntropy())
    for rounds in range(1, LIMIT + 1):
        report = sm.step(data.train_inputs, data.train_targets)
        if report.accepted and report.new_loss <= TARGET:
            return model, rounds
    return model, LIMIT


def train_by_adam(data: Dataset) -> tuple[nn.Module, int]:
    """The same by one Adam step a round."""
    model = network(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=ADAM_RATE)
    for rounds in range(LIMIT):
        optimizer.zero_grad()
        loss = cross_entropy(model(data.train_inputs), data.train_targets)
        if loss.item() <= TARGET:
            return model, rounds
        loss.backward()
        optimizer.step()
    return model, LIMIT


@torch.no_grad()
def test_accuracy(model: nn.Module, data: Dataset) -> float:
    """Share of the test images that are recognised."""
    return (model(data.test_inputs).argmax(1) == data.test_targets).double().mean().item()


def main() -> None:
    """Train both ways to the same loss."""
    torch.set_num_threads(1)
    data = load_dataset("digits")
    print(f"rounds to a training loss of {TARGET:g}, at most {LIMIT}:")
    for name, train in {"sm": train_by_surrogates, f"adam, {ADAM_RATE:g}": train_by_adam}.items():
        start = time.perf_counter()
        model, rounds = train(data)
        seconds = time.perf_counter() - start
        print(f"  {name:12} {rounds:4} rounds, {seconds:.1f} s, test accuracy {test_accuracy(model, data):.1%}")


if __name__ == "__main__":
    main()
