import pytest

from surmin.commands.tables import print_table
from surmin.plots.tables import Table


def test_numbers_are_flush_right_wherever_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["4", "sm", "0.5"], ["4,096", "adam, M 8", "not"], ["–", "lbfgs", "12"]]
    print_table(Table(["stages", "who", "seconds"], rows, numbers_from=2), "What it says.")
    above, *lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert above == "What it says."
    assert lines[2:] == [
        "       4   sm              0.5", "   4,096   adam, M 8       not", "       –   lbfgs            12"
    ]  # fmt: skip
