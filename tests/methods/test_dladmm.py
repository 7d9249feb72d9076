"""dlADMM step for step against its updates written out literally: backtracking by doubling, minimisers by search."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surmin.losses import ConvexLoss, CrossEntropy, LogisticLoss, SquaredError
from surmin.methods.admm.outputs import NEWTON_STEPS, solve_hidden
from surmin.methods.dladmm import DlAdmm
from surmin.models import mlp
from surmin.pipeline.in_process import InProcessPipeline
from surmin.stages.layer import Layer
from surmin.stages.partition import partition
from tests.cases import BY_NAME, Case
from tests.methods.cases import SAMPLES, WIDTH, check_trains, largest_difference, make_batch, make_model, make_pipeline
from tests.methods.plain_losses import plain_mean

ROUNDS = 2


class PlainAdmm:
    """The variables of a whole network of linear layers, by layer; sums over samples are means over them."""

    def __init__(self, model: nn.Sequential, loss: ConvexLoss, batch: tuple[Tensor, Tensor], rho: float) -> None:
        self.linear = [module for module in model if isinstance(module, nn.Linear)]
        others = [module for module in model if not isinstance(module, nn.Linear | nn.Flatten)]
        self.f = [*others, nn.Identity()]
        self.loss, self.labels, self.rho = loss, batch[1], rho
        self.a, self.z = [batch[0].flatten(1)], []
        for layer, f in zip(self.linear, self.f, strict=True):
            self.z.append(layer(self.a[-1]).detach())
            self.a.append(f(self.z[-1]).detach())
        self.u = torch.zeros_like(self.z[-1])

    @torch.no_grad()
    def round(self) -> None:
        last = len(self.linear) - 1
        for at in reversed(range(last + 1)):
            self.update_z(at)
            self.update_b(at)
            self.update_w(at)
            self.update_a(at)
        for at in range(last + 1):
            self.update_a(at)
            self.update_w(at)
            self.update_b(at)
            self.update_z(at)
        self.u += self.rho * (self.z[last] - self.linear[last](self.a[last]))

    def gap(self, at: int, a: Tensor, weight: Tensor) -> Tensor:
        """ρ/2 ‖z - W a - b + u/ρ‖² of every sample."""
        made = a @ weight.T + (0 if self.linear[at].bias is None else self.linear[at].bias)
        dual = self.u if at == len(self.linear) - 1 else 0
        return self.rho / 2 * (self.z[at] - made + dual / self.rho).square().sum(1)

    def update_w(self, at: int) -> None:
        old = self.linear[at].weight.detach().clone()
        with torch.enable_grad():
            leaf = old.clone().requires_grad_()
            value = self.gap(at, self.a[at], leaf).mean()
            (gradient,) = torch.autograd.grad(value, leaf)
        theta, value = self.rho * 2.0**-30, value.detach()
        while True:
            new = old - gradient / theta
            model = value + (gradient * (new - old)).sum() + theta / 2 * (new - old).square().sum()
            if self.gap(at, self.a[at], new).mean() <= model:
                break
            theta *= 2
        self.linear[at].weight.copy_(new)

    def update_b(self, at: int) -> None:
        layer = self.linear[at]
        if layer.bias is not None:
            dual = self.u if at == len(self.linear) - 1 else 0
            layer.bias.copy_((self.z[at] + dual / self.rho - self.a[at] @ layer.weight.T).mean(0))

    def update_a(self, at: int) -> None:
        if at == 0:
            return

        def value_of(a: Tensor) -> Tensor:
            apart = a - self.f[at - 1](self.z[at - 1])
            return self.gap(at, a, self.linear[at].weight) + self.rho / 2 * apart.square().sum(1)

        with torch.enable_grad():
            leaf = self.a[at].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(value_of(leaf).sum(), leaf)
        for j in range(len(leaf)):
            tau, old, new = self.rho * 2.0**-10, self.a[at], self.a[at].clone()
            while True:
                new[j] = old[j] - gradient[j] / tau
                step = new[j] - old[j]
                if value_of(new)[j] <= value_of(old)[j] + gradient[j] @ step + tau / 2 * step @ step:
                    break
                tau *= 2
            self.a[at] = new

    def update_z(self, at: int) -> None:
        made = self.linear[at](self.a[at]).detach()
        top = at == len(self.linear) - 1
        self.z[at] = self.top(made) if top else nearest(self.f[at], made, self.a[at + 1])

    def top(self, made: Tensor) -> Tensor:
        """By Newton's method on every sample, damped while it must be."""
        rows = []
        for j in range(len(made)):

            def value(z: Tensor, j: int = j) -> Tensor:
                own = plain_mean(self.loss, z[None], self.labels[j : j + 1])
                return own + self.u[j] @ (z - made[j]) + self.rho / 2 * (z - made[j]).square().sum()

            z = made[j].clone()
            for _ in range(30):
                with torch.enable_grad():
                    gradient = torch.func.grad(value)(z)
                    if gradient.abs().max() < 1e-13:
                        break
                    step = torch.linalg.solve(torch.func.hessian(value)(z), gradient)
                length = 1.0
                while value(z - length * step) > value(z) + 1e-12:
                    length /= 2
                z = z - length * step
            rows.append(z)
        return torch.stack(rows)


