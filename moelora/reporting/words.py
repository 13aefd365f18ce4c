"""The notebook of words: what a name in a record is called where a person reads it."""

from __future__ import annotations

from moelora.errors import ConfigError
from moelora.methods import get_method

METRICS = {
    "accuracy": "accuracy",
    "acc": "accuracy",
    "acc_norm": "accuracy, length-normalised",
    "acc_label_logits": "accuracy, label logits",
    "acc_label_logits_as_coded": "accuracy, label logits as coded",
    "acc_generate_regex": "accuracy, generated",
    "acc_generate_regex_as_coded": "accuracy, generated as coded",
    "exact_match": "exact match",
    "f1": "F1",
    "macro_f1": "macro F1",
    "matthews": "Matthews",
    "matthews_correlation": "Matthews",
    "mcc": "Matthews",
    "pearson": "Pearson",
    "pearsonr": "Pearson",
    "spearman": "Spearman",
    "spearmanr": "Spearman",
    "pearson_spearman": "Pearson–Spearman mean",
}

REGIMES = {"published": "Published settings", "tuned": "Tuned equally", "default": "Default settings"}

STATUSES = {
    "finished": "finished",
    "failed": "failed",
    "diverged": "diverged",
    "out_of_memory": "out of memory",
    "skipped": "skipped",
}

PARTS = {
    "experts": "experts",
    "router": "router",
    "attention": "attention adapters",
    "feed_forward": "feed-forward adapters",
    "head": "head",
}

MODULES = {
    "query": "query",
    "key": "key",
    "value": "value",
    "output": "output",
    "intermediate": "intermediate",
    "gate": "gate",
    "up": "up",
    "down": "down",
}

REFERENCES = ("majority", "base", "head_only", "full")
"""Methods that no table lets win: the baselines without an adapter and the bound."""

_CONTROLS = {
    "equal_trainable": "LoRA as large as {}",
    "equal_active": "LoRA with the active parameters of {}",
    "one_expert": "{} with one expert",
    "frozen_router": "{} with a random frozen router",
    "no_balance": "{} without balance loss",
}

_CORRELATIONS = frozenset(
    {"matthews", "matthews_correlation", "mcc", "pearson", "pearsonr", "spearman", "spearmanr"} | {"pearson_spearman"}
)


def method_label(method: str) -> str:
    """Return a method's name in prose; an unknown one keeps the name it was registered under."""
    try:
        return get_method(method).title
    except ConfigError:  # a record of a method that is no longer here
        return method


def variant_label(variant: str, method: str) -> str:
    """Return a variant's name in a table: the method's, and what is said to differ.

    Args:
        variant: `mixlora-top1`, say.
        method: `mixlora`.
    """
    stem, plain = (name.replace("_", "-") for name in (method, variant))
    if plain == stem:
        return method_label(method)
    if plain.startswith(stem + "-"):
        return f"{method_label(method)} {variant[len(stem) + 1 :]}"
    return variant


def control_label(kind: str, mixture: str) -> str:
    """Return a control's name in a table.

    Args:
        kind: one of `moelora.plans.controls.CONTROLS`.
        mixture: the mixture's name in a table.
    """
    return _CONTROLS[kind].format(mixture)


def metric_label(metric: str) -> str:
    """Return a metric's name in prose."""
    return METRICS.get(metric, metric)


def metric_bounds(metric: str) -> tuple[float, float]:
    """Return the range of a metric; correlations go below zero."""
    return (-1.0, 1.0) if metric in _CORRELATIONS else (0.0, 1.0)


def regime_label(regime: str) -> str:
    """Return a regime's name in prose."""
    return REGIMES.get(regime, regime.replace("_", " ").capitalize())


def status_label(status: str) -> str:
    """Return a status in prose."""
    return STATUSES.get(status, status)


def count(value: float | None) -> str:
    """Return a count of parameters as a person says it: 0, 812, 24.6 k, 3.1 M."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.0f} {unit}" if scaled >= 99.95 else f"{scaled:.1f} {unit}"
    return f"{value:.0f}"


def size(bytes_: float | None) -> str:
    """Return a size in bytes as a person says it."""
    if bytes_ is None:
        return "–"
    for unit_size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if bytes_ >= unit_size:
            return f"{bytes_ / unit_size:.1f} {unit}"
    return f"{bytes_:.0f} B"


def seconds(value: float | None) -> str:
    """Return a duration as a person says it: 12 ms, 3.4 s, 5 min 20 s, 2 h 5 min."""
    if value is None:
        return "–"
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    if value < 99.5:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value) // 60} min {int(value) % 60} s"
    return f"{int(value) // 3600} h {int(value) % 3600 // 60} min"


def listing(words: list[str]) -> str:
    """Return words as a sentence lists them: a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def plural(number: int, noun: str, many: str | None = None) -> str:
    """Return `1 run` or `2 runs`."""
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def points(value: float, digits: int = 1) -> str:
    """Return a score × 100; a minus sign is a minus sign."""
    text = f"{100 * value:.{digits}f}"
    return "0." + "0" * digits if float(text) == 0 else text.replace("-", "−")


def signed(value: float) -> str:
    """Return a difference × 100 with its sign."""
    text = points(value)
    return text if text[0] == "−" or text == "0.0" else f"+{text}"
