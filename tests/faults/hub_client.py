"""A process that fetches models and data sets as moelora does: it reads what it is to do, and says what came of it.

Each line of stdin is a JSON list ``[kind, id, revision]``; each line of stdout ``{"sum": …}`` or ``{"error": …}``.
"""

import hashlib
import json
import sys

from moelora.errors import MoeloraError
from moelora.tasks.labelled import content_hash, labelled_examples


def fetch_model(name: str, revision: "str | None") -> str:
    from moelora.models import fetch_model

    document = {"name": "tested", "architecture": "decoder", "source": {"hub": name, "revision": revision}}
    model, _ = fetch_model(document, 0, None)
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def fetch_data(name: str, revision: "str | None") -> str:
    from moelora.tasks.labelled import fetch_dataset

    found = fetch_dataset({"hub": name, "revision": revision}, "task 'tested'", "the task file", "train")
    return content_hash(labelled_examples(found.to_list(), ["text"], "label", "classification"))


def main() -> None:
    fetch = {"models": fetch_model, "datasets": fetch_data}
    for line in sys.stdin:
        kind, name, revision = json.loads(line)
        try:
            answer = {"sum": fetch[kind](name, revision)}
        except MoeloraError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        except Exception as error:
            answer = {"unexpected": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
