import json
import subprocess
import sys
from pathlib import Path

import pytest

from moelora import cli

REPOSITORY = Path(__file__).parents[1]
GRID = Path(__file__).with_name("grid.yaml")
VERBS = (
    "plan preflight data base sensitivity allocate tune search train evaluate costs collect report compare claims "
    "export publish new-method docs"
).split()
HEAVY = {"torch", "transformers", "peft", "datasets", "lm_eval", "pandas", "matplotlib", "snakemake", "scipy"}


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages that a fresh process has imported after running some code."""
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return HEAVY & set(process.stdout.splitlines()[-1].split())


def test_import_is_light():
    assert loaded_by("import moelora") == set()


def test_help_is_light():
    code = "from moelora.cli import build_parser; build_parser().format_help()"
    assert loaded_by(code) == set()


def test_planning_is_light():
    code = (
        "from moelora.plans import expand\n"
        "from moelora.methods import get_method, method_names\n"
        "[get_method(name) for name in method_names()]\n"
        "expand('tests/grid.yaml', 'workflow/config').documents()"
    )
    assert loaded_by(code) == set()


def test_comparing_needs_no_torch_and_no_figures():
    needed = loaded_by("import moelora.reporting.compare, moelora.reporting.export")
    assert needed == {"pandas", "scipy"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_handler(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    assert verb in capsys.readouterr().out


def test_handlers_exist():
    parser = cli.build_parser()
    verbs = next(a for a in parser._actions if hasattr(a, "choices") and a.choices).choices
    assert sorted(verbs) == sorted(VERBS)
    for name in ("plan", "data", "collect", "new-method"):
        assert callable(cli._load(verbs[name].get_default("handler")))


def test_no_verb_imports_snakemake():
    for path in (REPOSITORY / "moelora").rglob("*.py"):
        assert "import snakemake" not in path.read_text(encoding="utf-8"), path
        assert "from snakemake" not in path.read_text(encoding="utf-8"), path


def test_errors_are_one_line_and_exit_code_two(capsys, monkeypatch):
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    assert cli.main(["plan", "no-such-suite.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("moelora: error: no-such-suite.yaml does not exist")
    assert captured.err.count("\n") == 1


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("MOELORA_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"no-such-suite\.yaml"):
        cli.main(["plan", "no-such-suite.yaml"])


def test_plan_prints_a_table_and_writes_nothing(tmp_path, capsys):
    options = ["--config-dir", str(REPOSITORY / "workflow" / "config"), "--results", str(tmp_path)]
    assert cli.main(["plan", str(GRID), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["model", "task", "variant", "regime", "seed"]
    assert lines[-1] == "210 runs in 110 jobs"
    assert list(tmp_path.iterdir()) == []


def test_plan_writes_and_prints_json(tmp_path, capsys):
    options = ["--config-dir", str(REPOSITORY / "workflow" / "config"), "--results", str(tmp_path)]
    assert cli.main(["plan", str(GRID), *options, "--write"]) == 0
    assert "211 files written" in capsys.readouterr().out
    assert cli.main(["plan", str(GRID), *options, "--json"]) == 0
    plans = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = [json.loads(path.read_text()) for path in tmp_path.rglob("plan.json")]
    assert len(plans) == 210
    assert sorted(plans, key=json.dumps) == sorted(written, key=json.dumps)


def test_folder_that_cannot_be_written_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    (tmp_path / "results").write_text("a file where a folder is wanted")
    options = ["--config-dir", str(REPOSITORY / "workflow" / "config"), "--results", str(tmp_path / "results")]
    assert cli.main(["plan", str(GRID), *options, "--write"]) == 2
    assert f"moelora: error: cannot write {tmp_path}/results/grid/" in capsys.readouterr().err


def test_arguments_may_stand_in_a_file(tmp_path):
    listed = tmp_path / "manifests.txt"
    listed.write_text("a b.json\nc.json\n")
    options = cli.build_parser().parse_args(["collect", "--manifests", f"@{listed}", "--out", "records.parquet"])
    assert options.manifests == [Path("a b.json"), Path("c.json")]


def test_tune_takes_json_text_or_a_file(tmp_path):
    path = tmp_path / "tune.json"
    path.write_text('{"learning_rates": [0.001]}')
    for value in (str(path), path.read_text()):
        options = cli.build_parser().parse_args(["tune", "--plan", "p", "--tune", value, "--out", "o"])
        assert options.tune == {"learning_rates": [0.001]}


def test_base_refuses_a_model_from_the_hub(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    model = REPOSITORY / "workflow" / "config" / "models" / "minilm.yaml"
    assert cli.main(["base", "--model", str(model), "--data", str(tmp_path), "--out", str(tmp_path / "base")]) == 2
    assert "only built-in models are built" in capsys.readouterr().err


def test_data_refuses_an_unknown_source(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    assert cli.main(["data", "--suite-task-source", "tini", "--out", str(tmp_path)]) == 2
    assert "unknown built-in source 'tini'; did you mean 'tiny'?" in capsys.readouterr().err
