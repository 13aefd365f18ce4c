"""The suite and the configuration that the tests of plans start from."""

from pathlib import Path

import pytest
import yaml

from moelora.errors import ConfigError
from moelora.plans import expand

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "workflow" / "config"
GRID = REPOSITORY / "tests" / "grid.yaml"


def edit(path: Path, **changes) -> Path:
    document = yaml.safe_load(path.read_text())
    document.update(changes)
    path.write_text(yaml.safe_dump(document))
    return path


def message(suite, config_dir=CONFIG) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(suite, config_dir, source="my-suite.yaml")
    return str(caught.value)


def merged(first: dict, second: dict) -> dict:
    """Return what Snakemake makes of two configuration files: mappings are merged, the rest is replaced."""
    found = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else value
    return found
