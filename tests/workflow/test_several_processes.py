"""A suite that has each run trained by several processes."""

import pytest

from moelora.config import ConfigDir


@pytest.mark.slow
def test_the_train_rule_starts_them_and_reruns_nothing_for_their_number(checkout):
    plain = checkout.snakemake("-n", "-p", "--configfile", "grid.yaml")
    several = checkout.snakemake("-n", "-p", "--configfile", "grid.yaml", "--config", "processes=2")
    launch = "python -m torch.distributed.run --standalone --nproc-per-node 2 -m moelora train"
    assert several.count(launch) == plain.count("python -m moelora train") > 0
    assert launch not in plain and "threads: 2" in several and "threads: 2" not in plain
    refused = checkout.snakemake("-n", "--configfile", "grid.yaml", "--config", "processes=0", check=False)
    assert "processes" in refused and "Traceback" not in refused


def test_no_plan_depends_on_how_many_processes_train_it():
    import inspect

    import moelora.plans

    assert "processes" not in inspect.getsource(moelora.plans) and ConfigDir is not None
