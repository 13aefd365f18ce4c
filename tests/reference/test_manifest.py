"""What the committed numbers are, and that they come out again."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
from foreign_inputs import SETTINGS
from reference_files import DATA, FOLDER, MANIFEST, PACKAGES, SCRIPTS, digest
from safetensors.torch import load_file

MODULES = {"mixlora": "mixlora", "moe-peft": "moe_peft"}


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads(MANIFEST.read_text())


def test_versions_are_stated(manifest):
    assert set(manifest["packages"]) == set(PACKAGES)
    assert all(re.fullmatch(r"\d+(\.\w+)+", version) for version in manifest["packages"].values())
    required = dict(re.findall(r"^([\w-]+)==(\S+)$", (FOLDER / "requirements.txt").read_text(), flags=re.MULTILINE))
    assert required == {name: manifest["packages"][name] for name in MODULES}


def test_the_scripts_are_those_that_wrote_the_numbers(manifest):
    """After a change of a script run regenerate.py again, even if no number moves."""
    assert manifest["scripts"] == {name: digest(FOLDER / name) for name in SCRIPTS}
    assert manifest["settings"] == SETTINGS


def test_the_files_are_those_that_were_written_and_small(manifest):
    files = {path.name: path for path in DATA.iterdir() if path.name != MANIFEST.name}
    assert manifest["files"] == {name: digest(path) for name, path in files.items()}
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1_000_000


def test_numbers_come_out_again(tmp_path):
    missing = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"{missing} not installed; tests/reference/requirements.txt says how to have them apart")
    subprocess.run([sys.executable, FOLDER / "regenerate.py", "--output", tmp_path], check=True, capture_output=True)
    assert json.loads((tmp_path / "facts.json").read_text()) == json.loads((DATA / "facts.json").read_text())
    names = sorted(path.name for path in DATA.glob("*.safetensors"))
    assert names == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    for name in names:
        again, committed = load_file(tmp_path / name), load_file(DATA / name)
        assert set(again) == set(committed)
        for key, tensor in committed.items():
            scale = max(tensor.abs().max().item(), 1e-300)
            assert (again[key] - tensor).abs().max().item() <= 1e-12 * scale, (name, key)
