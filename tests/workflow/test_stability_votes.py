"""By which votes the stability of sensitivities compares samples."""

import yaml


def test_a_suite_may_compare_other_votes_than_it_allocates_by(checkout):
    path = checkout.path / "grid.yaml"
    stability = {"examples": [8, 16], "percentile": 20, "pool": "part"}
    suite = yaml.safe_load(path.read_text()) | {"sensitivity": {"stability": stability}}
    path.write_text(yaml.safe_dump(suite))
    output = checkout.snakemake(
        "-n", "-p", "--configfile", "grid.yaml", "--", "results/grid/minilm/stability/mrpc.json"
    )
    assert '--votes \'{"percentile": 20, "pool": "part"}\'' in output
