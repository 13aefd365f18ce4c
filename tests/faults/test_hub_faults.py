"""A hub that refuses, hangs, stalls, cuts files off or serves other bytes: a clear error, and the next try succeeds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hub import FaultyHub, Repository

ROOT = Path(__file__).parents[2]
FAULTS = ("refuse", "hang", "stall", "cut", "flip", "other")
pytestmark = pytest.mark.slow


class Client:
    """A process that fetches, and the cache that it fills."""

    def __init__(self, endpoint: str, home: Path):
        self.home = home
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.environment |= {
            "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.process = self.start()

    def start(self, **changes: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, Path(__file__).with_name("hub_client.py")],
            env=self.environment | changes, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip

    def ask(self, kind: str, name: str, revision: "str | None" = None) -> None:
        print(json.dumps([kind, name, revision]), file=self.process.stdin, flush=True)

    def fetch(self, kind: str, name: str, revision: "str | None" = None) -> dict:
        self.ask(kind, name, revision)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def model_files(world) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((world / "decoder").iterdir()) if path.is_file()}


def data_files() -> dict[str, bytes]:
    # words longer than the half of a line: the byte in the middle that is altered lies in a word
    rows = [{"text": f"{'word' * 40} number {number}", "label": number % 2} for number in range(41)]
    return {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}


@pytest.fixture(scope="module")
def repositories(world):
    """Return a repository for each kind and fault: what is fetched of one says nothing of another."""
    model, data = model_files(world), data_files()
    return {
        (kind, f"tests/{name}"): Repository({**files, "README.md": f"{name}\n".encode()})
        for name in (*FAULTS, "sound", "gone", "later", "killed")
        for kind, files in (("models", model), ("datasets", data))
    }


@pytest.fixture(scope="module")
def hub(repositories):
    served = FaultyHub(repositories, victims=("model.safetensors", "train.jsonl"))
    yield served
    served.close()


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    one = Client(hub.endpoint, tmp_path_factory.mktemp("home"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def sums(hub, client):
    """Return what a sound hub gives."""
    hub.fault = None
    found = {kind: client.fetch(kind, "tests/sound") for kind in ("models", "datasets")}
    assert all("sum" in answer for answer in found.values()), found
    return found


@pytest.mark.parametrize("kind", ["models", "datasets"])
@pytest.mark.parametrize("fault", ["refuse", "hang", "stall", "cut", "flip"])
def test_a_fault_is_an_error_with_a_way_out_and_the_next_try_succeeds(hub, client, sums, fault, kind):
    name = f"tests/{fault}"
    hub.fault = fault
    try:
        error = client.fetch(kind, name).get("error", "no error")
    finally:
        hub.fault = None
    assert f"'{name}'" in error or f"({name}, " in error, error
    if fault == "flip":  # what came is as long as it should be: only its sum tells
        assert "is not what its commit holds" in error and "The copy here was deleted" in error
    else:
        assert "cannot be had" in error and "HF_HUB_OFFLINE=1" in error and "HF_ENDPOINT" in error
        assert "as 'hub' in the" in error
    if fault in ("refuse", "hang"):
        assert f"{hub.endpoint} does not answer" in error
    assert client.fetch(kind, name) == sums[kind]


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_another_content_of_the_same_commit_is_refused(hub, client, sums, kind):
    name = "tests/other"
    assert client.fetch(kind, name) == sums[kind]
    for cache in ("hub", "datasets"):  # as people do who want room; what was noted stays
        shutil.rmtree(client.home / cache, ignore_errors=True)
    hub.fault = "other"
    try:
        error = client.fetch(kind, name).get("error", "no error")
    finally:
        hub.fault = None
    assert "is not what its commit holds" in error and "when it was first used here" in error
    assert client.fetch(kind, name) == sums[kind]


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_a_copy_is_used_while_the_hub_is_gone(hub, client, sums, kind):
    assert client.fetch(kind, "tests/gone") == sums[kind]
    hub.fault = "hang"
    try:
        assert client.fetch(kind, "tests/gone") == sums[kind]
    finally:
        hub.fault = None


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_a_copy_that_is_damaged_later_is_noticed(hub, client, sums, kind):
    name = "tests/later"
    assert client.fetch(kind, name) == sums[kind]
    folders = {"models": "hub/models--tests--later/blobs/*", "datasets": "datasets/tests___later/**/*.arrow"}
    largest = max(client.home.glob(folders[kind]), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.chmod(0o644)
    largest.write_bytes(data)
    error = client.fetch(kind, name).get("error", "no error")
    assert "is not what its commit holds" in error and "The copy here was deleted" in error
    assert client.fetch(kind, name) == sums[kind]


def test_another_commit_under_the_same_name_is_refused(hub, client, repositories):
    (commit,) = {one.commit for (kind, name), one in repositories.items() if (kind, name) == ("models", "tests/sound")}
    answer = client.fetch("models", "tests/sound", commit)
    assert "sum" in answer
    absent = client.fetch("models", "tests/sound", "0" * 40)
    assert "cannot be had" in absent["error"] and "revision 000" in absent["error"]


def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_that_is_used(hub, sums, tmp_path):
    one = Client(hub.endpoint, tmp_path)
    hub.fault = "stall"
    try:
        for kind in ("models", "datasets"):
            one.ask(kind, "tests/killed")
            while not any(tmp_path.glob(f"hub/{kind}--tests--killed/blobs/*.incomplete")):
                assert one.process.poll() is None
            one.close()
            one.process = one.start()
    finally:
        hub.fault = None
    try:
        assert {kind: one.fetch(kind, "tests/killed") for kind in sums} == sums
        assert not list(tmp_path.glob("hub/*/snapshots/*/*.incomplete"))
    finally:
        one.close()
