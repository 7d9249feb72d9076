from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from surmin import load_checkpoint, save_checkpoint
from surmin.methods.common.stagewise import Stagewise
from surmin.methods.first_order import FirstOrder
from surmin.methods.registry import METHODS, build_method
from tests.methods.cases import BY_STAGES, largest_difference, make_batch, make_model, make_pipeline

STEP = torch.tensor(1.0)


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_method_continues_exactly_on_other_stages(tmp_path: Path, name: str) -> None:
    model, other_model = make_model(), make_model(seed=1)
    method = build_method(name, make_pipeline(model, 3))
    other = build_method(name, make_pipeline(other_model, 3 if name in BY_STAGES else 1))
    inputs, targets = make_batch()
    save_checkpoint(tmp_path, method, 0)
    assert load_checkpoint(str(tmp_path), method) == 0
    for _ in range(3):
        method.step(inputs, targets)
    save_checkpoint(tmp_path, method, 3)
    assert load_checkpoint(tmp_path, other) == 3
    for _ in range(2):
        method.step(inputs, targets)
        other.step(inputs, targets)
    assert largest_difference(model, other_model) == 0


@pytest.mark.parametrize("name", METHODS)
def test_a_foreign_state_is_refused(name: str) -> None:
    method = build_method(name, make_pipeline(make_model()))
    with pytest.raises(ValueError):
        method.load_state_dict({"99.weight": {"momentum_buffer": torch.zeros(3)}})


@pytest.mark.parametrize("name", ["kfac", "cgblock-ggn"])
def test_the_state_of_another_seed_is_refused(name: str) -> None:
    """The samples and columns to come would be others."""
    method, other = (build_method(name, make_pipeline(make_model()), seed=seed, rank=2) for seed in (0, 1))
    method.step(*make_batch())
    with pytest.raises(ValueError, match="the state was saved with seed 0, this method has 1"):
        other.load_state_dict(method.state_dict())


def test_an_optimizer_of_the_users_may_have_other_parameters_in_any_order() -> None:
    """A frozen layer comes first, and the biases have a group of their own."""
    model, other = make_model(), make_model()
    methods = []
    for network in (model, other):
        network[0].requires_grad_(requires_grad=False)
        named = list(network.named_parameters())
        if network is model:
            groups = [{"params": [value for name, value in named if ("bias" in name) == is_bias]} for is_bias in (1, 0)]
        else:
            groups = [{"params": [value for _, value in named]}]
        methods.append(FirstOrder(make_pipeline(network), torch.optim.Adam(groups, lr=0.01)))
    method, resumed = methods
    for _ in range(3):
        method.step(*make_batch())
    state = method.state_dict()
    memory = state["memory"]
    assert list(memory) == list(method.pipeline.parameters)
    assert all(values["exp_avg"].shape == method.pipeline.parameters[name].shape for name, values in memory.items())
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(state)
    for own in methods:
        own.step(*make_batch())
    assert largest_difference(model, other) == 0


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"momentum_buffer": torch.zeros(4, 4)}, r"'momentum_buffer': \(torch.float32, \[4, 4\]\)} where Adam has"),
        ({"step": STEP, "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}, r"'exp_avg': \(torch.float32, \[4\]"),
        ({"step": STEP}, r"has {'step': \(torch.float32, \[\]\)} where"),
        ({"step": STEP, **dict.fromkeys(["exp_avg", "exp_avg_sq"], torch.zeros(3, 4, dtype=torch.int32))}, "int32"),
    ],
)
def test_the_state_of_another_optimizer_or_network_is_refused(values: dict[str, Any], complaint: str) -> None:
    model = make_model()
    method = build_method("adam", make_pipeline(model))
    method.step(*make_batch())
    before = method.state_dict()
    with pytest.raises(ValueError, match=complaint):
        method.load_state_dict({**before, "memory": {next(iter(before["memory"])): values}})
    torch.testing.assert_close(method.state_dict()["memory"], before["memory"])


@pytest.mark.parametrize(("saved", "own"), [("gd", "adam"), ("gd", "sgd"), ("sgd", "gd"), ("adam", "sgd")])
def test_the_state_of_another_first_order_method_is_refused(saved: str, own: str) -> None:
    """All three are one class, and gradient descent remembers nothing that could tell it from the others."""
    method, other = (build_method(name, make_pipeline(make_model())) for name in (saved, own))
    method.step(*make_batch())
    with pytest.raises(ValueError, match=r"the state is of (SGD|Adam).*, this method has (SGD|Adam)"):
        other.load_state_dict(method.state_dict())


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("gd-armijo", {"length": -1.0}, "length must be a positive number"),
        ("kfac", {"damping": -5.0}, "damping must be a positive number"),
        ("cgblock-ggn", {"damping": 0.0}, "damping must be a positive number"),
        ("kfac", {"round": -2}, "round must be a whole number from 0 up"),
        ("cgblock-ggn", {"round": 1.5}, "round must be a whole number from 0 up"),
    ],
)
def test_numbers_of_a_state_that_cannot_be_are_refused(name: str, changes: dict[str, Any], complaint: str) -> None:
    method = build_method(name, make_pipeline(make_model()))
    method.step(*make_batch())
    with pytest.raises(ValueError, match=complaint):
        method.load_state_dict({**method.state_dict(), **changes})


