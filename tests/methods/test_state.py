import pytest
import torch

from surmin.methods.registry import METHODS, build_method
from tests.methods.cases import BY_STAGES, largest_difference, make_batch, make_model, make_pipeline


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_method_continues_exactly_on_other_stages(name: str) -> None:
    model = make_model()
    method = build_method(name, make_pipeline(model, 3), {})
    inputs, targets = make_batch()
    for _ in range(3):
        method.step(inputs, targets)
    other_model = make_model()
    other_model.load_state_dict(model.state_dict())
    other = build_method(name, make_pipeline(other_model, 3 if name in BY_STAGES else 1), {})
    other.load_state_dict(method.state_dict())
    for _ in range(2):
        method.step(inputs, targets)
        other.step(inputs, targets)
    assert largest_difference(model, other_model) == 0


@pytest.mark.parametrize("name", METHODS)
def test_a_foreign_state_is_refused(name: str) -> None:
    method = build_method(name, make_pipeline(make_model()), {})
    with pytest.raises(ValueError):
        method.load_state_dict({"99.weight": {"momentum_buffer": torch.zeros(3)}})
