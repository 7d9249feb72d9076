import pytest

from surmin.simulation.calibration import measure_overheads


@pytest.mark.slow
def test_two_processes_tell_what_a_message_costs() -> None:
    found = measure_overheads()
    assert 0 < found.message < 0.1
    assert 0 <= found.byte < 1e-6
