"""A damped oscillator fitted by a tanh network in float64: how far does each method get in the same time?

The network learns x(t) = e^(-t/5) cos 3t on 0 ≤ t ≤ 6 from 200 points, as it would learn a solution of an equation
that is dear to compute. The loss is the mean of ½ (error)². Surrogate Minimization takes 150 rounds; Adam, at each of
three learning rates, and L-BFGS then get the seconds it took, and the same start.

Run it: python examples/oscillator.py
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import surmin

ROUNDS = 150
ADAM_RATES = (1e-3, 3e-3, 1e-2)


def oscillation(count: int) -> tuple[Tensor, Tensor]:
    """Times, scaled to [-1, 1], and positions, both (count, 1)."""
    t = torch.linspace(0, 6, count, dtype=torch.float64).unsqueeze(1)
    return t / 3 - 1, torch.exp(-t / 5) * torch.cos(3 * t)


def network() -> nn.Sequential:
    """The same start for every method."""
    torch.manual_seed(0)
    layers = [nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)]
    return nn.Sequential(*layers).double()


def mean_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of ½ (error)²."""
    return 0.5 * (model(inputs) - targets).square().mean()


def fit_by_surrogates(inputs: Tensor, targets: Tensor) -> float:
    """Loss after all rounds; the curvature is that of all points, as there are few."""
    model = network()
    sm = surmin.SurrogateMinimizer([model], surmin.SquaredError(), curvature_fraction=1.0)
    for _ in range(ROUNDS):
        sm.step(inputs, targets)
    return mean_loss(model, inputs, targets).item()


def fit_by_adam(inputs: Tensor, targets: Tensor, seconds: float, lr: float) -> tuple[float, int]:
    """Loss, and how many steps there was time for."""
    model = network()
    return fit_by(torch.optim.Adam(model.parameters(), lr=lr), model, inputs, targets, seconds)


def fit_by_lbfgs(inputs: Tensor, targets: Tensor, seconds: float) -> tuple[float, int]:
    """The same with a strong-Wolfe line search, a long memory and no tolerances to stop at; a step is 20 iterations."""
    model = network()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=20, history_size=100, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip
    return fit_by(optimizer, model, inputs, targets, seconds)


def fit_by(
    optimizer: torch.optim.Optimizer, model: nn.Module, inputs: Tensor, targets: Tensor, seconds: float
) -> tuple[float, int]:
    """Steps of a torch optimizer until the time is up."""

    def closure() -> float:
        optimizer.zero_grad()
        loss = mean_loss(model, inputs, targets)
        loss.backward()
        return loss.item()

    steps = sum(1 for _ in until_time_is_up(seconds) if optimizer.step(closure) is not None)
    return mean_loss(model, inputs, targets).item(), steps


def until_time_is_up(seconds: float) -> Iterator[None]:
    """Goes on for so many seconds."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield


def main() -> None:
    """Fit by every method, and say who won."""
    torch.set_num_threads(1)
    inputs, targets = oscillation(200)
    start = time.perf_counter()
    losses = {f"sm, {ROUNDS} rounds": fit_by_surrogates(inputs, targets)}
    seconds = time.perf_counter() - start
    for lr in ADAM_RATES:
        loss, steps = fit_by_adam(inputs, targets, seconds, lr)
        losses[f"adam, lr {lr:g}, {steps} steps"] = loss
    loss, steps = fit_by_lbfgs(inputs, targets, seconds)
    losses[f"lbfgs, {steps} steps of 20 iterations"] = loss
    print(f"loss after {seconds:.1f} s each, from the same start:")
    for name, loss in sorted(losses.items(), key=lambda item: item[1]):
        print(f"  {loss:.1e}  {name}")


if __name__ == "__main__":
    main()
