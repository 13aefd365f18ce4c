"""General text that no task is about: what a decoder's loss is measured on before and after fine-tuning."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, DataUnavailableError, nearest
from moelora.sums import check_sums

HELD_OUT = Path("corpus") / "decoder-held-out.jsonl"


@dataclasses.dataclass(frozen=True)
class Text:
    """Documents in their stored order, where they come from, and the SHA-256 over them."""

    name: str
    documents: tuple[str, ...]
    content: str


def load_text(source: Mapping[str, Any], data_dir: "Path | None") -> Text:
    """Load the text that a plan names.

    Args:
        source: ``{"builtin": "corpus", "limit": …}``, or ``hub``, ``config``, ``revision``, ``split``, ``field`` and
            ``limit``. Rows without text are left out; the first ``limit`` others are used.
        data_dir: where the built-in data lie.

    Raises:
        DataUnavailableError: the text cannot be had.
        ConfigError: the data set has no such field, or no text in it.
    """
    if "builtin" in source:
        name, rows = f"{source['builtin']}, held out", _builtin_rows(data_dir)
    else:
        name, rows = _hub_rows(source)
    documents = tuple([row for row in rows if row and row.strip()][: source["limit"]])
    if not documents:
        raise ConfigError(
            f"the text '{name}' of 'forgetting' has no row with text in it; choose another field or split"
        )
    content = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    return Text(name, documents, content)


def _builtin_rows(data_dir: "Path | None") -> list[str]:
    path = None if data_dir is None else Path(data_dir) / HELD_OUT
    if path is None or not path.is_file():
        raise DataUnavailableError(
            f"{path or 'a data folder'} is needed for the loss on held-out text, and is not there; write it with "
            f"'moelora data --out {data_dir or 'DIR'}' and pass --data"
        )
    check_sums(data_dir, HELD_OUT.as_posix())
    lines = path.read_text(encoding="utf-8").splitlines()
    return [" ".join(json.loads(line)["sentences"]) for line in lines]


def _hub_rows(source: Mapping[str, Any]) -> tuple[str, list[str]]:
    from moelora.tasks.labelled import fetch_dataset

    rows = fetch_dataset(source, "'forgetting.text'", "the suite", source["split"])
    field = source["field"]
    if field not in rows.column_names:
        raise ConfigError(
            f"data set '{source['hub']}' of 'forgetting.text' has no field '{field}'{nearest(field, rows.column_names)}"
        )
    name = "/".join(part for part in (source["hub"], source.get("config"), source["split"]) if part)
    return name, rows[field]