def nearest(f: nn.Module, m: Tensor, b: Tensor) -> Tensor:
    """The z with the least (z - m)² + (b - f(z))²: the best of many points, then bisection of the derivative."""

    def value(z: Tensor) -> Tensor:
        return (z - m).square() + (b - f(z)).square()

    reach = (b - f(m)).abs() + 1e-9
    points = [m + share * reach for share in torch.linspace(-1, 1, 801, dtype=m.dtype)] + [torch.zeros_like(m)]
    best = torch.stack(points).gather(0, torch.stack([value(z) for z in points]).argmin(0)[None])[0]
    if isinstance(f, nn.ReLU):
        return torch.where(best > 0, (m + b) / 2, torch.where(best < 0, m, 0.0))
    low, high = best - reach / 400, best + reach / 400
    for _ in range(80):
        middle = (low + high) / 2
        with torch.enable_grad():
            leaf = middle.clone().requires_grad_()
            (slope,) = torch.autograd.grad(value(leaf).sum(), leaf)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Setting:
    activation: str
    loss: ConvexLoss
    stages: int
    microbatches: int
    rho: float

    def __str__(self) -> str:
        return f"{self.activation}-{type(self.loss).__name__}-{self.stages}x{self.microbatches}-{self.rho}"

    @property
    def case(self) -> Case:
        labels = {"target_shape": (), "classes": 3} if isinstance(self.loss, CrossEntropy) else {"target_shape": (3,)}
        return Case("mlp", lambda: mlp((2, 2), 3, 4, 5, self.activation), (2, 2), loss=self.loss, **labels)


SETTINGS = [
    Setting("relu", CrossEntropy(), 4, 1, 0.1),
    Setting("relu", SquaredError(), 2, 3, 1.0),
    Setting("tanh", CrossEntropy(), 3, 2, 0.01),
    Setting("softplus", LogisticLoss(), 1, 2, 0.3),
    Setting("gelu", CrossEntropy(), 2, 1, 0.5),
    Setting("identity", SquaredError(), 4, 6, 0.1),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_same_updates(setting: Setting) -> None:
    case, batch = setting.case, setting.case.batch()
    plain, model = case.network(), case.network()
    pipeline = InProcessPipeline(partition(model, setting.stages), case.loss, microbatches=setting.microbatches)
    method = DlAdmm(pipeline, penalty=setting.rho)
    oracle = PlainAdmm(plain, case.loss, batch, setting.rho)
    for _ in range(ROUNDS):
        loss = float(plain_mean(case.loss, oracle.linear[-1](oracle.a[-2]), batch[1]).detach())
        assert method.step(*batch).loss == pytest.approx(loss, abs=1e-8)
        oracle.round()
        assert largest_difference(plain, model) < 1e-8


def test_layers_without_bias() -> None:
    case = Case("plain", lambda: nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)),
                (4,), (2,), SquaredError())  # fmt: skip
    plain, model, batch = case.network(), case.network(), case.batch()
    method, oracle = DlAdmm(InProcessPipeline([model], case.loss), penalty=0.2), PlainAdmm(plain, case.loss, batch, 0.2)
    for _ in range(ROUNDS):
        method.step(*batch)
        oracle.round()
    assert largest_difference(plain, model) < 1e-8


