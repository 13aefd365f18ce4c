"""What is asked of the hub, and how what came is compared, without a hub."""

import hashlib
import re
import subprocess
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from moelora import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a folder that the clients take for their own."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def put(home, kind: str, file: str, data: bytes, name: "str | None" = None):
    """Put a file into the clients' cache as they do, and return where its bytes lie."""
    folder = home / "hub" / f"{kind}s--some--thing"
    if name is None:
        name = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    blob, pointer = folder / "blobs" / name, folder / "snapshots" / COMMIT / file
    for path in (blob, pointer):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(blob)
    return blob


def test_sums_are_those_of_git_and_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"some bytes\n" * 1000)
    git = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    assert hub.hub_sum(path, 40) == git
    assert hub.hub_sum(path, 64) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert hub.hub_sum(path, 32) is None


def test_a_whole_snapshot_passes_and_is_noted(home):
    put(home, "model", "config.json", b"{}")
    data = b"weights"
    put(home, "model", "sub/model.safetensors", data, hashlib.sha256(data).hexdigest())
    put(home, "model", "other", b"of a mirror", "not-a-sum")
    for _ in range(2):
        hub.check_snapshot("model", "some/thing", COMMIT)
    notes = sorted(path.name for path in (home / "moelora/sums/models/some%2Fthing" / COMMIT).iterdir())
    assert notes == ["config.json", "sub%2Fmodel.safetensors"]


def test_an_altered_file_is_named_and_deleted(home):
    blob = put(home, "model", "config.json", b'{"a": 1}')
    blob.write_bytes(b'{"a": 2}')
    with pytest.raises(hub.AlteredError, match=rf"config.json at commit {COMMIT} .* the hub's is {blob.name}.*deleted"):
        hub.check_snapshot("model", "some/thing", COMMIT)
    assert not blob.exists()
    hub.check_snapshot("model", "some/thing", COMMIT)  # a file that is gone is fetched anew by its reader


def test_what_cannot_be_deleted_is_named(tmp_path):
    assert re.match(r"Delete .*absent, which this process may not", hub.discard(tmp_path / "absent"))


def test_another_content_under_a_known_name_is_refused_until_the_note_is_deleted(home):
    put(home, "model", "config.json", b"{}")
    hub.check_snapshot("model", "some/thing", COMMIT)
    put(home, "model", "config.json", b"[]")
    with pytest.raises(hub.AlteredError, match="when it was first used here") as caught:
        hub.check_snapshot("model", "some/thing", COMMIT)
    note = re.search(r"delete (\S+) too", str(caught.value))[1]
    put(home, "model", "config.json", b"[]")
    with pytest.raises(hub.AlteredError):
        hub.check_snapshot("model", "some/thing", COMMIT)
    open(note, "w").close()  # a note that was cut short says nothing
    put(home, "model", "config.json", b"[]")
    hub.check_snapshot("model", "some/thing", COMMIT)


def test_prepared_data_are_compared_after_the_files_that_they_come_from(home):
    folder = home / "datasets/some___thing/default/0.0.0" / COMMIT
    folder.mkdir(parents=True)
    arrow = folder / "thing-train.arrow"
    arrow.write_bytes(b"rows")
    split = SimpleNamespace(cache_files=[{"filename": str(arrow)}])
    blob = put(home, "dataset", "train.jsonl", b"rows")
    hub.check_prepared("some/thing", {"train": split})
    hub.check_prepared("some/thing", split)
    blob.write_bytes(b"rowz")
    with pytest.raises(hub.AlteredError, match=r"train\.jsonl at commit"):
        hub.check_prepared("some/thing", split)
    assert not folder.exists() and not blob.exists()  # or the rows would be used once more, without their source
    folder.mkdir()
    arrow.write_bytes(b"rowz")
    with pytest.raises(hub.AlteredError, match=r"thing-train\.arrow \(datasets .* when it was first used here"):
        hub.check_prepared("some/thing", split)
    assert not folder.exists()


def test_folders_and_what_was_made_here_are_not_looked_at(home):
    hub.check_snapshot("model", "some/thing", "")
    hub.check_prepared("a/folder", SimpleNamespace(cache_files=[{"filename": "/somewhere/cache-1.arrow"}]))
    assert not (home / "moelora").exists()


@pytest.fixture
def asked(monkeypatch):
    """Return the questions that a hub gets, which answers each with the next of ``answers``."""
    questions = SimpleNamespace(number=0, answers=[], limit=None)

    class Api:
        def repo_info(self, name, repo_type, revision, timeout):
            questions.number, questions.limit = questions.number + 1, timeout
            answer = questions.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(sha=answer)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return questions


def refusal(status: int) -> Exception:
    from huggingface_hub.errors import HfHubHTTPError

    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, "refused")
    error.response = SimpleNamespace(status_code=status)
    return error


def test_an_answer_or_a_refusal_with_a_reason_leaves_the_clients_to_themselves(asked):
    asked.answers = [COMMIT, refusal(404), refusal(403)]
    for _ in range(3):
        with hub.reached("model", "some/thing", None):
            assert constants.HF_HUB_OFFLINE is False
    assert asked.number == 3 and asked.limit == constants.HF_HUB_ETAG_TIMEOUT


@pytest.mark.parametrize("answer", [refusal(503), refusal(429), TimeoutError("timed out"), ValueError("no JSON")])
def test_without_an_answer_the_clients_look_here_only(asked, answer):
    asked.answers = [answer, answer]
    with hub.reached("dataset", "some/thing", None):
        assert constants.HF_HUB_OFFLINE is True
    assert asked.number == 2 and constants.HF_HUB_OFFLINE is False


def test_the_second_question_may_be_answered(asked):
    asked.answers = [ConnectionError("reset"), COMMIT]
    with hub.reached("dataset", "some/thing", None):
        assert constants.HF_HUB_OFFLINE is False


def test_nothing_here_and_no_answer_is_said_together(asked):
    asked.answers = [ConnectionError("reset by peer")] * 2
    wanted = r"does not answer \(ConnectionError: reset by peer\), and no copy is here \(KeyError: 'x'\)"
    with pytest.raises(OSError, match=wanted), hub.reached("model", "some/thing", None):
        raise KeyError("x")
    assert constants.HF_HUB_OFFLINE is False


def test_another_commit_than_the_one_asked_for_is_refused(asked):
    asked.answers = ["f" * 40]
    with pytest.raises(hub.AlteredError, match=COMMIT), hub.reached("model", "some/thing", COMMIT):
        pytest.fail("nothing is fetched")


def test_folders_and_offline_mode_ask_nobody(asked, tmp_path, monkeypatch):
    with hub.reached("model", str(tmp_path), None):
        pass
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub.reached("model", "some/thing", None):
        pass
    assert asked.number == 0


def test_advice_names_every_way_out():
    assert all(word in hub.advice("the suite") for word in ("HF_HUB_OFFLINE=1", "HF_ENDPOINT", "as 'hub' in the suite"))
