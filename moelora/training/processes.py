"""Several processes that train one model together: what they exchange, and how they stay together.

Every process cuts each micro-batch in the same way and takes its share of it, so that a step of several processes is
the step of one: gradients are summed over processes, and a balance loss is formed over the tokens of all. `Alone` is
one process, to whom all of this is nothing.

The processes are started by ``accelerate launch`` or ``torchrun``. The first, the main one, does what a single process
does; the others wait until it trains a run and do that with it (`lead` and `follow`). They write no file and no log.

Two kinds of exchange are kept apart. Signals go through a group of their own on the CPU, which waits as long as it
must. Numbers go through the default group (NCCL on GPUs), which may give up after minutes; hence every exchange of
numbers comes right behind a signal that all have got there (`check`). What fails in one process (`together`) is
told at the next signal and raised in all, so that nobody waits for somebody who is gone.
"""

import contextlib
import datetime
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed

from moelora.errors import ConfigError, MoeloraError, first_line
from moelora.memory import is_out_of_memory
from moelora.progress import logger
from moelora.seeds import derive_seed
from moelora.training.exchanges import Part, cut_buckets, gather, generators, set_generators, take_part

FINE, OUT_OF_MEMORY, FAILED = 0, 1, 2
WISHES = 4
PATIENCE = datetime.timedelta(days=365)  # the main process may score for days before it trains the next run


class ProcessError(MoeloraError):
    """Another process of the run stopped with an error that its user can mend."""


class LostProcessError(MoeloraError):
    """Another process of the run is gone without a word."""

    told = True  # there is nobody to tell


class OtherProcessError(RuntimeError):
    """Another process of the run stopped with an error that nobody expected."""


