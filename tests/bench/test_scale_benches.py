"""The benches of planning and of start-up: that they measure what they say."""

import json
import sys

import pytest

from bench import pipeline_scale, report_scale, start_up
from moelora.plans import expand
from moelora.reporting import collect

CONFIG = pipeline_scale.REPOSITORY / "workflow" / "config"


@pytest.mark.parametrize("carry, jobs", [([], 1000), (["seed"], 50), (["seed", "task"], 10)])
def test_the_made_up_suite_is_one(carry, jobs, tmp_path):
    expansion = expand(pipeline_scale.make_suite(1000, carry, tmp_path), CONFIG)
    assert (len(expansion.runs), len(expansion.jobs)) == (1000, jobs)
    assert expansion.allocated_models == ["tiny-decoder", "tiny-encoder"]


def test_a_larger_suite_has_more_variants():
    suite = pipeline_scale.make_suite(3000, [], CONFIG)
    levels = [settings["dropout"] for settings in suite["sweeps"][0]["axes"]["dropout"].values()]
    assert len(set(levels)) == 3 and max(levels) < 0.5
    assert len(expand(suite, CONFIG).runs) == 3000


@pytest.mark.slow
def test_the_commands_of_planning_work_on_the_made_up_suite(capsys):
    assert pipeline_scale.main(["--runs", "1000", "--carry", "seed", "task"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "1000 runs in 10 jobs"
    assert len(shown[3:]) == 5 and all(float(line.split("|")[2]) > 0 for line in shown[3:])


def test_a_command_is_timed_with_its_children(tmp_path):
    child = "print(sum(i * i for i in range(3_000_000)) > 0)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cpu, wall, memory, text = pipeline_scale.timed([sys.executable, "-c", parent], tmp_path)
    alone, *_ = pipeline_scale.timed([sys.executable, "-c", "pass"], tmp_path)
    assert text == "True\n"
    assert cpu > alone and wall > 0 and memory > 0


def test_a_command_that_fails_is_not_timed(tmp_path):
    with pytest.raises(SystemExit, match="ended with 3:\nit said so"):
        pipeline_scale.timed([sys.executable, "-c", "print('it said so'); raise SystemExit(3)"], tmp_path)


def test_finished_jobs_have_manifests(tmp_path):
    (tmp_path / "manifests.txt").write_text(f"{tmp_path}/jobs/a.json\n{tmp_path}/jobs/b.json\n")
    assert pipeline_scale.finish_jobs(tmp_path) == 2
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["a.json", "b.json"]


def test_copies_differ_in_their_seed_and_watch_nothing(tmp_path):
    plan = {"seed": 7, "training": {"epochs": 3}, "evaluation": {"limit": None}, "diagnostics": {}, "forgetting": {}}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    copies = [json.loads(copy.read_text()) for copy in start_up.copy_seeds(path, 3, tmp_path / "copies")]
    assert [copy["seed"] for copy in copies] == [0, 1, 2]
    assert copies[0] == {"seed": 0, "training": {"max_steps": 1}, "evaluation": {"limit": 16}}


def test_records_of_few_seeds_have_more_tasks(tmp_path):
    manifests, _, _ = report_scale.make_records(tmp_path, 72, 20, seeds=2)
    frame = collect.collect_records(manifests)
    assert frame["id"].nunique() == 72
    assert set(frame["seed"]) == {0, 1}
    assert sorted(set(frame["task"])) == ["mrpc-0", "rte-0"]
