import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.__main__
import benchmarks.clock
import benchmarks.harness
from benchmarks.__main__ import main
from benchmarks.clock import in_turns, ratios
from benchmarks.harness import Result, Settings, Target, describe_machine, write_result
from benchmarks.marks import Mark, follow
from benchmarks.problems import gaussian_mlp
from benchmarks.runs import run_adam, run_lbfgs, run_surrogate

PROJECT_ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def test_a_target_that_was_never_reached_is_not_reached_either_way():
    assert not Target("rounds", math.inf, 15).reached
    assert not Target("ratio", math.nan, 1).reached
    assert Target("rounds", 15, 15).reached
    assert Target("accuracy", 98, 97.5, at_least=True).reached
    assert not Target("accuracy", 97, 97.5, at_least=True).reached


def test_results_are_json_without_infinities(tmp_path):
    settings = Settings(quick=False, device=CPU)
    result = Result(targets=[Target("rounds", math.inf, 15)], figures={"rounds": [1.0, math.inf]})
    (path,) = write_result(tmp_path / "new", "rounds", result, settings, describe_machine(settings))
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["rounds"] == [1.0, None]
    assert content["targets"][0]["reached"] is False
    assert {"torch", "threads", "processor", "date"} <= set(content["machine"])


@pytest.mark.parametrize(
    "train",
    [
        lambda problem, until: run_surrogate(problem, 0, until, 30),
        lambda problem, until: run_adam(problem, 0, until, 300, 1e-2, "plain"),
        lambda problem, until: run_lbfgs(problem, 0, until, 300),
    ],
    ids=["sm", "adam", "lbfgs"],
)
def test_a_run_says_what_it_took_to_reach_a_loss(train):
    problem = gaussian_mlp(CPU, 4, 16, 200, features=8, classes=3)
    run = train(problem, 0.1)
    reached = run.reach(0.1)
    assert len(run.losses) == len(run.seconds) == run.rounds + 1
    assert run.losses[0] == pytest.approx(problem.loss(problem.network(0)), rel=1e-6)
    assert reached.rounds == run.rounds > 0
    assert 0 < reached.seconds == run.seconds[-1]
    assert run.reach(0).rounds == math.inf


def test_two_runs_at_once_do_not_both_keep_their_results(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.harness, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(benchmarks.__main__, "_run", lambda *_: pytest.fail("it was run"))
    with benchmarks.harness.alone(), pytest.raises(SystemExit, match="another run with --save"):
        main(["rounds", "--save"])


class Clock:
    """Stands still but for what is said to take time."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(benchmarks.clock, "time", made)
    return made


def test_what_is_compared_takes_turns_after_a_warm_up_that_is_not_timed(clock):
    done = []

    def action(name, seconds):
        def act():
            done.append(name)
            clock.seconds += seconds * len(done)

        return act

    taken = in_turns([action("A", 1.0), action("B", 10.0)], 3, CPU, warm_up=2)
    assert "".join(done) == "ABABABABAB"
    assert taken == [[5.0, 7.0, 9.0], [60.0, 80.0, 100.0]]
    assert ratios(*taken) == [5 / 60, 7 / 80, 9 / 100]


def test_scores_are_taken_off_the_clock_after_updates_and_at_times(clock):
    seen = []

    def step(inputs, targets):
        seen.append((inputs, targets))
        clock.seconds += 2.0

    def score():
        clock.seconds += 100.0
        return 10.0 * len(seen)

    data = [(number, -number) for number in range(9)]
    at_updates, at_times = follow(step, data, score, CPU, updates=(1, 3), times=(1.0, 2.0, 7.0, 7.5))
    assert at_updates == [Mark(1, 2.0, 10.0), Mark(3, 6.0, 30.0)]
    assert at_times == [Mark(1, 2.0, 10.0), Mark(1, 2.0, 10.0), Mark(4, 8.0, 40.0), Mark(4, 8.0, 40.0)]
    assert seen == data[:4]  # no more than is asked for


@pytest.mark.parametrize("arguments", [["round"], ["rounds", "--quick", "--save"]])
def test_what_cannot_be_run_is_refused(arguments):
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["products", "memory"])
def test_a_quick_benchmark_prints_its_tables_and_keeps_its_figures(name, tmp_path):
    if name == "memory" and sys.platform != "linux":
        pytest.skip("peak memory on a CPU is measured on Linux")
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "gradient" in ran.stdout
    content = json.loads((tmp_path / f"{name}-quick.json").read_text())
    assert content["benchmark"] == name
    assert all(target["reached"] is None for target in content["targets"])
