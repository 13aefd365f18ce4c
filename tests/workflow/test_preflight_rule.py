"""The estimate as the first rule of a suite that asks for one."""

import yaml

TARGET = "results/grid/preflight.json"


def write(checkout, asked) -> None:
    suite = yaml.safe_load((checkout.path / "grid.yaml").read_text())
    (checkout.path / "grid.yaml").write_text(yaml.safe_dump(suite | {"preflight": asked}))


def test_everything_that_loads_a_model_waits_for_it(checkout):
    before = checkout.dry_run("--configfile", "grid.yaml")
    assert "preflight" not in before
    write(checkout, {"device_memory_gib": 16})
    assert checkout.dry_run("--configfile", "grid.yaml") == before | {"preflight": 1}
    output = checkout.snakemake("-n", "--configfile", "grid.yaml")
    for rule in ("train", "tune", "costs", "sensitivity_minilm"):
        job = output[output.index(f"rule {rule}:") :].split("\n\n")[0]
        assert TARGET in job, rule


def test_what_cannot_fit_stops_here_and_what_fits_re_runs_nothing(checkout):
    write(checkout, {"device_memory_gib": 1.2})
    output = checkout.snakemake("--configfile", "grid.yaml", "--", TARGET, check=False)
    assert "suite 'grid' cannot work" in output and "would fit" in output
    assert not (checkout.path / TARGET).exists()
    write(checkout, {"device_memory_gib": 16})
    checkout.snakemake("--configfile", "grid.yaml", "--", TARGET)
    assert "Nothing stands in the way." in (checkout.path / "results/grid/logs/preflight/preflight.log").read_text()
    assert "preflight" not in checkout.dry_run("--configfile", "grid.yaml")
