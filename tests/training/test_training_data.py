"""A run that trains on instruction data and is scored on its task."""

import json

import pytest
from world import plan, task_document, write_plan

from moelora.errors import ConfigError
from moelora.tasks.instructions import checksum
from moelora.training.identity import open_run
from moelora.training.run import carry_out
from moelora.training.tune import run_trial

ROWS = [
    {
        "instruction": f"the {animal} is {word} . question : good ?", "input": "",
        "output": f"answer : {answer}", "answer": answer,
    }
    for animal in ("cat", "dog", "bird")
    for word, answer in (("good", "yes"), ("bad", "no"))
]  # fmt: skip


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    data = {"file": str(path), "sha256": checksum(ROWS)}
    return plan("decoder", [task_document("pick", "multiple_choice")], max_steps=3, batch_size=4, data=data)


def test_the_record_says_what_was_trained_on(world, tmp_path, document):
    run = open_run(write_plan(tmp_path, document), "test", world / "data", world / "decoder")
    record = carry_out(run, evaluate=True)
    assert record["status"] == "finished", record["reason"]
    assert record["training"]["data"] == {"name": "rows.json", "rows": 6, "sha256": checksum(ROWS)}
    assert record["training"]["examples"] == 4 + 2 + 4  # six rows in batches of four, and of a second epoch one
    assert list(record["scores"]) == ["tiny-pick"] and record["scores"]["tiny-pick"]["protocol"] == "lm-eval"


def test_other_rows_than_the_plan_names_are_refused(world, tmp_path, document):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS[:-1]))
    run = open_run(write_plan(tmp_path, document), "test", world / "data", world / "decoder")
    with pytest.raises(ConfigError, match=rf"expected {checksum(ROWS)}; correct 'sha256'"):
        carry_out(run, evaluate=True)


def test_a_trial_is_refused_such_data(document):
    with pytest.raises(ConfigError, match=r"cannot train on 'training\.data'"):
        run_trial(document, [], None, None)
