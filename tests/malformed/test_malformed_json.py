"""Files that runs leave and read again, spoilt: each is refused with the file and the key, none is taken as it is."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import JSON_FILES, as_json, spoilt_json

from moelora import cli
from moelora.allocation import documents
from moelora.allocation.command import make_allocation
from moelora.errors import MoeloraError, RecordError
from moelora.files import read_json
from moelora.plans import expand
from moelora.plans import reading as plans
from moelora.records import SCHEMA_FILE, read_record
from moelora.reporting import collect

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "workflow" / "config"
PUBLISHED = REPOSITORY / "results" / "published" / "glue-minilm"
SENSITIVITY = {
    "schema": 2,
    "model": "tiny-encoder",
    "task": "tiny-review-food",
    "score": "sum",
    "meaning": "squared gradients",
    "seed": 0,
    "examples": 64,
    "modules": [
        {
            "module": f"encoder.layer.{layer}.{kind}.dense",
            "layer": layer,
            "type": kind,
            "part": "feed_forward",
            "shape": [8, 16],
            "score": 0.5 + layer,
        }
        for layer in range(2)
        for kind in ("intermediate", "output")
    ],
}
MANIFEST = {
    "schema": 1,
    "job": "a--b",
    "runs": [
        {"folder": "m/t/v@published/seed0", "plan_hash": "0" * 16, "record_sha256": "a" * 64, "status": "finished"}
    ],
}


def an_allocation(folder: Path) -> dict:
    path = folder / "sensitivity.json"
    path.write_bytes(as_json(SENSITIVITY))
    return make_allocation([path], {"strategy": "uniform", "budget": {"experts": 6}})


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Every kind of file: valid documents, their schema, what reads them, and a folder."""
    folder = tmp_path_factory.mktemp("known")
    runs = expand(REPOSITORY / "workflow" / "config" / "suites" / "tiny.yaml", CONFIG).planned
    chosen = {run.variant.name: dict(run.plan) for run in runs}
    # without the sums of their content, which would refuse whatever is changed before anybody looks at it
    records = [read_json(path) for path in sorted(PUBLISHED.glob("*.json"))]
    (folder / "jobs").mkdir()
    return {
        "record": (records, SCHEMA_FILE, read_record),
        "allocation": ([an_allocation(folder)], documents.ALLOCATION, documents.read_allocation),
        "sensitivity": ([SENSITIVITY], documents.SENSITIVITY, lambda path: documents.read_sensitivities([path])),
        "plan": ([chosen["mixlora"], chosen["lora-match-lora_smoe"]], plans.SCHEMA_FILE, plans.read_plan),
        "manifest": ([MANIFEST], collect.MANIFEST, lambda path: list(collect._record_files(path))),
    }, folder / "jobs"


KINDS = ("record", "allocation", "sensitivity", "plan", "manifest")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "manifest"])
def test_the_files_are_valid_before_they_are_spoilt(known, kind):
    files, folder = known
    good, _, read = files[kind]
    for document in good:
        path = folder / f"{kind}.json"
        path.write_bytes(as_json(document))
        assert read(path)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_spoilt_files_are_refused_by_name_and_key(known, kind, data):
    files, folder = known
    good, schema, read = files[kind]
    case = data.draw(spoilt_json(data.draw(st.sampled_from(good)), json.loads(schema.read_text())))
    path = folder / f"{kind}.json"
    path.write_bytes(case.data)
    try:
        read(path)
    except MoeloraError as error:
        message = str(error)
    else:
        raise AssertionError(f"accepted ({case.how}):\n{case.data[:3000]!r}")
    assert path.name in message, case.how
    for word in case.says:
        assert word in message, (case.how, word, message)
    assert len(message) < 2000, case.how


@pytest.mark.parametrize("data", JSON_FILES, ids=range(len(JSON_FILES)))
def test_whatever_is_read_as_json_is_json_or_refused(tmp_path, data):
    path = tmp_path / "file.json"
    path.write_bytes(data)
    try:
        document = read_json(path)
    except RecordError as error:
        assert "file.json" in str(error)
    else:
        assert document == json.loads(data) and not isinstance(document, dict)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_says_one_line_and_no_traceback(known, tmp_path, kind, capsys, monkeypatch):
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    good = known[0][kind][0][0]
    path = tmp_path / "a" / "b" / "c" / "d" / "seed0" / f"{kind}.json"
    path.parent.mkdir(parents=True)
    out = tmp_path / "out.json"
    commands = {
        "record": ["collect", "--manifests", path, "--out", out],
        "manifest": ["collect", "--manifests", path, "--out", out],
        "sensitivity": ["allocate", "--sensitivity", path, "--strategy", "uniform", "--experts", "4", "--out", out],
        "plan": ["tune", "--plan", path, "--tune", '{"learning_rates": [0.1]}', "--out", out],
        # a plan that waits for this file
        "allocation": ["tune", "--plan", path.with_name("plan.json"), "--tune", "{}", "--out", out],
    }
    if kind == "allocation":
        plan = dict(known[0]["plan"][0][0])
        plan["pending"] = {"allocation": str(path.relative_to(tmp_path))}
        path.with_name("plan.json").write_bytes(as_json(plan))
    last = sorted(good)[-1]
    for data in (*JSON_FILES, as_json({**good, "not-a-key": 1}), as_json({**good, last: {"a": [None]}})):
        path.write_bytes(data)
        assert cli.main([str(word) for word in commands[kind]]) == 2, data[:300]
        said = capsys.readouterr()
        assert said.err.splitlines()[-1].startswith("moelora: error: ") and "Traceback" not in said.err, said.err
        assert path.name in said.err and not out.exists(), said.err


def test_paths_in_records_and_manifests_stay_where_they_belong(known):
    files, folder = known
    record = files["record"][0][0]
    for key, value in (
        ("suite", "../../x"),
        ("task", "a/b"),
        ("variant", ".."),
        ("items", "../items.parquet"),
        ("items", "/x"),
    ):
        path = folder / "record.json"
        path.write_bytes(as_json({**record, key: value}))
        with pytest.raises(RecordError, match=key):
            read_record(path)
    for place in ("../other/seed0", "/etc", "a/../../b", "a\nb", ""):
        path = folder / "manifest.json"
        path.write_bytes(as_json({"runs": [{"folder": place}]}))
        with pytest.raises(RecordError, match=r"runs\.0\.folder"):
            list(collect._record_files(path))


def test_records_that_contradict_themselves_are_refused(known):
    files, folder = known
    record = next(one for one in files["record"][0] if one["scores"])
    task = sorted(record["scores"])[0]
    for changes, word in (({"main_metric": "none"}, "main_metric"), ({"interval": [0.9, 0.1]}, "interval")):
        path = folder / "record.json"
        path.write_bytes(as_json({**record, "scores": {task: {**record["scores"][task], **changes}}}))
        with pytest.raises(RecordError, match=word):
            read_record(path)


def test_a_sensitivity_may_name_no_module_twice(known):
    _, folder = known
    path = folder / "sensitivity.json"
    path.write_bytes(as_json({**SENSITIVITY, "modules": [SENSITIVITY["modules"][0]] * 2}))
    with pytest.raises(RecordError, match=r"sensitivity\.json.*twice"):
        documents.read_sensitivities([path])
