"""Configuration files that cannot be meant: each is refused with the file and the key, none is taken as it is."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import TOKEN, as_yaml, change, spoilt_yaml

from moelora import cli
from moelora.claims import check_claims, load_claims, load_documents
from moelora.claims.words import judge_words
from moelora.config import ConfigDir, load_yaml
from moelora.errors import ConfigError, MoeloraError
from moelora.plans import expand
from moelora.plans.variants import load_variants
from moelora.preflight.lengths import read_facts

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "workflow" / "config"
FILES = {
    "suite": CONFIG / "suites" / "tiny.yaml",
    "method": CONFIG / "methods" / "mixlora.yaml",
    "task": CONFIG / "tasks" / "boolq.yaml",
    "model": CONFIG / "models" / "minilm.yaml",
    "data": CONFIG / "data.yaml",
    "claim": CONFIG / "claims" / "lora-smoe.yaml",
}
DOCUMENTS = {kind: load_yaml(path) for kind, path in FILES.items()}
# besides the built-in suite those with the keys that it leaves out
MORE = {
    "suite": (
        "suites/search-tiny.yaml",
        "suites/ablate-router.yaml",
        "suites/expert-placement.yaml",
        "suites/mixlora.yaml",
    ),
    "task": ("tasks/stsb.yaml", "tasks/tiny-review-food.yaml"),
    "model": ("models/tiny-decoder.yaml", "models/gemma-2b.yaml"),
    "method": ("methods/lora.yaml", "methods/loramoe.yaml"),
    "claim": ("claims/ld-mole.yaml",),
}
ALL = {kind: [path, *(CONFIG / more for more in MORE.get(kind, ()))] for kind, path in FILES.items()}
LOADED = {path: load_yaml(path) for paths in ALL.values() for path in paths}


class World:
    """A configuration folder of its own with one file in it, and the schemas."""

    def __init__(self, root: Path):
        self.root = root / "config"
        for folder in ("suites", "methods", "tasks", "models", "claims"):
            (self.root / folder).mkdir(parents=True)
        shutil.copytree(REPOSITORY / "workflow" / "schemas", root / "schemas")
        self.config = ConfigDir(self.root)

    def write(self, kind: str, name: str, data: bytes) -> Path:
        path = self.root / "data.yaml" if kind == "data" else self.root / f"{kind}s" / name
        for old in path.parent.glob("*.yaml"):
            old.unlink()
        path.write_bytes(data)
        return path

    def load(self, kind: str, path: Path) -> None:
        """Read a file as the commands do that use its kind."""
        if kind == "suite":
            expand(path, ConfigDir(CONFIG))
        elif kind == "data":
            read_facts(self.config)
        elif kind == "method":
            load_variants(self.config)
        elif kind == "claim":
            documents = load_documents(self.config)
            claims = load_claims(documents)
            check_claims(claims, documents)
            judge_words(claims, documents)
        else:
            self.config.load(kind, path.stem)

    def refusal(self, kind: str, path: Path) -> str:
        """Return the message with which a file is refused; any other error is the test's."""
        try:
            self.load(kind, path)
        except MoeloraError as error:
            return str(error)
        raise AssertionError(f"accepted:\n{path.read_bytes()[:3000].decode(errors='replace')}")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("malformed"))


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "suite"])
def test_the_files_are_valid_before_they_are_spoilt(world, kind):
    for path in ALL[kind]:
        world.load(kind, world.write(kind, path.name, path.read_bytes()))
        world.load(kind, world.write(kind, path.name, as_yaml(load_yaml(path))))


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_spoilt_files_are_refused_by_name_and_key(world, kind, data):
    source = data.draw(st.sampled_from(ALL[kind]))
    schema = ConfigDir(CONFIG).schema(kind)
    case = data.draw(spoilt_yaml(LOADED[source], schema))
    message = world.refusal(kind, world.write(kind, source.name, case.data))
    assert source.name in message, case.how
    for word in case.says:
        assert word in message, (case.how, word, message)
    assert len(message) < 2000 and TOKEN not in message, case.how
    assert not os.path.exists("pwned")


