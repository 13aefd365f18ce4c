"""What several pages share: closed formulas, and attaching a PEFT config."""

from collections.abc import Iterable
from typing import Any

from moelora.methods._contract import AttachContext, Counts, Linear


def check_rank(r: "int | None", alpha: float, dropout: float) -> None:
    """Refuse a rank below one, a non-positive alpha and a dropout outside [0, 1).

    Raises:
        ValueError: one of them is out of range.
    """
    if r is not None and r < 1:
        raise ValueError(f"r must be at least 1, found {r}")
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, found {alpha}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), found {dropout}")


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a word that is none of those known.

    Raises:
        ValueError: as said.
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, found '{value}'")


def lora_pair(linear: Linear, r: int) -> int:
    """Return the parameters of one LoRA pair on a linear: r·(inputs + outputs)."""
    return r * (linear.inputs + linear.outputs)


def count_linears(
    linears: Iterable[Linear], r: int, experts: "dict[str, int] | int" = 1, *, magnitude: bool = False
) -> tuple[int, int]:
    """Return the adapter parameters on attention and on feed-forward linears.

    Args:
        linears: the adapted linears.
        r: rank of each pair.
        experts: pairs per linear, one number or by full module name.
        magnitude: whether DoRA's magnitude vector (one number per output) is trained too.
    """
    totals = {"attention": 0, "feed_forward": 0}
    for linear in linears:
        count = experts if isinstance(experts, int) else experts.get(linear.name, 0)
        totals[linear.part] += count * lora_pair(linear, r) + (linear.outputs if magnitude else 0)
    return totals["attention"], totals["feed_forward"]


def plain_counts(linears: Iterable[Linear], r: int, context: AttachContext, *, magnitude: bool = False) -> Counts:
    """Return the counts of one adapter of rank r on each linear; every parameter is active."""
    attention, feed_forward = count_linears(linears, r, magnitude=magnitude)
    experts = attention + feed_forward
    return Counts(
        experts=experts,
        attention=attention,
        feed_forward=feed_forward,
        head=context.shapes.head_parameters,
        active=experts + context.shapes.head_parameters,
    )


def names(linears: Iterable[Linear]) -> list[str]:
    """Return full module names, sorted: PEFT keeps target lists in sets, whose order changes with the hash seed."""
    return sorted(linear.name for linear in linears)


def attach_config(model: Any, config: Any, context: AttachContext, *, fused: bool = False) -> Any:
    """Return the PEFT model; the head is trained in every method.

    Args:
        model: the base model.
        config: a PEFT config.
        context: what the head's modules are taken from.
        fused: let PEFT's own LoRA and DoRA layers compute with our operators (`moelora.tuners.fused`).
    """
    from peft import get_peft_model

    config.modules_to_save = list(context.head_modules) or None
    model = get_peft_model(model, config)
    if fused:
        from moelora.tuners.fused import fuse

        fuse(model)
    return model


def freeze_weights(model: Any, name: str) -> None:
    """Freeze one kind of weight in every layer of the adapter, by PEFT's own list of what stays frozen.

    Args:
        model: a PEFT model.
        name: what its layers call the weight, as in ``lora_magnitude_vector``.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in (module for module in model.modules() if isinstance(module, BaseTunerLayer)):
        adapters = getattr(layer, name, ())
        # a new dict: PEFT's is shared by all layers
        layer.frozen_peft_weight_names = dict.fromkeys(adapters, (name,))
        layer.set_adapter(layer.active_adapters)
