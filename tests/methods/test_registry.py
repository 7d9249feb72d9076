import inspect
import math
from typing import Any

import pytest

from surmin.methods.registry import METHODS, build_method, check_takes, default_option, find_method, takes
from surmin.stages.partition import partition
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
    method = build_method(name, make_pipeline(make_model()), seed=3)
    inputs, targets = make_batch()
    losses = [method.step(inputs, targets).loss for _ in range(6)]
    assert losses[-1] < next(loss for loss in losses if not math.isnan(loss))


def test_unknown_methods() -> None:
    with pytest.raises(ValueError, match="unknown method 'adan': did you mean 'adam'\\? choose one of sm, sm-paper"):
        find_method("adan")
    with pytest.raises(ValueError, match="unknown method 'xyzzy': choose one of sm"):
        find_method("xyzzy")


def test_options_that_a_method_does_not_take() -> None:
    with pytest.raises(ValueError, match="method adam does not take --damping, --inner-steps; it takes --lr"):
        check_takes("adam", ["damping", "inner_steps"])
    with pytest.raises(ValueError, match="does not take --lr; it takes --preset, --curvature"):
        check_takes("sm", ["lr"])
    with pytest.raises(ValueError, match="unknown option 'lr'"):
        build_method("sm", make_pipeline(make_model()), lr=1.0)
    with pytest.raises(ValueError, match="method kfac does not take inner_steps; it takes damping, rank, curvature_f"):
        build_method("kfac", make_pipeline(make_model()), inner_steps=2)
    assert takes("lbfgs", "inner_steps") and not takes("gd", "inner_steps")


def test_values_that_a_method_refuses() -> None:
    with pytest.raises(ValueError, match="damping must be"):
        build_method("sm", make_pipeline(make_model()), damping=-1.0)


def test_defaults() -> None:
    assert default_option("adam", "lr") == 3e-3
    assert default_option("lbfgs", "inner_steps") == 20


def test_a_method_is_built_from_stages_or_from_a_pipeline() -> None:
    batch, models = make_batch(), [make_model(), make_model()]
    loss = make_pipeline(models[0]).loss
    on_list = build_method("adam", partition(models[0], 2), loss, microbatches=2, lr=0.01)
    on_pipeline = build_method("adam", make_pipeline(models[1], 2, 2), lr=0.01)
    assert on_list.step(*batch) == on_pipeline.step(*batch)
    with pytest.raises(ValueError, match="a loss is needed with a list of stages"):
        build_method("adam", models)
    with pytest.raises(TypeError, match="stages must be a module or a list of modules, got CrossEntropy"):
        build_method("adam", loss)  # type: ignore[arg-type]


def test_sm_takes_every_option_of_its_own() -> None:
    method: Any = build_method("sm", make_pipeline(make_model()), solver="gd", preconditioner=None)
    assert method.options.solver == "gd"
