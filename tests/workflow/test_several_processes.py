"""A suite that has each run trained by several processes."""

import pytest


@pytest.mark.slow
def test_the_train_rule_starts_them_and_their_number_is_in_no_plan(checkout):
    def plans() -> dict[str, bytes]:
        root = checkout.path / "results" / "grid"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("plan.json")}

    plain = checkout.snakemake("-n", "-p", "--configfile", "grid.yaml")
    before = plans()
    several = checkout.snakemake("-n", "-p", "--configfile", "grid.yaml", "--config", "processes=2")
    launch = "python -m torch.distributed.run --standalone --nproc-per-node 2 -m moelora train"
    assert several.count(launch) == plain.count("python -m moelora train") > 0
    jobs = several.count(launch)
    assert launch not in plain and several.count("threads: 2") == plain.count("threads: 2") + jobs
    assert plans() == before != {}
    refused = checkout.snakemake("-n", "--configfile", "grid.yaml", "--config", "processes=0", check=False)
    assert "processes" in refused and "Traceback" not in refused
