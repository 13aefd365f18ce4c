"""Protocols: how a multiple-choice question is put to a decoder and how its answer is read, by name.

``lm-eval`` ranks the answers by their log-likelihood and is the default. ``label-logits`` ranks label words by one row
of logits, as MoE-PEFT does. ``generate-regex`` searches an answer with beams and takes the first label word in it, as
LLM-Adapters does. The last two have a form ``…-as-coded`` that repeats what is peculiar about those programs. Scores
of two protocols are two quantities, so each has a metric of its own.
"""

from collections.abc import Mapping
from typing import Any

from moelora.errors import ConfigError

LM_EVAL = "lm-eval"
AS_CODED = "-as-coded"
LABEL_LOGITS = "label-logits"
GENERATE_REGEX = "generate-regex"
POSED = (LABEL_LOGITS, LABEL_LOGITS + AS_CODED, GENERATE_REGEX, GENERATE_REGEX + AS_CODED)
"""The protocols whose prompts are built here; lm-eval builds its own."""


def family(protocol: str) -> str:
    """Return the protocol without its switch: ``label-logits`` of ``label-logits-as-coded``."""
    return protocol.removesuffix(AS_CODED)


def is_as_coded(protocol: str) -> bool:
    """Return whether the protocol repeats the peculiarities of the program that it comes from."""
    return protocol.endswith(AS_CODED)


def metric_of(protocol: str) -> str:
    """Return the metric that a protocol of ours gives: an accuracy whose name says the protocol."""
    return "acc_" + protocol.replace("-", "_")


def put_under(document: Mapping[str, Any], protocol: str, source: str = "suite") -> dict[str, Any]:
    """Return a task's document as a plan carries it: under one protocol, without what the others need.

    Args:
        document: the task file's content.
        protocol: ``lm-eval`` or one of ours; tasks with a head have theirs already and stay as they are.
        source: the suite, for the message.

    Raises:
        ConfigError: the task has no prompts for the protocol.
    """
    hub, prompts = document.get("hub"), document.get("prompts")
    plain = {key: value for key, value in document.items() if key not in ("hub", "prompts")}
    if document["kind"] != "multiple_choice":
        return plain
    if protocol == LM_EVAL:
        if hub and hub.get("revision"):
            plain["source"] = {**plain["source"], "revision": hub["revision"]}
        return plain
    if not hub or not prompts:
        raise ConfigError(
            f"{source}: task '{document['name']}' has no prompts for the protocol '{protocol}'; give its file 'hub' "
            "and 'prompts', or score it with 'lm-eval'"
        )
    metric = metric_of(protocol)
    return {
        **plain,
        "source": {"hub": hub["id"], "config": hub.get("config"), "revision": hub.get("revision")},
        "prompts": prompts,
        "protocol": protocol,
        "metrics": [metric],
        "main_metric": metric,
    }
