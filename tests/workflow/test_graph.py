"""What is to be done, without doing it."""

import json
import re
import shutil
from pathlib import Path

import yaml

GRID = "grid.yaml"


def test_default_suite_is_tiny(checkout):
    assert checkout.dry_run() == {
        "all": 1,
        "allocate_lora_smoe": 2,
        "base": 2,
        "collect": 1,
        "costs": 2,
        "data": 1,
        "report": 1,
        "sensitivity_tiny_decoder": 1,
        "sensitivity_tiny_encoder": 1,
        "train": 22,
    }


def test_what_others_wait_for_comes_first_and_then_the_longest_training(checkout):
    found = {}
    for block in re.split(r"\n(?:local)?rule ", checkout.snakemake("-n")):
        job = re.search(r"log: results/tiny/logs/(\w+/\S+)\.log", block)
        priority = re.search(r"priority: (\d+)", block)
        if job:
            found[job.group(1)] = int(priority.group(1)) if priority else 0
    trained = [found[f"train/tiny-encoder--{label}"] for label in ("lora_smoe", "lora", "majority")]
    assert trained == [14, 7, 0]
    assert min(found["sensitivity/tiny-encoder--sum"], found["allocate/tiny-encoder--lora_smoe"]) > max(trained)


def test_another_suite_inherits_nothing_from_the_default(checkout):
    expected = {
        "all": 1,
        "allocate_lora_smoe": 1,
        "collect": 1,
        "costs": 1,
        "report": 1,
        "sensitivity_minilm": 1,
        "train": 110,
        "tune": 50,
    }
    assert checkout.dry_run("--configfile", GRID) == expected
    suite = json.loads((checkout.path / "results/grid/suite.json").read_text())
    assert "training_by_variant" not in yaml.safe_load((checkout.path / GRID).read_text())
    assert suite["training_by_variant"] == {}


def test_suite_may_be_given_by_name(checkout):
    shutil.copy(checkout.path / GRID, checkout.path / "workflow/config/suites/grid.yaml")
    assert checkout.dry_run("--config", "suite=grid", "tasks=[mrpc]")["tune"] == 10


def test_keys_may_be_overridden(checkout):
    jobs = checkout.dry_run("--configfile", GRID, "--config", "tasks=[mrpc]", "results=elsewhere")
    assert (jobs["train"], jobs["tune"]) == (22, 10)
    assert (checkout.path / "elsewhere/grid/minilm/mrpc/lora@tuned/seed2/plan.json").is_file()
    assert [path.name for path in (checkout.path / "results").iterdir()] == ["published"]


def test_targets_stop_early(checkout):
    arguments = ("--configfile", GRID, "--config", "tasks=[mrpc]", "--")
    assert "report" not in checkout.dry_run(*arguments, "records")
    assert checkout.dry_run(*arguments, "tables")["report"] == 1


def test_scoring_may_be_a_job_of_its_own(checkout):
    jobs = checkout.dry_run("--configfile", GRID, "--config", "tasks=[mrpc]", "evaluation={separate_job: true}")
    assert jobs["evaluate"] == jobs["train"] == 22


def test_suite_without_costs(checkout):
    assert "costs" not in checkout.dry_run("--configfile", GRID, "--config", "tasks=[mrpc]", "costs=null")


def test_transfer_waits_for_the_job_that_trains_its_adapter(checkout):
    suite = ("--configfile", "workflow/config/suites/dense-moe-lora.yaml")
    jobs = checkout.dry_run(*suite)
    assert jobs == {
        "all": 1, "claims": 1, "collect": 1, "costs": 2, "preflight": 1, "report": 1, "train": 66, "tune": 12,
    }  # fmt: skip
    manifests = "results/dense-moe-lora/jobs/roberta-base--lora@notebook--"
    output = checkout.snakemake("-n", *suite, "--", f"{manifests}sst2-to-mrpc.json")
    assert checkout.dry_run(*suite, "--", f"{manifests}sst2-to-mrpc.json") == {"preflight": 1, "train": 2}
    (inputs,) = re.findall(r"input: (.*)\n +output: \S+sst2-to-mrpc.json", output)
    assert f"{manifests}sst2.json" in inputs.split(", ")


