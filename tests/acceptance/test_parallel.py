from types import SimpleNamespace
from typing import Any

from torch import nn

from surmin import SquaredError
from surmin.acceptance.damping import Damping
from surmin.acceptance.parallel import ParallelOrder
from surmin.pipeline.in_process import InProcessPipeline


class Asked:
    """A block's problem that is solved by saying at which κ and λ."""

    def __init__(self, index: int) -> None:
        self.block = SimpleNamespace(index=index)

    def solve(self, inflation: float, damping: float) -> tuple[float, float]:
        return inflation, damping


def test_every_block_is_solved_at_its_share_of_the_inflation_and_at_one_at_least() -> None:
    problems: list[Any] = [Asked(1), Asked(0)]
    order = ParallelOrder(InProcessPipeline([nn.Linear(1, 1)], SquaredError()), [1.5, 4.0])
    assert order.solve(problems, Damping(0.25, inflation_share=0.5)) == [(2.0, 0.25), (1.0, 0.25)]
