"""A small GPT on sentences made up here: two sampled columns of curvature, beside Adam on the same batches.

Surrogate Minimization is ahead per update; in the same time Adam makes many more updates. Both are printed.

Run it: python examples/small_gpt.py
"""

import random
import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import surmin
from surmin.models import build_model

UPDATES, BATCH, CONTEXT = 13, 64, 32
ADAM_RATE = 3e-3
Batch = tuple[Tensor, Tensor]
NOUNS, VERBS, PLACES = ("cat", "dog", "crow", "fox"), ("sees", "likes", "chases"), ("in the barn", "by the river")


def made_up_text(sentences: int) -> str:
    """Sentences like "the old fox chases a cat by the river."."""
    choose = random.Random(0).choice
    return " ".join(
        f"the {choose(('old ', 'small ', ''))}{choose(NOUNS)} {choose(VERBS)} a {choose(NOUNS)} {choose(PLACES)}."
        for _ in range(sentences)
    )


def batches(text: str) -> tuple[Iterator[Batch], int]:
    """Endless batches of character windows with their successors, and the number of characters."""
    alphabet = sorted(set(text))
    tokens = torch.tensor([alphabet.index(character) for character in text])

    def draw() -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        while True:
            starts = torch.randint(len(tokens) - CONTEXT, (BATCH, 1), generator=generator)
            windows = tokens[starts + torch.arange(CONTEXT + 1)]
            yield windows[:, :-1], windows[:, 1:]

    return draw(), len(alphabet)


def network(vocabulary: int) -> nn.Sequential:
    """The same start for everybody."""
    torch.manual_seed(0)
    return build_model("gpt", input_shape=(CONTEXT,), outputs=vocabulary, layers=2, width=32, tokens=True)


def train_by_surrogates(text: str, updates: int) -> list[float]:
    """The loss of every batch before the update it is used for."""
    data, vocabulary = batches(text)
    sm = surmin.SurrogateMinimizer(surmin.partition(network(vocabulary), 2), surmin.CrossEntropy(), rank=2)
    return [sm.step(inputs, targets).loss for inputs, targets in islice(data, updates)]


def train_by_adam(text: str, seconds: float) -> list[float]:
    """The same until the time is up."""
    data, vocabulary = batches(text)
    model = network(vocabulary)
    optimizer = torch.optim.Adam(model.parameters(), lr=ADAM_RATE)
    losses, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        inputs, targets = next(data)
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train both ways; Adam gets the seconds that Surrogate Minimization took."""
    torch.set_num_threads(1)
    text = made_up_text(600)
    start = time.perf_counter()
    by_surrogates = train_by_surrogates(text, UPDATES)
    seconds = time.perf_counter() - start
    by_adam = train_by_adam(text, seconds)
    print("loss per character of the next batch after so many updates:")
    print(" " * 14 + "".join(f"{done:>8}" for done in range(0, UPDATES, 6)))
    for name, losses in {"sm": by_surrogates, f"adam, {ADAM_RATE:g}": by_adam}.items():
        print(f"  {name:12}" + "".join(f"{loss:8.3f}" for loss in losses[:UPDATES:6]))
    print(f"after {seconds:.1f} s each: sm {by_surrogates[-1]:.3f} ({UPDATES} updates), ", end="")
    print(f"adam {by_adam[-1]:.3f} ({len(by_adam)} updates)")


if __name__ == "__main__":
    main()
