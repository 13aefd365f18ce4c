import csv
import io
import shutil
import subprocess

import pytest
import synthetic_records as made

from moelora.reporting import cells, collect, render, tables, words
from moelora.reporting.runs import Suite
from moelora.reporting.table import Entry, Row, Table, plain

DOCUMENT = {"name": "s", "variants": ["majority", "base", "lora", "mixlora", "dora"], "match": ["mixlora"]}


@pytest.fixture
def panel(tmp_path):
    """Two regimes, one task: one seed at published settings, three when tuned, a run of each fate."""
    common = {"n_items": 200, "synthetic": False, "regimes": 2}
    entries = []

    def add(variant, regime, seed, accuracy, **options):
        entries.append(
            made.make_run(tmp_path, "s", "m", "mrpc", ["mrpc"], variant, regime, seed, accuracy, **common, **options)
        )

    for regime in ("published", "tuned"):
        add("majority", regime, 0, -1)
        add("base", regime, 0, 0.6)
    for variant, accuracy in (("lora", 0.8), ("mixlora", 0.93), ("lora-match-mixlora", 0.91)):
        add(variant, "published", 0, -1)
        for seed in range(3):
            add(variant, "tuned", seed, accuracy)
    add("dora", "published", 0, -1, status="diverged", reason="loss is NaN at step 40")
    add("dora", "tuned", 0, 0.8)
    add("dora", "tuned", 1, 0.8, status="out_of_memory", reason="4.1 GiB asked for")
    frame = collect.collect_records(made.finish(tmp_path, "s", entries))
    (found,) = cells.panels(Suite.from_frame(frame, DOCUMENT))
    return found


def test_the_headline_table_in_markdown(panel):
    lines = render.markdown([tables.headline(panel)]).splitlines()
    assert lines[:-2] == EXPECTED.strip().splitlines()
    assert lines[-2] == ""
    assert lines[-1].startswith("Scores × 100")


EXPECTED = """
### M, one adapter per task

| Variant | Trainable<br>parameters | Published settings<br>MRPC<br>accuracy | Tuned equally<br>MRPC<br>accuracy |
|---|---:|---:|---:|
| Majority class | 0 | 66.5 [60.5, 73.0] | 66.5 [60.5, 73.0] |
| Base model, head only | 770 | *62.0*†° [55.5, 69.0] | *55.0*† [48.5, 62.0] |
| LoRA | 40.0 k | *66.5*†° [60.5, 73.0] | 81.8 [77.2, 86.5] |
| MixLoRA | 167 k | *66.5*†° [60.5, 73.0] | **93.7** [89.6, 97.6] |
| ↳ LoRA as large as MixLoRA (r 33) | 166 k | *66.5*†° [60.5, 73.0] | **93.8** [89.7, 98.4] |
| DoRA | 42.3 k | *diverged* | *80.5*† [74.5, 86.0] 1 of 2 out of memory |
"""


def test_what_can_not_be_told_from_the_best_is_bold_with_it(panel):
    tuned = next(i for i, c in enumerate(panel.columns) if c.regime == "tuned")
    best = {v for v in panel.variants if panel.cells[v, tuned].best}
    assert best == {"mixlora", "lora-match-mixlora"}


def test_nothing_is_bold_where_the_best_is_within_chance(panel):
    published = next(i for i, c in enumerate(panel.columns) if c.regime == "published")
    assert not any(panel.cells[v, published].best for v in panel.variants)
    assert panel.cells["lora", published].within_chance


def test_nothing_is_bold_where_the_best_is_below_every_constant_answer(tmp_path):
    """As where a model generates nothing that is an answer: all are alike, and none is good."""
    entries = [
        made.make_run(tmp_path, "s", "m", "mrpc", ["mrpc"], variant, "published", 0, accuracy, n_items=200, regimes=1)
        for variant, accuracy in (("majority", -1), ("lora", 0.0), ("mixlora", 0.01))
    ]
    frame = collect.collect_records(made.finish(tmp_path, "s", entries))
    (column,) = cells.panels(Suite.from_frame(frame, {"name": "s", "variants": ["majority", "lora", "mixlora"]}))
    shown = [column.cells[variant, 0] for variant in ("lora", "mixlora")]
    assert [(cell.below_chance, cell.within_chance, cell.best) for cell in shown] == [(True, False, False)] * 2


def test_csv_has_full_digits_and_every_cell(panel):
    rows = list(csv.DictReader(io.StringIO(render.headline_csv([panel]))))
    assert len(rows) == len(panel.variants) * 2
    dora = next(r for r in rows if (r["variant"], r["regime"]) == ("dora", "tuned"))
    assert (dora["seeds"], dora["lost"], dora["reason"]) == ("1", "1", "out_of_memory: 4.1 GiB asked for")
    lost = next(r for r in rows if (r["variant"], r["regime"]) == ("dora", "published"))
    assert (lost["mean"], lost["seeds"], lost["lost"]) == ("", "0", "1")
    match = next(r for r in rows if r["variant"] == "lora-match-mixlora")
    assert (match["trainable"], match["method"]) == ("165600", "lora")


