import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import argparse, sys
from pathlib import Path
from moelora.reporting import collect, command
jobs, costs, suite, out = sys.argv[1:]
out = Path(out)
records = out / "records.parquet"
collect.run(argparse.Namespace(manifests=list(Path(jobs).glob("*.json")), out=records))
command.run(argparse.Namespace(records=records, costs=[costs], suite=suite, title=None, out=out / "report"))
heavy = {"torch", "transformers", "peft", "snakemake"} & set(sys.modules)
assert not heavy, heavy
"""


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("other", [{"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "OMP_NUM_THREADS": "2"}])
def test_bytes_do_not_depend_on_hash_seed_time_zone_locale_or_threads(glue_suite, tmp_path, other):
    root = glue_suite[3] / "glue-minilm"
    found = []
    for name, settings in (("a", {"PYTHONHASHSEED": "0", "TZ": "UTC", "OMP_NUM_THREADS": "1"}), ("b", other)):
        out = tmp_path / name
        arguments = [root / "jobs", root / "minilm" / "costs.json", root / "suite.json", out]
        subprocess.run(
            [sys.executable, "-c", SCRIPT, *map(str, arguments)],
            check=True,
            env={**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        found.append(files(out))
    assert found[0] == found[1]
    assert "report/index.html" in found[0]


def test_an_older_figure_does_not_stay_behind(tiny_suite, tmp_path):
    from moelora.reporting import command

    frame, costs, document, _root = tiny_suite
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "pareto--gone.svg").write_text("<svg/>")
    command.write_report(frame[frame["task"] == "two_step"], costs, tmp_path, document)
    assert not (tmp_path / "figures" / "pareto--gone.svg").exists()


def test_a_report_without_records_is_refused(tiny_suite, tmp_path):
    from moelora.errors import RecordError
    from moelora.reporting import command

    with pytest.raises(RecordError, match="no record"):
        command.write_report(tiny_suite[0].iloc[:0], [], tmp_path)
