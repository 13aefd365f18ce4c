import json

import pytest

from moelora.errors import OutputError, RecordError
from moelora.files import atomic_write_json, atomic_write_text, read_json, write_if_different
from moelora.records import read_record


def test_a_truncated_record_is_named(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"schema": 1, "id": ')
    with pytest.raises(RecordError, match=r"record\.json is truncated or not JSON"):
        read_record(path)
    with pytest.raises(RecordError, match="does not exist"):
        read_record(tmp_path / "none.json")


def test_a_record_with_an_unknown_key_or_status_is_refused(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema": 1, "colour": "red"}))
    with pytest.raises(RecordError, match=r"record\.json is no record of schema 1"):
        read_record(path)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file.json"
    atomic_write_json(path, {"b": 1, "a": 2})
    assert path.read_text() == '{\n "a": 2,\n "b": 1\n}\n'

    import os

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*file\.json: No space left on device"):
        atomic_write_json(path, {"c": 3})
    assert read_json(path) == {"a": 2, "b": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_a_path_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "results").write_text("a file, not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        atomic_write_text(tmp_path / "results" / "tiny" / "x.json", "{}")


def test_equal_content_is_not_written_again(tmp_path):
    path = tmp_path / "plan.json"
    assert write_if_different(path, "one")
    stamp = path.stat().st_mtime_ns
    assert not write_if_different(path, "one")
    assert path.stat().st_mtime_ns == stamp
    assert write_if_different(path, "two")
