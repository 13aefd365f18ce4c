"""Linear probes of an encoder: fitted on the base's hidden states, and applied as they are to the tuned model's.

A probe that no longer works says that what it read has moved or gone, and not which of the two: a new probe might find
it again. It is an upper bound of what was lost, and costs a few passes over some hundred texts; the tasks' own heads
cannot be compared, since they are trained with the run.

A pair of texts is read both together, as its task does, and apart, as encoders of sentences were pretrained: what such
an encoder knows of a pair is in the difference of its halves, and from the pair read together a probe of
all-MiniLM-L6-v2 does no better on QNLI than guessing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy
import torch

from moelora.errors import ConfigError
from moelora.evaluation.forgetting.subject import Subject, interval, resampling
from moelora.evaluation.metrics import score
from moelora.evaluation.score import constant_answer, gold
from moelora.models import select_head
from moelora.tasks import LabelledText, Task
from moelora.training.encode import Encoded, collate, encode

PENALTY = 1.0  # weight of the squared norm; features are standardised, so it means the same for every model


def probe_change(subject: Subject, task: Task) -> dict[str, Any]:
    """Return what a probe of the base scores on the base and on the tuned model, and the interval over items.

    Raises:
        ConfigError: the examples to fit it on have one label.
    """
    asked = subject.plan["forgetting"]["probes"]
    shown, held = list(task.train[: asked["examples"]]), list(task.evaluation[: asked["items"]])

    def fit(model: torch.nn.Module) -> tuple[Any, numpy.ndarray]:
        labels = gold(task, shown)
        if task.kind == "classification" and len(set(labels)) < 2:
            raise ConfigError(
                f"the first {len(shown)} training examples of task '{task.name}' have one label, so no probe can be "
                "fitted on them; raise 'forgetting.probes.examples'"
            )
        probe = fit_probe(task.kind, features(subject, model, task, shown), labels)
        return probe, probe.predict(features(subject, model, task, held))

    probe, before = subject.of_base(("probe", task.name, task.content, len(shown), len(held)), fit)
    after = probe.predict(features(subject, subject.model, task, held))
    labels, metric = numpy.array(gold(task, held)), "pearson" if task.kind == "regression" else "accuracy"
    base, tuned = score(metric, labels, before), score(metric, labels, after)
    return {
        "metric": metric,
        "content": task.content,
        "examples": len(shown),
        "items": len(held),
        "constant": score(metric, labels, [constant_answer(task)] * len(held)),
        "base": base,
        "tuned": tuned,
        "drop": base - tuned,
        "interval": drop_interval(metric, labels, before, after, task.name),
    }


def features(subject: Subject, model: torch.nn.Module, task: Task, examples: list[LabelledText]) -> numpy.ndarray:
    """Return what a probe sees of some examples: (N, D) for single texts, (N, 3 D) for pairs.

    Single texts: their mean states. Pairs: the mean states j of both texts read together, and of the two read apart,
    u and v: j, |u - v| and the product of u and v by element.

    Source: |u - v| and u v by element are SentEval's (Conneau and Kiela, 2018); j beside them is ours.
    """

    def read(some: list[LabelledText]) -> numpy.ndarray:
        return mean_states(subject, model, encode(task, some, subject.tokenizer, subject.max_length))

    if examples[0].text_pair is None:
        return read(examples)
    u, v = (
        read([dataclasses.replace(example, text=getattr(example, half), text_pair=None) for example in examples])
        for half in ("text", "text_pair")
    )
    return numpy.hstack([read(examples), numpy.abs(u - v), u * v])


def fit_probe(kind: str, seen: numpy.ndarray, labels: Sequence[float]) -> Any:
    """Return a linear probe: logistic regression, or ridge regression for grades, on standardised features.

    Both have one optimum, so nothing is drawn.

    Args:
        kind: of the task.
        seen: features (N, F).
        labels: classes or grades (N,).
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = Ridge(alpha=PENALTY) if kind == "regression" else LogisticRegression(C=1 / PENALTY, max_iter=2000)
    return make_pipeline(StandardScaler(), linear).fit(seen, numpy.asarray(labels))


def mean_states(subject: Subject, model: torch.nn.Module, examples: list[Encoded]) -> numpy.ndarray:
    """Return the last hidden states of examples, averaged over their tokens: (N, D), float64, in their order."""
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index].ids))
    found = []
    with select_head(model, subject.head):
        for start in range(0, len(order), subject.batch_size):
            batch = [examples[index] for index in order[start : start + subject.batch_size]]
            tensors = collate(batch, subject.tokenizer.pad_token_id, "regression", subject.device)
            tensors.pop("labels")
            hidden = model(**tensors, output_hidden_states=True).hidden_states[-1].double()
            mask = tensors["attention_mask"].unsqueeze(-1).double()
            found.append(((hidden * mask).sum(1) / mask.sum(1)).cpu())
    pooled = torch.cat(found).numpy()
    restored = numpy.empty_like(pooled)
    restored[order] = pooled
    return restored


def drop_interval(
    metric: str, labels: numpy.ndarray, before: numpy.ndarray, after: numpy.ndarray, purpose: str
) -> list[float]:
    """Return the 95 % bootstrap interval over items of the drop; both predictions are resampled together."""
    drawn = resampling(len(labels), "probe", purpose)
    if metric == "accuracy":
        return interval(drawn @ ((before == labels).astype(float) - (after == labels)) / len(labels))
    return interval(correlations(drawn, labels, before) - correlations(drawn, labels, after))


def correlations(drawn: numpy.ndarray, labels: numpy.ndarray, predictions: numpy.ndarray) -> numpy.ndarray:
    """Return the Pearson correlation in each resample, (B,), from how often each item comes in it, (B, N).

    A constant correlates with nothing: 0, as everywhere here.
    """
    x, y, count = labels - labels.mean(), predictions - predictions.mean(), drawn.sum(1)
    mean_x, mean_y = drawn @ x / count, drawn @ y / count
    spread_x, spread_y = drawn @ x**2 / count - mean_x**2, drawn @ y**2 / count - mean_y**2
    spread = numpy.sqrt(numpy.maximum(spread_x * spread_y, 0.0))
    shared = drawn @ (x * y) / count - mean_x * mean_y
    return numpy.divide(shared, spread, out=numpy.zeros_like(shared), where=spread > 1e-12)
