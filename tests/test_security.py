"""What the package never does, read from its source; and tokens, which stay out of everything that is written."""

import ast
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moelora.secrets import HIDDEN, hide_secrets, holds_secret

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(path for part in ("moelora", "bench") for path in (REPOSITORY / part).rglob("*.py"))
TOKEN = "hf_" + "NotARealToken" * 2
PICKLERS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
MAY_LOAD = {"moelora/training/state.py", "moelora/interchange/mixlora_tensors.py"}
"""The only files that call torch.load: our training state, and MixLoRA files of packages that write nothing else."""


def calls(path: Path):
    """Yield the dotted name and the node of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(node: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg}


def test_nothing_is_unpickled():
    for path in SOURCES:
        name = str(path.relative_to(REPOSITORY))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {module.partition(".")[0] for module in modules} & PICKLERS, name
        for called, node in calls(path):
            given = keywords(node)
            if called.endswith("torch.load") or called == "torch.load":
                assert name in MAY_LOAD and given.get("weights_only") == "True", name
            if called.rpartition(".")[2] in ("read_pickle", "to_pickle", "loads_pickle"):
                raise AssertionError(f"{name}: {called}")
            assert given.get("allow_pickle", "False") == "False", name


def test_nothing_of_others_is_run():
    for path in SOURCES:
        name = path.relative_to(REPOSITORY)
        for called, node in calls(path):
            given = keywords(node)
            assert called not in ("eval", "exec", "os.system", "os.popen", "__import__", "compile"), f"{name}: {called}"
            assert given.get("shell", "False") == "False", f"{name}: {called} by a shell"
            assert given.get("trust_remote_code", "False") == "False", f"{name}: {called}"
            last = called.rpartition(".")[2]
            if called.startswith("yaml.") and last in ("load", "load_all", "unsafe_load", "full_load"):
                raise AssertionError(f"{name}: {called}; read YAML by moelora.reading")
            if last in ("extractall", "extract", "unpack_archive"):
                raise AssertionError(f"{name}: {called}; archives are not unpacked here")
            if last == "from_pretrained" and ast.unparse(node.func).startswith("transformers."):
                assert given.get("trust_remote_code") == "False", f"{name}: say trust_remote_code=False"
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"trust_remote_code[\"']?\s*[:=]\s*True", text), name


def test_a_data_set_with_a_script_is_refused_and_the_script_not_run(tmp_path, monkeypatch):
    from moelora.errors import DataUnavailableError
    from moelora.tasks.labelled import fetch_dataset

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("import os\nos.mkdir('pwned')\n")
    for hub in (folder, folder / "scripted.py"):
        with pytest.raises(DataUnavailableError, match="scripted"):
            fetch_dataset({"hub": str(hub)}, "a test", "the test")
    assert not Path("pwned").exists()


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_a_model_with_code_of_its_own_is_refused_and_the_code_not_run(world, tmp_path, monkeypatch, part):
    import shutil

    from world import model_document

    from moelora.errors import ModelUnavailableError
    from moelora.models import fetch_model

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "base"
    shutil.copytree(world / "encoder", folder)
    (folder / "evil.py").write_text("import os\nos.mkdir('pwned')\nclass Evil: pass\n")
    name, keys = {
        "model": ("config.json", ("AutoConfig", "AutoModelForSequenceClassification")),
        "tokenizer": ("tokenizer_config.json", ("AutoTokenizer",)),
    }[part]
    path = folder / name
    config = json.loads(path.read_text())
    config["auto_map"] = {key: ["evil.Evil", "evil.Evil"] if key == "AutoTokenizer" else "evil.Evil" for key in keys}
    config |= {"model_type": "evil"} if part == "model" else {"tokenizer_class": "Evil"}
    path.write_text(json.dumps(config))
    try:
        fetch_model(model_document("encoder"), 2, folder)
    except ModelUnavailableError as error:
        assert str(folder) in str(error)
    else:
        assert part == "tokenizer"  # the tokenizer's own file is enough without the class that it names
    assert not Path("pwned").exists()


SECRETS = [
    (f"401 for https://x?token={TOKEN}&a=b", TOKEN),
    ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
    ("https://me:sesame42@hub.example/api", "sesame42"),
    ("postgresql://me:pass:word@host/db", "pass:word"),
    ("ghp_" + "a1" * 10, "a1a1"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_what_looks_like_a_secret_is_hidden(text, secret):
    assert holds_secret(text) and secret not in hide_secrets(text) and HIDDEN in hide_secrets(text)


def test_the_values_of_secret_variables_are_hidden(monkeypatch):
    for name, value in (
        ("HF_TOKEN", "plain-looking-1"),
        ("PGPASSWORD", "plain-looking-12"),
        ("MY_API_KEY", "other-one"),
    ):
        monkeypatch.setenv(name, value)
    assert hide_secrets("a plain-looking-12 b other-one") == f"a {HIDDEN} b {HIDDEN}"
    plain = "user@host, https://hub.example/a?b=c, git@host:path, 3:4@5"
    assert hide_secrets(plain) == plain and not holds_secret(plain)


def written(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("stage", ["unexpected", "data", "model"])
def test_a_token_in_an_error_of_the_hub_is_written_nowhere(world, tmp_path, monkeypatch, capsys, caplog, stage):
    import transformers
    from world import plan, task_document, write_plan

    from moelora import cli
    from moelora.training import run as runs

    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://me:sesame42@127.0.0.1:9")

    def refuse(*arguments, **options):
        raise RuntimeError(f"401 Unauthorized for url {os.environ['HF_ENDPOINT']}/x?token={TOKEN}; Bearer {TOKEN}")

    document = plan("encoder", [task_document("mood")])
    if stage == "data":
        import datasets

        monkeypatch.setattr(datasets, "load_dataset", refuse)
        document["tasks"] = [{**task_document("mood"), "source": {"hub": "a/b"}, "fields": ["t"], "label": "l"}]
    elif stage == "model":
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
        document["model"] = {**document["model"], "source": {"hub": "a/b"}}
    else:
        monkeypatch.setattr(runs, "train_run", refuse)
    path = write_plan(tmp_path, document)
    arguments = ["train", "--plans", path, "--evaluate", "--fingerprint", "test", "--data", world / "data", "--base",
                 world / "encoder", "--manifest", tmp_path / "job.json", "--log", tmp_path / "log.txt"]  # fmt: skip
    code = cli.main([str(word) for word in arguments])
    assert code == (0 if stage == "unexpected" else 2)
    said = capsys.readouterr()
    everything = written(tmp_path).decode(errors="replace") + said.out + said.err
    assert "401" in everything and HIDDEN in everything
    assert TOKEN not in everything and "sesame42" not in everything


def test_log_lines_and_tracebacks_hide_tokens(monkeypatch):
    from moelora.progress import FORMATTER

    try:
        raise ValueError(f"https://me:{TOKEN}@host")
    except ValueError:
        entry = logging.LogRecord("moelora", logging.ERROR, "f", 1, "token %s", (TOKEN,), sys.exc_info())
    assert TOKEN not in FORMATTER.format(entry) and HIDDEN in FORMATTER.format(entry)


def test_a_process_of_the_command_line_hides_tokens_of_unexpected_errors(tmp_path):
    """An error that nobody foresaw still prints its traceback, which a job's log keeps."""
    script = (
        "import sys; from moelora import cli; import moelora.plans.command as c\n"
        "import os\n"
        "def run(options): raise RuntimeError('url https://me:sesame42@host and ' + os.environ['HF_TOKEN'])\n"
        "c.run = run; sys.argv = ['moelora', 'plan', 'x.yaml']; cli.main()\n"
    )
    environment = {**os.environ, "HF_TOKEN": TOKEN, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1 and "RuntimeError: url" in done.stderr
    assert TOKEN not in done.stderr and "sesame42" not in done.stderr
