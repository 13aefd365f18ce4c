"""Plain LoRA of equal trainable or active parameters: the control beside every mixture."""

import dataclasses
from typing import Any

from moelora.methods import AttachContext, ModelShapes, get_method


@dataclasses.dataclass(frozen=True)
class Matched:
    """The control's settings, and how near its count comes to the mixture's (head included).

    ``count`` says which parameters are counted: ``trainable``, or ``active``, what one token uses of the mixture. Of
    plain LoRA both are the same.
    """

    settings: Any
    variant: str
    target: int
    reached: int
    count: str = "trainable"

    def record(self) -> dict[str, Any]:
        """Return the record's entry; records from before there were others speak of trainable parameters."""
        counted = {} if self.count == "trainable" else {"count": self.count}
        return {
            "variant": self.variant,
            "target": self.target,
            "reached": self.reached,
            "rank": self.settings.r,
            **counted,
        }


def match_rank(match: dict[str, Any], shapes: ModelShapes, dropout: "float | None" = None) -> Matched:
    """Choose the rank of plain LoRA on the modules of a mixture, with its scaling, whose count comes nearest.

    Args:
        match: ``variant``, ``method``, ``settings`` and ``allocation`` of the mixture, and the ``count`` that is to be
            equal, trainable by default.
        shapes: the base model's shapes.
        dropout: dropout of the control; that of the mixture by default.
    """
    target_method, lora = get_method(match["method"]), get_method("lora")
    target_settings = target_method.make_settings(match["settings"])
    context = AttachContext(shapes, allocation=match.get("allocation"))
    count = match.get("count", "trainable")
    target = getattr(target_method.parameters(shapes, target_settings, context), count)
    modules = sorted(linear.name for linear in target_method.adapted(shapes, target_settings, context))

    def control(rank: int) -> tuple[Any, int]:
        settings = lora.make_settings(
            {
                "r": rank,
                "scaling": target_settings.alpha / target_settings.r,
                "dropout": target_settings.dropout if dropout is None else dropout,
                "modules": modules,
            }
        )
        return settings, getattr(lora.parameters(shapes, settings, context), count)

    per_rank = control(2)[1] - control(1)[1]
    below = max(1, (target - (control(1)[1] - per_rank)) // per_rank)
    settings, reached = min((control(below), control(below + 1)), key=lambda found: abs(found[1] - target))
    return Matched(settings, match["variant"], target, reached, count)
