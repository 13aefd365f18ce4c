"""Fixtures that several parts of the tests use."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "training"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MOELORA_DEVICE"] = "cpu"  # tests state what the CPU gives; GPU tests are marked and choose for themselves


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Return a folder with small data and small base models."""
    import torch
    from world import write_world

    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("world"))
