"""Batches of requests of similar length, as large as memory lets them be."""

from collections.abc import Callable, Sequence

import torch

from moelora.progress import Progress

AUTO = "auto"
TOKENS = 2**15  # tokens of a batch with which an automatic size begins


def in_batches(
    lengths: Sequence[int],
    batch_size: "int | str",
    carry_out: Callable[[list[int]], None],
    label: str,
    tokens: int = TOKENS,
) -> None:
    """Carry out requests in batches, the longest first, so that little is padded and memory runs out at once or never.

    Args:
        lengths: tokens of each request.
        batch_size: requests per batch, or ``auto``: as many as ``tokens`` hold, halved for good where memory runs out.
        carry_out: gets the numbers of a batch's requests.
        label: what the progress is called.
        tokens: padded tokens of a batch with which an automatic size begins.

    Raises:
        torch.OutOfMemoryError: a batch of the given size, or a single request, does not fit.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    bar = Progress(len(order), label)
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        size = batch_size if isinstance(batch_size, int) else max(1, tokens // longest)
        rows = order[start : start + size]
        try:
            carry_out(rows)
        except torch.OutOfMemoryError:
            if batch_size != AUTO or len(rows) == 1:
                raise
            fits = False  # what the batch held is freed only once the error is left behind
        else:
            fits = True
        if not fits:
            tokens = longest * (len(rows) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        start += len(rows)
        for _ in rows:
            bar.advance()
    bar.close()
