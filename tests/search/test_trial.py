"""Trials for real: a small model is trained on a part of train and scored on the rest of it."""

import json

from studies import SEARCH, make_study
from world import plan, task_document, write_plan

from moelora import cli
from moelora.plans import resolve
from moelora.search.trial import make_objective, trial_plan
from moelora.search.worker import work

SPACE = {
    "rate": {"set": "training.learning_rate", "choices": [1e-6, 1e-2]},
    "rank": {"set": "settings.r", "choices": [2, 4], "tied": {"settings.alpha": 2}},
}


def document(**changes) -> dict:
    return {**plan("encoder", [task_document("mood")], "lora", max_steps=30), **changes}


def study_of(folder, **changes):
    return make_study(
        folder, document(), **{"variant": "lora", "name": "lora-searched", "space": SPACE, "trials": 3, **changes}
    )


def test_a_trial_differs_from_the_run_in_values_seed_and_length(tmp_path):
    study = study_of(tmp_path, epochs=1)
    made = trial_plan(study, {"rate": 1e-2, "rank": 4}, 77)
    own = study.document["plan"]
    assert made["settings"] == {**own["settings"], "r": 4, "alpha": 8}
    assert made["training"] == {
        **own["training"], "learning_rate": 1e-2, "epochs": 1, "max_steps": None, "checkpoint_every_steps": None,
    }  # fmt: skip
    changed = ("settings", "training", "seed", "evaluation", "pending")
    assert {key: made[key] for key in made if key not in changed} == {k: own[k] for k in own if k not in changed}
    assert made["seed"] == 77 and made["pending"] == {}


def test_trials_measure_every_objective_on_a_part_of_train(world, tmp_path, monkeypatch):
    from moelora.evaluation import score

    seen = []
    plain = score.evaluation_examples
    monkeypatch.setattr(score, "evaluation_examples", lambda task, limit: seen.append(task) or plain(task, limit))
    study = study_of(tmp_path, objectives=["score", "trainable_parameters", "step_seconds"])
    results = work(study, make_objective(study, world / "data", world / "encoder"))
    assert [trial.state.name for trial in results] == ["COMPLETE"] * 3
    for trial in results:
        value, size, seconds = trial.values
        linears = 2 * (4 * (16 + 16) + 2 * (16 + 32))
        assert size == trial.params["rank"] * linears + 16 * 2 + 2
        assert 0 <= value <= 1 and seconds > 0
        assert trial.user_attrs["details"]["steps"] == 30
    assert {len(task.evaluation) for task in seen} == {16}  # a quarter of the 64 for training, not the 24 for testing


def test_watching_a_trial_does_not_change_it(world, tmp_path):
    fixed = {"rate": {**SPACE["rate"], "choices": [1e-2]}, "rank": {**SPACE["rank"], "choices": [4]}}
    pruner = {"name": "median", "every_steps": 7, "startup_trials": 99, "warmup_steps": 0}
    plain = study_of(tmp_path / "plain", space=fixed, trials=1)
    watched = study_of(tmp_path / "watched", space=fixed, trials=1, pruner=pruner)
    (one,) = work(plain, make_objective(plain, world / "data", world / "encoder"))
    (other,) = work(watched, make_objective(watched, world / "data", world / "encoder"))
    assert [one.user_attrs["details"][key] for key in ("loss", "score")] == [
        other.user_attrs["details"][key] for key in ("loss", "score")
    ]
    assert sorted(other.intermediate_values) == [7, 14, 21, 28] and not one.intermediate_values


def test_a_trial_that_falls_behind_is_pruned(world, tmp_path):
    pruner = {"name": "median", "every_steps": 10, "startup_trials": 1, "warmup_steps": 0}
    space = {"rate": {"set": "training.learning_rate", "choices": [1e-2]}}
    study = study_of(tmp_path, space=space, trials=2, pruner=pruner)
    opened = study.open()
    good = opened.ask()  # a trial that was perfect from the beginning
    good.set_user_attr("slot", 0)
    for step in (10, 20):
        good.report(2.0, step)
    opened.tell(good, 2.0)
    results = work(study, make_objective(study, world / "data", world / "encoder"))
    assert [trial.state.name for trial in results] == ["COMPLETE", "PRUNED"]
    assert results[1].user_attrs["reason"].startswith("pruned at step 10 of 30 with score")


def test_the_command_carries_a_study_from_its_files_to_a_winner(world, tmp_path, capsys):
    path = write_plan(tmp_path, document(pending={"search": "search/winner.json"}))
    root = tmp_path / "results" / "test"
    search = {**SEARCH, "variant": "lora", "name": "lora-searched", "space": SPACE, "trials": 4, "storage": "journal"}
    (root / "search").mkdir()
    (root / "search" / "search.json").write_text(
        json.dumps({"search": search, "allocation": {}, "run_seeds": [0]}, sort_keys=True)
    )
    study, sources = (
        str(root / "search" / "study.json"),
        ["--data", str(world / "data"), "--base", str(world / "encoder")],
    )

    def moelora(*arguments) -> str:
        assert cli.main(["search", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    moelora("create", "--search", root / "search/search.json", "--plan", path, "--out", study, *sources)
    moelora("run", "--study", study, "--slot", "1", "--out", root / "search/trials/1.json", *sources)
    assert json.loads((root / "search/trials/1.json").read_text())["slot"] == 1
    asked = json.loads(moelora("ask", "--study", study))
    assert asked["slot"] == 0 and asked["settings"]["alpha"] == 2 * asked["values"]["rank"]
    moelora("tell", "--study", study, asked["number"], "--values", '{"score": 0.0}')
    assert cli.main(["search", "tell", "--study", study, str(asked["number"]), "--failed", "twice"]) == 2
    winner = [
        "choose",
        "--study",
        study,
        "--trials",
        root / "search/trials.json",
        "--winner",
        root / "search/winner.json",
    ]
    assert cli.main(["search", *map(str, winner)]) == 2
    assert "2 of 4 results" in capsys.readouterr().err
    assert "4 of 4 trials, best score" in moelora("run", "--study", study, *sources)
    assert "every trial in work has a worker" in moelora("sweep", "--study", study)
    assert moelora("show", "--study", study).count("complete") == 4
    moelora(*winner)
    won = json.loads((root / "search/winner.json").read_text())
    trials = json.loads((root / "search/trials.json").read_text())["trials"]
    assert won["values"]["score"] == max(trial["values"][0] for trial in trials)
    resolved = resolve(json.loads(path.read_text()), root)
    assert (
        resolved["settings"]["r"] == won["params"]["rank"]
        and resolved["settings"]["alpha"] == 2 * won["params"]["rank"]
    )
    assert resolved["training"]["learning_rate"] == won["params"]["rate"]
    assert resolved["search"]["trial"] == won["trial"] and resolved["seed"] == 0 and resolved["pending"] == {}


def test_how_trials_are_shared_out_is_no_part_of_their_fingerprint():
    from moelora.fingerprint import closure

    reached = closure(("moelora.search.trial",))
    assert {"moelora.search.space", "moelora.training.loop"} <= reached
    assert not reached & {f"moelora.search.{name}" for name in ("ask", "tell", "worker", "leases", "study", "storage")}
