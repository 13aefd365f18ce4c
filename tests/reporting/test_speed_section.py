"""The part of the report on the bench: tables and a figure from its records."""

import csv
from pathlib import Path

import pytest

from moelora.errors import RecordError
from moelora.records.speed import read_speed
from moelora.reporting import command, speed

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "bench"


@pytest.fixture(scope="module")
def records():
    found = [read_speed(path) for path in sorted(PUBLISHED.glob("*.json"))]
    assert any(record["axis"] for record in found) and not all(record["axis"] for record in found)
    return found


def test_the_report_shows_records_of_the_bench(tiny_suite, records, tmp_path):
    frame, costs, document, _root = tiny_suite
    out = tmp_path / "report"
    command.write_report(frame, costs, out, document, speeds=records)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert '<section id="speed">' in page and '<a href="#speed">' in page
    for record in records:
        assert record["environment"]["device_name"] in page and f"<h3>{record['name']}</h3>" in page
        assert (out / "figures" / f"speed--{record['name']}.svg").is_file() == bool(record["axis"])
        for position, group in enumerate(record["groups"]):
            with (out / "tables" / f"speed--{record['name']}--{position}.csv").open(encoding="utf-8") as file:
                rows = {row["variant"]: row for row in csv.DictReader(file)}
            for row in group["rows"]:
                shown = rows[row["title"]]["time / LoRA (median)"]
                assert shown == (
                    f"{row['ratio']:.2f}" if row["status"] == "measured" else f"{row['status']}: {row['reason']}"
                )


def test_a_report_without_them_has_no_such_part(tiny_report):
    page = (tiny_report / "index.html").read_text(encoding="utf-8")
    assert 'id="speed"' not in page and not list((tiny_report / "tables").glob("speed--*"))


def test_bytes_are_shares_of_the_reference(records):
    record = next(record for record in records if record["axis"] is None)
    table, group = speed.speed_tables(record)[0], record["groups"][0]
    reference = next(row for row in group["rows"] if row["name"] == group["reference"])
    for shown, row in zip(table.rows, group["rows"], strict=True):
        if row["status"] == "measured" and row["peak_bytes"] is not None:
            assert shown.entries[6].text == f"{row['peak_bytes'] / reference['peak_bytes']:.2f}"


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"schema": 1}')
    with pytest.raises(RecordError, match=r"x\.json is not a record of the bench"):
        read_speed(path)
