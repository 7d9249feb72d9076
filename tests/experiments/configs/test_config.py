import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from surmin.cli import parse
from surmin.experiments.configs.compare import CompareConfig
from surmin.experiments.configs.run import ExperimentConfig, RunConfig
from surmin.experiments.configs.saved import parse_options
from surmin.experiments.configs.simulate import SimulateConfig
from surmin.experiments.configs.theory import TheoryConfig
from surmin.experiments.configs.timeline import TimelineConfig


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig(method="adam", lr=1e-3, data="some/folder", data_dir="there", target_loss=1e-4, stages=3),
        RunConfig(preset="trips", damping_candidates=(0.1, 1.0)),
        CompareConfig(methods="all", lr=("0.1,0.2", "adam=0.001"), seeds=3, curvature_fraction=0.5),
    ],
)
def test_json_and_back(config: RunConfig | CompareConfig) -> None:
    assert parse_options(json.loads(json.dumps(asdict(config))), type(config)) == config


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(rounds=3, preset="trips", damping_candidates=(0.03, 0.1, 1.0), target_loss=1e-4, evaluate_every=5),
        TimelineConfig(workers=2, width=64, gradient_steps=3),
        CompareConfig(methods="sm,adam", lr=("0.1,0.2", "adam=0.001"), evaluate_every=2),
    ],
)
def test_words_of_the_command_line_and_back(config: ExperimentConfig) -> None:
    _, arguments = parse([config.command, *config.to_words()])
    assert arguments.config == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"stages": 0}, "stages must be at least 1"),
        ({"microbatches": 0}, "microbatches must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"rounds": -1}, "rounds must be at least 0"),
        ({"batch_size": -1}, "batch_size must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"workers": 3, "stages": 2}, "3 workers cannot share 2 stages: every worker needs at least one"),
        ({"workers": 4, "replicas": 3}, "4 workers cannot hold 3 equal replicas: give --workers a multiple of 3"),
        ({"replicas": 2}, "1 workers cannot hold 2 equal replicas"),
        ({"replicas": 0}, "replicas must be at least 1"),
        ({"workers": 6, "replicas": 2, "stages": 2}, "3 workers cannot share 2 stages"),
        ({"timeout": 9.0}, "timeout must be at least 10 seconds"),
        ({"target_loss": float("nan")}, "target_loss must be a finite number"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ({"layers": 2.5}, "layers must be a whole number, got 2.5"),
        ({"layers": True}, "layers must be a whole number, got True"),
        ({"data": None}, "data must be text, got None"),
        ({"damping_candidates": ("0.1",)}, r"damping_candidates must be .*, got \('0.1',\)"),
        ({"damping_candidates": (True, 0.1)}, "damping_candidates must be"),
        ({"method": "adam", "damping_candidates": (0.1,)}, "method adam does not take --damping-candidates"),
        ({"method": "adan"}, "unknown method 'adan'"),
        ({"method": "adam", "lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"method": "adam", "lr": float("inf")}, "lr must be a positive number"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds must be a number from 0 up, got -1.0"),
        ({"checkpoint_seconds": float("inf")}, "checkpoint_seconds must be a number from 0 up, got inf"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds must be a number from 0 up, got nan"),
        ({"method": "adam", "damping": 1.0}, "method adam does not take --damping"),
        ({"method": "sm", "lr": 1.0}, "method sm does not take --lr"),
    ],
)
def test_impossible_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**options).check()


def test_json_that_is_no_config() -> None:
    with pytest.raises(ValueError, match="not a table of options"):
        parse_options([1, 2], RunConfig)
    with pytest.raises(ValueError, match="unknown option 'laers'"):
        parse_options({"laers": 3}, RunConfig)
    with pytest.raises(ValueError, match="rounds must be a whole number, got '7'"):
        parse_options({"rounds": "7"}, RunConfig)
    with pytest.raises(ValueError, match=r"lr must be .*, got 3"):
        parse_options({"lr": 3}, CompareConfig)


def test_seeds_of_a_comparison() -> None:
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        CompareConfig(seeds=0).check()


def test_only_options_that_were_given_reach_the_method() -> None:
    assert RunConfig().given_options() == {}
    RunConfig(damping_candidates=(1, 0.1)).check()
    assert RunConfig(method="lbfgs", lr=0.5, inner_steps=7).given_options() == {"lr": 0.5, "inner_steps": 7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 99999999999}, "workers must be at most 1,024"),
        ({"threads": 10**6}, "threads must be at most 1,024"),
        ({"seed": 2**70}, "seed must be at most"),
        ({"seed": 2**32}, "seed must be at most 4,294,967,295, got 4,294,967,296"),
        ({"workers": 5, "layers": 3}, "5 workers cannot share 3 layers"),
        ({"lr": 1e300, "method": "adam"}, "lr must be at most 1e[+]38 in float32"),
    ],
)
def test_what_would_overflow_or_flood_the_machine_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**options).check()


def test_seeds_counted_up_are_no_smaller_ones_again() -> None:
    RunConfig(seed=2**32 - 1).check()
    TheoryConfig(seed=2**32 - 3, seeds=3).check()
    with pytest.raises(ValueError, match="seed must be at most 4,294,967,295, got 4,294,967,296"):
        TheoryConfig(seed=2**32 - 2, seeds=3).check()


def test_rates_of_a_simulation_are_finite_in_its_dtype() -> None:
    config = SimulateConfig(methods="sm,adam", lr=("adam=0.1,1e300",))
    with pytest.raises(ValueError, match=r"lr must be at most 1e[+]38 in float32, got 1e[+]300"):
        config.check()
    replace(config, dtype="float64").check()


def test_a_timeline_takes_no_part_of_a_batch() -> None:
    with pytest.raises(ValueError, match="traces whole batches"):
        TimelineConfig(batch_size=20).check()
