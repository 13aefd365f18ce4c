"""Instruction data: recipes, the form of the rows, checksums and files."""

import hashlib
import json

import pytest

from moelora.errors import ConfigError, DataUnavailableError
from moelora.tasks.instructions import (
    RECIPES,
    build_rows,
    check_rows,
    checksum,
    load_instructions,
    load_rows,
    read_file,
)


def part(task, prompts, hub="x/y"):
    return {"task": task, "hub": hub, "config": None, "revision": None, "split": "train", "prompts": prompts}


BOOLQ = [{"question": f"is {n} even", "passage": "", "label": n % 2 == 0} for n in range(30)]
PIQA = [{"goal": f"Do {n}.", "sol1": "so", "sol2": "or so", "label": n % 2} for n in range(20)]
PARTS = [(part("boolq", "boolq"), BOOLQ), (part("piqa", "piqa"), PIQA)]

ROWS = [
    {
        "instruction": (
            "Please answer the following question with true or false, question: is 0 even?\n\nAnswer format: true/false"
        ),
        "input": "", "output": "the correct answer is true", "answer": "true",
    },
]  # fmt: skip


def test_all_rows_in_the_order_of_the_parts():
    rows, tasks = build_rows(PARTS, None, 0)
    assert rows[0] == ROWS[0]
    assert rows[30]["instruction"] == (
        "Please choose the correct solution to the question: Do 0.\n\nSolution1: so\n\nSolution2: or so\n\n"
        "Answer format: solution1/solution2"
    )
    assert rows[31]["output"] == "the correct answer is solution2" and len(rows) == 50
    assert tasks == {"boolq": 30, "piqa": 20}


def test_a_draw_repeats_and_depends_on_the_seed():
    first, tasks = build_rows(PARTS, 20, 0)
    again, _ = build_rows(PARTS, 20, 0)
    other, _ = build_rows(PARTS, 20, 1)
    assert first == again and checksum(first) != checksum(other)
    assert sum(tasks.values()) == len({json.dumps(row) for row in first}) == 20  # without replacement
    # of the recipe's version 1: a change of these is a change of the recipe
    assert checksum(first) == "580d670d9e92d99430e0ea2d8c287586426d534520f91b3b1e17d62d22e636e5"
    with pytest.raises(ConfigError, match="60 rows are to be drawn, but the train splits have 50"):
        build_rows(PARTS, 60, 0)


def test_the_checksum_is_that_of_canonical_lines():
    line = (
        '{"answer":"true","input":"","instruction":"Please answer the following question with true or false, question: '
        'is 0 even?\\n\\nAnswer format: true/false","output":"the correct answer is true"}\n'
    )
    assert checksum(ROWS) == hashlib.sha256(line.encode()).hexdigest()


def test_the_two_recipes_are_of_the_eight_tasks():
    eight = {"boolq", "piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"}
    for recipe in RECIPES.values():
        assert {name for name, _ in recipe.parts} == eight
    assert RECIPES["commonsense-15k"].rows == 15_000 and RECIPES["commonsense-170k"].rows is None
    counts = {
        "boolq": 9_427, "piqa": 16_113, "siqa": 33_410, "hellaswag": 39_905, "arc_easy": 2_251, "arc_challenge": 1_119,
        "openbookqa": 4_957,
    }  # fmt: skip
    winogrande = {"xs": 160, "s": 640, "m": 2_558, "l": 10_234, "xl": 40_398, "debiased": 9_248}
    configs = dict(RECIPES["commonsense-170k"].parts)["winogrande"]
    counts["winogrande"] = sum(winogrande[config.removeprefix("winogrande_")] for config in configs)
    assert sum(counts.values()) == 170_420


def test_a_file_of_llm_adapters(tmp_path):
    path = tmp_path / "commonsense_15k.json"
    path.write_text(json.dumps(ROWS * 3, indent=4))
    assert read_file(path) == ROWS * 3
    data = {"file": str(path), "sha256": checksum(ROWS * 3)}
    rows, tasks = load_rows(data)
    assert len(rows) == 3 and tasks == {}
    with pytest.raises(ConfigError, match=rf"the sum {checksum(ROWS * 3)}, expected {'0' * 64}"):
        load_rows({"file": str(path), "sha256": "0" * 64})


def test_files_of_another_form_are_refused(tmp_path):
    with pytest.raises(DataUnavailableError, match=r"absent\.json cannot be read"):
        read_file(tmp_path / "absent.json")
    path = tmp_path / "broken.json"
    path.write_text('[{"instruction"')
    with pytest.raises(DataUnavailableError, match=r"broken\.json cannot be read"):
        read_file(path)
    with pytest.raises(ConfigError, match="x: row 1 lacks one of the texts"):
        check_rows([*ROWS, {"instruction": "a"}], "x")
    with pytest.raises(ConfigError, match="x: row 0 has an 'input'"):
        check_rows([{**ROWS[0], "input": "more"}], "x")
    with pytest.raises(ConfigError, match="x holds no list of rows"):
        check_rows({}, "x")


def test_rows_become_examples_to_train_on(tmp_path):
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(ROWS))
    data = {"file": str(path), "sha256": checksum(ROWS)}
    plain, said = load_instructions(data, "lm-eval")
    coded, _ = load_instructions(data, "generate-regex-as-coded")
    assert said == {"name": "mix.json", "rows": 1, "sha256": checksum(ROWS)}
    assert plain.kind == "multiple_choice" and plain.evaluation == ()
    for task, white in ((plain, ""), (coded, " " * 16)):
        (example,) = task.train
        assert example.continuations == ("the correct answer is true",) and example.ends
        assert example.training.endswith(f"\n{white}### Response:\n{white}")