def test_checking_a_state_leaves_the_network_alone() -> None:
    model, batch = make_model(), make_batch()
    method = build_method("adam", make_pipeline(model))
    method.step(*batch)
    before = deepcopy(model.state_dict())
    method.load_state_dict(method.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def scheduled(groups: int = 1) -> tuple[FirstOrder, torch.optim.lr_scheduler.StepLR]:
    """AdamW whose learning rate halves every round, with its parameters in as many groups."""
    pipeline = make_pipeline(make_model())
    parameters = list(pipeline.parameters.values())
    optimizer = torch.optim.AdamW([{"params": parameters[at::groups]} for at in range(groups)], lr=0.01)
    return FirstOrder(pipeline, optimizer), torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def test_the_learning_rate_that_a_schedule_has_reached_is_saved(tmp_path: Path) -> None:
    (method, schedule), (resumed, _) = scheduled(), scheduled(groups=2)
    for _ in range(3):
        method.step(*make_batch())
        schedule.step()
    save_checkpoint(tmp_path / "saved", method, 3)
    load_checkpoint(tmp_path / "saved", resumed)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.01 / 8] * 2
    assert resumed.step(*make_batch()).loss == method.step(*make_batch()).loss
    assert resumed.step(*make_batch()).loss == method.step(*make_batch()).loss


@pytest.mark.parametrize("name", ["adam", *sorted(BY_STAGES)])
def test_a_learning_rate_that_was_changed_is_saved(name: str) -> None:
    method, other = (build_method(name, make_pipeline(make_model(), 3)) for _ in range(2))
    assert isinstance(method, FirstOrder | Stagewise) and isinstance(other, FirstOrder | Stagewise)
    method.optimizer.param_groups[0]["lr"] = 0.0123
    method.step(*make_batch())
    other.load_state_dict(method.state_dict())
    assert other.optimizer.param_groups[0]["lr"] == 0.0123


@pytest.mark.parametrize("name", sorted(BY_STAGES))
def test_the_state_of_another_optimizer_of_stages_is_refused(name: str) -> None:
    """Plain gradient descent remembers nothing that could tell it from momentum."""
    method, other = (build_method(name, make_pipeline(make_model(), 3), optimizer=own) for own in ("gd", "sgd"))
    method.step(*make_batch())
    with pytest.raises(ValueError, match="the state is of SGD, this method has SGD with momentum"):
        other.load_state_dict(method.state_dict())


def test_parameters_of_one_group_cannot_have_had_different_settings() -> None:
    (method, _), (resumed, _) = scheduled(groups=2), scheduled()
    method.optimizer.param_groups[1]["lr"] = 0.5
    before = resumed.state_dict()
    with pytest.raises(ValueError, match="in one group of the optimizer here were saved with different settings"):
        resumed.load_state_dict(method.state_dict())
    assert resumed.state_dict() == before
