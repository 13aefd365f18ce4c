"""Multiple-choice tasks as lm-eval defines them.

lm-eval's own task object renders prompts and choices, for training too: the tokens that are trained on are those that
are scored.
"""

import contextlib
import copy
import functools
import json
import re
from pathlib import Path
from typing import Any

from moelora import hub
from moelora.errors import ConfigError, DataUnavailableError, RecordError, first_line
from moelora.files import canonical_json
from moelora.sums import check_sums
from moelora.tasks import Choice, Task
from moelora.tasks.labelled import content_hash, resolved_commit


def lm_eval_name(document: dict[str, Any]) -> str:
    """Return the task's name in lm-eval."""
    source = document["source"]
    return source["lm_eval"] if "lm_eval" in source else "moelora_" + document["name"].removeprefix("tiny-")


def lm_eval_request(document: dict[str, Any]) -> "str | dict[str, Any]":
    """Return what lm-eval is asked to load: a task's name, or the task with another configuration or revision.

    lm-eval takes changes of its own tasks only as members of a group.
    """
    name, source = lm_eval_name(document), document["source"]
    changes: dict[str, Any] = {}
    if source.get("config"):
        changes["dataset_name"] = source["config"]
    if source.get("revision"):
        changes["dataset_kwargs"] = {"revision": source["revision"]}
    return {"group": f"moelora_{document['name']}", "task": [{"task": name, **changes}]} if changes else name


@functools.cache
def shipped_folder(name: str) -> "Path | None":
    """Return the folder of lm-eval's own file that defines a task; None where no file does.

    Few files are called as their task is, and some are called as another folder's task, so the text decides.
    """
    import lm_eval

    shipped = Path(lm_eval.__file__).parent / "tasks"
    defines = re.compile(rf"^task: *{re.escape(name)} *$", re.MULTILINE)
    for pattern in (f"**/{name}.yaml", f"**/{name}/*.yaml", "**/*.yaml"):
        for path in sorted(shipped.glob(pattern)):
            if defines.search(path.read_text(encoding="utf-8", errors="ignore")):
                return path.parent
    return None


def task_manager(documents: list[dict[str, Any]], data_dir: "Path | None") -> Any:
    """Return an lm-eval task manager that knows the given tasks.

    Indexing all of lm-eval takes seconds, so only the folders of the tasks are indexed where they are found.
    """
    from lm_eval.tasks import TaskManager

    folders: list[str] = []
    for document in documents:
        name = lm_eval_name(document)
        if "lm_eval" not in document["source"]:
            if data_dir is None or not (Path(data_dir) / "lm_eval" / f"{name}.yaml").is_file():
                raise DataUnavailableError(
                    f"lm-eval task file {name}.yaml not found below {data_dir}; write it with 'moelora data --out DIR' "
                    "and pass --data DIR"
                )
            check_sums(data_dir, f"lm_eval/{name}.yaml", f"decoder/{name.removeprefix('moelora_')}/*.jsonl")
            folders.append(str(Path(data_dir) / "lm_eval"))
        else:
            folder = shipped_folder(name)
            if folder is None:
                return TaskManager(include_path=sorted(set(folders)) or None)
            folders.append(str(folder))
    return TaskManager(include_path=sorted(set(folders)), include_defaults=False)


@functools.cache
def _lm_eval_task(document: str, data_dir: "Path | None") -> Any:
    import lm_eval.utils

    # lm-eval compiles the same template anew for every field of every item; compiled once they render the same
    compiler = lm_eval.utils.env.from_string
    if not hasattr(compiler, "cache_info"):
        lm_eval.utils.env.from_string = functools.lru_cache(maxsize=256)(compiler)
    content = json.loads(document)
    name = lm_eval_name(content)
    source = content.get("hub") or {}  # whose data lm-eval's own file names
    try:
        with hub.reached("dataset", source["id"], source["revision"]) if source else contextlib.nullcontext():
            task = task_manager([content], data_dir).load([lm_eval_request(content)])["tasks"][name]
        if source:
            hub.check_prepared(source["id"], task.dataset)
    except (DataUnavailableError, RecordError):
        raise
    except hub.AlteredError as error:
        raise DataUnavailableError(
            f"the data of lm-eval task '{name}' are not what their commit holds: {error}"
        ) from error
    except Exception as error:  # lm-eval and the hub clients raise many unrelated types here
        raise DataUnavailableError(
            f"lm-eval task '{name}'{' of data set ' + source['id'] if source else ''} cannot be loaded: "
            f"{type(error).__name__}: {first_line(error)[:300]}. {hub.advice('a task file of your own')}"
        ) from error
    # what lm-eval's command line does to a task before it is scored, with its default seed
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=1234)
    return task


def lm_eval_task(document: dict[str, Any], data_dir: "Path | None") -> Any:
    """Return lm-eval's task object with its data loaded; a process loads each task once.

    Raises:
        DataUnavailableError: lm-eval does not know the task or its data cannot be had.
        RecordError: its built-in data were changed since they were written.
    """
    return _lm_eval_task(canonical_json(document), data_dir)


def scored_task(task: Task, data_dir: "Path | None") -> Any:
    """Return lm-eval's task object over what is scored of a task: its evaluation split, or rows held out of train."""
    ours = lm_eval_task(task.document, data_dir)
    if task.held_out is None:
        return ours
    docs = ours.training_docs()
    held = [docs[row] for row in task.held_out]
    ours = copy.copy(ours)  # the object over the official split is shared by all of the process
    ours.has_test_docs, ours.test_docs = (lambda: True), (lambda: held)
    return ours


def render(task: Any, docs: Any) -> tuple[Choice, ...]:
    """Return the examples of a split as lm-eval renders them.

    In WinoGrande the choices are beginnings of the sentence and all have one continuation: the prompt of such an
    example is the right beginning.
    """
    delimiter = task.config.target_delimiter
    examples = []
    for index, doc in enumerate(docs):
        target = task.doc_to_target(doc)
        choices = task.doc_to_choice(doc)
        if task.multiple_input:
            answer = task.doc_to_text(doc)
            examples.append(Choice(index, choices[answer], (delimiter + target,) * len(choices), answer))
            continue
        answer = choices.index(target) if isinstance(target, str) and not target.isdigit() else int(target)
        continuations = tuple(delimiter + choice for choice in choices)
        examples.append(Choice(index, task.doc_to_text(doc), continuations, answer))
    return tuple(examples)


def load_choice_task(document: dict[str, Any], data_dir: "Path | None") -> Task:
    """Load a multiple-choice task (see :func:`moelora.tasks.load_task`)."""
    task = lm_eval_task(document, data_dir)
    if not task.has_training_docs():
        raise ConfigError(f"lm-eval task '{lm_eval_name(document)}' has no training split, so it cannot be trained on")
    train = render(task, task.training_docs())
    evaluation = render(task, task.test_docs() if task.has_test_docs() else task.validation_docs())
    return Task(document, train, evaluation, content_hash(train, evaluation), resolved_commit(task.dataset))
