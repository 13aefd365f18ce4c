"""``moelora data`` and ``moelora base``: the built-in suite's data and base models."""

import argparse

from moelora.errors import ConfigError, nearest
from moelora.tasks.builtin import build_model, write_data

SOURCES = ("tiny",)


def run_data(options: argparse.Namespace) -> int:
    """Write the built-in data.

    Raises:
        ConfigError: there is no source of that name.
    """
    name = options.suite_task_source
    if name not in SOURCES:
        raise ConfigError(f"unknown built-in source '{name}'{nearest(name, SOURCES)}")
    write_data(options.out, options.seed)
    return 0


def run_base(options: argparse.Namespace) -> int:
    """Build a base model from its seed and save it.

    Raises:
        ConfigError: the model file has no built-in source, or none of that name.
    """
    from moelora.config import ConfigDir, check, find_config_dir, load_yaml
    from moelora.meaning import check_meaning
    from moelora.progress import start_logging

    start_logging()
    document = load_yaml(options.model)
    config = ConfigDir(options.model.resolve().parents[1])
    schemas = (config if config.schema_dir.is_dir() else find_config_dir()).schema_dir
    check(document, "model", schemas, options.model)
    check_meaning("model", document, options.model)
    if "builtin" not in document["source"]:
        raise ConfigError(f"{options.model} names a model of the hub; only built-in models are built")
    build_model(document, options.data, options.out)
    return 0
