"""Batches of requests of similar length, as large as memory lets them be."""

from collections.abc import Callable, Sequence

from moelora.memory import free_cached, is_out_of_memory
from moelora.progress import Progress, logger

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
        batch_size: requests per batch, or ``auto``: as many as ``tokens`` hold. Where memory runs out either is halved
            for good, and the requests of that batch are carried out again.
        carry_out: gets the numbers of a batch's requests.
        label: what the progress is called.
        tokens: padded tokens of a batch with which an automatic size begins.

    Raises:
        RuntimeError: a single request does not fit; usually torch.OutOfMemoryError.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    bar = Progress(len(order), label)
    start, size = 0, batch_size
    while start < len(order):
        longest = max(1, lengths[order[start]])
        if batch_size == AUTO:
            size = max(1, tokens // longest)
        rows = order[start : start + size]
        try:
            carry_out(rows)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(rows) == 1:
                raise
            fits = False  # what the batch held is freed only once the error is left behind
        else:
            fits = True
        if not fits:
            size = len(rows) // 2
            tokens = longest * size
            logger.warning("%s: out of memory, batches halved to %d", label, size)
            free_cached()
            continue
        start += len(rows)
        for _ in rows:
            bar.advance()
    bar.close()
