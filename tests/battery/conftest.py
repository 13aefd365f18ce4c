"""The battery: every discovered method on every base model, and the matrix of what it showed.

A method is found by its page, so the battery runs on a new one without an edit. `pytest tests/battery
--battery-matrix` writes what was shown to `moelora/methods/proven.json`; `make battery` makes the pages of it too.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from outcomes import Outcomes
from subjects import Subject

from moelora.methods import method_names


def pytest_addoption(parser):
    parser.addoption("--battery-matrix", action="store_true", help="write what the battery showed to proven.json")


def pytest_configure(config):
    if config.getoption("--battery-matrix", default=False) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(), "battery-outcomes")


def pytest_generate_tests(metafunc):
    if "subject" in metafunc.fixturenames:
        _, kinds = metafunc.function.battery
        places = [(name, kind) for name in method_names() for kind in kinds]
        metafunc.parametrize("subject", places, ids=["-".join(place) for place in places], indirect=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def subject(request) -> Subject:
    name, kind = request.param
    title, _ = request.function.battery
    request.node.user_properties.append(("battery", [name, kind, title]))
    return Subject(name, kind)
