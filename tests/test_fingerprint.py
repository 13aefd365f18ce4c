import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moelora import fingerprint as module
from moelora.errors import ConfigError
from moelora.fingerprint import TRAINING, closure, fingerprint, method_fingerprint, variant_fingerprint
from moelora.methods import method_names
from moelora.plans.variants import Variant

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of the package whose files a test may edit; fingerprints are taken of the copy."""
    root = tmp_path / "moelora"
    shutil.copytree(REPOSITORY / "moelora", root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "ROOT", root)
    module.clear_cache()
    yield root
    module.clear_cache()


def fingerprints() -> dict[str, str]:
    module.clear_cache()
    return {name: method_fingerprint(name) for name in method_names()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def changed(before: dict[str, str]) -> set[str]:
    after = fingerprints()
    return {name for name in before if before[name] != after[name]}


def test_comment_docstring_and_layout_change_nothing(source):
    before = fingerprints()
    page = source / "methods" / "mixlora.py"
    text = page.read_text(encoding="utf-8")
    page.write_text(f"# a comment\n\n\n{text}\n\n# another\n", encoding="utf-8")
    edit(page, "    return _mixlora.attach(", "    # why\n    return _mixlora.attach(")
    edit(page, '"""Wrap every', '"""Put experts around every')
    loop = source / "training" / "loop.py"
    loop.write_text(
        '"""Another docstring."""\n' + loop.read_text(encoding="utf-8").split('"""', 2)[2], encoding="utf-8"
    )
    assert changed(before) == set()


def test_wording_of_a_method_changes_nothing(source):
    before = fingerprints()
    edit(source / "methods" / "mixlora.py", 'title="MixLoRA"', 'title="MixLoRA (8 experts)"')
    edit(source / "methods" / "mixlora.py", 'origin="paper and', 'origin="the paper and')
    assert changed(before) == set()


def test_behavioural_edit_of_a_page_changes_that_method_only(source):
    before = fingerprints()
    edit(source / "methods" / "mixlora.py", "experts: int = setting(8,", "experts: int = setting(16,")
    assert changed(before) == {"mixlora"}


def test_edit_of_a_shared_part_changes_the_methods_that_use_it(source):
    before = fingerprints()
    path = source / "tuners" / "mixture_layer.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n\nEXTRA = 1\n", encoding="utf-8")
    moved = changed(before)
    assert {"dense_moe_lora", "lora_smoe"} <= moved
    assert not moved & {"majority", "base", "full", "lora", "dora"}


def test_edit_of_training_changes_every_method(source):
    before = fingerprints()
    path = source / "training" / "loop.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n\nEXTRA = 1\n", encoding="utf-8")
    assert changed(before) == set(before)


def test_edit_of_reporting_changes_no_method(source):
    before = fingerprints()
    path = source / "reporting" / "tables.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n\nEXTRA = 1\n", encoding="utf-8")
    report = fingerprint(["moelora.reporting.command"])
    assert changed(before) == set()
    edit(path, "EXTRA = 1", "EXTRA = 2")
    module.clear_cache()
    assert fingerprint(["moelora.reporting.command"]) != report


def test_new_method_and_new_export_change_no_other_method(source):
    before = fingerprints()
    shutil.copy(source / "methods" / "lora.py", source / "methods" / "another.py")
    (source / "tuners" / "another.py").write_text("class AnotherConfig:\n    pass\n", encoding="utf-8")
    package = source / "tuners" / "__init__.py"
    text = package.read_text(encoding="utf-8")
    package.write_text(f"{text}\nfrom moelora.tuners.another import AnotherConfig\n", encoding="utf-8")
    assert changed(before) == set()


def test_closure_holds_lazy_imports_and_registered_classes():
    reached = closure([*TRAINING, "moelora.methods.dense_moe_lora"])
    assert "moelora.training.loop" in reached
    assert "moelora.tuners.mixture_layer" in reached  # known to PEFT by registration alone
    assert "moelora.evaluation.metrics" in reached
    assert not reached & {f"moelora.methods.{name}" for name in method_names() if name != "dense_moe_lora"}
    assert not any(name.startswith(("moelora.reporting", "moelora.cli")) for name in reached)


def test_matched_lora_depends_on_the_mixture_that_it_is_matched_to(source):
    mixture = Variant("mixlora", "mixlora", 1, {}, None)
    control = Variant("lora-match-mixlora", "lora", 1, {}, None, mixture)
    before = variant_fingerprint(control)
    edit(source / "methods" / "mixlora.py", "experts: int = setting(8,", "experts: int = setting(16,")
    module.clear_cache()
    assert variant_fingerprint(control) != before


def test_unknown_module_and_broken_source_are_named(source):
    with pytest.raises(ConfigError, match=r"no module 'moelora\.nothing'"):
        fingerprint(["moelora.nothing"])
    (source / "methods" / "mixlora.py").write_text("def broken(:\n", encoding="utf-8")
    module.clear_cache()
    with pytest.raises(ConfigError, match=r"mixlora\.py is not valid Python \(line 1"):
        method_fingerprint("mixlora")


def test_fingerprint_does_not_depend_on_the_hash_seed():
    code = "from moelora.fingerprint import method_fingerprint; print(method_fingerprint('mixlora'))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {method_fingerprint("mixlora") + "\n"}
