"""What experts cost and how many a module may have: what every strategy that spends a budget is bound by."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from moelora.errors import AllocationError


def one_each(module: str, experts: int) -> int:
    """Return what experts cost where experts themselves are counted."""
    return experts


@dataclasses.dataclass(frozen=True)
class Budget:
    """An amount to spend, and what some experts on a module cost in its unit; a module without experts costs nothing.

    ``minimum`` and ``maximum`` are experts of one module; ``None`` is no limit.
    """

    amount: int
    unit: str = "experts"
    price: Callable[[str, int], int] = one_each
    minimum: int = 0
    maximum: "int | None" = None

    def cost(self, counts: Mapping[str, int]) -> int:
        """Return what an allocation costs."""
        return sum(self.price(module, count) for module, count in counts.items())

    def step(self, module: str, count: int) -> int:
        """Return what one expert more costs on a module that has ``count``."""
        return self.price(module, count + 1) - self.price(module, count)

    def may_grow(self, count: int) -> bool:
        """Return whether a module with so many experts may have one more."""
        return self.maximum is None or count < self.maximum

    def check(self, modules: Iterable[str], eligible: Iterable[str]) -> None:
        """Refuse an amount that cannot be reached.

        Args:
            modules: all modules; each gets the minimum.
            eligible: those that may get more than the minimum.

        Raises:
            AllocationError: the minimum costs more than the amount, or all maxima less; it says what is reachable.
        """
        modules, eligible = list(modules), set(eligible)
        least = sum(self.price(module, self.minimum) for module in modules)
        if not eligible and self.amount > least:
            raise AllocationError(
                f"no module may have more than the minimum of {self.minimum} experts, so {self.amount} {self.unit} "
                f"cannot be spent; reachable: {least}"
            )
        if self.amount < least:
            raise AllocationError(
                f"{self.minimum} experts on each of {len(modules)} modules cost {least} {self.unit}, and the budget is "
                f"{self.amount}; lower the minimum or raise the budget to {least} at least"
            )
        if self.maximum is None:
            return
        most = sum(self.price(module, self.maximum if module in eligible else self.minimum) for module in modules)
        # A budget of parameters need not be met exactly: what is left over may be less than any expert costs.
        slack = 0 if self.unit == "experts" else min((self.price(m, 1) for m in modules), default=1) - 1
        if self.amount > most + slack:
            raise AllocationError(
                f"at most {self.maximum} experts on each of the {len(eligible)} modules that may have more than the "
                f"minimum cost {most} {self.unit}; the budget is {self.amount}. Reachable: {least} to {most}. Raise "
                "the maximum, or let more modules have experts (a lower percentile)"
            )
