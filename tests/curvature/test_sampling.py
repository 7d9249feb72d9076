import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surmin.curvature.sampling import SHARE, importance_rows, part_of, usual_fraction


def draw(traces: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return importance_rows(traces, count, torch.Generator(traces.device).manual_seed(seed))


@given(
    traces=st.lists(st.floats(0, 100), min_size=1, max_size=20), count=st.integers(1, 25),
    seed=st.integers(0, 2**31), single=st.booleans(),
)  # fmt: skip
def test_rows_are_ascending_and_weights_bounded(traces: list[float], count: int, seed: int, single: bool) -> None:
    dtype = torch.float32 if single else torch.float64
    rows, weights = draw(torch.tensor(traces, dtype=dtype), count, seed)
    assert len(rows) == len(weights) == count
    assert (rows.diff() >= 0).all() and rows.min() >= 0 and rows.max() < len(traces)
    assert (weights > 0).all() and (weights <= (1 + 1e-5) / (1 - SHARE)).all()
    assert weights.dtype == dtype


@pytest.mark.parametrize("traces", [[1.0, 2.0, 3.0, 4.0, 10.0], [0.0, 0.0, 5.0], [0.0] * 4, [1e-300, 1.0]], ids=str)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_sampled_mean_is_unbiased(traces: list[float], count: int) -> None:
    """In any order the draw is a function of one uniform number: average it over a fine grid of that number."""
    values = torch.arange(1.0, len(traces) + 1, dtype=torch.float64).square()
    grid, found = 1000, []
    for step in range(grid):
        rows, weights = importance_rows(torch.tensor(traces, dtype=torch.float64), count, _Fixed((step + 0.5) / grid))
        found.append((weights * values[rows]).mean())
    assert float(torch.stack(found).mean()) == pytest.approx(float(values.mean()), rel=1e-2)


class _Fixed(torch.Generator):
    """A generator that knows its next number."""

    def __new__(cls, value: float) -> "_Fixed":
        return super().__new__(cls)

    def __init__(self, value: float) -> None:
        self.value = value


@pytest.fixture(autouse=True)
def fixed_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, plain_order = torch.rand, torch.randperm

    def rand(*size: int, generator: torch.Generator | None = None, **options: object) -> torch.Tensor:
        if isinstance(generator, _Fixed):
            return torch.full(size, generator.value, dtype=torch.float64)
        return plain(*size, generator=generator, **options)

    def randperm(size: int, generator: torch.Generator | None = None, **options: object) -> torch.Tensor:
        if isinstance(generator, _Fixed):
            return torch.arange(size).flip(0)
        return plain_order(size, generator=generator, **options)

    monkeypatch.setattr(torch, "rand", rand)
    monkeypatch.setattr(torch, "randperm", randperm)


def test_curved_samples_come_more_often() -> None:
    traces = torch.tensor([0.0] * 90 + [1.0] * 10, dtype=torch.float64)
    rows, weights = draw(traces, 25, 0)
    curved = int((rows >= 90).sum())
    assert 20 <= curved <= 21  # 25 · (0.8 + 0.2 · 0.1) = 20.5
    torch.testing.assert_close(weights[rows >= 90], torch.full((curved,), 1 / (100 * 0.082), dtype=torch.float64))


def test_what_recurs_in_the_order_of_the_data_is_met_in_all_its_places() -> None:
    rows, _ = draw(torch.ones(1000), 250, 0)
    assert (rows.remainder(4).bincount(minlength=4) > 40).all()


def test_every_sample_once_when_all_are_alike_and_all_are_drawn() -> None:
    rows, weights = draw(torch.ones(12), 12, 1)
    assert rows.tolist() == list(range(12))
    torch.testing.assert_close(weights, torch.ones(12))


def test_traces_that_are_not_finite_or_negative_do_not_pass_for_probabilities() -> None:
    """A loss of one's own may round below zero; the weights must stay positive all the same."""
    rows, weights = draw(torch.tensor([-1e-7, 1e-7, 2e-7, -1e-7]), 3, 0)
    assert (rows.diff() >= 0).all()
    assert (weights > 0).all() and (weights <= 1 / (1 - SHARE) + 1e-4).all()


@pytest.mark.parametrize(
    ("samples", "drawn"), [(1, 1), (100, 100), (400, 400), (401, 400), (1000, 400), (2000, 400), (60000, 400)]
)
def test_the_usual_part_is_as_many_samples_whatever_the_batch(samples: int, drawn: int) -> None:
    assert part_of(samples, usual_fraction(samples)) == drawn
