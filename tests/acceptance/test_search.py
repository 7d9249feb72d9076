from dataclasses import replace
from typing import cast

import pytest

from surmin.acceptance.candidates import Order
from surmin.acceptance.search import Search
from surmin.options import Options


@pytest.mark.parametrize(
    ("candidates", "retried"), [((0.0, 0.3), (0.0, 0.3)), ((0.3, 0.9), (0.0,)), ((0.3,), (0.0,))], ids=str
)
def test_a_retry_drops_momentum_where_every_candidate_had_it(
    candidates: tuple[float, ...], retried: tuple[float, ...]
) -> None:
    search = Search(cast(Order, None), replace(Options(), momentum_candidates=candidates))
    assert search._momenta(1) == candidates
    assert search._momenta(2) == retried
