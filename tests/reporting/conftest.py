import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import synthetic_records

from moelora.files import read_json
from moelora.reporting import collect, command


@pytest.fixture(scope="session")
def tiny_suite(tmp_path_factory):
    """A collected suite like the built-in one: (frame, costs, suite document, folder)."""
    root = tmp_path_factory.mktemp("tiny")
    manifests, costs, suite = synthetic_records.tiny(root)
    return collect.collect_records(manifests), [command.read_costs(c) for c in costs], read_json(suite), root


@pytest.fixture(scope="session")
def glue_suite(tmp_path_factory):
    """A collected suite like glue-minilm, with two regimes."""
    root = tmp_path_factory.mktemp("glue")
    manifests, costs, suite = synthetic_records.glue(root)
    return collect.collect_records(manifests), [command.read_costs(c) for c in costs], read_json(suite), root


@pytest.fixture(scope="session")
def tiny_report(tiny_suite, tmp_path_factory):
    """The folder of a report on the suite like the built-in one."""
    frame, costs, document, _root = tiny_suite
    out = tmp_path_factory.mktemp("report") / "tiny"
    command.write_report(frame, costs, out, document, fingerprints={"mixlora": "0" * 16})
    return out
