"""What a flipped bit or a cut file does to what runs and allocations leave."""

import json

import pytest

from moelora.errors import RecordError
from moelora.files import SEAL, read_json, write_sealed_json
from moelora.plans.resolve import read_allocation
from moelora.sums import SUMS_FILE, check_sums, folder_sums, write_sums

DOCUMENT = {"score": 0.8125, "curve": [[4, 1.5], [8, 1e-05]], "text": "ä \U0001f600", "none": None, "yes": True}


def flips(data: bytes):
    """Yield the data with each of their bits turned round, one at a time."""
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_a_sealed_document_comes_back_as_it_was(tmp_path):
    path = tmp_path / "document.json"
    write_sealed_json(path, DOCUMENT)
    assert SEAL in json.loads(path.read_text(encoding="utf-8"))
    assert read_json(path) == DOCUMENT
    write_sealed_json(path, {"by number": {10: "a", 9: "b"}, "pair": (1, 2)})
    assert read_json(path) == {"by number": {"9": "b", "10": "a"}, "pair": [1, 2]}


def test_no_single_flipped_bit_of_a_sealed_document_is_taken_for_its_content(tmp_path):
    path = tmp_path / "document.json"
    write_sealed_json(path, DOCUMENT)
    refused = harmless = 0
    for data in flips(path.read_bytes()):
        path.write_bytes(data)
        try:
            found = read_json(path, "document")
        except RecordError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            # in the key of the seal itself, or between two words: what is said is still what was written
            assert {key: value for key, value in found.items() if key in DOCUMENT} == DOCUMENT
            harmless += 1
    assert refused > 10 * harmless


def test_a_truncated_document_is_refused_wherever_it_ends(tmp_path):
    path = tmp_path / "document.json"
    write_sealed_json(path, DOCUMENT)
    data = path.read_bytes()
    for length in range(len(data) - 1):  # the last byte is the end of the line
        path.write_bytes(data[:length])
        with pytest.raises(RecordError, match=r"document\.json is truncated or not JSON"):
            read_json(path)


def test_documents_without_a_seal_are_read_as_before(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(DOCUMENT))
    assert read_json(path) == DOCUMENT
    write_sealed_json(path, DOCUMENT)
    changed = {**json.loads(path.read_text(encoding="utf-8")), "score": 0.9}
    path.write_text(json.dumps(changed))
    with pytest.raises(RecordError, match=r"old\.json was changed since it was written.*without the key 'content_sha"):
        read_json(path)
    del changed[SEAL]  # how somebody says that a change is meant
    path.write_text(json.dumps(changed))
    assert read_json(path)["score"] == 0.9


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(RecordError, match=r"file .*folder\.json cannot be read: Is a directory"):
        read_json(tmp_path / "folder.json")


def test_an_allocation_with_another_digit_places_nothing(tmp_path):
    path = tmp_path / "allocation.json"
    write_sealed_json(path, {"schema": 2, "experts": {"layer.0": 4, "layer.1": 8}})
    assert read_allocation(path) == {"layer.0": 4, "layer.1": 8}
    path.write_text(path.read_text().replace('"layer.1": 8', '"layer.1": 9'))
    with pytest.raises(RecordError, match=r"allocation .*allocation\.json was changed since it was written"):
        read_allocation(path)


def test_built_folders_are_checked_against_their_sums(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "one.jsonl").write_text("1\n")
    (tmp_path / "deep" / "two.jsonl").write_text("2\n")
    check_sums(tmp_path)  # as older versions left it
    write_sums(tmp_path)
    assert sorted(folder_sums(tmp_path)) == ["deep/two.jsonl", "one.jsonl"]
    check_sums(tmp_path)
    (tmp_path / "deep" / "two.jsonl").write_text("3\n")
    check_sums(tmp_path, "one.jsonl")
    for names in ((), ("deep/*.jsonl",), ("deep/two.jsonl",)):
        with pytest.raises(RecordError, match=r"two\.jsonl is truncated or was changed since it was written: found"):
            check_sums(tmp_path, *names)
    (tmp_path / "one.jsonl").unlink()
    with pytest.raises(RecordError, match=r"one\.jsonl is missing; delete the folder .* and build it again"):
        check_sums(tmp_path, "one.jsonl")
    (tmp_path / SUMS_FILE).write_text((tmp_path / SUMS_FILE).read_text().replace('"schema": 1', '"schema": 3'))
    with pytest.raises(RecordError, match=r"sums\.json was changed"):
        check_sums(tmp_path)
