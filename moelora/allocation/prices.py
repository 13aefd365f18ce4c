"""What experts on a module cost in trainable parameters, by the closed formula of the method's page."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from moelora.errors import AllocationError
from moelora.methods import AttachContext, Linear, ModelShapes, get_method


def chosen_linears(method: str, settings: Mapping[str, Any], linears: Sequence[Linear]) -> tuple[Linear, ...]:
    """Return the linears on which a method with these settings may have experts.

    Raises:
        ConfigError: the method or a setting is unknown.
    """
    values = get_method(method).make_settings(settings)
    return _shapes(linears).select(getattr(values, "modules", "all"))


def parameter_price(method: str, settings: Mapping[str, Any], linears: Sequence[Linear]) -> Callable[[str, int], int]:
    """Return the function (module, experts) → trainable parameters of the experts and their router, without the head.

    A method's count is the sum over its modules, so a module's part is what it alone would add.

    Raises:
        AllocationError: the method takes no allocation.
        ConfigError: the method or a setting is unknown.
    """
    page = get_method(method)
    if not page.abilities.needs_allocation:
        raise AllocationError(f"method '{method}' takes no allocation, so its experts cannot be placed")
    values, shapes = page.make_settings(settings), _shapes(linears)

    def count(allocation: dict[str, int]) -> int:
        return page.parameters(shapes, values, AttachContext(shapes, allocation=allocation)).trainable

    nothing = count({})

    @cache
    def price(module: str, experts: int) -> int:
        return count({module: experts}) - nothing if experts else 0

    return price


def _shapes(linears: Sequence[Linear]) -> ModelShapes:
    # a method counts its experts from the linears alone; the layout of the blocks only matters to whole-block methods
    return ModelShapes(linears=tuple(linears), feed_forward_layout="", hidden=0)