class Alone:
    """One process."""

    world, rank, main, sharded = 1, 0, True, False

    def part(self, micro_batch: list) -> Part:
        """Return this process's share of a micro-batch."""
        return Part(micro_batch)

    def prepare(self, accelerator: Any, model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return model and optimiser as accelerate wraps them."""
        return accelerator.prepare(model, optimizer)

    def are_same(self, model: Any) -> bool:
        """Say whether the trained parameters have the same bits in all processes."""
        return True

    def balance(self, function: "Callable | None", model: Any, part: Part) -> "torch.Tensor | None":
        """Return the balance loss of a micro-batch, or ``None``."""
        return None if function is None else function(model)

    def together(self, stepping: bool = False) -> Any:
        """Return a context in which what fails in one process is raised in all."""
        return contextlib.nullcontext()

    def sum_gradients(self, model: torch.nn.Module) -> None:
        """Sum the gradients over processes."""

    def total(self, number: torch.Tensor) -> torch.Tensor:
        """Return the sum of a number over processes."""
        return number

    def vote(self, *wishes: bool) -> list[bool]:
        """Return each wish, of at most four, as any process has it, such as to stop."""
        return list(wishes)

    def seed(self, seed: int) -> int:
        """Return the seed of this process's dropout masks."""
        return seed

    def save(self, write: Callable, path: Any, model: Any, optimizer: Any, scheduler: Any, progress: dict) -> None:
        """Let ``write`` save the state of training."""
        write(path, model, optimizer, scheduler, progress)

    def restore(self, read: Callable, path: Any, model: Any, optimizer: Any, scheduler: Any) -> "dict | None":
        """Return the progress that ``read`` found, with the state put in place."""
        return read(path, model, optimizer, scheduler)

    def lead(self, train: Callable, run: Any, held: contextlib.ExitStack) -> Any:
        """Return what training the run gives; other processes join in."""
        return train(run, self, held)

    def dismiss(self) -> None:
        """Let the other processes end."""

    def note(self, declarations: list[str], trained_by: int, start: int) -> None:
        """Declare how many processes train from a step on, where that is not what went before."""
        if trained_by != 1:
            declarations.append(f"trained by 1 process from step {start + 1} on")


ALONE = Alone()


class Several(Alone):
    """One of several processes.

    Args:
        sharded: whether each holds a part of the parameters only (FSDP).
    """

    def __init__(self, sharded: bool = False):
        self.world, self.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        self.main, self.sharded = self.rank == 0, sharded
        self.signals = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    def part(self, micro_batch: list) -> Part:
        """Return this process's share of a micro-batch."""
        return take_part(micro_batch, self.rank, self.world)

    def prepare(self, accelerator: Any, model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return model and optimiser as accelerate wraps them, without its own exchange of gradients.

        DistributedDataParallel exchanges them during the backward pass. A process that runs out of memory there leaves
        the others waiting for ever; after the pass all can agree to try it again in smaller parts.
        """
        with self.together():
            if not self.are_same(model):
                raise ConfigError(
                    f"the {self.world} processes start from different values; see to it that all run the same code on "
                    "the same base model"
                )
            model = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
            return model, accelerator.prepare_optimizer(optimizer, device_placement=False)

    def are_same(self, model: Any) -> bool:
        """Say whether the trained parameters have the same bits in all processes; sharded ones are parts of one."""
        if self.sharded:
            return True
        digest = hashlib.sha256()
        for parameter in model.parameters():
            if parameter.requires_grad:
                digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return len(set(self._gather(digest.digest()))) == 1

    def balance(self, function: "Callable | None", model: Any, part: Part) -> "torch.Tensor | None":
        """Return the balance loss of all processes' shares of a micro-batch, or ``None``."""
        if function is None:
            return None
        self.check()
        return function(model, gather, part.counts)

    @contextlib.contextmanager
    def together(self, stepping: bool = False) -> Iterator[None]:
        """Raise what fails in one process in all; leave the block when all are through.

        Args:
            stepping: whether the block passes through the model. Sharded, its blocks wait for all processes, to whom
                nothing can be told there: a process that fails ends itself, and the launcher ends the others.
        """
        try:
            yield
            self.check()
        except Exception as error:
            if getattr(error, "told", False):
                raise
            if stepping and self.sharded:
                logger.exception("process %d of %d failed in a step of a sharded model", self.rank, self.world)
                raise SystemExit(1) from error
            self.check(error)  # raises it, or what another process has that is worse
            raise

    def check(self, error: "Exception | None" = None, *wishes: bool) -> list[bool]:
        """Meet the other processes; raise where one of them, this one included, has failed.

        Whatever a process meets the others for, this is what it does first, so that one that has failed meets them too.

        Args:
            error: what has failed in this process.
            wishes: see `vote`.

        Raises:
            OutOfMemoryError: A process is out of memory, and none has failed otherwise.
            ProcessError: Another process has an error that its user can mend.
            OtherProcessError: Another process has another error.
        """
        own = FINE if error is None else OUT_OF_MEMORY if is_out_of_memory(error) else FAILED
        signal = torch.zeros(self.world + WISHES, dtype=torch.int64)
        signal[self.rank] = own
        signal[self.world : self.world + len(wishes)] = torch.tensor(wishes, dtype=torch.int64)
        self._signal(torch.distributed.all_reduce, signal)
        states = signal[: self.world]
        worst = int(states.max())
        if worst == FINE:
            return (signal[self.world :] > 0).tolist()
        first = int((states == worst).nonzero()[0])
        raised = error if own == worst else None
        if worst == FAILED:
            told = (isinstance(error, MoeloraError), f"{type(error).__name__}: {error}") if first == self.rank else None
            mendable, message = self._from(first, told)
            if raised is None:
                kind = ProcessError if mendable else OtherProcessError
                raised = kind(f"process {first} of {self.world} stopped: {message}")
        elif raised is None:
            raised = torch.OutOfMemoryError(f"process {first} of {self.world} is out of memory")
        raised.told = True
        raise raised

    def _signal(self, exchange: Callable, *what: Any, **options: Any) -> None:
        """Exchange something through the group of signals.

        Raises:
            LostProcessError: A process is gone.
        """
        try:
            exchange(*what, group=self.signals, **options)
        except RuntimeError as error:  # gloo has no type of its own for a closed connection
            raise LostProcessError(
                f"one of the run's {self.world} processes ended without a word ({first_line(error)[:200]}); "
                "its own output may say why. The same command goes on from the last saved state"
            ) from error

    def _from(self, rank: int, thing: Any = None) -> Any:
        """Return what one process has."""
        box = [thing]
        self._signal(torch.distributed.broadcast_object_list, box, src=rank, device=torch.device("cpu"))
        return box[0]

    def _gather(self, thing: Any) -> list:
        """Return what each process has."""
        self.check()
        found = [None] * self.world
        self._signal(torch.distributed.all_gather_object, found, thing)
        return found

    def sum_gradients(self, model: torch.nn.Module) -> None:
        """Sum the gradients over processes; sharded parameters' have been by FSDP.

        A parameter that has a gradient in one process has one in all afterwards; one that has none anywhere, such as
        the head of another task, has none.
        """
        if self.sharded:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int64)
        self._signal(torch.distributed.all_reduce, present)
        used = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in cut_buckets([parameter.grad for parameter in used]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            if flat.itemsize < 4:
                flat = flat.float()  # a sum of few-digit numbers
            torch.distributed.all_reduce(flat)
            for gradient, summed in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def total(self, number: torch.Tensor) -> torch.Tensor:
        """Return the sum of a number over processes."""
        number = number.clone()
        torch.distributed.all_reduce(number)
        return number

    def vote(self, *wishes: bool) -> list[bool]:
        """Return each wish, of at most four, as any process has it, such as to stop."""
        return self.check(None, *wishes)[: len(wishes)]

    def seed(self, seed: int) -> int:
        """Return the seed of this process's dropout masks: the main process has those of one process alone."""
        return seed if self.main else derive_seed("process", self.rank, seed)

    def save(self, write: Callable, path: Any, model: Any, optimizer: Any, scheduler: Any, progress: dict) -> None:
        """Let the main process write the state, with the random generators of all."""
        every = self._gather(generators())
        if self.sharded:
            from moelora.tuners.sharding import WholeModel, WholeOptimizer

            model, optimizer = WholeModel(model), WholeOptimizer(optimizer)
        if self.main:
            write(path, model, optimizer, scheduler, {**progress, "generators": every})

    def restore(self, read: Callable, path: Any, model: Any, optimizer: Any, scheduler: Any) -> "dict | None":
        """Let the main process read the state and hand it to all; return its progress.

        The generators go on where they were saved in as many processes. In another number of processes the main one
        goes on with its own, and the others begin theirs anew.
        """
        from moelora.tuners.sharding import EmptyModel, KeptState, place_tensors

        found = None
        with self.together():
            if self.main:
                holders = EmptyModel(model), KeptState(), KeptState()
                progress = read(path, *holders)
                if progress is not None:
                    found = (progress, *(holder.state for holder in holders))
        found = self._from(0, found)
        if found is None:
            return None
        progress, tensors, optimizer_state, scheduler_state = found
        with self.together():
            place_tensors(model, optimizer, tensors, optimizer_state)
            scheduler.load_state_dict(scheduler_state)
        saved = progress.get("generators") or []
        if len(saved) == self.world:
            set_generators(saved[self.rank])
        elif not self.main:
            torch.manual_seed(derive_seed("process", self.rank, self.world, progress["step"]))
        return progress

    def lead(self, train: Callable, run: Any, held: contextlib.ExitStack) -> Any:
        """Return what training the run gives; the other processes, which `follow`, do the same."""
        self._from(0, (train, run))
        with self.together():
            return train(run, self, held)

    def follow(self) -> None:
        """Train with the main process whatever it trains, until it dismisses this one."""
        while (order := self._order()) is not None:
            train, run = order
            try:
                with contextlib.ExitStack() as held, self.together():
                    train(run, self, held)
            except Exception as error:
                if not isinstance(error, (ProcessError, LostProcessError, OtherProcessError)):
                    plain = isinstance(error, MoeloraError)  # the message says what to do; a traceback would hide it
                    words = "process %d of %d: %s failed: %s"
                    logger.error(words, self.rank, self.world, run.label, error, exc_info=not plain)
        torch.distributed.destroy_process_group()

    def _order(self) -> Any:
        """Return what the main process wants done next; nothing where it is done or gone."""
        try:
            return self._from(0)
        except LostProcessError:
            return None

    def dismiss(self) -> None:
        """Let the other processes end."""
        self._from(0, None)
        torch.distributed.destroy_process_group()

    def note(self, declarations: list[str], trained_by: int, start: int) -> None:
        """Declare how many processes train from a step on, where that is not what went before."""
        if trained_by != self.world:
            declarations.append(
                f"trained by {self.world} processes from step {start + 1} on: each draws its own dropout masks; all "
                f"else is as in one process up to rounding{'; parameters sharded (FSDP)' if self.sharded else ''}"
            )
