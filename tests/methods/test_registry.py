import inspect
import math

import pytest

from surmin.methods.registry import METHODS, build_method, check_options, default_option, find_method, takes
from tests.methods.cases import make_batch, make_model, make_pipeline

NAMES = ("sm", "sm-paper", "gd", "gd-armijo", "sgd", "adam", "lbfgs")


def test_the_names_of_the_contract() -> None:
    assert set(NAMES) <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_what_it_says_and_trains(name: str) -> None:
    builder = find_method(name).load()
    parameters = inspect.signature(builder).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert open_ended or set(parameters) - {"pipeline"} == set(METHODS[name].options.split())
    method = build_method(name, make_pipeline(make_model()), {}, seed=3)
    inputs, targets = make_batch()
    losses = [method.step(inputs, targets).loss for _ in range(6)]
    assert losses[-1] < next(loss for loss in losses if not math.isnan(loss))


def test_unknown_methods() -> None:
    with pytest.raises(ValueError, match="unknown method 'adan': did you mean 'adam'\\? known are sm, sm-paper, gd"):
        find_method("adan")
    with pytest.raises(ValueError, match="unknown method 'xyzzy': known are sm"):
        find_method("xyzzy")


def test_options_that_a_method_does_not_take() -> None:
    with pytest.raises(ValueError, match="method adam does not take --damping, --inner-steps; it takes --lr"):
        check_options("adam", ["damping", "inner_steps"])
    with pytest.raises(ValueError, match="does not take --lr; it takes --preset, --curvature"):
        build_method("sm", make_pipeline(make_model()), {"lr": 1.0})
    assert takes("lbfgs", "inner_steps") and not takes("gd", "inner_steps")


def test_values_that_a_method_refuses() -> None:
    with pytest.raises(ValueError, match="damping must be"):
        build_method("sm", make_pipeline(make_model()), {"damping": -1.0})


def test_defaults() -> None:
    assert default_option("adam", "lr") == 3e-3
    assert default_option("lbfgs", "inner_steps") == 20
