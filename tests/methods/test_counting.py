"""Messages, bytes, forward waves and work of each method on a network of known size."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from surmin.curvature import eigenvalue
from surmin.methods.registry import build_method
from surmin.work import WorkMeter
from tests.methods.cases import SAMPLES, WIDTH, make_batch, make_model, make_pipeline

STAGES = 3
BOUNDARIES = STAGES - 1
ACTIVATION_BYTES = SAMPLES * WIDTH * 8


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("name", ["gd", "sgd", "adam"])
def test_a_gradient_step(name: str, microbatches: int) -> None:
    method = build_method(name, make_pipeline(make_model(), STAGES, microbatches))
    for _ in range(2):
        report = method.step(*make_batch())
        assert report.forward_waves == 1
        assert report.messages == 2 * BOUNDARIES * microbatches
        assert report.bytes_sent == 2 * BOUNDARIES * ACTIVATION_BYTES
        assert report.gradient_equivalents == 1


def test_a_line_search_counts_every_trial() -> None:
    pipeline = make_pipeline(make_model(), STAGES)
    report = build_method("gd-armijo", pipeline, lr=100.0).step(*make_batch())
    waves = 1 + report.tries
    assert report.tries > 1 and report.forward_waves == waves
    assert report.messages == BOUNDARIES * (waves + 1) + 2 * BOUNDARIES * waves
    numbers = 2 + report.tries  # loss and gradient once, then the loss of every trial
    assert report.bytes_sent == BOUNDARIES * (ACTIVATION_BYTES * (waves + 1) + 2 * 8 * numbers)
    shape = make_batch()[0].shape
    forward, backward = (
        sum(pipeline.work.known((wave, shape, position)) for position in range(STAGES))
        for wave in ("forward", "backward")
    )
    assert report.gradient_equivalents == pytest.approx((waves * forward + backward) / (forward + backward))


def test_lbfgs_counts_every_evaluation() -> None:
    report = build_method("lbfgs", make_pipeline(make_model(), STAGES), inner_steps=5).step(*make_batch())
    evaluations = 1 + report.tries
    assert evaluations > 5
    assert report.forward_waves == report.gradient_equivalents == evaluations
    assert report.messages == 4 * BOUNDARIES * evaluations
    assert report.bytes_sent == BOUNDARIES * evaluations * (2 * ACTIVATION_BYTES + 2 * 8 * 208)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kfac", {}), ("sm", {}), ("sm", {"preset": "trips", "inner_steps": 2}), ("cgblock-ggn", {}),
        ("sm-paper", {}), ("sm-paper", {"delta": 1e-3}), ("sm", {"curvature": "sample"}),
    ],
)  # fmt: skip
def test_no_work_is_charged_that_is_not_done(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    """Phases of one key are counted once and charged every time: here every one of them is counted as well."""
    check_what_is_charged(monkeypatch, name, options, [make_batch()] * 4, scale=1)


def test_a_second_search_for_the_largest_eigenvalue_is_charged_where_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With these weights power iteration finds a negative eigenvalue for the small inputs, and begins again."""
    (inputs, targets), searches = make_batch(), []
    plain = eigenvalue._rayleigh_after
    monkeypatch.setattr(eigenvalue, "_rayleigh_after", lambda *given: (searches.append(len(given)), plain(*given))[1])
    batches = [(inputs, targets), (0.1 * inputs, targets)] * 2
    check_what_is_charged(monkeypatch, "sm-paper", {"delta": 1e-3}, batches, scale=5)
    assert len(searches) == 2 * (2 + 3 + 2 + 3)


def check_what_is_charged(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    batches: list[tuple[Tensor, Tensor]],
    scale: int,
) -> None:
    def charged() -> int:
        model = make_model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= scale
        pipeline = make_pipeline(model, STAGES)
        method = build_method(name, pipeline, **options)
        for batch in batches:
            method.step(*batch)
        return pipeline.work.operations

    by_keys = charged()
    plain = WorkMeter.phase

    @contextmanager
    def counted_anew(meter: WorkMeter, key: Hashable) -> Iterator[None]:
        meter._known.pop(key, None)
        with plain(meter, key):
            yield

    monkeypatch.setattr(WorkMeter, "phase", counted_anew)
    assert by_keys == charged()
