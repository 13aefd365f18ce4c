import os
import tempfile
from pathlib import Path

import pytest
from faulty import TESTS, load
from slurm import Cluster, why_not


@pytest.fixture
def cluster():
    if reason := why_not():
        pytest.skip(reason)
    pytest.importorskip(
        "snakemake_executor_plugin_slurm", reason="the plugin for SLURM is missing: pip install moelora[slurm]"
    )
    with tempfile.TemporaryDirectory(prefix="moelora-slurm-") as folder, Cluster(Path(folder)) as started:
        yield started


@pytest.fixture
def checkout(tmp_path):
    pytest.importorskip("snakemake", reason="the workflow needs snakemake: pip install moelora[workflow]")
    return load(TESTS / "workflow" / "conftest.py").Checkout(tmp_path / "checkout")


@pytest.fixture
def logs(tmp_path) -> Path:
    """Return where a test leaves what the queue showed."""
    return Path(os.environ.get("MOELORA_CLUSTER_LOGS") or tmp_path / "logs")
