"""Training state: what a killed run needs to end with the same bits as one that was not killed.

It lies outside the declared outputs, in a folder named for the hash of the resolved plan and the fingerprint, and is
replaced atomically. Behind the bytes that torch writes stands their SHA-256: torch reads a flipped bit without a word.
"""

import contextlib
import hashlib
import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch

from moelora.files import atomic_file
from moelora.progress import logger

SHARE = 0.02  # of the time of training that saving may take
SUM_BYTES = hashlib.sha256().digest_size


def trainable_tensors(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Pace:
    """When a state is due: every so many steps, put off while saving has had its share of the time.

    A save is paid for before it is made: all so far, and one more like the last, must fit into SHARE of the time that
    was trained. So however slow the disk is, saving takes no more than that, once there was a second save; what the
    first will take nobody knows. With saves of c seconds a kill costs about c / SHARE seconds at most.
    """

    def __init__(self, every: "int | None", clock: Callable[[], float] = time.monotonic):
        self.every, self.clock = every, clock
        self.waiting, self.cost, self.spent, self.began = False, 0.0, 0.0, clock()

    def due(self, done: int) -> bool:
        """Return whether the state is to be saved after ``done`` steps; asked after each of them."""
        self.waiting |= bool(self.every) and done % self.every == 0
        return self.waiting and self.spent + self.cost <= SHARE * (self.clock() - self.began - self.spent)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Count what the block takes."""
        began = self.clock()
        yield
        self.waiting, self.cost = False, self.clock() - began
        self.spent += self.cost


class _Summed:
    """A file that keeps the SHA-256 of what is written to it, and the error that torch would hide behind its own."""

    def __init__(self, handle: BinaryIO):
        self.handle, self.sum, self.error = handle, hashlib.sha256(), None

    def write(self, data: Any) -> int:
        self.sum.update(data)
        try:
            return self.handle.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.handle.flush()


def save_state(path: Path, model: torch.nn.Module, optimizer: Any, scheduler: Any, progress: dict[str, Any]) -> None:
    """Write parameters, optimiser, schedule, random generators and progress.

    Raises:
        OutputError: the folder cannot be written; an older state stays as it was.
    """
    state = {
        "parameters": {name: tensor.detach().cpu() for name, tensor in trainable_tensors(model).items()},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": random_state(),
        "progress": progress,
    }
    with atomic_file(path) as handle:
        summed = _Summed(handle)
        try:
            torch.save(state, summed)
        except RuntimeError as error:
            raise summed.error or error from error
        handle.write(summed.sum.digest())


def load_state(path: Path, model: torch.nn.Module, optimizer: Any, scheduler: Any) -> "dict[str, Any] | None":
    """Restore a state and return its progress; ``None`` when there is none or it is damaged (training restarts)."""
    if not path.is_file():
        return None
    try:
        content = memoryview(path.read_bytes())
        payload = content[:-SUM_BYTES]
        if hashlib.sha256(payload).digest() != content[-SUM_BYTES:]:
            raise ValueError("its bytes are not those that were written")
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        parameters = trainable_tensors(model)
        found = {name: tensor.shape for name, tensor in state["parameters"].items()}
        if found != {name: parameter.shape for name, parameter in parameters.items()}:
            raise ValueError("it holds other parameters than the model trains")
    except Exception as error:  # a damaged state only costs the steps it held
        logger.warning("training state %s cannot be used (%s); training begins anew", path, str(error).split("\n")[0])
        return None
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    set_random_state(state["random"])
    return state["progress"]


def random_state() -> dict[str, Any]:
    """Return where torch's random generators stand; the loop draws from no others."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put torch's random generators where they stood."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed torch, NumPy and Python; whatever draws after this call repeats."""
    random.seed(seed)
    numpy.random.seed(seed)  # noqa: NPY002, for libraries that draw from the global generator
    torch.manual_seed(seed)