@pytest.mark.parametrize("kind", FILES)
def test_the_command_line_says_one_line_and_no_traceback(world, tmp_path, kind, capsys, monkeypatch):
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    source = FILES[kind]
    root = tmp_path / "workflow"
    shutil.copytree(CONFIG, root / "config", ignore=shutil.ignore_patterns("claims"))
    shutil.copytree(REPOSITORY / "workflow" / "schemas", root / "schemas")
    (root / "config" / "claims").mkdir()
    path = root / "config" / source.relative_to(CONFIG)
    suite = root / "config" / "suites" / "stories.yaml"
    commands = {
        "claim": ["claims", "--config-dir", root / "config", "--out", tmp_path / "out"],
        "data": ["preflight", suite, "--config-dir", root / "config"],
        "suite": ["plan", path, "--config-dir", root / "config", "--results", tmp_path / "out", "--write"],
        "method": ["plan", suite, "--config-dir", root / "config"],
    }
    grid = REPOSITORY / "tests" / "grid.yaml"
    boolq = tmp_path / "boolq.yaml"
    boolq.write_text(
        grid.read_text().replace("minilm", "stories260k").replace("[mrpc, rte, cola, stsb, sst2]", "[boolq]")
    )
    commands |= {
        "model": ["plan", grid, "--config-dir", root / "config"],
        "task": ["plan", boolq, "--config-dir", root / "config"],
    }
    first = sorted(DOCUMENTS[kind])[0]
    spoilt = [
        b"",
        b"\xff",
        b"a: [",
        b"name: [\x1b]",
        as_yaml(DOCUMENTS[kind]) + f"{first}: 1\n".encode(),
        as_yaml({**DOCUMENTS[kind], "not-a-key": 1}),
        as_yaml({**DOCUMENTS[kind], first: float("nan")}),
        as_yaml({**DOCUMENTS[kind], first: TOKEN}),
        as_yaml({**DOCUMENTS[kind], first: "x\u202ey"}),
        as_yaml(DOCUMENTS[kind]).replace(b": ", b": !!python/object/apply:os.getcwd ", 1),
    ]
    for data in spoilt:
        path.write_bytes(data)
        assert cli.main([str(word) for word in commands[kind]]) == 2, data[:300]
        said = capsys.readouterr()
        assert said.err.startswith("moelora: error: ") and said.err.count("\n") == 1, said.err
        assert path.name in said.err and "Traceback" not in said.err and TOKEN not in said.err
        assert said.out == "" and not (tmp_path / "out").exists()


