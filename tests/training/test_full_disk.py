"""A small file system that is full, one that may only be read, and a clock that jumps."""

import json
import os
import random
import subprocess
import time

import pytest
from world import plan, task_document, write_plan

from moelora.cli import main
from moelora.files import atomic_write_bytes, sha256_file

ADAPTER = "adapter/adapter_model.safetensors"


def train(world, path) -> int:
    words = ["train", "--evaluate", "--plans", str(path), "--fingerprint", "test", "--manifest", "jobs/job.json"]
    words[-1] = str(path.parents[4] / "jobs" / "job.json")
    return main([*words, "--data", str(world / "data"), "--base", str(world / "encoder")])


def make_plan(root, every=2):
    document = plan("encoder", [task_document("mood")], max_steps=6, checkpoint_every_steps=every)
    document["settings"]["r"] = 64  # large enough that the disk's blocks do not decide
    return write_plan(root, document)


def finding(path):
    record = json.loads((path.parent / "record.json").read_text())
    for key in ("environment", "costs", "content_sha256"):
        del record[key]
    record["training"] = {k: v for k, v in record["training"].items() if k != "resumed" and not k.endswith("seconds")}
    return record, sha256_file(path.parent / ADAPTER)


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    path = make_plan(tmp_path_factory.mktemp("roomy"))
    assert train(world, path) == 0
    return path, finding(path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB, or a skip where none can be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place, leave: int) -> None:
    """Fill a file system but for some bytes."""
    free = os.statvfs(place)
    with open(place / "ballast", "ab") as ballast:
        ballast.write(bytes(max(0, free.f_bavail * free.f_frsize - leave)))


def left_over(path):
    return [found.name for found in path.parent.rglob(".*") if found.name not in (".lock", ".state")]


def blocks(path, names) -> int:
    """Return what some files of a run take on a disk of 4 KiB blocks."""
    files = [file for name in names for file in path.parent.glob(name)]
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in files)


FIRST = ["resolved.json", ".lock", "log.txt"]


# What still fits decides where the disk is full: at the first file, in a state, at the adapter, after it, in the end.
@pytest.mark.parametrize(
    ("fits", "every", "named"),
    [
        ([], 2, "resolved.json"),
        (FIRST, 2, ".state/"),
        ([*FIRST, "adapter/*.safetensors", "adapter/*.safetensors"], 2, ".state/"),
        (FIRST, None, "adapter"),
        (
            [*FIRST, "adapter/*", "adapter/*.json"],
            None,
            "train.json items.parquet scores.json",
        ),  # PEFT keeps less than it writes
        ([*FIRST, "adapter/*", "train.json", "items.parquet"], None, "scores.json record.json"),
    ],
)
def test_a_full_disk_is_named_and_with_room_the_run_ends_with_the_same_bytes(
    world, small_disk, undisturbed, capfd, fits, every, named
):
    path = make_plan(small_disk, every)
    fill(small_disk, blocks(undisturbed[0], fits))
    assert train(world, path) == 2
    said = capfd.readouterr().err
    last = said.strip().splitlines()[-1]
    assert any(last.startswith(f"moelora: error: cannot write {path.parent / name}") for name in named.split()), last
    assert "No space left on device" in last and "that the disk has room, then give the same command again" in last
    assert "Traceback" not in said and "Logging error" not in said
    assert not (path.parent / "record.json").exists() and not left_over(path)
    (small_disk / "ballast").unlink()
    assert train(world, path) == 0
    record, tensors = finding(path)
    kept = undisturbed[1][0].keys() - {"id", "plan", "plan_hash"}  # how often the state is saved is part of the plan
    assert {key: record[key] for key in kept} == {key: undisturbed[1][0][key] for key in kept}
    assert tensors == undisturbed[1][1]


def test_a_full_disk_leaves_the_original_untouched(small_disk):
    path = small_disk / "file"
    atomic_write_bytes(path, b"first")
    fill(small_disk, 8192)
    with pytest.raises(OSError, match=r"cannot write .*file: No space left on device"):
        atomic_write_bytes(path, bytes(100_000))
    assert path.read_bytes() == b"first" and sorted(p.name for p in small_disk.iterdir()) == ["ballast", "file"]


def test_results_that_may_only_be_read_are_named_and_left_as_they_are(world, small_disk, undisturbed, capfd):
    path = make_plan(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert train(world, path) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"moelora: error: cannot write {path.parent}") and "Read-only file system" in last
    assert [found.name for found in path.parent.iterdir()] == ["plan.json"]
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert train(world, path) == 0
    assert finding(path) == undisturbed[1]


def test_a_clock_that_jumps_by_years_changes_no_number_and_makes_nothing_anew(
    world, tmp_path, undisturbed, monkeypatch
):
    chance, true = random.Random(0), time.time
    jumps = {"time": lambda: true() + chance.choice((-1, 1)) * chance.uniform(0, 1e9)}
    jumps["time_ns"] = lambda: int(jumps["time"]() * 1e9)
    path = make_plan(tmp_path)
    with monkeypatch.context() as patch:
        for name, function in jumps.items():
            patch.setattr(time, name, function)
        years = iter(range(2001, 9999))
        patch.setattr("moelora.training.run.now", lambda: f"{next(years)}-01-01T00:00:00+00:00")
        assert train(world, path) == 0
    assert finding(path) == undisturbed[1]
    before = {file: file.read_bytes() for file in path.parent.rglob("*.json")}
    for number, file in enumerate(sorted(path.parents[4].rglob("*"))):
        stamp = 1e8 * (number % 40)  # from 1970 to 2093, in no order
        os.utime(file, (stamp, stamp))
    assert train(world, path) == 0
    assert {file: file.read_bytes() for file in path.parent.rglob("*.json")} == before