@pytest.mark.parametrize("module", [nn.Tanh(), nn.SiLU()])
def test_a_step_of_newton_s_method_runs_the_activation_three_times(module: nn.Module) -> None:
    """For f and for each derivative; before them there are one for m, nine of the grid, and one for the best of it."""
    m, b = torch.randn(2, 5, 4, dtype=torch.float64)
    runs = []
    with module.register_forward_hook(lambda *_: runs.append(1)):
        found = solve_hidden(Layer.of(module, "0"), m, b)
    torch.testing.assert_close(found, nearest(module, m, b), rtol=0, atol=1e-7)
    assert len(runs) == 1 + 9 + 1 + 3 * NEWTON_STEPS


def test_messages_of_a_gradient_step() -> None:
    for microbatches in (1, 4):
        method, batch = DlAdmm(make_pipeline(make_model(), 3, microbatches)), make_batch()
        first, second = method.step(*batch), method.step(*batch)
        assert (second.messages, second.bytes_sent) == (4 * microbatches, 4 * SAMPLES * WIDTH * 8)
        assert first.messages == 6 * microbatches
        assert (first.forward_waves, second.forward_waves) == (2, 1)
        assert 2 < second.gradient_equivalents < 4


def test_another_batch_begins_anew() -> None:
    model, other_model = make_model(), make_model()
    first, second = make_batch(), make_batch(seed=5)
    method = DlAdmm(make_pipeline(model))
    for _ in range(2):
        method.step(*first)
    other_model.load_state_dict(model.state_dict())
    method.step(*second)
    DlAdmm(make_pipeline(other_model)).step(*second)
    assert largest_difference(model, other_model) == 0


def test_an_equal_batch_goes_on() -> None:
    model, other_model = make_model(), make_model()
    inputs, targets = make_batch()
    method, other = DlAdmm(make_pipeline(model)), DlAdmm(make_pipeline(other_model))
    for _ in range(3):
        method.step(inputs, targets)
        other.step(inputs.clone(), targets.clone())
    assert largest_difference(model, other_model) == 0


def test_a_state_before_the_first_round() -> None:
    method = DlAdmm(make_pipeline(make_model()))
    state = method.state_dict()
    method.step(*make_batch())
    kept = method.state_dict()
    method.load_state_dict(state)
    assert method.state_dict() == state
    del kept["output"]["3.weight"]
    with pytest.raises(ValueError, match=r"no variables of 3\.weight"):
        method.load_state_dict(kept)
    assert method.state_dict() == state


ENDS_BENT = Case("bent", lambda: nn.Sequential(nn.Linear(4, 2), nn.Softplus()), (4,), (2,), SquaredError())


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (BY_NAME["convolution"], r"layer 0 \(Conv2d\) is not one"),
        (BY_NAME["attention"], r"layer 0 \(TokenEmbedding\) is not one"),
        (BY_NAME["frozen"], r"layer 0 \(Linear\) is not one"),
        (ENDS_BENT, r"ends with a linear layer.* layer 1 \(Softplus\) is not one"),
    ],
    ids=str,
)
def test_networks_it_cannot_train(case: Case, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^dladmm needs .*{reason}; sm and adam can train this network$"):
        DlAdmm(InProcessPipeline([case.network()], case.loss))
    check_trains(["sm", "adam"], lambda: InProcessPipeline([case.network()], case.loss), case.batch())


@pytest.mark.parametrize("module", [nn.Hardtanh(), nn.LayerNorm(4)])
def test_activations_it_cannot_solve_for(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"ReLU or a smooth one, in its stage: layer 1 "):
        DlAdmm(make_pipeline(nn.Sequential(nn.Linear(5, 4), module, nn.Linear(4, 3)).double(), 1))


def test_a_stage_without_a_linear_layer() -> None:
    stages = [nn.Flatten(), nn.Linear(5, 3).double()]
    with pytest.raises(ValueError, match=r"a linear layer in every stage: .*; sm and adam can train it as it is$"):
        DlAdmm(InProcessPipeline(stages, CrossEntropy()))
    check_trains(["sm", "adam"], lambda: InProcessPipeline(stages, CrossEntropy()), make_batch())


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.inf, math.nan])
def test_penalties_that_are_refused(penalty: Any) -> None:
    with pytest.raises(ValueError, match="penalty must be a positive number"):
        DlAdmm(make_pipeline(make_model()), penalty=penalty)
