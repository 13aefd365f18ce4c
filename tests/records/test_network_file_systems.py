"""Files on network file systems, as far as that can be tried on one machine.

None of this is NFS, which few test machines have. It is stand-ins for single calls that fail as a network file
system's may, and real mounts of a user-space file system (bindfs on FUSE): it gives files that are removed while they
are open another name, as NFS clients do, and two mounts of one folder are two clients, each with caches of its own.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from moelora.errors import OutputError
from moelora.files import atomic_write_json, read_json, replace_folder


def make(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights").write_text(text)
    return folder


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def hiding(monkeypatch):
    """Let removed files stay as ``.nfs…``, which are busy, as if each were open elsewhere; return a switch."""
    remove, switch = os.unlink, {"open": True}

    def unlink(path, *, dir_fd=None):
        if not switch["open"]:
            return remove(path, dir_fd=dir_fd)
        if str(path).startswith(".nfs"):
            raise OSError(16, "Device or resource busy", path)
        return os.rename(path, f".nfs{hash(path) & 0xFFFF:04x}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    return switch


def test_a_folder_is_replaced_although_the_old_one_cannot_be_removed(tmp_path, hiding):
    target = make(tmp_path / "adapter", "old")
    for text in ("new", "newer"):
        replace_folder(make(tmp_path / ".adapter.tmp", text), target)
        assert (target / "weights").read_text() == text
    assert len(leftovers(tmp_path)) == 2  # the names differ, so that one leftover is not in the way of the next
    hiding["open"] = False
    replace_folder(make(tmp_path / ".adapter.tmp", "newest"), target)
    assert (target / "weights").read_text() == "newest"
    assert leftovers(tmp_path) == []


def test_what_a_kill_between_the_renames_left_is_removed_and_nothing_else(tmp_path):
    make(tmp_path / ".adapter.old", "of an earlier version")
    make(tmp_path / ".adapter.0a1b2c3d.old", "of a kill")
    make(tmp_path / ".adapter2.0a1b2c3d.old", "of another folder")
    make(tmp_path / "adapter.old", "no leftover")
    replace_folder(make(tmp_path / ".adapter.tmp", "new"), tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".adapter2.0a1b2c3d.old", "adapter", "adapter.old"]


@pytest.mark.parametrize("number, words", [(116, "Stale file handle"), (5, "Input/output error"), (122, "quota")])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_once_leaves_the_file_and_succeeds_the_next_time(tmp_path, monkeypatch, call, number, words):
    path = tmp_path / "record.json"
    atomic_write_json(path, {"a": 1})
    real, failures = getattr(os, call), [OSError(number, words)]

    def failing(*arguments):
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OutputError, match=rf"cannot write .*record\.json: {words}"):
        atomic_write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert leftovers(tmp_path) == []
    atomic_write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}


@pytest.fixture
def two_clients(tmp_path):
    """Mount one folder twice; return the two mounts, each with kernel caches of its own for a second."""
    bindfs = shutil.which("bindfs")
    if bindfs is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("needs bindfs and the right to mount (Debian: apt install bindfs)")
    server = tmp_path / "server"
    mounts = [tmp_path / "one", tmp_path / "other"]
    for folder in (server, *mounts):
        folder.mkdir()
    options = "attr_timeout=1,entry_timeout=1,negative_timeout=1"
    mounted = []
    try:
        for mount in mounts:
            made = subprocess.run([bindfs, "-o", options, server, mount], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"bindfs cannot mount here: {made.stderr.strip()}")
            mounted.append(mount)
        yield mounts
    finally:
        for mount in mounted:
            command = ["umount", mount] if os.geteuid() == 0 else ["fusermount", "-u", mount]
            subprocess.run(command, check=True)


def test_on_a_mount_that_hides_open_files_a_folder_is_replaced(two_clients):
    one, other = two_clients
    target = make(one / "adapter", "old")
    with open(target / "weights") as reader:
        replace_folder(make(one / ".adapter.tmp", "new"), target)
        assert (target / "weights").read_text() == "new"
        assert reader.read() == "old"
        (leftover,) = leftovers(one)
        assert any(path.name.startswith(".fuse_hidden") for path in (one / leftover).iterdir())
    replace_folder(make(one / ".adapter.tmp", "newer"), target)
    assert leftovers(one) == []
    assert (other / "adapter" / "weights").read_text() == "newer"


def test_a_reader_with_a_stale_cache_sees_one_whole_version(two_clients):
    one, other = two_clients
    path, seen = other / "record.json", []
    assert not path.exists()  # and the client remembers that for a second
    for version in range(40):
        atomic_write_json(one / "record.json", {"version": version, "filler": ["x" * 50] * 100})
        if path.exists():
            document = read_json(path)
            assert len(document["filler"]) == 100
            seen.append(document["version"])
        time.sleep(0.05)
    assert seen == sorted(seen)
    deadline = time.monotonic() + 30
    while not path.exists() or read_json(path)["version"] != 39:
        assert time.monotonic() < deadline, "the other client never saw the last version"
        time.sleep(0.1)
