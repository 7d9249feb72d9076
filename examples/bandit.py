"""A contextual bandit learned through a gradient oracle: many updates from every interaction.

A context is a picture of a digit, an arm is a guess, and only the arm that is pulled tells its reward: 1 for the
right digit, else 0. The policy's gradient is all that is known of the loss, and every estimate of it costs
interactions. So the network's loss is a `GradientOracle`, and Surrogate Minimization takes the most out of every call
of it; Adam, at each of three learning rates, calls the same oracle as often.

Run it: python examples/bandit.py
"""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

import surmin
from surmin.data import Dataset, load_dataset
from surmin.models import build_model

CALLS, PULLS = 60, 200
ADAM_RATES = (1e-3, 3e-3, 1e-2)
SMOOTHNESS = 0.25
"""Of an arm's probability as a function of the logits: no second derivative of it exceeds √3/9, which is 0.19."""


class Casino:
    """Pulls an arm for every context and keeps count.

    Args:
        seed: of the arms that are drawn.
    """

    def __init__(self, seed: int) -> None:
        self.pulls = 0
        self._generator = torch.Generator().manual_seed(seed)

    def gradient(self, logits: Tensor, digits: Tensor) -> Tensor:
        """REINFORCE with the mean reward as baseline: estimates of ∇ of minus the expected reward, per context."""
        probabilities = logits.softmax(-1)
        arms = torch.multinomial(probabilities, 1, generator=self._generator)
        rewards = (arms.squeeze(1) == digits).to(logits.dtype)
        self.pulls += len(arms)
        advantage = rewards - rewards.mean()
        return advantage.unsqueeze(1) * probabilities.scatter_add(1, arms, -torch.ones_like(arms, dtype=logits.dtype))


def policy(data: Dataset) -> nn.Sequential:
    """The same start for everybody; its outputs are logits of the arms."""
    torch.manual_seed(0)
    return build_model("mlp", input_shape=data.input_shape, outputs=data.classes, layers=3, width=64)


def visits(data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Contexts that come in, and what only the casino knows of them."""
    generator = torch.Generator().manual_seed(1)
    while True:
        rows = torch.randint(len(data.train_inputs), (PULLS,), generator=generator)
        yield data.train_inputs[rows], data.train_targets[rows]


@torch.no_grad()
def expected_reward(model: nn.Module, data: Dataset) -> float:
    """Over contexts that were never visited: the mean probability of the right arm."""
    probabilities: Tensor = model(data.test_inputs).softmax(-1)
    return probabilities.gather(1, data.test_targets.unsqueeze(1)).mean().item()


def learn_by_surrogates(data: Dataset, casino: Casino) -> list[float]:
    """Expected reward before the first call and after every call.

    A loss without a value cannot be tested for descent, so every step is accepted.
    """
    model = policy(data)
    loss = surmin.GradientOracle(casino.gradient, SMOOTHNESS)
    sm = surmin.SurrogateMinimizer(
        surmin.partition(model, num_stages=2), loss, adapt_damping=False, curvature_fraction=1.0
    )
    return follow(sm.step, model, data)


def learn_by_adam(data: Dataset, casino: Casino, lr: float) -> list[float]:
    """The same from one Adam step a call."""
    model = policy(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def step(contexts: Tensor, digits: Tensor) -> None:
        logits = model(contexts)
        optimizer.zero_grad()
        logits.backward(casino.gradient(logits.detach(), digits) / len(logits))
        optimizer.step()

    return follow(step, model, data)


def follow(step: Callable[[Tensor, Tensor], object], model: nn.Module, data: Dataset) -> list[float]:
    """Take all steps and keep the expected rewards."""
    rewards = [expected_reward(model, data)]
    for contexts, digits in islice(visits(data), CALLS):
        step(contexts, digits)
        rewards.append(expected_reward(model, data))
    return rewards


def main() -> None:
    """Learn in both ways, and print the expected reward over the pulls."""
    torch.set_num_threads(1)
    data = load_dataset("digits")
    print("expected reward after so many pulls:")
    print(" " * 14 + "".join(f"{call * PULLS:>8,}" for call in range(0, CALLS + 1, 10)))
    rewards = {"sm": learn_by_surrogates(data, Casino(seed=0))}
    for lr in ADAM_RATES:
        rewards[f"adam, {lr:g}"] = learn_by_adam(data, Casino(seed=0), lr)
    for name, own in rewards.items():
        print(f"  {name:12}" + "".join(f"{reward:8.3f}" for reward in own[::10]))


if __name__ == "__main__":
    main()
