"""Score one model on the tasks of its plan."""

import collections
from typing import Any

import numpy

from moelora.evaluation.labelled import predict
from moelora.evaluation.metrics import CHANCE_ZERO, item_interval, score
from moelora.tasks import Task
from moelora.training.encode import encode

ROUTED_ITEMS = 64  # items per task through which routing is watched: enough for shares to two digits


def constant_answer(task: Task) -> float:
    """Return the commonest answer of the training split, or its mean grade."""
    if task.kind == "regression":
        return float(numpy.mean([example.label for example in task.train]))
    answers = [example.answer if task.kind == "multiple_choice" else example.label for example in task.train]
    counts = collections.Counter(answers)
    return max(sorted(counts), key=counts.__getitem__)


def evaluation_examples(task: Task, limit: "int | None") -> list:
    """Return the examples that are scored, the first ``limit`` of the evaluation split."""
    return list(task.evaluation[:limit])


def gold(task: Task, examples: list) -> list[float]:
    """Return the right answers."""
    return [example.answer if task.kind == "multiple_choice" else example.label for example in examples]


def task_scores(
    task: Task, items: list[tuple], metrics: "dict[str, float] | None", limit: "int | None", run: str
) -> dict[str, Any]:
    """Return the record's entry for one scored task.

    Args:
        task: the task.
        items: ``(item, label, prediction, correct)``.
        metrics: metrics that the scorer computed itself (lm-eval); the others are computed here.
        limit: how many items were scored at most.
        run: names the run for the bootstrap.
    """
    document = task.document
    labels, predictions = [item[1] for item in items], [item[2] for item in items]
    main = document["main_metric"]
    measured = metrics or {name: score(name, labels, predictions) for name in document["metrics"]}
    answer = constant_answer(task)
    names = [name for name in document["metrics"] if name in measured]
    majority = {name: score(name, labels, [answer] * len(labels)) for name in names}
    if task.kind == "multiple_choice":
        uniform = float(numpy.mean([1 / len(example.continuations) for example in evaluation_examples(task, limit)]))
        chance = max(uniform, majority[main])
    else:
        chance = 0.0 if main in CHANCE_ZERO else majority[main]
    if main == "acc_norm":  # items carry plain accuracy; the normalised metric's interval is binomial on its own value
        hits = round(measured[main] * len(items))
        interval = item_interval(main, [1] * len(items), [1] * hits + [0] * (len(items) - hits), purpose=run)
    else:
        interval = item_interval(main, labels, predictions, purpose=run)
    return {
        "metrics": {name: measured[name] for name in names},
        "main_metric": main,
        "n_items": len(items),
        "majority": majority,
        "chance": chance,
        "interval": interval,
        "within_chance": bool(interval[0] <= chance),
        "protocol": document["protocol"],
        "split": document["splits"]["evaluation"] if "splits" in document else "evaluation",
        "synthetic": bool(document.get("synthetic", False)),
        "task_version": document["version"],
        "content": task.content,
        **({"commit": task.commit} if task.commit else {}),
    }


def score_model(
    model: Any,
    tokenizer: Any,
    tasks: list[Task],
    plan: dict[str, Any],
    *,
    data_dir: Any,
    device: Any,
    reads_input: bool,
) -> tuple[dict[str, Any], list[tuple]]:
    """Score a model on every task of its plan.

    Returns:
        The record's ``scores`` by task, and item rows ``(task, item, label, prediction, correct)``.
    """
    evaluation, limit = plan["evaluation"], plan["evaluation"].get("limit")
    max_length = plan["training"]["max_length"]
    run = f"{plan['model']['name']}/{plan['task']}/{plan['variant']}/{plan['regime']}/{plan['seed']}"
    scored: dict[str, dict[str, Any]] = {}
    if reads_input and tasks[0].kind == "multiple_choice":
        scored = choose(model, tokenizer, tasks, data_dir, evaluation["batch_size"], limit, max_length)
    for task in tasks:
        if task.name in scored:
            continue
        examples = evaluation_examples(task, limit)
        if reads_input:
            encoded = encode(task, examples, tokenizer, max_length)
            predictions = predict(
                model,
                encoded,
                task.kind,
                tokenizer.pad_token_id,
                evaluation["batch_size"],
                device,
                precision=plan["training"]["precision"],
            )
        else:
            predictions = [constant_answer(task)] * len(examples)
        labels = gold(task, examples)
        graded = task.kind == "regression"
        items = [
            (example.id, label, prediction, None if graded else float(label == prediction))
            for example, label, prediction in zip(examples, labels, predictions, strict=True)
        ]
        scored[task.name] = {"metrics": None, "items": items}
    scores, rows = {}, []
    for task in tasks:
        entry = scored[task.name]
        scores[task.name] = task_scores(task, entry["items"], entry["metrics"], limit, run)
        rows += [(task.name, *item) for item in entry["items"]]
    return scores, rows


def choose(*arguments):
    """Score multiple choice under the tasks' protocols; what they need is imported only then."""
    from moelora.evaluation.choice import choose as under_protocols

    return under_protocols(*arguments)


def routed_items(tasks: list[Task], tokenizer: Any, max_length: int, limit: "int | None") -> dict[str, list]:
    """Return some tokenised evaluation items per task, to watch the routing on."""
    return {
        task.name: encode(task, evaluation_examples(task, limit)[:ROUTED_ITEMS], tokenizer, max_length)
        for task in tasks
    }
