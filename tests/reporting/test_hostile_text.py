"""Text from records, claims and suites stays text in every format of the report."""

import csv
import io
import json
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from moelora.reporting import command, render
from moelora.reporting.claims_page import claims_page
from moelora.reporting.escape import CsvWriter, csv_cell, markdown_text
from moelora.reporting.table import Entry, Row, plain

HOSTILE = (
    '"><img src=x onerror=alert(1)>',
    "</script><svg onload=alert(1)>",
    "' onclick='alert(1)",
    "<script>alert(1)</script>",
    "<!-- x",
    "]]><b>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{",
    "$a_b$ 5 $",
    "javascript:alert(1)",
    "&lt;b&gt;&",
    "a|b\\|c",
    "\\input{/etc/passwd}",
    "%\n\n\\end{tabular}",
    "=cmd|' /C calc'!A0",
    "[x](javascript:alert(1))",
    "`x` *y* _z_",
)


class Shape(HTMLParser):
    """The elements and attributes of a page, without its text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: dict[str, int] = {}
        self.names: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self.names |= {name for name, _ in attributes}
        self.links |= {value for name, value in attributes if name in ("href", "src", "xlink:href")}

    def handle_comment(self, data):
        self.elements["<!--"] = self.elements.get("<!--", 0) + 1


def spoilt_texts(value, hostile, keep=frozenset()):
    """Return a document in which every text that is free has something hostile behind it."""
    if isinstance(value, dict):
        return {key: inner if key in keep else spoilt_texts(inner, hostile, keep) for key, inner in value.items()}
    if isinstance(value, list):
        return [spoilt_texts(inner, hostile, keep) for inner in value]
    return f"{value}{hostile}" if isinstance(value, str) else value


# what is a name, a number of ours or a word of ours: schemas refuse anything else there
NAMES = frozenset(
    "id status suite model task variant method regime plan_hash fingerprint scores items routing match allocation "
    "parts main_metric protocol name kind metrics part type diagnostics forgetting sources parent tuning file sha256 "
    "source variants tasks models grid regimes controls control expanded".split()
)


@pytest.fixture(scope="module")
def some(tiny_suite):
    frame, costs, document, _root = tiny_suite
    chosen = (frame["model"] == "tiny-decoder") & frame["task"].isin(["two_step", "lookup"])
    return frame[chosen], [entry for entry in costs if entry["model"] == "tiny-decoder"], document


def write(some, out, hostile):
    frame, costs, document = some
    frame = frame.copy()

    def spoil(text):
        record = spoilt_texts(json.loads(text), hostile, NAMES)
        plan = record["plan"]
        for title in (plan["model"], *plan["tasks"]):
            title["title"] = f"{title.get('title', 'T')}{hostile}"
        record["declarations"] = [f"declared{hostile}"]
        if record["reason"]:
            record["reason"] = f"reason{hostile}"
        return json.dumps(record)

    frame["record"] = [spoil(text) for text in frame["record"]]
    document = {**document, "title": f"T{hostile}", "description": f"D{hostile}",
                "question": {"asks": f"A{hostile}", "why": f"W{hostile}", "varies": f"V{hostile}"}}  # fmt: skip
    costs = [spoilt_texts(entry, hostile, NAMES) for entry in costs]
    command.write_report(frame, costs, out, document, title=f"T{hostile}")
    return out


def test_no_text_becomes_an_element_an_attribute_or_a_link(some, tmp_path):
    plain_page = Shape((write(some, tmp_path / "plain", "") / "index.html").read_text(encoding="utf-8"))
    together = " ".join(HOSTILE).replace("\n", " ")  # a blank line begins a paragraph, and may
    out = write(some, tmp_path / "hostile", together)
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Shape(text)
    assert page.elements == plain_page.elements
    assert page.names <= plain_page.names
    assert not [
        link for link in page.links if link and link.strip().lower().startswith(("javascript:", "data:", "http"))
    ]
    assert text.count("alert(1)") > 10 and "49" not in Shape(text).names
    assert "{{ 7 * 7 }}" in text and "$\\frac{" in text
    for path in (out / "figures").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).getroot().iter()}
        assert not tags & {"script", "img", "b", "foreignObject"}, path
    for path in (out / "tables").glob("*.md"):
        assert "<script" not in path.read_text(encoding="utf-8") and "](javascript" not in path.read_text(
            encoding="utf-8"
        )
    for path in (out / "tables").glob("*.tex"):
        assert "\\input" not in path.read_text(encoding="utf-8").replace("\\textbackslash{}input", "")
    for path in (out / "tables").glob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))):
            assert not [cell for cell in row if cell.startswith(("=", "@", "\t"))], path


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_page_of_claims_keeps_text_as_text(hostile):
    def page(text):
        row = Row(
            [Entry(f"a{text}", detail=f"d{text}", title=f"t{text}", marks=frozenset({"number", f"m{text}".strip()}))]
        )
        table = plain(f"n{text}", f"T{text}", [f"c{text}"], [row], f"note{text}")
        return Shape(claims_page([f"said{text}"], [table], [(f"title{text}", f"command{text}", table)]))

    honest, found = page(""), page(hostile)
    assert found.elements == honest.elements and found.names == honest.names
    assert not [link for link in found.links if not link.startswith(("tables/", "#"))]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_tables_in_markdown_and_latex_keep_their_columns(hostile):
    rows = [Row([Entry(f"a{hostile}", detail=hostile), Entry(hostile)])]
    table = plain("name", f"T{hostile}", ["one", f"two{hostile}"], rows, f"n{hostile}")
    lines = [line for line in render.markdown([table]).splitlines() if line.startswith("| ")]
    assert [line.replace("\\|", "").count("|") for line in lines] == [3, 3]
    assert len(render.markdown([table]).splitlines()) == len(
        render.markdown([plain("n", "T", ["a", "b"], rows, "n")]).splitlines()
    )
    text = render.latex([table])
    body = text.partition("\\midrule")[2].partition("\\bottomrule")[0]
    assert body.replace("\\&", "").count("&") == 1 and body.count("\\\\") == 1
    assert "\\input" not in text and text.count("\\end{tabular}") == 1 and "\n\n\\end" not in text


def test_cells_that_a_spreadsheet_would_compute_are_marked_as_text():
    formulas = ("=cmd|' /C calc'!A0", "+cmd|x", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "-x", "+1;2", "-1'!A0")
    for text in formulas:
        assert csv_cell(text) == f"'{text}"
    numbers = (
        "-0.5",
        "+1.2",
        "-3",
        "-1.0e-05",
        "-0.5 [-1.2, 0.3]",
        "+1.2 (−0.1–2.5)",
        "–",
        "-",
        "",
        "0.5",
        "mrpc",
        "−1.2",
    )
    for text in numbers:
        assert csv_cell(text) == text
    assert (csv_cell(None), csv_cell(7), csv_cell(-0.5)) == ("", 7, -0.5)
    writer = CsvWriter()
    writer.writerows([["a,b", "=1"], ['"', "x\ny"]])
    assert list(csv.reader(io.StringIO(writer.getvalue()))) == [["a,b", "'=1"], ['"', "x\ny"]]


def test_markdown_text_is_one_line():
    assert markdown_text("a\n\n# b") == "a # b"
    assert markdown_text("p < 0.05 and <b>") == "p < 0.05 and &lt;b>"
