"""Where tasks come from: lm-eval's own files, and the commits of hub data."""

from types import SimpleNamespace

import pytest

from moelora.tasks.choice import shipped_folder
from moelora.tasks.labelled import resolved_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "name, folder", [("arc_easy", "arc"), ("winogrande", "winogrande"), ("social_iqa", "siqa"), ("boolq", "boolq")]
)
def test_lm_evals_file_is_found_by_its_text(name, folder):
    """A file called social_iqa.yaml defines a task of another name; social_iqa stands in siqa.yaml."""
    assert shipped_folder(name).name == folder
    assert any(f"task: {name}\n" in path.read_text() for path in shipped_folder(name).glob("*.yaml"))


def test_no_file_for_an_unknown_task():
    assert shipped_folder("no_such_task_anywhere") is None


def test_the_commit_stands_in_the_path_of_what_the_client_prepared():
    path = f"/cache/datasets/allenai___ai2_arc/ARC-Easy/0.0.0/{COMMIT}/ai2_arc-train.arrow"
    split = SimpleNamespace(cache_files=[{"filename": path}])
    assert resolved_commit({"empty": SimpleNamespace(cache_files=[]), "train": split}) == COMMIT
    local = SimpleNamespace(cache_files=[{"filename": "/data/json/default-0123456789abcdef/train.arrow"}])
    assert resolved_commit({"train": local}) == ""
