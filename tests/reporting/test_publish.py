import json
import shutil

import pytest

from moelora.errors import OutputError, RecordError
from moelora.records import read_record
from moelora.reporting import cells, collect, publish
from moelora.reporting.runs import Suite


def test_published_records_are_small_valid_and_named_for_their_run(glue_suite, tmp_path):
    frame, _costs, _document, _root = glue_suite
    paths = publish.publish_records(frame, tmp_path)
    assert len(paths) == frame["id"].nunique()
    assert tmp_path / "glue-minilm" / "minilm--mrpc--mixlora@tuned--seed2.json" in paths
    for path in paths:
        assert read_record(path)["items"] is None
        assert path.stat().st_size < 30_000


def test_the_suites_own_folder_is_not_nested(glue_suite, tmp_path):
    paths = publish.publish_records(glue_suite[0], tmp_path / "glue-minilm")
    assert {p.parent for p in paths} == {tmp_path / "glue-minilm"}


def test_a_table_from_published_records_says_the_same(glue_suite, tmp_path):
    frame, _costs, document, _root = glue_suite
    again = collect.collect_records(publish.publish_records(frame, tmp_path))
    (full,) = cells.panels(Suite.from_frame(frame, document))
    (small,) = cells.panels(Suite.from_frame(again, document))
    assert small.variants == full.variants
    for key, cell in full.cells.items():
        if cell.estimate is None:
            continue
        assert small.cells[key].estimate.mean == pytest.approx(cell.estimate.mean)
        assert small.cells[key].estimate.low == pytest.approx(cell.estimate.low, abs=0.02)
        assert small.cells[key].estimate.high == pytest.approx(cell.estimate.high, abs=0.02)
        assert small.cells[key].within_chance == cell.within_chance


def test_long_curves_are_thinned_and_keep_their_ends():
    record = {"training": {"loss_curve": [[i, 1 / (i + 1)] for i in range(1000)]}}
    curve = publish.published(record)["training"]["loss_curve"]
    assert len(curve) == 50
    assert (curve[0], curve[-1]) == (record["training"]["loss_curve"][0], record["training"]["loss_curve"][-1])


def test_a_report_is_published_with_its_tables_and_one_figure(tiny_report, tmp_path):
    report = tmp_path / "reports" / "tiny"
    shutil.copytree(tiny_report, report)
    target = publish.publish_report(report)
    assert target == tmp_path / "reports" / "published" / "tiny"
    assert (target / "tables" / "headline.md").read_bytes() == (report / "tables" / "headline.md").read_bytes()
    assert [p.name for p in (target / "figures").iterdir()] == ["headline.svg"]


def test_an_unfinished_report_is_refused(tmp_path):
    with pytest.raises(RecordError, match="no finished report"):
        publish.publish_report(tmp_path)


def test_a_folder_that_can_not_be_written_is_named(glue_suite, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OutputError, match=str(blocked)):
        publish.publish_records(glue_suite[0], blocked)


def test_no_record_at_all_is_refused(glue_suite, tmp_path):
    with pytest.raises(RecordError, match="no record to publish"):
        publish.publish_records(glue_suite[0].iloc[:0], tmp_path)


def test_the_equally_tuned_front_is_the_main_figure(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("pareto--m--published", "pareto--m--tuned", "curves--m--tuned"):
        (tmp_path / "figures" / f"{name}.svg").write_text(json.dumps(name))
    assert publish.main_figure(tmp_path).stem == "pareto--m--tuned"


def test_records_of_a_method_that_never_passed_the_battery_are_refused(glue_suite, tmp_path, monkeypatch):
    from moelora.methods import _proven

    known = {name: found for name, found in _proven.read_proven().items() if name != "mixlora"}
    monkeypatch.setattr(_proven, "read_proven", lambda: known)
    with pytest.raises(RecordError, match="records of mixlora, which never passed the battery"):
        publish.publish_records(glue_suite[0], tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is published of a suite that is refused"
