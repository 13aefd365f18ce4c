"""What rules ask for, as Snakemake sees it."""

import re

import yaml

GRID = ("--configfile", "grid.yaml", "--config", "tasks=[mrpc]")


def requests(output: str, rule: str) -> list[dict[str, str]]:
    """Return the resources of every job of a rule in a dry run's output."""
    jobs = re.findall(rf"^(?:local)?rule {rule}:\n((?: .*\n)+)", output, re.MULTILINE)
    lines = [re.search(r"^    resources: (.*)$", job, re.MULTILINE).group(1) for job in jobs]
    return [dict(pair.split("=", 1) for pair in line.split(", ")) for line in lines]


def test_jobs_ask_for_memory_and_minutes_and_light_ones_for_nothing(checkout):
    output = checkout.snakemake("-n", *GRID)
    for rule in ("train", "tune", "costs", "sensitivity_minilm"):
        for asked in requests(output, rule):
            assert int(asked["mem_mb"]) >= 2000 and int(asked["runtime"]) > 10, rule
            assert "gpu" not in asked, rule
    for rule in ("collect", "report", "allocate_lora_smoe"):
        assert requests(output, rule) and not {"mem_mb", "runtime"} & set(requests(output, rule)[0]), rule


def test_a_named_card_is_asked_for_by_what_computes(checkout):
    suite = yaml.safe_load((checkout.path / "grid.yaml").read_text())
    suite |= {"preflight": {"device": "l4-24"}, "evaluation": {"separate_job": True}}
    (checkout.path / "grid.yaml").write_text(yaml.safe_dump(suite))
    output = checkout.snakemake("-n", *GRID)
    for rule in ("tune", "costs", "sensitivity_minilm"):
        assert {asked.get("gpu") for asked in requests(output, rule)} == {"1"}, rule
    for rule in ("train", "evaluate"):
        cards = [asked.get("gpu") for asked in requests(output, rule)]
        assert cards.count(None) == 2 and cards.count("1") == 20, rule  # majority, in both regimes
    assert "gpu" not in requests(output, "preflight")[0]


def test_a_request_may_be_said_instead(checkout):
    output = checkout.snakemake("-n", *GRID, "--set-resources", "train:runtime=7 * attempt", "train:mem_mb=123")
    assert {(asked["runtime"], asked["mem_mb"]) for asked in requests(output, "train")} == {("7", "123")}


def test_unknown_card_ends_before_the_graph(checkout):
    output = checkout.snakemake("-n", *GRID, "preflight={device: l4}", check=False)
    assert "unknown device 'l4'; did you mean 'l4-24'?" in output
    assert "Building DAG" not in output and "Traceback" not in output
