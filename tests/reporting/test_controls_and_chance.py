"""What the report says of controls, of chance, and of an ablation's question."""

import csv
import json

import pytest
import synthetic_records

from moelora import stats
from moelora.reporting import cells, chance, collect, command, significance
from moelora.reporting.runs import Suite
from moelora.reporting.summary import summarise

CONTROLS = {
    "mixlora-frozen-router": "frozen_router",
    "mixlora-no-balance": "no_balance",
    "lora-active-mixlora": "equal_active",
    "lora-match-mixlora": "equal_trainable",
}
SKILL = {"majority": -1, "base": 0.68, "lora": 0.78, "mixlora": 0.9, "lora-match-mixlora": 0.8,
         "lora-active-mixlora": 0.74, "mixlora-frozen-router": 0.89, "mixlora-no-balance": 0.88}  # fmt: skip


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """A suite with controls: (frame, document)."""
    root = tmp_path_factory.mktemp("controlled")
    synthetic_records.SIZES |= {"mixlora-frozen-router": 166_400, "mixlora-no-balance": 166_912,
                                "lora-active-mixlora": 50_000}  # fmt: skip
    synthetic_records.METHODS |= {name: "lora" if name.startswith("lora") else "mixlora" for name in CONTROLS}
    entries = []
    for variant, accuracy in SKILL.items():
        for seed in (0, 1, 2) if accuracy > 0 else (0,):
            entry = synthetic_records.make_run(root, "s", "m", "t", ["t"], variant, "default", seed, accuracy)
            path = root / "s" / entry["folder"] / "record.json"
            record = json.loads(path.read_text())
            if variant == "lora-active-mixlora":
                record["match"] = {"variant": "mixlora", "target": 51_000, "reached": 50_000, "rank": 9,
                                   "count": "active"}  # fmt: skip
                path.write_text(json.dumps(record))
            entries.append({**entry, "record_sha256": None})
    frame = collect.collect_records(synthetic_records.finish(root, "s", entries))
    expanded = [
        {"name": name, "control": {"of": "mixlora", "kind": CONTROLS[name]} if name in CONTROLS else None}
        for name in SKILL
    ]
    question = {"asks": "Does the router <matter>?", "holds": "One paragraph.\n\nAnother.", "limits": "Much."}
    return frame, {"name": "s", "variants": list(SKILL)[:4], "expanded": {"variants": expanded}, "question": question}


def test_controls_stand_beneath_their_mixture_under_names_that_say_what_they_are(controlled):
    suite = Suite.from_frame(*controlled)
    assert suite.variants(suite.runs) == [
        "majority", "base", "lora", "mixlora", "lora-match-mixlora", "lora-active-mixlora", "mixlora-frozen-router",
        "mixlora-no-balance",
    ]  # fmt: skip
    assert suite.label("lora-active-mixlora") == "LoRA with the active parameters of MixLoRA (r 9)"
    assert suite.label("lora-match-mixlora") == "LoRA as large as MixLoRA (r 33)"
    assert suite.label("mixlora-frozen-router") == "MixLoRA with a random frozen router"
    assert suite.matched_to("mixlora-frozen-router") is None and suite.matched_to("lora-active-mixlora") == "mixlora"
    assert suite.control("mixlora-no-balance") == ("no_balance", "mixlora")


def test_records_alone_name_the_controls_that_are_lora(controlled):
    suite = Suite.from_frame(controlled[0])
    assert suite.control("lora-active-mixlora") == ("equal_active", "mixlora")
    assert suite.control("mixlora-frozen-router") is None


def test_every_control_is_tested_against_its_mixture(controlled):
    panels = cells.panels(Suite.from_frame(*controlled))
    pairs = {(c.variant, c.against) for c in significance.contrasts(panels)}
    assert {("mixlora", name) for name in CONTROLS} <= pairs
    found = {f.topic: f.sentences for f in summarise(panels[0].suite, panels, [], [])}
    assert len(found["Against LoRA with equal parameters"]) == 1
    others = " ".join(found["Against their other controls"])
    assert "MixLoRA against MixLoRA with a random frozen router" in others and "active parameters" in others


def test_the_report_begins_with_the_question_and_shows_counts_of_controls(controlled, tmp_path):
    frame, document = controlled
    command.write_report(frame, [], tmp_path, document)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Does the router &lt;matter&gt;?" in page and "<p>Another.</p>" in page
    assert page.index("What stays the same") < page.index("What it can&#39;t show") < page.index("<h2>In short")
    parameters = (tmp_path / "tables" / "parameters.md").read_text(encoding="utf-8")
    assert "51.0 k active asked, 50.0 k reached" in parameters
    assert "Interval of chance" in page
    with open(tmp_path / "tables" / "headline.csv", encoding="utf-8") as handle:
        (row,) = [r for r in csv.DictReader(handle) if r["variant"] == "base"]
    assert float(row["chance_low"]) < float(row["chance"]) < float(row["chance_high"])


def test_collected_rows_carry_the_interval_of_chance_and_a_flag_that_follows_from_it(controlled):
    frame = controlled[0]
    main = frame[frame["is_main"].fillna(False).astype(bool)]
    low, high = stats.chance_interval(2 / 3, 120)
    assert set(main["chance_low"].round(9)) == {round(low, 9)} and set(main["chance_high"].round(9)) == {round(high, 9)}
    flags = main["within_chance"].astype(bool)
    assert (flags == main["value"].between(low - 1e-9, high + 1e-9)).all()
    assert flags[main["variant"] == "majority"].all() and not flags[main["variant"] == "mixlora"].any()
    others = frame[frame["metric"] == "macro_f1"]
    assert others["chance_low"].isna().all() and others["within_chance"].isna().all(), "none is known for macro F1"


def test_the_table_of_chance_names_who_lies_within(controlled):
    suite = Suite.from_frame(*controlled)
    (row,) = chance.chance_table(suite, cells.panels(suite)).rows
    texts = [entry.text for entry in row.entries]
    assert texts[4:6] == ["120", "66.7"] and " to " in texts[6]
    assert row.entries[-1].detail == "Base model, head only and LoRA with the active parameters of MixLoRA (r 9)"
    assert "chance" in row.entries[8].marks


@pytest.mark.parametrize("metric", ["matthews", "pearson", "spearman"])
def test_the_interval_of_a_correlation_holds_the_promised_share_of_guesses(metric):
    import numpy as np
    from scipy import stats as scipy_stats

    generator = np.random.Generator(np.random.PCG64(3))
    labels = (np.arange(200) % 3 > 0).astype(float) if metric == "matthews" else np.arange(200.0) ** 2
    found = []
    for _ in range(2000):
        guess = generator.permutation(labels)
        function = scipy_stats.spearmanr if metric == "spearman" else scipy_stats.pearsonr
        found.append(function(labels, guess)[0])
    low, high = stats.chance_bounds(metric, 0.0, 200)
    inside = np.mean([low <= value <= high for value in found])
    assert 0.935 < inside < 0.965


def test_the_interval_of_f1_is_that_of_the_constant_answer():
    rate = 279 / 408
    low, high = stats.chance_bounds("f1", 2 * rate / (1 + rate), 408)
    hits = stats.chance_interval(rate, 408)
    assert (low, high) == pytest.approx(tuple(2 * h / (1 + h) for h in hits))
    assert stats.chance_bounds("f1", 0.0, 408) == (0.0, 0.0)
    assert stats.chance_bounds("macro_f1", 0.4, 408) is None
