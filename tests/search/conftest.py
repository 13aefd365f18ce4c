import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("optuna", reason="the search needs optuna: pip install moelora[search]")
