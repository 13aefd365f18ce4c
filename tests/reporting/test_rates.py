"""Learning-rate curves: what counts as good, what diverged, and where the curves come from."""

import json

import pytest
import synthetic_records

from moelora.reporting import cells, collect, figures, rates
from moelora.reporting.rates import Point, good_region
from moelora.reporting.runs import Suite


def points(*values: tuple) -> list[Point]:
    """Return points at 1e-4, 1e-3 and so on; None is a rate that diverged."""
    return [
        Point(10.0 ** (i - 4), (), 1) if value is None else Point(10.0 ** (i - 4), (value,))
        for i, value in enumerate(values)
    ]


def test_the_region_ends_where_the_line_between_two_rates_falls_below_the_best_minus_a_point():
    region = good_region(points(0.70, 0.80, 0.78))
    # from 80 down to 70 within a decade: one point is a tenth of it; to 78 it is a half
    assert region.low == pytest.approx(1e-3 * 10**-0.1)
    assert region.high == pytest.approx(1e-3 * 10**0.5)
    assert region.decades == pytest.approx(0.6)
    assert not (region.open_low or region.open_high)


def test_a_region_that_reaches_the_last_rate_may_be_wider():
    region = good_region(points(0.5, 0.795, 0.80))
    assert region.open_high and not region.open_low
    assert region.high == pytest.approx(1e-2)


def test_a_region_ends_at_the_last_rate_before_one_that_diverged():
    region = good_region(points(0.80, 0.80, None))
    assert (region.high, region.open_high) == (pytest.approx(1e-3), False)
    assert (region.low, region.open_low) == (pytest.approx(1e-4), True)
    # one run of three that diverged is enough
    mixed = [Point(1e-4, (0.8,)), Point(1e-3, (0.9, 0.9), 1)]
    assert mixed[1].mean is None and mixed[1].tried == 3
    assert good_region(mixed).high == pytest.approx(1e-4)


def test_a_dip_cuts_the_region_and_the_smallest_of_equal_rates_is_the_best():
    region = good_region(points(0.80, 0.60, 0.80))
    assert region.low == pytest.approx(1e-4) and region.high < 2e-4


def test_no_region_where_everything_was_lost():
    assert good_region(points(None, None)) is None
    assert good_region([]) is None


def test_one_rate_has_no_width():
    region = good_region([Point(1e-3, (0.5,))])
    assert region.decades == 0 and region.open_low and region.open_high


@pytest.fixture
def swept(tmp_path):
    """A suite of two variants at three rates, two seeds each; the largest diverges once for MixLoRA."""
    entries = []
    for variant, skill in (("lora", (0.6, 0.8, 0.79)), ("mixlora", (0.6, 0.85, 0.7))):
        for place, (rate, accuracy) in enumerate(zip((1e-4, 1e-3, 1e-2), skill, strict=True)):
            for seed in (0, 1):
                lost = (variant, place, seed) == ("mixlora", 2, 1)
                entry = synthetic_records.make_run(
                    tmp_path, "s", "m", "t", ["t"], variant, f"rate-{place}", seed, accuracy,
                    status="diverged" if lost else "finished", reason="the loss is NaN" if lost else None, regimes=3,
                )  # fmt: skip
                path = tmp_path / "s" / entry["folder"] / "record.json"
                record = json.loads(path.read_text())
                record["plan"]["training"] = {"learning_rate": rate, "epochs": 3}
                path.write_text(json.dumps(record))
                entries.append({**entry, "record_sha256": None})
    document = {"name": "s", "variants": ["lora", "mixlora"], "regimes": {f"rate-{i}": {} for i in range(3)}}
    frame = collect.collect_records(synthetic_records.finish(tmp_path, "s", entries))
    return Suite.from_frame(frame, document)


def test_runs_that_differ_in_their_rate_alone_make_a_curve(swept):
    found = {curve.variant: curve for curve in rates.curves(swept)}
    assert set(found) == {"lora", "mixlora"}
    assert [p.rate for p in found["lora"].points] == [1e-4, 1e-3, 1e-2]
    assert [len(p.scores) for p in found["lora"].points] == [2, 2, 2]
    assert [p.diverged for p in found["mixlora"].points] == [0, 0, 1]
    assert found["lora"].split == rates.EVALUATION and found["mixlora"].best.rate == 1e-3


def test_a_run_that_was_lost_before_it_began_counts_as_lost(swept):
    run = next(r for r in swept.runs if r.variant == "lora" and r.record["plan"]["training"]["learning_rate"] == 1e-4)
    run.record.update({"status": "failed", "parameters": None})
    point = next(c for c in rates.curves(swept) if c.variant == "lora").points[0]
    assert (point.lost, point.diverged, point.mean, point.tried) == (1, 0, None, 2)


def test_runs_that_differ_in_more_do_not(swept):
    for run in swept.runs:
        if run.record["plan"]["training"]["learning_rate"] == 1e-2:
            run.record["plan"]["training"]["epochs"] = 1
    assert {len(curve.points) for curve in rates.curves(swept)} == {2}


def test_the_table_has_the_width_as_a_number_and_counts_what_diverged(swept):
    table = rates.rates_table(swept, rates.curves(swept))
    by_variant = {row.entries[0].text: [entry.text for entry in row.entries] for row in table.rows}
    columns = [label for label, _ in table.columns]
    mixlora = dict(zip(columns, by_variant["MixLoRA"], strict=True))
    assert (mixlora["Rates"], mixlora["Runs"], mixlora["Diverged"], mixlora["Best rate"]) == ("3", "6", "1", "1e-3")
    assert 0 < float(mixlora["Width (decades)"]) < 1
    assert mixlora["Good region"].endswith("to 1e-3"), "the diverged rate ends it"
    assert "stays within 1.0 point of the best" in table.note


def test_the_figure_marks_what_diverged(swept):
    drawn = [f for f in figures.draw_all(swept, cells.panels(swept), [], []) if f.family == "rates"]
    assert [f.name for f in drawn] == ["rates--m--runs"]
    assert "cross" in drawn[0].caption and "<svg" in drawn[0].svg


def test_trials_of_tuning_make_a_curve_of_the_validation_part(tmp_path):
    entries = []
    trials = [
        {"learning_rate": rate, "status": status, "score": score}
        for rate, status, score in ((1e-3, "finished", 0.7), (1e-4, "finished", 0.6), (1e-2, "diverged", None))
    ]
    for seed in (0, 1):
        entry = synthetic_records.make_run(tmp_path, "s", "m", "t", ["t"], "lora", "tuned", seed, 0.8)
        path = tmp_path / "s" / entry["folder"] / "record.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tuning": {"trials": trials, "chosen": 1e-3}}))
        entries.append({**entry, "record_sha256": None})
    suite = Suite.from_frame(collect.collect_records(synthetic_records.finish(tmp_path, "s", entries)))
    (curve,) = rates.curves(suite)
    assert (curve.split, curve.regime) == (rates.VALIDATION, "tuned")
    assert [(p.rate, p.scores, p.diverged) for p in curve.points] == [
        (1e-4, (0.6,), 0), (1e-3, (0.7,), 0), (1e-2, (), 1),
    ]  # fmt: skip
