import pytest

from surmin.launch.deadlines import Deadlines


@pytest.mark.parametrize("timeout", [0.1, 1.0, 10.0, 300.0, 1e5])
def test_a_hang_is_over_within_the_timeout(timeout: float) -> None:
    deadlines = Deadlines(timeout)
    assert 0 < deadlines.waiting < timeout
    left = timeout - deadlines.waiting - deadlines.telling - deadlines.termination
    assert left > 0.99 * max(0.1 * timeout, min(1, 0.4 * timeout))
    assert 0 < deadlines.grace <= deadlines.telling
