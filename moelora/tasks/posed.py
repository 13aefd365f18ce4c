"""Multiple-choice tasks under our own protocols: rows of the hub, read into questions and posed."""

from typing import Any

from moelora.errors import ConfigError, nearest
from moelora.tasks import Task
from moelora.tasks.labelled import content_hash, hub_dataset, resolved_commit
from moelora.tasks.prompts.posing import pose
from moelora.tasks.questions import read_questions


def load_posed_task(document: dict[str, Any]) -> Task:
    """Load a task whose prompts are built here (see :func:`moelora.tasks.load_task`)."""
    available = hub_dataset(document)
    examples = {}
    for key, split in document["splits"].items():
        if split not in available:
            raise ConfigError(f"task '{document['name']}' has no split '{split}'{nearest(split, set(available))}")
        questions = read_questions(document["prompts"], available[split], f"task '{document['name']}', split '{split}'")
        examples[key] = tuple(
            pose(question, document["prompts"], document["protocol"], index) for index, question in enumerate(questions)
        )
    content = content_hash(examples["train"], examples["evaluation"])
    return Task(document, examples["train"], examples["evaluation"], content, resolved_commit(available))
