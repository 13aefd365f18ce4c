"""What a record declares: all that a reader must know before comparing its number with others."""

from typing import Any


def declarations(method: Any, settings: Any, micro_batch_size: int) -> list[str]:
    """Return what a reader must know before comparing this number with others."""
    off = getattr(settings, "balance_loss", "") == "none" or not getattr(settings, "balance_coefficient", 1)
    if not method.abilities.balance_loss or off:
        return []
    return [
        f"the balance loss is not linear in the batch: it was formed over micro-batches of {micro_batch_size} examples"
    ]


def parent_declarations(parent: "dict[str, Any] | None") -> list[str]:
    """Return what must be said beside the numbers of a run that starts from an adapter."""
    if parent is None:
        return []
    how = "then trained here" if parent["continue"] else "scored here without further training"
    source = f"adapter of task {parent['task'] or 'unknown'}, variant {parent['variant'] or 'unknown'}"
    return [f"not trained from the base model: {source}, seed {parent['seed']}, {how}"]


def source_declarations(plan: dict[str, Any]) -> list[str]:
    """Return what must be said of a run whose loss or base model is not what every method here has by default."""
    training, form = plan["training"], plan["model"].get("quantisation")
    words = {"all_tokens": "prompt and answer", "all_tokens_and_padding": "prompt, answer and padding"}
    found = [f"the loss counts {words[training['loss_on']]}"] if "loss_on" in training else []
    if "prompt" in training:
        found.append(f"the prompt in training is not the one that is scored: {training['prompt']}")
    if training.get("end_of_text"):
        found.append("an end-of-text token is trained after each answer")
    if form:
        found.append(f"the base model's linears are quantised ({form}, bitsandbytes), in training and in scoring")
    return found