CONTRADICTIONS = {
    "task": [
        ({"main_metric": "acc_norm"}, "main_metric"),
        ({"metrics": ["accuracy"]}, "did you mean 'acc'?"),
        ({"protocol": "glue"}, "protocol"),
        ({"prompts": None}, "prompts"),
        ({"source": {"hub": "a/b"}}, "lm_eval"),
        ({"splits": {"train": "train", "evaluation": "train"}}, "same split"),
        (
            {"kind": "regression", "metrics": ["pearson"], "main_metric": "pearson", "protocol": "glue"},
            "source.lm_eval",
        ),
        ({"kind": "classification", "metrics": ["f1"], "main_metric": "f1", "protocol": "glue"}, "labels"),
        ({"source": {"lm_eval": "../../evil"}}, "source.lm_eval"),
        ({"source": {"lm_eval": "/tmp/evil.yaml"}}, "lm_eval"),
    ],
    "model": [
        ({"feed_forward_layout": "gated"}, "modules.feed_forward"),
        ({"layers": 7}, "facts.config.num_hidden_layers"),
        ({"block": "encoder.layer.{layer.__class__}"}, "block"),
        ({"block": "encoder.layer.0"}, "{layer}"),
        ({"block": "{layer"}, "block"),
        ({"modules": {"attention": {"q": "../x"}, "feed_forward": {"a": "b", "c": "d"}}}, "q"),
        ({"name": "other"}, "its name is 'other'"),
        ({"source": {"hub": "a", "trust_remote_code": True}}, "trust_remote_code"),
    ],
    "method": [
        ({"variants": {"mixlora": {"experst": 4}}}, "did you mean 'experts'?"),
        ({"variants": {"mixlora": {"r": "8"}}}, "r must"),
        ({"variants": {"mixlora": {"r": True}}}, "r must"),
        ({"variants": {"mixlora": {"r": 0}}}, "r must"),
        ({"variants": {"mixlora": {"dropout": 1.5}}}, "dropout"),
        ({"variants": {"mixlora": {"experts": 4.0}}}, "experts must"),
        ({"variants": {"mixlora": {"experts": 10**12}}}, "experts must"),
        ({"variants": {"mixlora": {"r": [8]}}}, "r must"),
        ({"variants": {"mixlora": {"jitter_noise": -0.1}}}, "jitter_noise"),
        ({"method": "mixlorra"}, "its name is"),
        ({"variants": {"mixlora": {"attention_lora": "yes"}}}, "attention_lora"),
        ({"default_variants": ["mixlra"]}, "mixlora"),
    ],
    "claim": [
        ({"methods": {"a": {"method": "mixlorra"}}}, "methods.a"),
        ({"models": {"a": {"shapes": "lama"}}}, "models.a.shapes"),
        ({"methods": {"a": {"method": "lora", "settings": {"rank": 8}}}}, "methods.a"),
        ({"notes": [{"about": {"table": "none"}, "text": "x"}]}, "none"),
        ({"words": [{"id": "a", "text": "b", "check": {"kind": "ratio", "first": {}, "second": {}}}]}, "claimed"),
        (
            {
                "words": [
                    {
                        "id": "a",
                        "text": "b",
                        "check": {"kind": "ratio", "first": {"tabel": "x"}, "second": {}, "claimed": 1, "tolerance": 0},
                    }
                ]
            },
            "did you mean 'table'?",
        ),
        ({"tasks": {"a": {"items": 3, "constant": 4}}}, "tasks.a.constant"),
    ],
    "suite": [
        ({"variants": ["lorra"]}, "did you mean 'lora'?"),
        ({"tasks": ["nothing-like-it"]}, "tasks"),
        ({"match": ["mixlra"]}, "did you mean 'mixlora'?"),
        ({"results": "../../elsewhere"}, "results"),
        ({"reports": "x; rm -rf y"}, "reports"),
        ({"speed": ["../../../etc/passwd"]}, "speed"),
        ({"grid": [{"models": ["../models/tiny-encoder"], "tasks": ["tiny-similarity"]}]}, "grid.0.models.0"),
    ],
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_refused(world, kind):
    for changes, word in CONTRADICTIONS[kind]:
        path = world.write(kind, FILES[kind].name, as_yaml({**DOCUMENTS[kind], **changes}))
        message = world.refusal(kind, path)
        assert path.name in message and word in message, (changes, message)


def test_a_look_alike_letter_is_written_out(world):
    path = world.write("task", "boolq.yaml", as_yaml({**DOCUMENTS["task"], "t\u0430sk": 1}))
    assert "unknown key 't\\u0430sk'" in world.refusal("task", path)


def test_a_file_name_that_leads_elsewhere_is_never_opened(world, tmp_path):
    (tmp_path / "secret.yaml").write_text("name: secret\n")
    for name in ("../../secret", str(tmp_path / "secret"), "a" * 5000, "a\0b", "", ".", "..", "mrpc\n"):
        with pytest.raises(ConfigError, match="unknown task"):
            world.config.load("task", name)


def test_metrics_by_kind_are_those_that_can_be_computed():
    from moelora.evaluation.metrics import METRICS
    from moelora.meaning import METRICS as BY_KIND
    from moelora.tasks.protocols import POSED, metric_of

    assert {name for names in BY_KIND.values() for name in names} == set(METRICS) - {metric_of(one) for one in POSED}


def test_words_of_a_command_line_are_read_as_strictly():
    from moelora.reading import read_words

    assert read_words({"tasks": ["mrpc", "7", "true"], "costs": "null"}, "--config") == {
        "tasks": ["mrpc", 7, True],
        "costs": None,
    }
    for word in ("no", "[a", "!!python/name:os.system ''", ".nan", "*a"):
        with pytest.raises(ConfigError, match="--config"):
            read_words([word], "--config")


def test_what_python_hands_over_is_looked_at_too():
    suite = load_yaml(REPOSITORY / "tests" / "grid.yaml")
    for path, value in ((("title",), b"bytes"), (("threads",), {1, 2}), (("training", "epochs"), float("inf"))):
        with pytest.raises(ConfigError, match=path[-1]):
            expand(change(suite, path, value), CONFIG, source="mine")
    with pytest.raises(ConfigError, match="no word"):
        expand({**suite, 7: 1}, CONFIG, source="mine")
    nested: list = []
    nested.append(nested)
    with pytest.raises(ConfigError, match="nested"):
        expand({**suite, "title": nested}, CONFIG, source="mine")
