"""What a process of the command line leaves unimported, and when it must not."""

import gc
import json
import subprocess
import sys

import pytest

from moelora.cli import main
from moelora.startup import leave_out_bitsandbytes, may_be_quantised, quick_imports

HUB = {"source": {"hub": "some/model", "revision": None}}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    return tmp_path


def write_plan(path, model):
    path.write_text(json.dumps({"model": model}))
    return path


@pytest.fixture
def untouched(monkeypatch):
    """Run with bitsandbytes not imported yet, and leave the process as it was."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "bitsandbytes")


def test_only_a_model_that_is_known_not_to_be_quantised_goes_without(folder):
    assert not may_be_quantised({"source": {"builtin": "tiny-encoder", "seed": 0}})
    assert not may_be_quantised({"source": {"hub": str(folder)}})
    assert may_be_quantised({"source": {"hub": str(folder)}, "quantisation": "nf4"})
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"load_in_4bit": True}}))
    assert may_be_quantised({"source": {"hub": str(folder)}})


def test_a_model_that_was_never_fetched_may_be_quantised(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert may_be_quantised({"source": {"hub": "nobody/nothing-of-this-name", "revision": None}})


def test_one_quantised_plan_keeps_it_for_all(folder, tmp_path, untouched):
    plain = write_plan(tmp_path / "plain.json", {"source": {"hub": str(folder)}})
    quantised = write_plan(tmp_path / "quantised.json", {"source": {"hub": str(folder)}, "quantisation": "int8"})
    assert not leave_out_bitsandbytes([plain, quantised])
    assert not leave_out_bitsandbytes([])
    assert not leave_out_bitsandbytes([tmp_path / "absent.json"])
    assert "bitsandbytes" not in sys.modules
    assert leave_out_bitsandbytes([plain])
    assert sys.modules["bitsandbytes"] is None


def test_a_process_of_the_command_line_asks_for_its_own_plans_and_a_call_from_python_does_not(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("moelora.startup.leave_out_bitsandbytes", asked.append)
    plan = tmp_path / "absent.json"
    assert main(["train", "--plans", str(plan)]) == 2
    monkeypatch.setattr(sys, "argv", ["moelora", "train", "--plans", str(plan)])
    assert main() == 2
    monkeypatch.setattr(
        sys, "argv", ["moelora", "tune", "--plan", str(plan), "--tune", "{}", "--out", str(tmp_path / "t.json")]
    )
    assert main() == 2
    assert asked == [[plan], [plan]]


def test_the_libraries_take_it_as_absent_and_the_compiler_stays_unimported(folder, tmp_path):
    plan = write_plan(tmp_path / "plan.json", {"source": {"hub": str(folder)}})
    script = (
        "import sys; from moelora.startup import leave_out_bitsandbytes\n"
        f"assert leave_out_bitsandbytes([{str(plan)!r}])\n"
        "import moelora.tuners; from peft.import_utils import is_bnb_available\n"
        "assert not is_bnb_available()\n"
        "assert 'torch._inductor.compile_fx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_is_imported_quickly_is_kept_from_the_garbage_collector():
    frozen = gc.get_freeze_count()
    try:
        with quick_imports():
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_process_with_a_life_of_its_own_keeps_its_garbage_collector(enabled):
    frozen = gc.get_freeze_count()
    if not enabled:
        gc.disable()
    try:
        with quick_imports(alone=enabled is False):
            assert gc.isenabled() is enabled
        assert (gc.isenabled(), gc.get_freeze_count()) == (enabled, frozen)
    finally:
        gc.enable()


@pytest.mark.parametrize("alone", [True, False])
def test_only_a_process_of_the_command_line_freezes_what_it_imported(alone):
    call = "main()" if alone else "main(sys.argv[1:])"
    code = f"import gc, sys; from moelora.cli import main; main and {call}; print(gc.get_freeze_count() > 0)"
    said = subprocess.run(
        [sys.executable, "-c", code, "collect", "--manifests", "absent", "--out", "absent"],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert said.splitlines()[-1] == str(alone)
