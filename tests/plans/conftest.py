import shutil

import pytest
from plan_cases import GRID, REPOSITORY

from moelora.config import load_yaml


@pytest.fixture
def suite():
    return load_yaml(GRID)


@pytest.fixture
def config_dir(tmp_path):
    """A copy of the configuration that a test may edit."""
    shutil.copytree(REPOSITORY / "workflow" / "config", tmp_path / "workflow" / "config")
    shutil.copytree(REPOSITORY / "workflow" / "schemas", tmp_path / "workflow" / "schemas")
    return tmp_path / "workflow" / "config"
