import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from moelora import cli
from moelora.claims import Judgement, Recipe
from moelora.config import ConfigDir
from moelora.errors import RecordError
from moelora.files import read_json
from moelora.reporting import claims, claims_page, collect, render
from moelora.reporting.claims_part import read_part
from moelora.reporting.command import write_report
from moelora.reporting.runs import Suite
from moelora.reporting.table import Entry, Row, plain

CONFIG = ConfigDir(Path(__file__).parents[2] / "workflow" / "config")


def asked():
    """Return the tracked claims and two about this suite's accuracy and macro F1 of LoRA."""
    tracked = claims_page.load_claims(claims_page.load_documents(CONFIG))
    base = next(c for c in tracked if c.table == "README results" and c.task == "mrpc" and c.method == "LoRA")
    recipe = Recipe("lora")
    return [
        *tracked,
        replace(base, id="a", recipe=recipe),
        replace(base, id="b", recipe=recipe, key=replace(base.key, metric="accuracy")),
    ]


@pytest.fixture(scope="module")
def suite(glue_suite):
    frame, costs, document, _root = glue_suite
    return Suite.from_frame(frame, document), costs


@pytest.fixture(scope="module")
def written(suite, tmp_path_factory):
    out = tmp_path_factory.mktemp("claims")
    return claims_page.write_claims([suite[0]], suite[1], CONFIG, out), out


def test_records_become_measurements_with_their_keys(suite):
    found = {(m.variant, m.tuned, m.key.metric): m for m in claims.measured_from([suite[0]], asked())}
    lora = found["lora", False, "accuracy"]
    assert (lora.key.task, lora.key.model, lora.key.protocol, lora.key.start) == ("mrpc", "minilm", "glue", "base")
    assert lora.low < lora.mean < lora.high
    macro = found["lora", False, "macro_f1"]
    assert macro.low < macro.mean < macro.high
    assert macro.mean != lora.mean
    assert len(lora.records) == lora.n_seeds


def test_resources_come_from_records_and_cost_measurements(suite):
    found = claims.resources_from([suite[0]], suite[1])
    assert found["trainable"]["glue-minilm, minilm, mrpc"]["mixlora"] == 166_912
    assert found["peak_memory_bytes"]["glue-minilm, minilm"]["lora"] > 0
    assert "dora" not in found["step_seconds"]["glue-minilm, minilm"]  # it failed


def test_page_and_tables_are_written(written):
    judgements, out = written
    html = (out / "claims.html").read_text(encoding="utf-8")
    assert "Paper against measured" in html and "</html>" in html
    assert "1,966 published numbers" in html
    assert "2,033 of 3,270" in html
    assert html.count("<details>") >= 9
    assert "http://" not in html.replace("http://www.w3.org", "") and "<script src" not in html
    names = {p.name for p in (out / "tables").iterdir()}
    for name in ("claims", "claims-checks", "claims-parameters", "claims-words", "claims-notes"):
        assert {f"{name}.md", f"{name}.csv", f"{name}.tex"} <= names
    assert len(judgements) == 1966


def test_csv_has_every_claim_with_its_conditions(written):
    judgements, out = written
    rows = list(csv.DictReader(io.StringIO((out / "tables" / "claims.csv").read_text(encoding="utf-8"))))
    assert len(rows) == len(judgements)
    by_id = {r["id"]: r for r in rows}
    wanted = {"table": "Table 2", "model": "RoBERTa-base", "method": "LoRA", "task": "mrpc", "metric": "accuracy_pct"}
    lora = next(r for r in rows if wanted.items() <= r.items())
    assert (lora["published"], lora["verdict"]) == ("89.7", "not comparable")
    assert lora["start"] == "the adapter trained on MNLI"
    assert float(lora["ours"]) > 0 and lora["records"]
    assert lora["difference"] == ""
    assert "model minilm is not roberta-base" in lora["reason"]
    boolq = by_id["mixlora/table-1/single-task/llama-2-7b/lora/boolq/accuracy-pct"]
    assert boolq["remarks"].startswith("constant: 62.2")
    assert boolq["verdict"] == "not run" and boolq["command"].startswith("snakemake")


def test_what_the_report_shows_is_written_and_read_back(written, tmp_path):
    judgements, out = written
    part = read_part(out / "claims.json")
    assert "1,966 published numbers" in part.said[0]
    made = [j for j in judgements if j.ours or j.tuned]
    assert f"something of {len(made):,}" in part.said[0] and len(made) > 0
    assert len(part.table.rows) == min(len(made), 40)
    assert all(row.entries[5].text != "–" or row.entries[6].text != "–" for row in part.table.rows)
    (tmp_path / "cut.json").write_text("{}")
    with pytest.raises(RecordError, match="expected the keys said"):
        read_part(tmp_path / "cut.json")


def test_the_report_has_the_claims_where_it_is_given_them(glue_suite, written, tmp_path):
    frame, costs, document, _root = glue_suite
    write_report(frame, costs, tmp_path, document=document, claims=read_part(written[1] / "claims.json"))
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="#claims"' in html and 'href="claims/claims.html"' in html
    assert "not comparable" in html
    write_report(frame, costs, tmp_path, document=document)
    assert "claims.html" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_same_records_give_the_same_bytes(suite, written, tmp_path):
    claims_page.write_claims([suite[0]], suite[1], CONFIG, tmp_path)
    for path in sorted(p for p in written[1].rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(written[1])).read_bytes(), path.name


def test_the_verb_runs_without_records(tmp_path, capsys):
    assert cli.main(["claims", "--config-dir", str(CONFIG.path), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "claims.html").is_file()


def test_long_tables_are_cut_for_print():
    rows = [Row([Entry(str(i))]) for i in range(90)]
    parts = claims.pages(plain("name", "Title", ["n"], rows, "note"))
    assert [len(p.rows) for p in parts] == [40, 40, 10]
    assert parts[1].title == "Title (2 of 3)"
    assert len({p.name for p in parts}) == 3
    assert render.latex(parts).count("\\begin{table}") == 3
    assert claims.pages(plain("name", "Title", ["n"], [], "")) == [plain("name", "Title", ["n"], [], "")]


def test_measured_rows_show_interval_difference_and_verdict(suite):
    measured = claims.measured_from([suite[0]], asked())[0]
    claim = next(j.claim for j in claims_page.judge(asked(), []) if j.claim.metric == "accuracy_pct")
    table = claims.measured_table([Judgement(claim, measured, None, -1.25, 2.0, "reproduced", "because")])
    (row,) = table.rows
    texts = [e.text for e in row.entries]
    assert texts[-3:] == ["−1.25", "reproduced", "because"]
    assert row.entries[5].detail.startswith("[")


def test_records_collected_from_files_reach_the_page(glue_suite, tmp_path):
    frame, *_ = glue_suite
    collect.write_records(frame, tmp_path / "records.parquet")
    arguments = ["claims", "--records", str(tmp_path / "records.parquet"), "--config-dir", str(CONFIG.path)]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "not comparable" in (tmp_path / "out" / "tables" / "claims.md").read_text(encoding="utf-8")
    assert read_json(CONFIG.schema_dir / "claim.schema.json")["additionalProperties"] is False
