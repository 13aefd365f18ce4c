"""The lock file, pyproject.toml and environment.yml say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from moelora import __version__

REPOSITORY = Path(__file__).parents[1]
LOCK = REPOSITORY / "requirements.lock"


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    lines = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!+-]+", line) for line in lines), "name==version and nothing else"
    assert lines == sorted(lines)
    return dict(line.split("==") for line in lines)


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_lock_pins_torch(locked):
    assert locked["torch"] == "2.13.0"


def test_every_range_admits_what_is_locked(locked, project):
    listed = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, listed):
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is in pyproject.toml but not in requirements.lock"
        assert version in requirement.specifier, f"{requirement} does not admit {version}"


@pytest.mark.parametrize("name, version", [("torch", "2.11.0"), ("transformers", "5.17.0")])
def test_ranges_are_wide_enough(project, name, version):
    requirement = next(r for r in map(Requirement, project["dependencies"]) if r.name == name)
    assert version in requirement.specifier


def test_environment_installs_the_lock(project):
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert python.removeprefix("python=") + ".0" in SpecifierSet(project["requires-python"])


def test_pythons(project):
    for version, wanted in (("3.10.9", False), ("3.11.0", True), ("3.12.9", True), ("3.13.0", False)):
        assert (version in SpecifierSet(project["requires-python"])) is wanted


def test_set_up_files_name_no_registry_and_no_local_path():
    for name in ("requirements.lock", "pyproject.toml", "environment.yml", "Makefile", ".ci/run"):
        text = (REPOSITORY / name).read_text()
        assert not re.search(r"https?://|file:|index-url|find-links|(?<![\w.])/(home|work|root|opt|tmp)\b", text), name


def test_versions_agree():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"## {__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()
