"""The profiles' keys are options that Snakemake and its plugins have."""

import dataclasses
import importlib.metadata
import json
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
KUBERNETES = json.loads(Path(__file__).with_name("kubernetes_options.json").read_text())


def read(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / "profiles" / name / "config.yaml").read_text())


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Return Snakemake's long options, those of installed plugins included."""
    cli = pytest.importorskip("snakemake.cli", reason="the workflow needs snakemake: pip install moelora[workflow]")
    return {name.removeprefix("--") for action in cli.get_argument_parser()._actions for name in action.option_strings}


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_what_holds_on_one_machine_holds_on_a_cluster(name):
    """A workflow profile replaces the default one, so it must say the same of when runs are due."""
    profile, default = read(name), read("default")
    only_local = {"resources"}  # shares of the machine's own card
    assert {key: profile.get(key) for key in default.keys() - only_local} == {
        key: value for key, value in default.items() if key not in only_local
    }
    assert profile["executor"] == name and profile["retries"] > 0


def test_keys_of_the_profile_for_slurm(options):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="its plugin is missing: pip install moelora[slurm]")
    assert set(read("slurm")) <= options


def test_slurm_is_asked_in_the_way_that_notices_cancelled_jobs():
    profile = read("slurm")
    assert profile["slurm-status-command"] == "squeue"
    assert 3 * profile["slurm-init-seconds-before-status-checks"] <= 300  # MinJobAge where a site sets none
    assert profile["slurm-jobname-prefix"] in (REPOSITORY / "docs/cluster.md").read_text()


def test_no_rule_of_a_job_is_tried_again_inside_it(options):
    """Rules with retries of their own would be repeated in the first, too small allocation."""
    for path in (REPOSITORY / "workflow/rules").rglob("*.smk"):
        for line in path.read_text().splitlines():
            if line.strip().startswith("retries:"):
                assert "get_retries(" in line, path


def test_keys_of_the_profile_for_kubernetes(options):
    profile = read("kubernetes")
    own = {key for key in profile if key.startswith("kubernetes-")}
    assert {key.removeprefix("kubernetes-").replace("-", "_") for key in own} <= set(KUBERNETES["options"])
    assert set(profile) - own <= options
    assert set(profile["default-resources"]) <= set(KUBERNETES["resources"])
    for path in ("profiles/kubernetes/config.yaml", "docs/cluster.md"):
        assert "untested on a cluster" in (REPOSITORY / path).read_text().lower(), path


def test_list_of_the_plugins_options_is_its_own():
    plugin = pytest.importorskip(
        "snakemake_executor_plugin_kubernetes", reason="its plugin is not installed; the committed list is of 0.5.1"
    )
    if importlib.metadata.version(KUBERNETES["package"]) != KUBERNETES["version"]:
        pytest.skip(f"the committed list is of version {KUBERNETES['version']}")
    assert sorted(field.name for field in dataclasses.fields(plugin.ExecutorSettings)) == KUBERNETES["options"]
