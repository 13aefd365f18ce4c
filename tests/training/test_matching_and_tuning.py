import argparse
import dataclasses
import fcntl
import json

import pytest
from world import plan, task_document, write_plan

from moelora.locks import LOCK_FILE
from moelora.methods import AttachContext, get_method
from moelora.models import load_base_model
from moelora.tasks import load_task
from moelora.tasks.choice import render, scored_task
from moelora.training import tune
from moelora.training.matching import match_rank


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
@pytest.mark.parametrize("method", ["dense_moe_lora", "mixlora", "lora_smoe"])
def test_matched_rank_is_the_nearest(world, architecture, method):
    kind = "classification" if architecture == "encoder" else "multiple_choice"
    document = plan(architecture, [task_document("mood" if architecture == "encoder" else "pick", kind)])
    task = load_task(document["tasks"][0], world / "data")
    shapes = load_base_model(document["model"], [task], 0, world / architecture).shapes
    allocation = (
        {linear.name: index % 4 for index, linear in enumerate(shapes.linears)} if method == "lora_smoe" else None
    )
    settings = get_method(method).all_settings({"r": 4, "alpha": 12})
    matched = match_rank({"variant": method, "method": method, "settings": settings, "allocation": allocation}, shapes)
    lora = get_method("lora")
    context = AttachContext(shapes)
    distances = {}
    for rank in range(1, 80):
        other = lora.make_settings({"r": rank, "modules": matched.settings.modules})
        distances[rank] = abs(lora.parameters(shapes, other, context).trainable - matched.target)
    assert distances[matched.settings.r] == min(distances.values())
    assert abs(matched.reached - matched.target) == distances[matched.settings.r]
    assert matched.settings.scaling == 3
    if method == "lora_smoe":
        assert set(matched.settings.modules) == {name for name, count in allocation.items() if count}


CASES = {"encoder": ("mood", "classification"), "decoder": ("pick", "multiple_choice")}


@pytest.mark.parametrize("architecture", CASES)
def test_tuning_chooses_on_a_part_of_train(world, tmp_path, architecture):
    document = plan(architecture, [task_document(*CASES[architecture])])
    document["pending"] = {"learning_rate": "tuning.json"}
    path = write_plan(tmp_path, document)
    out = tmp_path / "tuning.json"
    settings = {"learning_rates": [1e-6, 1e-2], "epochs": None, "max_steps": 40, "max_examples": 48,
                "validation_fraction": 0.25, "seed": 1000}  # fmt: skip
    options = argparse.Namespace(plan=path, tune=settings, out=out, data=world / "data", base=world / architecture)
    assert tune.run(options) == 0
    chosen = json.loads(out.read_text())
    assert chosen["chosen"] == 1e-2 and len(chosen["trials"]) == 2
    assert chosen["trials"][1]["score"] > chosen["trials"][0]["score"]


def test_two_processes_do_not_tune_one_variant_at_once(world, tmp_path, monkeypatch):
    document = plan("encoder", [task_document("mood")])
    path = write_plan(tmp_path, document)
    out = tmp_path / "lora" / "tuning.json"
    taken = []

    def run_trial(trial, *_):
        with open(out.parent / LOCK_FILE, "a+b") as handle:
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken.append(trial["training"]["learning_rate"])
        return {"learning_rate": taken[-1], "score": 0.5, "loss_curve": [[1, 0.1]]}

    monkeypatch.setattr(tune, "run_trial", run_trial)
    settings = {"learning_rates": [1e-3, 1e-2], "epochs": 1, "validation_fraction": 0.25, "seed": 1000}
    options = argparse.Namespace(plan=path, tune=settings, out=out, data=world / "data", base=world / "encoder")
    assert tune.run(options) == 0 and taken == [1e-3, 1e-2] and out.is_file()
    with open(out.parent / LOCK_FILE, "a+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_cut_is_disjoint_and_does_not_touch_the_evaluation_split(world):
    task = load_task(task_document("mood"), world / "data")
    cut = tune.cut_validation(task, 0.25, 1000, None)
    assert not {x.id for x in cut.train} & {x.id for x in cut.evaluation}
    assert {x.id for x in cut.train} | {x.id for x in cut.evaluation} == {x.id for x in task.train}
    assert cut.evaluation == tune.cut_validation(task, 0.25, 1000, 10).evaluation
    assert tuple(task.train[row] for row in cut.held_out) == cut.evaluation


def test_lm_eval_scores_the_rows_that_were_held_out(world):
    """What lm-eval's own object is asked are rows of train; the object over the official split stays as it was."""
    task = load_task(task_document("pick", "multiple_choice"), world / "data")
    cut = tune.cut_validation(task, 0.25, 1000, None)
    docs = list(scored_task(cut, world / "data").eval_docs)
    official = scored_task(task, world / "data")
    assert render(official, docs) == tuple(
        dataclasses.replace(example, id=place) for place, example in enumerate(cut.evaluation)
    )
    assert cut.evaluation != task.evaluation
    assert render(official, official.eval_docs) == task.evaluation


def test_a_tie_goes_to_the_lower_training_loss():
    trials = [
        {"learning_rate": rate, "score": score, "loss_curve": [[10, 1.0], [20, loss]]}
        for rate, score, loss in ((1e-4, 0.7, 0.69), (1e-3, 0.7, 0.61), (3e-3, 0.6, 0.2))
    ]
    assert tune.best_rate(trials) == 1e-3
