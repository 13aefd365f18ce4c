"""The built-in suite: a small world with its language, tasks and base models, all made from a seed.

It is synthetic. It proves the machinery and shows mechanism; it does not rank methods.
"""

from pathlib import Path

__all__ = ["build_model", "write_data"]


def write_data(out_dir: Path, seed: int = 0) -> None:
    """Write tasks and corpus; see :func:`moelora.tasks.builtin.data.write_data`."""
    from moelora.tasks.builtin.data import write_data as write

    write(out_dir, seed)


def build_model(model_doc: dict, data_dir: Path, out_dir: Path) -> None:
    """Train and save a base model; see :func:`moelora.tasks.builtin.models.build_model`. Imports torch."""
    from moelora.tasks.builtin.models import build_model as build

    build(model_doc, data_dir, out_dir)
