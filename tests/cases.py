"""One shared list of small networks with data and a loss, so that every test looks at the same variety."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surmin.losses import ConvexLoss, CrossEntropy, LogisticLoss, SquaredError
from surmin.models import gpt

SAMPLES = 6


@dataclass(frozen=True)
class Case:
    """A network, a batch and a loss.

    Attributes:
        name: shown by pytest.
        make: a fresh network from torch's global generator.
        input_shape: of one sample.
        target_shape: of one sample's targets.
        loss: the convex loss.
        tokens: size of the vocabulary where inputs are token ids, else 0.
        classes: number of labels, for cross-entropy.
        smooth: whether the network has second derivatives everywhere.
    """

    name: str
    make: Callable[[], nn.Sequential]
    input_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    loss: ConvexLoss
    tokens: int = 0
    classes: int = 0
    smooth: bool = True

    def __str__(self) -> str:
        return self.name

    def network(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
        """The network, the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.make().to(dtype)

    def batch(self, samples: int = SAMPLES, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return self._inputs(samples, generator).to(dtype if not self.tokens else torch.int64), self._targets(
            samples, dtype, generator
        )

    def _inputs(self, samples: int, generator: torch.Generator) -> Tensor:
        shape = (samples, *self.input_shape)
        if self.tokens:
            return torch.randint(self.tokens, shape, generator=generator)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def _targets(self, samples: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        shape = (samples, *self.target_shape)
        if self.classes:
            return torch.randint(self.classes, shape, generator=generator)
        if isinstance(self.loss, LogisticLoss):
            return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _relu() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
    )


def _tanh() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    )


def _softplus() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5, bias=False), nn.Softplus(), nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 2))


def _logistic() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 2, bias=False))


def _convolution() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 2, bias=False), nn.Softplus(),
        nn.Flatten(), nn.Linear(3, 3),
    )  # fmt: skip


def _positions() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2))


def _embedding() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def _parameter_free() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Identity(), nn.Linear(5, 3), nn.Softplus()
    )


def _frozen() -> nn.Sequential:
    network = nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    )
    network[0].requires_grad_(False)
    network[4].requires_grad_(False)
    network[6].bias.requires_grad_(False)
    return network


CASES = [
    Case("relu", _relu, (5,), (), CrossEntropy(), classes=3, smooth=False),
    Case("tanh", _tanh, (4,), (), CrossEntropy(), classes=3),
    Case("softplus", _softplus, (3,), (2,), SquaredError()),
    Case("logistic", _logistic, (4,), (2,), LogisticLoss()),
    Case("convolution", _convolution, (1, 4, 4), (), CrossEntropy(), classes=3),
    Case("attention", lambda: gpt(5, 3, 1, 4, heads=2), (3,), (3,), CrossEntropy(), tokens=5, classes=5),
    Case("positions", _positions, (3, 3), (3, 2), SquaredError()),
    Case("embedding", _embedding, (2,), (), CrossEntropy(), tokens=5, classes=3),
    Case("parameter-free", _parameter_free, (2, 2), (3,), SquaredError()),
    Case("frozen", _frozen, (4,), (), CrossEntropy(), classes=3),
]
BY_NAME = {case.name: case for case in CASES}
