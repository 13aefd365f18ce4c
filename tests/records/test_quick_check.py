"""The quick check of records beside the full one, on records that are right and on hundreds that are nearly right."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moelora.errors import RecordError
from moelora.records import SCHEMA_FILE, read_record, validate_record
from moelora.records.quick import fits_schema
from moelora.validation import load_validator

FULL = load_validator(SCHEMA_FILE)

SCORE = {
    "metrics": {"accuracy": 0.5}, "main_metric": "accuracy", "n_items": 10, "majority": {"accuracy": 0.5},
    "chance": 0.5, "interval": [0.4, 0.6], "within_chance": True, "protocol": "glue", "split": "validation",
    "synthetic": False,
}  # fmt: skip
RECORD = {
    "schema": 1, "id": "0" * 16, "status": "finished", "reason": None, "suite": "s", "model": "m", "task": "t",
    "variant": "v", "method": "lora", "regime": "published", "seed": 0, "plan": {}, "plan_hash": "0" * 16,
    "fingerprint": "f", "parameters": {"trainable": 1, "active": 1, "total": 2, "parts": {"head": 1}},
    "training": {"seconds": 1.5, "steps": 3, "tokens": 4, "examples": 5, "loss_curve": [[1, 0.5], [2, 0.25]]},
    "costs": {"adapter_bytes": 4}, "scores": {"t": SCORE}, "declarations": ["said"], "environment": {},
    "routing": [
        {"module": "a", "layer": 0, "experts": 2, "load": {"t": [0.5, 0.5]}, "nmi": None, "nmi_permuted_mean": 0.1,
         "nmi_permuted_p95": 0.2}
    ],
}  # fmt: skip
WRONG = st.sampled_from(
    [None, True, 1, 1.0, -1, 0.5, "x", "0" * 16, "0" * 16 + "\n", [], [1], [[1, "x"]], {}, {"x": 1}]
)


def places(document, path=()):
    """Yield the path of every value in a document."""
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def test_a_right_record_fits():
    assert list(FULL.iter_errors(RECORD)) == []
    assert fits_schema(RECORD)
    whole = copy.deepcopy(RECORD)
    whole["scores"]["t"]["metrics"]["accuracy"] = 1.0  # a float may be whole where a number is asked for
    assert fits_schema(whole)
    whole["scores"]["t"]["n_items"] = 10.0  # and may not where a whole number is
    assert not fits_schema(whole)


@settings(max_examples=600, deadline=None)
@given(place=st.sampled_from(list(places(RECORD))), value=WRONG, how=st.sampled_from(["replace", "remove", "add"]))
def test_what_fits_quickly_fits_fully(place, value, how):
    document = copy.deepcopy(RECORD)
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    if not place or how == "add":
        target = parent[place[-1]] if place else document
        if isinstance(target, list):
            target.append(value)
        elif isinstance(target, dict):
            target["unheard_of"] = value
    elif how == "remove":
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    assert not fits_schema(document) or not list(FULL.iter_errors(document))


def test_what_does_not_fit_is_explained_by_the_full_check(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**RECORD, "seed": True}))
    with pytest.raises(RecordError, match=r"record\.json .*seed"):
        read_record(path)
    for wrong in (True, 1.0):
        with pytest.raises(RecordError, match="schema"):
            validate_record({**RECORD, "schema": wrong})
