"""The command line, records, tables, figures and the guard."""

import dataclasses
import json
import subprocess
import sys

import pytest
from fake_clock import FakeStopwatch

from bench import __main__ as bench
from bench import guard, records, report
from bench.contest import Timing, hold
from bench.variants import VARIANTS, Settings
from bench.workloads import PRESETS
from moelora.errors import RecordError
from moelora.records.speed import read_speed
from moelora.reporting.figures import speed

TINY = ["--preset", "tiny", "--workload", "block", "--variants", "base", "lora", "--rounds", "2", "--experts", "2"]


@pytest.fixture(scope="module")
def group():
    return hold(PRESETS["tiny"][0], Settings(experts=2), "training", Timing(2, 0), ["base", "lora"], FakeStopwatch())


def as_record(*groups, axis=None):
    return records.make("test", list(groups), "cpu", "2026-01-01T00:00:00+00:00", None, axis)


def change(group, name, **values):
    return {**group, "rows": [{**row, **(values if row["name"] == name else {})} for row in group["rows"]]}


def test_run_leaves_a_record_that_validates_and_prints_its_table(tmp_path, capsys):
    threads = bench.torch.get_num_threads()
    assert bench.main(["run", *TINY, "--mode", "training", "inference", "--out", str(tmp_path), "--name", "one"]) == 0
    bench.torch.set_num_threads(threads)
    record = read_speed(tmp_path / "one.json")
    assert [(g["mode"], g["settings"]["dropout"]) for g in record["groups"]] == [
        ("training", 0.0), ("training", 0.05), ("inference", 0.0),
    ]  # fmt: skip
    for found in record["groups"]:
        assert [row["name"] for row in found["rows"]] == ["base", "lora-peft", "lora"]
        assert all(len(row["seconds"]["cpu"]) == 2 for row in found["rows"])
    assert report.markdown(record) in capsys.readouterr().out
    assert records.newest(tmp_path) == tmp_path / "one.json"


@pytest.mark.parametrize(
    ("axis", "values"), [("tokens", (8, 16)), ("experts", (2, 4)), ("rank", (1, 2)), ("depth", (1, 2))]
)
def test_a_sweep_becomes_a_figure_with_a_line_a_variant(axis, values, tmp_path, capsys):
    words = [word for word in TINY if word not in ("--workload", "block")]
    command = ["sweep", axis, "--values", *map(str, values), *words, "--out", str(tmp_path), "--name", "s"]
    assert bench.main(command) == 0
    record = read_speed(tmp_path / "s.json")
    lines = speed.lines_of(record)
    assert set(lines) == {"frozen base", "LoRA (PEFT)", "LoRA"}
    assert all([place for place, *_ in points] == list(values) for points in lines.values())
    assert bench.main(["plot", str(tmp_path / "s.json"), "--out", str(tmp_path)]) == 0
    assert "time / LoRA (PEFT)" in (tmp_path / "s.svg").read_text(encoding="utf-8")


def test_a_failure_of_ours_is_the_exit_status(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setitem(VARIANTS, "lora", dataclasses.replace(VARIANTS["lora"], build=fail))
    words = [*TINY, "--mode", "training", "--dropout", "0", "--out", str(tmp_path), "--name", "one"]
    assert bench.main(["run", *words]) == 1
    assert "lora failed" in capsys.readouterr().err
    assert "failed: RuntimeError: broken" in report.markdown(read_speed(tmp_path / "one.json"))


def test_running_needs_only_what_a_bare_gpu_machine_has(tmp_path):
    hidden = ["datasets", "lm_eval", "pandas", "sklearn", "jsonschema", "matplotlib", "pyarrow"]
    words = ["run", *TINY, "--mode", "training", "--dropout", "0", "--out", str(tmp_path), "--name", "one"]
    program = f"import sys; sys.modules.update(dict.fromkeys({hidden})); from bench import __main__ as bench; "
    process = subprocess.run(
        [sys.executable, "-c", program + f"sys.exit(bench.main({words}))"],
        cwd=records.ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert len(read_speed(tmp_path / "one.json")["groups"][0]["rows"]) == 3


def test_a_run_has_no_axis_to_draw(group, tmp_path, capsys):
    path = records.write(as_record(group), tmp_path)
    assert bench.main(["plot", str(path), "--out", str(tmp_path)]) == 2
    assert "no sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--clock", "device"], "CUDA events"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--per-token", "0"], "--per-token is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(words, says, tmp_path, capsys):
    assert bench.main(["run", *TINY, *words, "--out", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_gpu_preset_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    assert bench.main(["run", "--preset", "gpu"]) == 2
    assert "CUDA" in capsys.readouterr().err


def test_the_guard_warns_of_a_changed_ratio_and_never_fails(group, tmp_path, capsys):
    path, expected = records.write(as_record(group), tmp_path), tmp_path / "expected.json"
    assert bench.main(["guard", str(path), "--expected", str(expected), "--write"]) == 0
    assert bench.main(["guard", str(path), "--expected", str(expected)]) == 0
    assert "2 ratios" in (text := capsys.readouterr().out) and "warning" not in text
    slower = as_record(change(group, "lora", ratio=1 + 2 * guard.MARGIN))
    assert bench.main(["guard", str(records.write(slower, tmp_path)), "--expected", str(expected)]) == 0
    text = capsys.readouterr().out
    assert text.count("warning: ") == 1 and "slower" in text and "lora" in text and "base" not in text


def test_the_guard_compares_ratios_of_the_same_shape_only(group):
    expected = {"margin": 0.1, "ratios": guard.ratios_of(as_record(group))}
    other = {**group, "workload": {**group["workload"], "length": 4}}
    assert guard.compare(as_record(change(group, "lora", median_seconds={"cpu": 99.0})), expected) == ([], 2)
    assert guard.compare(as_record(other), expected) == ([], 0)


def test_committed_ratios_are_those_of_published_records():
    expected = json.loads(guard.EXPECTED.read_text(encoding="utf-8"))
    published = {
        pair for path in records.PUBLISHED.glob("*.json") for pair in guard.ratios_of(read_speed(path)).items()
    }
    assert expected["ratios"] and set(expected["ratios"].items()) <= published


def test_a_table_shows_ours_beside_a_rival_as_the_median_of_round_ratios(group):
    rows = {"lora-peft": [3.0, 8.0], "lora": [1.0, 2.0]}
    for name, seconds in rows.items():
        group = change(group, name, seconds={"cpu": seconds, "wall": seconds})
    line = next(line for line in report.markdown(as_record(group)).splitlines() if line.startswith("| LoRA (PEFT)"))
    assert line.split("|")[-2].strip() == "3.50"


def test_a_file_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(RecordError, match=r"x\.json is not a record of the bench"):
        read_speed(path)
    with pytest.raises(RecordError, match="make bench"):
        records.newest(tmp_path / "empty")
