from pathlib import Path

import pytest

from moelora.errors import RecordError
from moelora.reporting.readme import END, START, headline, update_readme

ROOT = Path(__file__).resolve().parents[2]


def published(folder, table="| a |\n|---|\n| 1 |\n"):
    (folder / "tables").mkdir(parents=True)
    (folder / "figures").mkdir()
    (folder / "tables" / "headline.md").write_text(table)
    (folder / "figures" / "headline.svg").write_text("<svg/>")
    return folder


def test_the_headline_goes_between_the_marks_and_repeats(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# x\n{START}\nold\n{END}\nafter\n")
    folder = published(tmp_path / "reports" / "published" / "s")
    assert update_readme(readme, folder)
    text = readme.read_text()
    assert "| 1 |" in text and "(reports/published/s/figures/headline.svg)" in text and "old" not in text
    assert text.startswith("# x\n") and text.endswith("\nafter\n")
    assert not update_readme(readme, folder)


def test_missing_marks_or_report_are_named(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# x\n")
    with pytest.raises(RecordError, match="marks around its headline"):
        update_readme(readme, tmp_path)
    readme.write_text(f"{START}{END}")
    with pytest.raises(RecordError, match=r"headline\.md does not exist"):
        update_readme(readme, tmp_path)


def test_the_projects_readme_shows_what_is_published():
    folder = ROOT / "reports" / "published" / "glue-minilm"
    text = (ROOT / "README.md").read_text()
    if not folder.is_dir():
        assert f"{START}\n{END}" in text  # nothing published, nothing claimed
        return
    assert headline(folder, ROOT) in text