def test_placements_share_sensitivities_and_have_allocations_of_their_own(checkout):
    suite = ("--configfile", "workflow/config/suites/expert-placement.yaml")
    assert checkout.dry_run(*suite) == {
        "all": 1,
        "allocate_lora_smoe": 56,
        "base": 2,
        "collect": 1,
        "data": 1,
        "report": 1,
        "sensitivity_tiny_decoder": 1,
        "sensitivity_tiny_encoder": 1,
        "stability_tiny_decoder": 1,
        "stability_tiny_encoder": 1,
        "train": 66,
    }
    allocation = "results/expert-placement/tiny-encoder/allocation/lora_smoe-greedy-two.json"
    output = checkout.snakemake("-n", "-p", *suite, "--", allocation)
    assert '"strategy": "greedy"' in output and '"budget": {"uniform": 2}' in output
    jobs = checkout.dry_run(*suite, "--", "results/expert-placement/tiny-encoder/stability/tiny-sentiment.json")
    assert jobs == {"base": 1, "data": 1, "stability_tiny_encoder": 1}


def test_placements_on_a_real_encoder(checkout):
    jobs = checkout.dry_run("--configfile", "workflow/config/suites/expert-placement-multitask.yaml")
    assert {rule: jobs[rule] for rule in ("allocate_lora_smoe", "sensitivity_minilm", "stability_minilm", "train")} == {
        "allocate_lora_smoe": 28, "sensitivity_minilm": 1, "stability_minilm": 1, "train": 33,
    }  # fmt: skip


def test_plans_are_written_once(checkout):
    checkout.dry_run("--configfile", GRID)
    root = checkout.path / "results/grid"
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("[!.]*") if path.is_file()}
    assert len([path for path in stamps if path.name == "plan.json"]) == 210
    checkout.dry_run("--configfile", GRID)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("[!.]*") if path.is_file()} == stamps


def test_bad_input_ends_before_the_graph_with_one_message(checkout):
    path = checkout.path / "workflow/config/suites/mine.yaml"
    suite = yaml.safe_load((checkout.path / GRID).read_text())
    suite["variantes"] = suite.pop("variants")
    path.write_text(yaml.safe_dump(suite))
    output = checkout.snakemake("-n", "--configfile", str(path), check=False)
    assert "workflow/config/suites/mine.yaml: unknown key 'variantes'; did you mean 'variants'?" in output
    assert "Building DAG" not in output
    assert "Traceback" not in output


def test_key_given_twice_is_refused(checkout):
    path = checkout.path / "workflow/config/suites/mine.yaml"
    path.write_text((checkout.path / GRID).read_text() + "\nthreads: 2\n")
    output = checkout.snakemake("-n", "--configfile", str(path), check=False)
    assert "key 'threads' stands on line" in output
    assert "Building DAG" not in output


def test_unknown_suite_names_the_nearest(checkout):
    output = checkout.snakemake("-n", "--config", "suite=glue-minilmm", check=False)
    assert "unknown suite 'glue-minilmm'; did you mean 'glue-minilm'?" in output


def test_thousand_runs_make_a_thousand_jobs(checkout):
    suite = yaml.safe_load((checkout.path / GRID).read_text())
    suite |= {"name": "large", "match": [], "variants": ["lora", "lora-r16", "dora", "dense_moe_lora", "mixlora"]}
    suite["regimes"] = {"published": {"seeds": list(range(40))}}
    suite["jobs"] = {"carry": []}
    path = checkout.path / "large.yaml"
    path.write_text(yaml.safe_dump(suite))
    assert checkout.dry_run("--configfile", str(path))["train"] == 1000


def test_rule_of_a_method_is_found_by_its_name(checkout):
    rules = checkout.path / "workflow/rules/methods"
    text = (rules / "_template.smk").read_text().replace("METHOD_NAME", "mola")
    (rules / "mola.smk").write_text(text)
    assert "allocate_mola" in checkout.snakemake("--list-rules", "--configfile", GRID)
    assert "METHOD_NAME" not in checkout.snakemake("--list-rules", "--configfile", GRID)


def test_costs_run_alone(checkout):
    output = checkout.snakemake("-n", "--configfile", GRID, "--config", "tasks=[mrpc]")
    costs = output[output.index("rule costs:") :].split("\n\n")[0]
    assert "threads: 2" in costs  # every core that Snakemake was given
    train = output[output.index("rule train:") :].split("\n\n")[0]
    assert "threads" not in train  # one, which Snakemake does not print


def test_workflow_never_imports_torch(checkout):
    (checkout.path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    assert checkout.dry_run("--configfile", GRID)["train"] == 110


def test_suites_in_the_tree_have_graphs(checkout):
    for path in sorted((checkout.path / "workflow/config/suites").glob("*.yaml")):
        assert checkout.dry_run("--configfile", str(Path(path)))["train"] > 0
