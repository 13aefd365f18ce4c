"""Throughput that was measured: the cost records of a suite that ran before on the same kind of card."""

from pathlib import Path
from typing import Any

from moelora.errors import RecordError
from moelora.files import read_json
from moelora.plans import layout


def read_throughput(root: Path, models: "list[str]") -> dict[tuple[str, str], dict[str, Any]]:
    """Return tokens a second in training and the device's name, by model and variant.

    Args:
        root: The suite's folder of results.
        models: Those that may have been measured.

    Raises:
        RecordError: a cost record is damaged.
    """
    found = {}
    for model in models:
        path = root / layout.costs(model)
        if not path.is_file():
            continue
        document = read_json(path, "costs")
        try:
            device = document["environment"]["device_name"]
            for variant, entry in document["variants"].items():
                if entry["status"] == "finished":
                    found[model, variant] = {"tokens_per_second": entry["tokens_per_second"], "device": device}
        except (KeyError, TypeError) as error:
            raise RecordError(f"costs {path} lack {error}; delete the file and measure again") from error
    return found
