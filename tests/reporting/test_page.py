import csv
import json
import re
from html.parser import HTMLParser

from moelora.reporting import cells, command
from moelora.reporting.runs import Suite
from moelora.reporting.summary import summarise


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.ids, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset"):
                self.links.append((tag, value))
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.text.append(data)


def read(report):
    reader = Reader()
    reader.feed((report / "index.html").read_text(encoding="utf-8"))
    return reader


def test_the_page_loads_nothing(tiny_report):
    text = (tiny_report / "index.html").read_text(encoding="utf-8")
    reader = read(tiny_report)
    assert not [x for x in reader.links if re.match(r"(https?:)?//", x[1])]
    assert not re.search(r"<(link|img|iframe)\b|<script\s", text)
    script = text[text.index("<script>") :]
    assert not re.search(r"fetch|XMLHttp|import\(|innerHTML", script)
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", text)


def test_every_link_leads_somewhere(tiny_report):
    reader = read(tiny_report)
    for tag, target in reader.links:
        if target.startswith("#"):
            assert target[1:] in reader.ids, (tag, target)
        else:
            assert (tiny_report / target).is_file(), target


def test_ids_are_unique(tiny_report):
    ids = read(tiny_report).ids
    assert len(ids) == len(set(ids))


def test_every_score_leads_to_its_run(tiny_report, tiny_suite):
    frame, *_ = tiny_suite
    text = (tiny_report / "index.html").read_text(encoding="utf-8")
    short = text[text.index('id="short"') : text.index('id="figures"')]
    scores = re.findall(r'<td class="[^"]*number[^"]*"[^>]*title="\d+ seeds?;[^>]*>\s*(<a href="#run-[^"]+">)?', short)
    assert len(scores) > 20 and all(scores)
    linked = set(re.findall(r'href="#run-([^"]+)"', text))
    assert linked <= set(frame["id"])
    finished = frame.loc[frame["status"] == "finished", "id"]
    assert len(set(re.findall(r'id="run-([^"]+)"', text))) >= finished.nunique()


def test_every_figure_comes_with_its_data(tiny_report):
    text = (tiny_report / "index.html").read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert len(captions) > 10
    for caption in captions:
        assert re.search(r'href="figures/[^"]+\.svg" download', caption)
        assert re.search(r'href="tables/[^"]+\.csv" download', caption), caption


def test_curves_and_loads_are_all_there(tiny_report, tiny_suite):
    frame, *_ = tiny_suite
    records = [json.loads(text) for text in frame.drop_duplicates("id")["record"]]
    rows = list(csv.DictReader(open(tiny_report / "tables" / "curves.csv", encoding="utf-8")))
    assert len(rows) == sum(len(r["training"]["loss_curve"]) for r in records if r["training"])
    loads = list(csv.DictReader(open(tiny_report / "tables" / "loads.csv", encoding="utf-8")))
    entries = [e for r in records for e in r["routing"]]
    assert len(loads) == sum(len(x) for e in entries for x in e["load"].values()) > 0
    one = next(r for r in records if r["routing"])
    mine = [x for x in loads if all(x[k] == str(one[k]) for k in ("model", "task", "variant", "regime", "seed"))]
    assert float(mine[0]["load"]) == next(iter(sorted(one["routing"][0]["load"].items())))[1][0]


def test_tables_can_be_sorted_by_every_column(tiny_report):
    text = (tiny_report / "index.html").read_text(encoding="utf-8")
    heads = re.findall(r'<th scope="col">(<button type="button">)?', text)
    assert len(heads) > 50 and all(heads)


def test_failures_stale_records_and_synthetic_tasks_are_said(tiny_report):
    text = " ".join(read(tiny_report).text)
    assert "loss is NaN at step 40" in text
    assert "4.1 GiB asked for with a batch of 1" in text
    assert "Stale records" in text
    assert "synthetic" in text
    assert "0123abc" in text


def test_light_dark_and_print(tiny_report):
    text = (tiny_report / "index.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "var(--ink)" in text[text.index("<svg") :]


def test_the_summary_compares_with_the_matched_lora_and_names_the_limits(glue_suite):
    frame, costs, document, _root = glue_suite
    suite = Suite.from_frame(frame, document)
    panels = cells.panels(suite)
    found = {f.topic: " ".join(f.sentences) for f in summarise(suite, panels, cells.interference(panels), costs)}
    assert (
        "Minilm, one adapter per task, published settings, MRPC: no variant can be told from a constant"
        in (found["The best, and what can't be told from it"])
    )
    assert re.search(r"MixLoRA \(minilm, tuned equally\): [+−]", found["Against LoRA with equal parameters"])
    assert (
        "Dense MoE LoRA and MixLoRA (minilm, published settings): within chance"
        in (found["Against LoRA with equal parameters"])
    )
    assert "one seed" in found["How far this goes"]
    assert "1 failed" in found["What was run"]


def test_a_record_that_disagrees_with_its_items_is_said(tiny_suite):
    frame, _costs, document, _root = tiny_suite
    frame = frame.copy()
    row = frame.index[(frame["variant"] == "lora") & frame["is_main"].fillna(False).astype(bool)][0]
    frame.at[row, "item_correct"] = [1.0] * 120
    (warning,) = command.warnings(Suite.from_frame(frame, document))
    assert frame.at[row, "id"] in warning


def test_text_from_records_can_not_become_markup(tiny_suite, tmp_path):
    frame, _costs, document, _root = tiny_suite
    frame = frame[(frame["model"] == "tiny-decoder") & (frame["task"] == "two_step")].copy()
    frame["record"] = frame["record"].str.replace("loss is NaN at step 40", "<script>alert(1)</script>")
    command.write_report(frame, [], tmp_path, document)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_methods_that_did_not_pass_the_battery_are_marked(tiny_suite, tmp_path, monkeypatch):
    from moelora.methods import _proven

    proven = {name: {"fingerprint": _proven.method_fingerprint(name)} for name in ("lora", "dora", "base", "majority")}
    proven["mixlora"] = {"fingerprint": "0" * 16}
    monkeypatch.setattr(command, "read_proven", lambda: proven)
    frame, costs, document, _root = tiny_suite
    command.write_report(frame, costs, tmp_path, document)
    table = (tmp_path / "tables" / "headline.md").read_text(encoding="utf-8")
    assert "| MixLoRA‡ |" in table and "| LoRA |" in table and "| LoRA-SMoE‡ |" in table
    assert "MixLoRA has changed since it passed the battery" in table
    assert "LoRA-SMoE and Full fine-tuning have not passed the battery" in table
    page = " ".join(read(tmp_path).text)
    assert "LoRA-SMoE" in page and "have not passed the battery" in page and "make battery" in page
