"""Plans as text: what `moelora.files.pretty_json` prints, for many plans that share most of their parts.

The runs of one variant differ in their seed; model, tasks and settings are the same objects in each of their plans.
Python prints indented JSON slowly, so each shared part is printed once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from moelora.files import pretty_json


def print_plans(plans: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Yield each plan's path and its text, one at a time: the texts of thousands of plans are large.

    Args:
        plans: path and plan.
    """
    printed: dict[int, tuple[Any, str]] = {}  # with the part itself, so that its id stays its own
    for path, plan in plans:
        lines = []
        for key in sorted(plan):
            part = plan[key]
            if id(part) not in printed:
                # a line break in the text is one of the layout: those of strings are escaped
                printed[id(part)] = (part, pretty_json(part)[:-1].replace("\n", "\n "))
            lines.append(f" {json.dumps(key, ensure_ascii=False)}: {printed[id(part)][1]}")
        yield path, "{\n" + ",\n".join(lines) + "\n}\n"
