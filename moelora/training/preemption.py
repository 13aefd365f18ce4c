"""Leaving when a scheduler or a person says so: after the step in work, with the state saved and no record written.

The first signal asks. In training it is heard at the end of a step; everywhere else there is nothing to lose, and the
process leaves at once. The same signal again, a second or more later, ends the process where it stands.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from moelora.progress import logger

# What schedulers send before they kill, and a person's Ctrl-C; the exit statuses are those that shells know.
STATUSES = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}
# Schedulers signal a job's group and each of its processes: what comes within this time is one request.
SAME_REQUEST_SECONDS = 1.0


class Preempted(SystemExit):
    """Ends the process with a signal's exit status; nobody's ``except Exception`` takes it for a failed run."""

    def __init__(self, number: "int | None", where: str):
        super().__init__(STATUSES.get(number, STATUSES[signal.SIGTERM]))
        name = signal.Signals(number).name if number else "a signal to another process"
        self.text = f"stopped by {name}{where}; the same command goes on from there"
        self.said = False

    def say(self, label: str) -> None:
        """Log why the process leaves, once."""
        if not self.said:
            logger.warning("%s: %s", label, self.text)
        self.said = True


class _Requests:
    """What this process was asked since it began to listen."""

    def __init__(self) -> None:
        self.first: "int | None" = None
        self.times: dict[int, float] = {}
        self.deferred = False

    def receive(self, number: int, frame: Any) -> None:
        """Note a signal, or leave; called by Python between two of its instructions."""
        now = time.monotonic()
        if now - self.times.setdefault(number, now) > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.first is None:
            self.first = number
            if not self.deferred:
                raise Preempted(number, "")


_requests = _Requests()


@contextlib.contextmanager
def listening(label: str) -> Iterator[None]:
    """Let signals ask this process to leave while the block runs.

    A signal that is ignored stays ignored, as under ``nohup``. Python delivers signals to the main thread alone; in
    another one nothing is changed.
    """
    global _requests
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier, _requests = _requests, _Requests()
    kept = {number: signal.getsignal(number) for number in STATUSES}
    for number, handler in kept.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _requests.receive)
    try:
        yield
    except Preempted as stop:
        stop.say(label)
        raise
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        _requests = earlier


@contextlib.contextmanager
def deferring(what: str) -> Iterator[None]:
    """Only note signals while the block runs, which asks :func:`agree` for them; leave once it has ended.

    Args:
        what: said of the state of things at the end of the block.

    Raises:
        Preempted: a signal came, and the block did not leave for it.
    """
    requests = _requests
    requests.deferred = True
    try:
        yield
    finally:
        requests.deferred = False
    if requests.first is not None:
        raise Preempted(requests.first, what)


def agree(crew: Any, *wishes: bool) -> list[bool]:
    """Return whether this process was asked to leave, and its wishes; of several processes, what any of them says.

    Several must stop at the same step, and save at the same one.
    """
    return crew.vote(_requests.first is not None, *wishes)


def leave(where: str) -> None:
    """End this process as the signal asked.

    Raises:
        Preempted: always.
    """
    raise Preempted(_requests.first, where)
