import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from checkouts import Checkout


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    pytest.importorskip("snakemake", reason="the workflow needs snakemake: pip install moelora[workflow]")
    return Checkout(tmp_path / "checkout")
