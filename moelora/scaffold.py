"""``moelora new-method``: create the files of a method from templates."""

import argparse
import keyword
import re
from pathlib import Path

from moelora.errors import ConfigError
from moelora.files import atomic_write_text
from moelora.methods import method_names

TEMPLATES = Path(__file__).with_name("templates")


def run(options: argparse.Namespace) -> None:
    """Create a method's page and YAML, and its rule where asked; print what to do next.

    Raises:
        ConfigError: the name cannot be used, the folder is no checkout, or a file is already there.
        OutputError: a file cannot be written.
    """
    files = new_method(options.name, options.root, rule=options.rule)
    for path in files:
        print(f"created {path}")
    print(f"next: fill in {files[0]}, then run `snakemake --cores all`; docs/adding-a-method.md leads through it")


def new_method(name: str, root: Path, *, rule: bool = False) -> list[Path]:
    """Create the files of a method and return their paths.

    Args:
        name: lower-case name of the method.
        root: the checkout in which the files are created.
        rule: whether the method needs a workflow rule of its own.

    Raises:
        ConfigError: the name cannot be used, the folder is no checkout, or a file is already there.
        OutputError: a file cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"'{name}' cannot be a method's name; expected lower-case letters, digits and _, as in my_method"
        )
    root = Path(root)
    if name in method_names():
        raise ConfigError(f"there is a method '{name}' already; choose another name")
    rules = root / "workflow" / "rules" / "methods"
    for folder in (root / "moelora" / "methods", root / "workflow" / "config" / "methods", rules):
        if not folder.is_dir():
            raise ConfigError(f"{root} is no checkout of moelora: {folder} is missing; run this in one, or give --root")
    plan = {
        root / "moelora" / "methods" / f"{name}.py": TEMPLATES / "method.py.template",
        root / "workflow" / "config" / "methods" / f"{name}.yaml": TEMPLATES / "method.yaml.template",
    }
    if rule:
        plan[rules / f"{name}.smk"] = rules / "_template.smk"
    for path in plan:
        if path.exists():
            raise ConfigError(f"{path} is there already; remove it or choose another name")
    for path, template in plan.items():
        atomic_write_text(path, template.read_text(encoding="utf-8").replace("METHOD_NAME", name))
    return list(plan)
