"""What the pages of mixtures per linear module share: the closed formula and the count of what one token uses."""

from collections.abc import Iterable, Mapping

from moelora.methods._common import count_linears, lora_pair
from moelora.methods._contract import AttachContext, Counts, Linear


def mixture_counts(
    adapted: Iterable[Linear],
    r: int,
    experts: "Mapping[str, int] | int",
    used: "int | None",
    context: AttachContext,
    *,
    train_router: bool = True,
) -> Counts:
    """Return Σ_j E_j·r·(inputs + outputs) + E_j·inputs (router, where E_j > 1), plus the head.

    Args:
        adapted: the linears with experts.
        r: rank of every expert.
        experts: E, one number or by full module name.
        used: experts that serve one token at most; all of them where ``None``.
        context: for the head.
        train_router: whether routers are trained; frozen ones are active all the same.
    """
    adapted = tuple(adapted)
    by_name = {x.name: experts if isinstance(experts, int) else experts[x.name] for x in adapted}
    attention, feed_forward = count_linears(adapted, r, by_name)
    router = sum(by_name[x.name] * x.inputs for x in adapted if by_name[x.name] > 1)
    active = sum(min(used or by_name[x.name], by_name[x.name]) * lora_pair(x, r) for x in adapted)
    head = context.shapes.head_parameters
    return Counts(
        experts=attention + feed_forward,
        router=router if train_router else 0,
        attention=attention,
        feed_forward=feed_forward,
        head=head,
        active=active + router + head,
        frozen=0 if train_router else router,
    )
