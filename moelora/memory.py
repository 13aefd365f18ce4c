"""Which errors say that memory ran out."""

import torch

# Torch has a class for its own allocator on a GPU; the CPU's and cuBLAS's failures are told by their words alone.
WORDS = ("DefaultCPUAllocator: ", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in the process."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def free_cached() -> None:
    """Give back what torch's allocator keeps on a GPU, so that smaller pieces find room."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
