"""L-BFGS on the pipeline: step for step torch's, one collective a trip, nothing lost when a search fails."""

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surmin.errors import NonFiniteError
from surmin.losses import CrossEntropy
from surmin.methods import lbfgs
from surmin.methods.lbfgs import Lbfgs
from surmin.methods.quasi_newton import limited_memory
from surmin.methods.registry import build_method
from surmin.pipeline.in_process import InProcessPipeline
from tests.methods.cases import largest_difference, make_batch, make_model, make_pipeline


class Recorded(InProcessPipeline):
    """Keeps how many numbers every sum over workers had."""

    sums: list[int]

    def total(self, values: Tensor) -> list[float]:
        self.sums = [*getattr(self, "sums", []), len(values)]
        return super().total(values)


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(("lr", "inner_steps", "history"), [(1.0, 5, 100), (0.01, 3, 100), (40.0, 4, 100), (1.0, 7, 3)])
def test_step_for_step_with_torch(lr: float, inner_steps: int, history: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_memory, "HISTORY", history)
    plain, piped = make_model(), make_model()
    inputs, targets = make_batch()
    optimizer = torch.optim.LBFGS(
        plain.parameters(), lr, inner_steps, max_eval=1000, history_size=history, line_search_fn="strong_wolfe"
    )
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(inputs), targets)
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    method = Lbfgs(make_pipeline(piped, 3), lr=lr, inner_steps=inner_steps)
    for _ in range(4):
        losses.clear()
        optimizer.step(closure)
        report = method.step(inputs, targets)
        assert report.tries == len(losses) - 1
        assert report.loss == pytest.approx(losses[0], rel=1e-8)
        for own, expected in zip(piped.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-8, atol=1e-9)


def test_one_sum_an_evaluation() -> None:
    pipeline = Recorded(list(make_model()), CrossEntropy())
    method, batch = Lbfgs(pipeline, inner_steps=6), make_batch()
    report = method.step(*batch)
    assert len(pipeline.sums) == report.forward_waves
    assert set(pipeline.sums) == {208}
    pipeline.sums.clear()
    assert method.step(*batch).tries == len(pipeline.sums) > 0


def test_a_rounds_last_evaluation_is_the_next_ones_first_while_nothing_changes() -> None:
    models = make_model(), make_model()
    methods = [Lbfgs(make_pipeline(model), inner_steps=3) for model in models]
    inputs, targets = make_batch()
    for number in range(3):
        reused, repeated = methods[0].step(inputs, targets), methods[1].step(inputs.clone(), targets)
        assert reused.forward_waves == reused.tries + (number == 0)
        assert repeated.forward_waves == repeated.tries + 1
        assert (reused.loss, reused.new_loss) == (repeated.loss, repeated.new_loss)
    assert largest_difference(*models) == 0
    with torch.no_grad():
        next(models[0].parameters()).add_(0.1)
    changed = methods[0].step(inputs, targets)
    assert changed.forward_waves == changed.tries + 1


def test_the_report_tells_where_the_round_begins_and_ends() -> None:
    model = make_model()
    method = Lbfgs(make_pipeline(model), inner_steps=3)
    inputs, targets = make_batch()
    for _ in range(2):
        loss = F.cross_entropy(model(inputs), targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        report = method.step(inputs, targets)
        assert report.accepted and report.loss == pytest.approx(float(loss.detach()), abs=1e-12)
        assert report.gradient_norm == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()))
        reached = float(F.cross_entropy(model(inputs), targets).detach())
        assert report.new_loss == pytest.approx(reached, abs=1e-12) and reached < report.loss


def test_at_a_minimum_a_round_makes_no_trip() -> None:
    torch.manual_seed(0)
    method = Lbfgs(make_pipeline(nn.Sequential(nn.Linear(5, 3).double()), 1), inner_steps=50)
    inputs, targets = torch.randn(40, 5, dtype=torch.float64), torch.randint(3, (40,))
    reports = [method.step(inputs, targets) for _ in range(4)]
    assert reports[-1].gradient_norm < 1e-4
    assert (reports[-1].tries, reports[-1].forward_waves, reports[-1].accepted) == (0, 0, False)


def test_a_round_ends_where_little_is_left_to_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch()
    slope = Lbfgs(make_pipeline(make_model()), inner_steps=1).step(*batch).gradient_norm ** 2
    monkeypatch.setattr(lbfgs, "SMALLEST_CHANGE", 0.99 * slope)
    method = Lbfgs(make_pipeline(make_model()), inner_steps=5)
    assert method.step(*batch).accepted and len(method.state_dict()["mixed"]) == 1
    monkeypatch.setattr(lbfgs, "SMALLEST_CHANGE", 1.01 * slope)
    assert Lbfgs(make_pipeline(make_model())).step(*batch).tries == 0
    monkeypatch.setattr(lbfgs, "SMALLEST_CHANGE", 0.0)
    monkeypatch.setattr(lbfgs, "SMALLEST_GRADIENT", 1.01 * math.sqrt(slope))
    assert Lbfgs(make_pipeline(make_model())).step(*batch).tries == 0


