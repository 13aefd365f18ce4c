"""Write the reference numbers again with the packages they come from.

In an environment of its own (the packages pin old libraries; --no-deps keeps those out)::

    python -m venv .venv-reference
    .venv-reference/bin/pip install torch transformers peft safetensors
    .venv-reference/bin/pip install --no-deps -r tests/reference/requirements.txt
    .venv-reference/bin/python tests/reference/regenerate.py

Everything is float64: see `packages_in_double` for what is changed in memory to have that. The numbers come out of
the packages' own classes; this folder holds no formula of theirs. ``--output`` writes somewhere else, to compare.
"""

import argparse
import importlib.metadata
import json
from pathlib import Path

import packages_in_double
from foreign_inputs import SETTINGS
from reference_files import DATA, FOLDER, PACKAGES, SCRIPTS, digest


def write_all(output: Path) -> dict:
    """Write every case, the facts and the manifest into a folder; return the manifest."""
    packages_in_double.install()
    import foreign_mixlora
    import foreign_mixtures
    import foreign_peft
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    cases = {**foreign_mixlora.CASES, **foreign_mixtures.CASES, **foreign_peft.CASES}
    facts = {}
    for name, make in cases.items():
        case = make()
        save_file(dict(sorted(case.tensors.items())), output / f"{name}.safetensors")
        facts[name] = {"says": make.__doc__, **case.facts}
    write_json(output / "facts.json", facts)
    manifest = {
        "settings": SETTINGS,
        "packages": {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES},
        "scripts": {name: digest(FOLDER / name) for name in SCRIPTS},
        "files": {path.name: digest(path) for path in sorted(output.iterdir()) if path.name != "manifest.json"},
    }
    write_json(output / "manifest.json", manifest)
    return manifest


def write_json(path: Path, document: dict) -> None:
    """Write readable JSON with sorted keys."""
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DATA)
    for package, version in write_all(parser.parse_args().output)["packages"].items():
        print(package, version)
