"""The papers' suites on a small machine: what is left out, and that nothing else is."""

import pytest
from plan_cases import CONFIG, merged

from moelora.config import load_yaml
from moelora.plans import expand
from moelora.tasks.protocols import POSED

REHEARSALS = sorted((CONFIG / "rehearsals").glob("*.yaml"))
STAND_INS = {"winogrande_debiased": "winogrande"}


def both(path):
    """Return the expansion of a suite and of its rehearsal."""
    suite = load_yaml(CONFIG / "suites" / path.name)
    return expand(suite, CONFIG), expand(merged(suite, load_yaml(path)), CONFIG)


def cells(expansion):
    """Return what is run, whatever the model and the seed."""
    return {(run.task, run.variant.name, run.regime) for run in expansion.runs}


@pytest.mark.parametrize("path", REHEARSALS, ids=lambda path: path.stem)
def test_a_rehearsal_has_every_cell_of_its_suite(path):
    suite, rehearsal = both(path)
    wanted = {(STAND_INS.get(task, task), variant, regime) for task, variant, regime in cells(suite)}
    assert wanted <= cells(rehearsal)
    assert {regime for *_, regime in cells(rehearsal) - wanted} <= {"log_likelihood"}
    assert [variant.name for variant in rehearsal.variants] == [variant.name for variant in suite.variants]
    assert {a.variant.name for a in rehearsal.allocations.values()} == {
        a.variant.name for a in suite.allocations.values()
    }
    assert rehearsal.suite["name"] == f"{path.stem}-rehearsal", "it must not write into the suite's results"


@pytest.mark.parametrize("path", REHEARSALS, ids=lambda path: path.stem)
def test_a_rehearsal_changes_no_setting_of_a_method_and_no_rate(path):
    suite, rehearsal = both(path)
    first = {(STAND_INS.get(run.task, run.task), run.label): run.plan for run in suite.runs}
    shared = ("learning_rate", "scheduler", "weight_decay", "max_grad_norm", "loss_on", "end_of_text", "max_length")
    for run in rehearsal.runs:
        if (before := first.get((run.task, run.label))) is not None:
            assert run.plan["settings"] == before["settings"]
            assert [run.plan["training"].get(key) for key in shared] == [before["training"].get(key) for key in shared]
            assert run.plan["training"]["max_steps"] < 10


def test_the_rehearsals_meet_all_eight_tasks_by_all_three_protocols():
    met: dict[str, set[str]] = {}
    for path in REHEARSALS:
        for run in both(path)[1].runs:
            for task in run.plan["tasks"]:
                met.setdefault(task.get("protocol", "lm-eval"), set()).add(task["name"])
    eight = {"arc_easy", "arc_challenge", "boolq", "openbookqa", "piqa", "siqa", "hellaswag", "winogrande"}
    assert met == dict.fromkeys(("lm-eval", *POSED[:2], "generate-regex"), eight)
