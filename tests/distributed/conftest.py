import re
from collections.abc import Iterator

import pytest

from tests.device import is_shared
from tests.distributed.workers import Workers

MOST_WORKERS = 4


def pytest_runtest_setup(item: pytest.Item) -> None:
    if {"gpipe", "1f1b"} & set(re.split(r"[-\[\]]", item.name)) and is_shared(MOST_WORKERS):
        pytest.skip("torch's schedules need a GPU for every worker")


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    started = Workers(tmp_path_factory.mktemp("workers"))
    yield started
    started.end()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that use the workers run in one of pytest's processes, so that they are started once."""
    for item in items:
        if "workers" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("workers"))
