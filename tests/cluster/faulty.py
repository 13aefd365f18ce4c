"""Faults at known places of a run: files in a checkout say which variant fails, or waits once it has saved."""

import importlib.util
import shutil
from pathlib import Path

TESTS = Path(__file__).parents[1]

WAIT = '''

_save_state = save_state


def save_state(path, *rest, **more):
    """Save, then wait as long as the variant is held."""
    _save_state(path, *rest, **more)
    held = Path("faults") / f"hold-{path.parents[2].name}"
    if held.exists():
        held.with_name(f"{held.name}.reached").touch()
    while held.exists():
        import time

        time.sleep(0.05)
'''

FAIL = '''

_carry_out_all = carry_out_all


def carry_out_all(options, **more):
    """Fail where the variant is to fail."""
    for path in options.plans:
        if (Path("faults") / f"fail-{path.parts[-3]}").exists():
            raise SystemExit(f"{path}: failed as the test asked")
    return _carry_out_all(options, **more)
'''


def load(path: Path):
    """Return a module of another folder of the tests, whose names no package keeps apart."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Faults:
    """What goes wrong in a checkout, by variant."""

    def __init__(self, checkout: Path):
        self.folder = checkout / "faults"
        self.folder.mkdir()
        for name, text in (("state.py", WAIT), ("command.py", FAIL)):
            with open(checkout / "moelora" / "training" / name, "a", encoding="utf-8") as module:
                module.write(text)

    def hold(self, variant: str) -> None:
        """Let runs of a variant wait after each state that they save."""
        (self.folder / f"hold-{variant}").touch()
        (self.folder / f"hold-{variant}.reached").unlink(missing_ok=True)

    def is_held(self, variant: str) -> bool:
        """Return whether a run of the variant waits, or waited when it was killed."""
        return (self.folder / f"hold-{variant}.reached").exists()

    def fail(self, variant: str) -> None:
        """Let runs of a variant end with an error."""
        (self.folder / f"fail-{variant}").touch()

    def release(self, variant: str) -> None:
        """Let runs of a variant go on."""
        (self.folder / f"hold-{variant}").unlink()

    def mend(self) -> None:
        """Let all runs work."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
