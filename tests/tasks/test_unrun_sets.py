"""Sets that could not be had, on rows of our own in their columns: MNLI, QQP, WinoGrande's other configurations."""

import json

import pytest

from moelora.config import find_config_dir
from moelora.errors import ConfigError
from moelora.plans.training_data import plan_data
from moelora.tasks import load_task
from moelora.tasks.instructions import load_rows
from moelora.tasks.protocols import put_under

CONFIG = find_config_dir()
CHOICES = {"text": ["lead", "cork"], "label": ["A", "B"]}
COLUMNS = {
    "mnli": {"premise": "All fell.", "hypothesis": "One fell.", "idx": 0},
    "qqp": {"question1": "Why?", "question2": "How so?", "idx": 0},
    "ai2_arc": {"id": "x", "question": "What floats?", "choices": CHOICES, "answerKey": "B"},
    "openbookqa": {"id": "x", "question_stem": "Cork", "choices": CHOICES, "answerKey": "B"},
    "super_glue": {"question": "is it so", "passage": "It is.", "idx": 0, "label": 1},
    "piqa": {"goal": "Go.", "sol1": "Walk.", "sol2": "Sit.", "label": 0},
    "siqa": {
        "context": "Ann fell.", "question": "And then?", "answerA": "up", "answerB": "down", "answerC": "on",
        "label": "1",
    },
    "hellaswag": {"activity_label": "Baking", "ctx": "He", "endings": ["a", "b", "c", "d"], "label": "2"},
    "winogrande": {"sentence": "The cup is in the bag: _ is big.", "option1": "cup", "option2": "bag", "answer": "2"},
}  # fmt: skip


def write_set(folder, config, splits):
    """Write a data set as a folder with one configuration; ``splits`` are its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append({"split": split, "path": f"{split}.jsonl"})
    header = {"configs": [{"config_name": config or "default", "data_files": files}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(header)}\n---\n")
    return str(folder)


def labelled(name, labels):
    return [COLUMNS[name] | {"label": label} for label in labels]


def test_both_sets_of_mnli(tmp_path):
    splits = {"train": labelled("mnli", [0, 1, 2]), "validation_matched": labelled("mnli", [2, 1]),
              "validation_mismatched": labelled("mnli", [0]), "test_matched": labelled("mnli", [-1])}  # fmt: skip
    folder = write_set(tmp_path / "glue", "mnli", splits)
    for name, gold in (("mnli", [2, 1]), ("mnli_mismatched", [0])):
        document = CONFIG.load("task", name)
        task = load_task(document | {"source": {"hub": folder, "config": "mnli"}})
        assert [example.label for example in task.train] == [0, 1, 2]
        assert [example.label for example in task.evaluation] == gold
        assert (task.evaluation[0].text, task.evaluation[0].text_pair) == ("All fell.", "One fell.")
        assert task.outputs == 3
    unlabelled = document | {"source": {"hub": folder, "config": "mnli"}}
    unlabelled["splits"] = {"train": "train", "evaluation": "test_matched"}
    with pytest.raises(ConfigError, match=r"labels \[-1\] outside the 3"):
        load_task(unlabelled)


def test_qqp(tmp_path):
    splits = {"train": labelled("qqp", [0, 1]), "validation": labelled("qqp", [1])}
    document = CONFIG.load("task", "qqp")
    task = load_task(document | {"source": {"hub": write_set(tmp_path / "glue", "qqp", splits), "config": "qqp"}})
    assert (task.evaluation[0].text, task.evaluation[0].text_pair, task.evaluation[0].label) == ("Why?", "How so?", 1)
    assert task.outputs == 2 and "f1" in document["metrics"]


@pytest.mark.parametrize("protocol", ["label-logits", "generate-regex"])
@pytest.mark.parametrize("name", ["winogrande_debiased", "hellaswag"])
def test_questions_under_our_protocols(tmp_path, name, protocol):
    column = name.split("_")[0]
    config = "winogrande_debiased" if column == "winogrande" else None
    rows = [COLUMNS[column]] * 2
    folder = write_set(tmp_path / name, config, {"train": rows, "validation": rows[:1]})
    document = put_under(CONFIG.load("task", name), protocol)
    document["source"] |= {"hub": folder}
    task = load_task(document)
    assert (len(task.train), len(task.evaluation)) == (2, 1)
    assert task.evaluation[0].answer == {"winogrande": 1, "hellaswag": 2}[column]
    assert task.commit == ""  # a folder has none


def test_the_mixture_of_170_thousand_rows(tmp_path):
    data = plan_data({"recipe": "commonsense-170k"}, CONFIG, {"name": "m", "architecture": "decoder"}, "test")
    for number, part in enumerate(data["parts"]):
        column = part["hub"].split("/")[1]
        rows = [COLUMNS[column]] * (1 + number % 2)
        part["hub"] = write_set(tmp_path / f"{column}-{number}", part["config"], {"train": rows})
    rows, tasks = load_rows(data)
    assert tasks == {
        "arc_challenge": 2, "arc_easy": 1, "boolq": 1, "hellaswag": 2, "openbookqa": 1, "piqa": 2, "siqa": 1,
        "winogrande": 1 + 2 + 1 + 2 + 1 + 2,
    }  # fmt: skip
    assert len(rows) == 19
    assert rows[0]["answer"] == "true" and rows[-1]["answer"] == "answer2"  # BoolQ first, OpenBookQA last
    assert [row["answer"] for row in rows[6:15]] == ["option2"] * 9