def test_latex_uses_booktabs_and_escapes(panel):
    text = render.latex([tables.headline(panel)])
    for piece in (r"\toprule", r"\midrule", r"\bottomrule", r"\cmidrule(lr){3-3}", r"\textbf{", r"\textit{"):
        assert piece in text
    assert "°" not in text
    assert "†" not in text
    assert text.count("{") == text.count("}")


def test_markup_in_a_reason_does_not_break_the_tables():
    table = Table("t", [("", 1)], [("a", "")], [Row([Entry("50 % | a_b & {x} \\ <b>\n$")])])
    assert "50 % \\| a_b" in render.markdown([table])
    assert r"50 \% | a\_b \& \{x\} \textbackslash{} $<$b$>$" in render.latex([table])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(panel, tmp_path):
    source = r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "t.tex").write_text(source + render.latex([tables.headline(panel)]) + r"\end{document}")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_a_matched_lora_stands_right_below_its_mixture(panel):
    assert panel.variants == ["majority", "base", "lora", "mixlora", "lora-match-mixlora", "dora"]


def test_failed_runs_are_rows_with_reasons(panel):
    rows = tables.failures_table(panel.suite).rows
    assert [[e.text for e in r.entries][-2:] for r in rows] == [
        ["diverged", "loss is NaN at step 40"],
        ["out of memory", "4.1 GiB asked for"],
    ]


def test_an_average_needs_all_its_tasks(tiny_suite):
    frame, _costs, document, _root = tiny_suite
    panel = next(p for p in cells.panels(Suite.from_frame(frame, document)) if p.name == "tiny-decoder")
    last = len(panel.columns) - 1
    assert panel.columns[last].task == cells.AVERAGE
    assert panel.cells["dora", last].estimate is None
    assert panel.cells["dora", last].reason == "diverged"
    lora = [panel.cells["lora", i].estimate.mean for i in range(last)]
    assert panel.cells["lora", last].estimate.mean == pytest.approx(sum(lora) / len(lora))


def test_tasks_of_one_size_are_resampled_independently(tiny_suite):
    # The constant answer scores the same on all: averaged over six tasks its interval must shrink.
    frame, _costs, document, _root = tiny_suite
    panel = next(p for p in cells.panels(Suite.from_frame(frame, document)) if p.name == "tiny-decoder")
    one, all_six = (panel.cells["majority", i].estimate for i in (0, len(panel.columns) - 1))
    assert (all_six.high - all_six.low) < 0.6 * (one.high - one.low)


def test_the_majority_row_stands_in_the_mixture_table_too(tiny_suite):
    frame, _costs, document, _root = tiny_suite
    panel = next(p for p in cells.panels(Suite.from_frame(frame, document)) if p.mixture)
    assert panel.variants[0] == "majority"
    assert all(panel.cells["majority", i].borrowed for i in range(len(panel.columns)))


def test_interference_is_multi_task_minus_single_task(tiny_suite):
    frame, _costs, document, _root = tiny_suite
    panels = cells.panels(Suite.from_frame(frame, document))
    found = cells.interference(panels)
    one = next(e for e in found if (e.model, e.variant, e.task) == ("tiny-decoder", "lora", "lookup"))
    value = {
        r.task: r.scores["lookup"].value
        for p in panels
        for r in p.runs
        if r.model == "tiny-decoder" and r.variant == "lora" and r.seed == 0 and "lookup" in r.scores
    }
    assert one.difference.mean == pytest.approx(value["all"] - value["lookup"])
    assert one.difference.n_seeds == 1  # single-task runs have seed 0 alone
    assert not [e for e in found if e.variant == "majority"]


def test_counts_and_durations_read_as_people_say_them():
    assert [words.count(n) for n in (0, 812, 24_576, 165_600, 999_960, 3_100_000)] == [
        "0", "812", "24.6 k", "166 k", "1.0 M", "3.1 M",
    ]  # fmt: skip
    assert [words.seconds(s) for s in (0.0123, 12.34, 320, 7500)] == ["12.3 ms", "12.3 s", "5 min 20 s", "2 h 5 min"]
    assert words.points(-0.0004) == "0.0"
    assert words.signed(-0.0123) == "−1.2"


def test_a_command_line_keeps_its_hyphens_in_latex():
    table = plain("t", "T", ["c"], [Row([Entry("snakemake --cores all – 1_2")])], "")
    assert r"snakemake -{}-cores all -- 1\_2" in render.latex([table])
