"""How a batch is cut into shares of rows that one expert, or one slot, works on.

Grouped: the rows of each expert are gathered, worked on with that expert's own factors and added back. It does the
least arithmetic and keeps working memory small; the sizes of the groups must be known on the host.

Masked: one share a slot holds all tokens in order, and each row's rank-R products are masked to its own expert's. It
multiplies with the stacked factors of all experts, has static shapes and never waits for a device.

Rank-R quantities have the tokens last, (E * R, T). Chosen experts of -1 are unused slots.

Notation: T tokens, N rows of a share, F width, R rank, E experts, K slots.
"""

import torch
from torch import Tensor

# They bound the working memory of a share, which has at most half of the tokens; smaller ones are no faster.
ROWS_AT_ONCE, NUMBERS_AT_ONCE = 64, 2**18


class Share:
    """Some rows with the expert that works on them.

    Attributes:
        rows: Token of each row, (N,); None when they are all tokens in order.
        columns: Where the expert's rank-R products are among the stacked ones.
        mask: (E * R, T) 1 where a stacked product belongs to the row's expert; None when ``columns`` says it.
        weights: Router weights of the rows, (N, 1).
        pairs: Place of each row among the flattened (T, K) choices.
        expert: The expert of all rows; None in a masked share.
        rank: R.
    """

    def __init__(
        self,
        rows: Tensor | None,
        columns: slice,
        mask: Tensor | None,
        weights: Tensor,
        pairs: Tensor,
        expert: int | None,
        rank: int,
    ):
        self.rows, self.columns, self.mask = rows, columns, mask
        self.weights, self.pairs, self.expert, self.rank = weights, pairs, expert, rank

    def take(self, matrix: Tensor) -> Tensor:
        """Return the rows of (T, F); without ``rows`` the matrix itself, which must not be written to."""
        return matrix if self.rows is None else matrix.index_select(0, self.rows)

    def take_plus(self, matrix: Tensor, low: Tensor, second: Tensor) -> Tensor:
        """Return a new matrix: the rows of (T, F) plus low^T second, of which second is (R, F)."""
        low, second = low.T, second.to(low.dtype)
        if self.rows is None:
            if matrix.dtype == low.dtype:
                return torch.addmm(matrix, low, second)
            return matrix + low @ second
        taken = matrix.index_select(0, self.rows)
        return taken.addmm_(low, second) if taken.dtype == low.dtype else taken + low @ second

    def put(self, matrix: Tensor, values: Tensor) -> None:
        """Add (N, F) to the rows of (T, F); no row occurs twice in a share."""
        if self.rows is None:
            matrix.add_(values)
        else:
            matrix.index_add_(0, self.rows, values.to(matrix.dtype))

    def take_low(self, low: Tensor) -> Tensor:
        """Return the expert's products of the rows, (R, N), out of (E * R, T); masked, (E * R, T)."""
        if self.rows is None:
            return low * self.mask.to(low.dtype)
        return low[self.columns].index_select(1, self.rows)

    def pick(self, by_expert: Tensor) -> Tensor:
        """Return what belongs to the rows' experts out of (E, F): one row for all, (1, F), or one each, (N, F)."""
        if self.rows is None:
            return self.one_hot.to(by_expert.dtype).T @ by_expert
        return by_expert[self.expert : self.expert + 1]

    def sum_product(self, by_expert: Tensor, left: Tensor, right: Tensor) -> None:
        """Add the sum over each expert's rows of left * right, both (N, F), to (E, F)."""
        if self.rows is None:
            by_expert.addmm_(self.one_hot.to(by_expert.dtype), (left * right).to(by_expert.dtype))
        else:
            by_expert[self.expert] += torch.linalg.vecdot(left, right, dim=0)

    @property
    def one_hot(self) -> Tensor:
        """1 where a masked share's row has the expert, (E, T)."""
        return self.mask[:: self.rank]

    def put_low(self, low: Tensor, values: Tensor) -> None:
        """Put (R, N) where `take_low` took it from, in a tensor that is zero there."""
        if self.rows is None:
            low.addcmul_(values, self.mask.to(low.dtype))
        else:
            low[self.columns].index_copy_(1, self.rows, values)


def make_shares(
    chosen: Tensor,
    weights: Tensor,
    experts: int,
    rank: int,
    grouped: bool | None = None,
    width: int | None = None,
) -> list[Share]:
    """Cut the (token, slot) pairs into shares.

    Args:
        chosen: Experts of each token, (T, K), no expert twice, -1 for an unused slot.
        weights: Their router weights, (T, K); 0 for an unused slot.
        experts: E.
        rank: R.
        grouped: Which form; None is grouped on a CPU and masked elsewhere and where torch.compile traces, since sizes
            of groups would break its graph.
        width: F; shares of narrow rows may be longer, so that there are fewer of them.
    """
    if grouped is None:
        grouped = chosen.device.type == "cpu" and not torch.compiler.is_compiling()
    weights = weights.masked_fill(chosen < 0, 0)
    if not grouped:
        return _masked(chosen, weights, experts, rank)
    at_once = min(NUMBERS_AT_ONCE // width, len(chosen) // 2) if width else 0
    return _grouped(chosen, weights, experts, rank, max(ROWS_AT_ONCE, at_once))


def _grouped(chosen: Tensor, weights: Tensor, experts: int, rank: int, at_once: int) -> list[Share]:
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    tokens = order // chosen.shape[1]
    sorted_weights = weights.reshape(-1, 1).index_select(0, order)
    unused, *counts = torch.bincount(flat + 1, minlength=experts + 1).tolist()
    shares, start = [], unused
    for expert, count in enumerate(counts):
        columns = slice(expert * rank, (expert + 1) * rank)
        for first in range(start, start + count, at_once):
            part = slice(first, min(first + at_once, start + count))
            shares.append(Share(tokens[part], columns, None, sorted_weights[part], order[part], expert, rank))
        start += count
    return shares


def _masked(chosen: Tensor, weights: Tensor, experts: int, rank: int) -> list[Share]:
    names = torch.arange(experts, device=chosen.device)
    pairs = torch.arange(chosen.numel(), device=chosen.device).view(chosen.shape)
    shares = []
    for slot in range(chosen.shape[1]):
        mask = (chosen[:, slot] == names[:, None]).to(weights.dtype).repeat_interleave(rank, dim=0)
        shares.append(Share(None, slice(None), mask, weights[:, slot : slot + 1], pairs[:, slot], None, rank))
    return shares


def weights_by_expert(chosen: Tensor, weights: Tensor, experts: int) -> Tensor:
    """Return (T, K) router weights in dense form with the tokens last, (E, T); unused slots (-1) count nothing."""
    dense = weights.new_zeros(experts + 1, chosen.shape[0])
    # Unused slots land in a last row that is cut off; several of one token write the same place, which is never read.
    index = torch.where(chosen < 0, experts, chosen)
    return dense.scatter(0, index.T, weights.T)[:experts]