def test_a_pair_comes_from_one_batch() -> None:
    model = make_model()
    method = Lbfgs(make_pipeline(model), inner_steps=1)
    method.step(*make_batch(1))
    inputs, targets = make_batch(2)

    def gradient() -> list[Tensor]:
        return list(torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters())))

    before, start = gradient(), values(model)
    method.step(inputs, targets)
    after, end = gradient(), values(model)
    state = method.state_dict()
    for index, name in enumerate(method.pipeline.parameters):
        torch.testing.assert_close(state["changes"][name][1], after[index] - before[index])
        torch.testing.assert_close(state["steps"][name][1], end[index] - start[index])


@pytest.mark.parametrize("lr", [1e5, 1e38])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_trials_that_are_not_finite_leave_no_trace(activation: type[nn.Module], lr: float) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(5, 5), activation())]
    model = nn.Sequential(*layers, nn.Linear(5, 3))
    start = values(model)
    inputs, targets = make_batch()
    report = Lbfgs(make_pipeline(model), lr=lr, inner_steps=2).step(1e3 * inputs.float(), targets)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert math.isfinite(report.new_loss) and report.new_loss <= report.loss
    moved = any(not torch.equal(*pair) for pair in zip(start, values(model), strict=True))
    assert report.accepted == moved


def test_a_start_that_is_not_finite_is_refused() -> None:
    model = make_model()
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.inf
    start = values(model)
    with pytest.raises(NonFiniteError, match="not finite"):
        Lbfgs(make_pipeline(model)).step(*make_batch())
    assert all(torch.equal(*pair) for pair in zip(start, values(model), strict=True))


def test_an_error_after_some_iterations_leaves_all_as_before_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    broken, whole = make_model(), make_model()
    inputs, targets = make_batch()
    method = Lbfgs(make_pipeline(broken), inner_steps=5)
    forward, waves = method.pipeline.forward, 0

    def failing(*batch: Tensor, **options: Any) -> Any:
        nonlocal waves
        waves += 1
        if waves == 3:
            raise OSError("a link broke")
        return forward(*batch, **options)

    monkeypatch.setattr(method.pipeline, "forward", failing)
    with pytest.raises(OSError, match="a link broke"):
        method.step(inputs, targets)
    assert largest_difference(broken, whole) == 0
    Lbfgs(make_pipeline(whole), inner_steps=5).step(inputs, targets)
    assert method.step(inputs, targets).accepted
    assert largest_difference(broken, whole) == 0


def test_the_state_is_by_global_name_and_the_rest_plain_numbers() -> None:
    method = Lbfgs(make_pipeline(make_model(), 3), inner_steps=4)
    empty = method.state_dict()
    method.step(*make_batch())
    state = method.state_dict()
    for vectors in ("steps", "changes"):
        shapes = {name: tuple(tensor.shape) for name, tensor in state[vectors].items()}
        assert shapes == {name: (4, *parameter.shape) for name, parameter in method.pipeline.parameters.items()}
    numbers = {name: state[name] for name in ("mixed", "squared")}
    assert json.loads(json.dumps(numbers)) == numbers
    method.load_state_dict(empty)
    assert method.state_dict() == empty


def test_a_state_of_other_parameters_changes_nothing() -> None:
    inputs, targets = make_batch()
    method, other = (Lbfgs(make_pipeline(make_model()), inner_steps=2) for _ in range(2))
    method.step(inputs, targets)
    foreign = method.state_dict()
    foreign["changes"] = {f"9{name}": tensor for name, tensor in foreign["changes"].items()}
    with pytest.raises(ValueError, match="not 2 vectors of this network's parameters"):
        other.load_state_dict(foreign)
    assert other.state_dict() == Lbfgs(make_pipeline(make_model())).state_dict()


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": math.nan}, {"inner_steps": 0}])
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be "):
        Lbfgs(make_pipeline(make_model()), **options)


@pytest.mark.parametrize("name", ["sm", "sso", "kfac", "gd"])
def test_another_method_takes_over_on_the_same_batch(name: str) -> None:
    """The wave that L-BFGS accepted has no tapes; another one is run, as on a pipeline that has seen none."""
    model, (inputs, targets) = make_model(), make_batch()
    pipeline = make_pipeline(model)
    Lbfgs(pipeline, inner_steps=2).step(inputs, targets)
    other = make_model()
    other.load_state_dict(model.state_dict())
    expected = build_method(name, make_pipeline(other)).step(inputs, targets)
    waves = pipeline.traffic.forward_waves
    report = build_method(name, pipeline).step(inputs, targets)
    assert report.loss == pytest.approx(expected.loss, rel=1e-12)
    assert pipeline.traffic.forward_waves == waves + expected.forward_waves
    assert largest_difference(model, other) == 0
