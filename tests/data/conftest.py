from collections.abc import Iterator

import pytest

from tests.data.loopback import Loopback, serve


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A web server of this machine, reached without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as state:
        yield state
