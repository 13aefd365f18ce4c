"""Parameters of a variant before it exists: from the model's file, with a guess at allocations to come."""

from collections.abc import Mapping
from typing import Any

from moelora.errors import ConfigError
from moelora.methods import AttachContext, Counts, ModelShapes, get_method


def count_variant(variant: Any, shapes: ModelShapes, voters: int) -> Counts:
    """Return the counts of a variant by its method's closed formula; a matched LoRA is as large as its mixture.

    Args:
        variant: As a suite expands to it.
        shapes: The base model's.
        voters: Tasks from whose sensitivities experts are allocated.

    Raises:
        ConfigError: the settings cannot be meant for this model.
    """
    if variant.match is not None:
        counts = count_variant(variant.match, shapes, voters)
        adapter = counts.trainable - counts.head
        return Counts(experts=adapter, head=counts.head, active=adapter + counts.head)
    page = get_method(variant.method)
    values = page.make_settings(variant.settings)
    allocation = None
    if variant.allocated:
        allocation = expected_experts(variant.allocation, shapes, getattr(values, "modules", "all"), voters)
    return page.parameters(shapes, values, AttachContext(shapes, allocation=allocation))


def expected_experts(
    allocation: Mapping[str, Any], shapes: ModelShapes, modules: "str | list[str]", tasks: int
) -> dict[str, int]:
    """Return as many experts as an allocation will come to, spread evenly; where they go is not known yet.

    Votes at percentile q come to (1 - q/100) of a module's tasks. A budget of parameters is taken to buy ranks of 8.

    Args:
        allocation: Its settings.
        shapes: The base model's.
        modules: Those that may have experts.
        tasks: How many tasks vote.

    Raises:
        ConfigError: ``modules`` names what the model does not have.
    """
    linears = shapes.select(tuple(modules) if isinstance(modules, list) else modules)
    if allocation.get("pool") == "attention":
        linears = tuple(linear for linear in linears if linear.part == "attention")
    if not linears:
        raise ConfigError("an allocation has no module to place experts on; look at 'modules' and 'pool'")
    budget = allocation.get("budget") or {}
    if "uniform" in budget:
        total = budget["uniform"] * len(linears)
    elif "experts" in budget:
        total = budget["experts"]
    elif "parameters" in budget:
        price = sum(8 * (x.inputs + x.outputs) + x.inputs for x in linears) / len(linears)
        total = round(budget["parameters"] / price)
    elif allocation.get("strategy") == "mola":
        groups = str(allocation.get("shape", "")).split("-")
        numbers = [int(group) for group in groups if group.isdigit()] or [2, 4, 6, 8]
        total = round(len(linears) * sum(numbers) / len(numbers))
    else:
        total = round((1 - allocation.get("percentile", 40) / 100) * len(linears) * tasks)
    share, more = divmod(total, len(linears))
    return {linear.name: share + (index < more) for index, linear in enumerate(linears)}
