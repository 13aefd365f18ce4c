"""The tracked claim files: complete, typed, and about methods, tasks and shapes that exist."""

import collections
import math
from pathlib import Path

import pytest

from moelora.claims import load_claims, load_documents
from moelora.claims.shapes import SIZES
from moelora.config import ConfigDir
from moelora.errors import ConfigError
from moelora.methods import get_method

CONFIG = ConfigDir(Path(__file__).parents[2] / "workflow" / "config")


@pytest.fixture(scope="module")
def documents():
    return load_documents(CONFIG)


@pytest.fixture(scope="module")
def claims(documents):
    return load_claims(documents)


def test_every_published_number_is_here(claims):
    assert len(claims) == 1966
    per_file = collections.Counter(c.file for c in claims)
    assert per_file == {
        "comoe": 189, "dense-moe-lora": 5, "dense-moe-lora-log": 218, "dora": 335, "ld-mole": 20, "llm-adapters": 144,
        "lora": 148, "lora-smoe": 10, "mixlora": 468, "mola": 429,
    }  # fmt: skip
    assert math.fsum(c.value for c in claims if c.kind == "score") == pytest.approx(111_656.71, abs=1e-6)


def test_numbers_keep_their_printed_digits(claims):
    by_place = {(c.table, c.method, c.task, c.metric): c for c in claims if c.file == "dense-moe-lora"}
    claim = by_place["README results", "MoE LoRA (dense)", "sst2", "macro_f1_pct"]
    assert (claim.text, claim.value, claim.digits, claim.half_step) == ("93.00", 93.0, 2, 0.005)
    for c in claims:
        assert float(c.text) == c.value
        assert c.source


def test_what_claims_name_exists(claims):
    for c in claims:
        if c.recipe:
            method = get_method(c.recipe.method)
            assert method.make_settings(c.recipe.settings), c.id
        assert c.shapes is None or c.shapes in SIZES, c.id
        if c.key.task is not None:
            task = CONFIG.load("task", c.key.task)
            assert c.key.version == task["version"], c.id
    assert any(c.suite == "dense-moe-lora" for c in claims)
    assert (CONFIG.path / "suites" / "dense-moe-lora.yaml").is_file()


def test_conditions_decide_what_a_number_may_be_compared_with(claims):
    about = {"file": "lora", "model": "RoBERTa-base", "method": "LoRA", "task": "mrpc"}
    lora = next(c for c in claims if c.matches(about))
    notebook = next(c for c in claims if c.table == "README results" and c.task == "mrpc")
    assert lora.key.start == "the adapter trained on MNLI"
    said = lora.key.differences(notebook.key)
    assert said == [
        "metric accuracy is not macro_f1",
        "start the adapter trained on MNLI is not base",
        "checkpoint best is not last",
    ]
    assert notebook.key.differences(notebook.key) == []


def test_known_inconsistencies_are_attached(claims):
    def notes(file, **about):
        return " ".join(n for c in claims if c.file == file and c.matches(about) for n in c.notes)

    assert "four experts of rank 8" in notes("dense-moe-lora", table="README results")
    assert "never defines" in notes("dense-moe-lora", task="mrpc")
    assert "84.4 in tables 8 and 9" in notes("mixlora", method="MixLoRA", task="obqa")
    assert "-9.7 and -4.4" in notes("mixlora", table="Table 2")
    assert "magnitudes" in notes("mixlora", method="MixDoRA")
    assert "78.1" in notes("dora", method="DoRA r32", model="LLaMA-7B")
    assert "do not follow" in notes("mola", table="Table 3")
    assert "688" in notes("lora-smoe")


def test_claims_have_unique_ids(claims):
    assert len({c.id for c in claims}) == len(claims)


def test_two_claims_of_one_place_are_refused(documents):
    table = documents["lora-smoe"]["tables"][0]
    doubled = {**documents["lora-smoe"], "tables": [table, table], "notes": []}
    with pytest.raises(ConfigError, match="there twice"):
        load_claims({"lora-smoe": doubled})


def test_a_note_about_nothing_is_refused(documents):
    wrong = {**documents["lora-smoe"], "notes": [{"about": {"table": "Table 99"}, "text": "x"}]}
    with pytest.raises(ConfigError, match="Table 99"):
        load_claims({"lora-smoe": wrong})


def test_a_value_that_is_no_number_is_refused(documents):
    row = {"model": "Qwen2.5-3B", "method": "m", "values": {"arc_e": "about 80"}}
    table = {**documents["lora-smoe"]["tables"][0], "rows": [row]}
    with pytest.raises(ConfigError, match="about 80"):
        load_claims({"lora-smoe": {**documents["lora-smoe"], "tables": [table], "notes": []}})


def test_an_unknown_key_is_refused(tmp_path):
    text = (CONFIG.path / "claims" / "lora-smoe.yaml").read_text(encoding="utf-8")
    folder = tmp_path / "config" / "claims"
    folder.mkdir(parents=True)
    (folder / "lora-smoe.yaml").write_text(text + "protocl: glue\n", encoding="utf-8")
    (tmp_path / "schemas").symlink_to(CONFIG.schema_dir)
    with pytest.raises(ConfigError, match="protocl"):
        load_documents(ConfigDir(tmp_path / "config"))
