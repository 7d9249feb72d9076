import pytest
import torch
from hypothesis import settings

from tests import device

settings.register_profile("surmin", deadline=None, max_examples=60)  # a busy machine is not a failure
settings.load_profile("surmin")
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where networks and data of the tests lie: cpu or cuda")


def pytest_configure(config: pytest.Config) -> None:
    device.use(config.getoption("--device"))


def pytest_runtest_call() -> None:
    torch.set_flush_denormal(False)  # commands that an earlier test ran here have set it
