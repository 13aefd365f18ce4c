"""``moelora preflight``: what a suite will run and take, and what cannot work, before anything is loaded."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from moelora.config import ConfigDir, load_yaml
from moelora.errors import ConfigError
from moelora.files import atomic_write_json, read_json
from moelora.plans import expand
from moelora.preflight.devices import choose_device
from moelora.preflight.estimate import estimate
from moelora.preflight.show import show

WRITTEN = ("schema", "fingerprints", "expanded")  # what suite.json holds beside the suite


def run(options: argparse.Namespace) -> int:
    """Print the estimate of a suite, write it where asked, and refuse a suite that cannot work.

    Raises:
        ConfigError: the suite says something that cannot be meant, a data set's size is not known, or something does
            not fit on the card; the message says which setting would.
        RecordError: a cost record is damaged.
    """
    suite = read_suite(options.suite)
    config_dir = ConfigDir(options.config_dir)
    expansion = expand(suite, config_dir, source=str(options.suite))
    asked: dict[str, Any] = dict(expansion.suite["preflight"] or {})
    given = {"device": options.device, "device_memory_gib": options.device_memory_gib, "teraflops": options.teraflops}
    given |= {"devices": options.devices}
    if options.device:  # another card than the suite's: nothing that the suite says of its own holds
        asked = {}
    asked |= {key: value for key, value in given.items() if value is not None}
    device = choose_device(asked)
    found = estimate(expansion, config_dir, device, options.results / expansion.suite["name"], asked.get("devices", 1))
    found["free_bytes"] = free_bytes(options.results)
    if found["results_bytes"] > found["free_bytes"]:
        found["refused"].append(
            f"disk: adapters and training states come to {found['results_bytes'] / 1e9:.1f} GB, and "
            f"{found['free_bytes'] / 1e9:.1f} GB are free under {options.results}; name another folder with 'results'"
        )
    print(json.dumps(found, sort_keys=True) if options.json else show(found), end="")
    if found["refused"]:
        more = f" (and {len(found['refused']) - 1} more)" if len(found["refused"]) > 1 else ""
        raise ConfigError(f"suite '{found['suite']}' cannot work: {found['refused'][0]}{more}")
    if options.out:
        atomic_write_json(options.out, found)
    return 0


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a folder lies on, or will lie on."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def read_suite(path: Path) -> dict[str, Any]:
    """Return a suite from its YAML file, or from the suite.json that `moelora plan` writes.

    Raises:
        ConfigError: the file cannot be read as a suite.
    """
    if path.suffix != ".json":
        return load_yaml(path)
    return {key: value for key, value in read_json(path, "suite").items() if key not in WRITTEN}
