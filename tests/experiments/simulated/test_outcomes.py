from itertools import product

import pytest

from surmin.experiments.configs.simulate import SimulateConfig
from surmin.experiments.simulated import outcomes as outcomes_module
from surmin.experiments.simulated.outcomes import Outcome, compare, eligible
from surmin.experiments.simulated.runs import MeasuredRun
from surmin.simulation.measuring import Trained

CONFIG = SimulateConfig(methods="sm,adam,sgd", stages="3,4", latencies="1,10", rates="100")


def outcome(method: str, workers: int, stages: int, latency: float, seconds: float) -> Outcome:
    run = MeasuredRun(method, None, None, None, workers, 1, Trained([], 1, 1, 1, 1))
    return Outcome(run, "posted", stages, latency, 1e8, seconds, 1, 1)


def test_a_cell_has_the_best_of_what_counts_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(outcomes_module, "eligible", lambda found: asked.append(len(found)) or eligible(found))
    found = [
        outcome("adam", 4, 4, 1e-3, 7.0), outcome("sm", 3, 4, 1e-3, 0.5), outcome("sm", 4, 4, 1e-3, 3.0),
        outcome("sm", 4, 4, 1e-3, 2.0), outcome("sgd", 4, 4, 1e-3, 6.0), outcome("sm", 3, 3, 1e-2, 1.0),
    ]  # fmt: skip
    cells = compare(CONFIG, found)
    assert [(cell.stages, cell.latency) for cell in cells] == list(product([3, 4], [1e-3, 1e-2]))
    assert [(cell.own and cell.own.seconds, cell.other and cell.other.seconds) for cell in cells] == [
        (None, None), (1.0, None), (2.0, 6.0), (None, None),
    ]  # fmt: skip
    assert asked == [len(found)]  # once, not for every cell
