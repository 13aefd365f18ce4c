"""What the report says of forgetting: from records with known losses and probes."""

import csv

import numpy as np
import pytest
import synthetic_records as made

from moelora import stats
from moelora.reporting import cells, collect, forgetting, render
from moelora.reporting.runs import Suite


@pytest.fixture(scope="module")
def tiny(tiny_suite):
    frame, _costs, document, _root = tiny_suite
    suite = Suite.from_frame(frame, document)
    return suite, cells.panels(suite)


def of(found, **wanted):
    return [change for change in found if all(getattr(change, key) == value for key, value in wanted.items())]


def test_every_loss_and_probe_is_there_once(tiny):
    found = forgetting.changes(tiny[1])
    places = [(c.model, c.trained_on, c.regime, c.variant, c.measure) for c in found]
    assert len(set(places)) == len(places)
    (lora,) = of(found, model="tiny-decoder", trained_on="negation", variant="lora")
    assert (lora.measure, lora.base, lora.tuned) == ("text", 1.25, 1.25 + made.SIZES["lora"] / 1e6)
    assert lora.estimate.n_seeds == 1 and lora.estimate.low < lora.estimate.mean < lora.estimate.high
    probed = of(found, model="tiny-encoder", trained_on="sentiment", variant="lora")
    assert [c.measure for c in probed] == ["acceptability", "paraphrase", "similarity"]
    assert [c.weak for c in probed] == [False, False, True]
    assert not of(found, variant="majority") and not of(found, variant="base")
    assert not of(found, variant="dora", trained_on="two_step")  # it diverged


def test_a_mean_leaves_weak_probes_out_and_needs_all_its_parts(tiny):
    found = forgetting.summaries(tiny[1])
    (text,) = of(found, model="tiny-decoder", trained_on="", variant="lora")
    assert text.parts == 6 and text.estimate.mean == pytest.approx(made.SIZES["lora"] / 1e6)
    assert text.tuned - text.base == pytest.approx(text.estimate.mean)
    # Diverged on one task, or run on two alone: the mean would be over other tasks.
    assert not of(found, model="tiny-decoder", trained_on="", variant="dora")
    assert not of(found, model="tiny-decoder", trained_on="", variant="lora-smoe")
    (probes,) = of(found, model="tiny-encoder", trained_on="", variant="lora")
    size = made.SIZES["lora"] / 1e6
    by_hand = {}
    for trained in ("acceptability", "sentiment", "paraphrase", "similarity"):
        others = [t for t in ("acceptability", "sentiment", "paraphrase", "similarity") if t != trained]
        by_hand |= {(trained, t): size / 4 + 0.01 * place for place, t in enumerate(others) if t != "similarity"}
    assert probes.parts == len(by_hand) == 9
    assert probes.estimate.mean == pytest.approx(np.mean(list(by_hand.values())))
    assert probes.base - probes.tuned == pytest.approx(probes.estimate.mean)


def test_several_seeds_give_an_interval_over_seeds_and_one_is_over_documents(tiny):
    found = forgetting.summaries(tiny[1])
    (multi,) = of(found, model="tiny-decoder", trained_on="all", variant="lora")
    size = made.SIZES["lora"] / 1e6
    values = np.array([size, size + 0.01])
    draws = [v + stats.normal_draws(0.8 * v, 1.2 * v, key=0) for v in values]
    slow = stats.estimate(values, np.stack(draws))
    assert multi.estimate.n_seeds == 2 and multi.estimate.mean == pytest.approx(values.mean())
    assert multi.estimate.high - multi.estimate.low == pytest.approx(slow.high - slow.low, rel=0.1)
    (single,) = of(forgetting.changes(tiny[1]), model="tiny-decoder", trained_on="order", variant="lora")
    assert single.estimate.high - single.estimate.low == pytest.approx(0.4 * size, rel=0.02)  # the record's own


def test_weak_probes_of_grades_and_classes():
    accuracy = {"metric": "accuracy", "constant": 0.5, "items": 200}
    assert forgetting.is_weak({**accuracy, "base": 0.55}) and not forgetting.is_weak({**accuracy, "base": 0.6})
    assert forgetting.is_weak({**accuracy, "base": 0.2})  # worse than a constant answer shows nothing either
    pearson = {"metric": "pearson", "constant": 0.0, "items": 200}
    assert forgetting.is_weak({**pearson, "base": 0.1}) and not forgetting.is_weak({**pearson, "base": 0.2})


def test_the_tables_say_what_the_records_say(tiny):
    suite, panels = tiny
    table = forgetting.forgetting_table(suite, panels)
    names = [label for label, _ in table.columns]
    rows = [dict(zip(names, row.entries, strict=True)) for row in table.rows]
    text = {
        r["Variant"].text: r
        for r in rows
        if (r["Model"].text, r["Trained on"].text) == ("tiny-decoder", "one task each")
    }
    assert (text["LoRA"]["Base"].text, text["LoRA"]["Tuned"].text, text["LoRA"]["Lost"].text) == (
        "1.250", "1.290", "+0.040",
    )  # fmt: skip
    assert {"clear", "single"} <= text["LoRA"]["Lost"].marks  # the interval leaves out zero; one seed
    assert text["MixLoRA"]["Mean of"].text == "6"
    details = forgetting.forgetting_details(suite, panels)
    weak = [row.entries for row in details.rows if row.entries[4].text == "similarity"]
    assert weak and all("chance" in entries[7].marks and "clear" not in entries[7].marks for entries in weak)
    for one in (table, details):
        assert one.synthetic
        assert "**+" in render.markdown([one]) and r"\textbf{+" in render.latex([one])
        assert render.latex([one]).count("{") == render.latex([one]).count("}")
        assert len(list(csv.reader(render.csv_of([one]).splitlines()))) == len(one.rows) + 1


def test_the_page_shows_them_and_a_suite_without_has_no_section(tiny_report, tmp_path):
    from moelora.reporting import command

    page = (tiny_report / "index.html").read_text(encoding="utf-8")
    assert 'id="forgetting"' in page and 'href="#forgetting"' in page and "What was forgotten" in page
    assert "Tiny decoder, the loss on held-out text:" in page and "frozen probes of other tasks" in page
    for name in ("tiny-decoder--default--text", "tiny-encoder--default--probes"):
        assert (tiny_report / "figures" / f"forgetting--{name}.svg").is_file()
    entry = made.make_run(tmp_path, "s", "m", "mrpc", ["mrpc"], "lora", "default", 0, 0.8)
    frame = collect.collect_records(made.finish(tmp_path, "s", [entry]))
    command.write_report(frame, [], tmp_path / "report", {"name": "s"})
    assert 'id="forgetting"' not in (tmp_path / "report" / "index.html").read_text()
    assert "None." in (tmp_path / "report" / "tables" / "forgetting.md").read_text()
