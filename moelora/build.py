"""``moelora data`` and ``moelora base``: what the built-in suite needs before anything can be trained."""

import argparse

from moelora.config import load_yaml
from moelora.errors import ConfigError, nearest

SOURCES = ("tiny",)


def run_data(options: argparse.Namespace) -> None:
    """Generate the data of a built-in source.

    Raises:
        ConfigError: there is no such source.
        OutputError: the folder cannot be written.
    """
    from moelora.tasks.builtin import write_data

    if options.suite_task_source not in SOURCES:
        name = options.suite_task_source
        raise ConfigError(f"unknown built-in task source '{name}'{nearest(name, SOURCES)}")
    write_data(options.out, options.seed)


def run_base(options: argparse.Namespace) -> None:
    """Build and pretrain a built-in base model.

    Raises:
        ConfigError: the model file does not describe a built-in model.
        OutputError: the folder cannot be written.
    """
    from moelora.tasks.builtin import build_model

    document = load_yaml(options.model)
    if "builtin" not in document.get("source", {}):
        raise ConfigError(
            f"{options.model}: 'source' is {document.get('source')!r}, expected {{builtin: name, seed: 0}}; "
            "models from the hub are loaded, not built"
        )
    build_model(document, options.data, options.out)
