"""Progress of long work: a bar with an estimate on a terminal, plain log lines elsewhere."""

import contextlib
import logging
import os
import sys
import time
import warnings
from pathlib import Path

from moelora.errors import OutputError
from moelora.secrets import hide_secrets

logger = logging.getLogger("moelora")


class Progress:
    """Count work done; draws a bar on a terminal and logs about ten lines with an estimate elsewhere, if ``shown``."""

    def __init__(self, total: int, label: str, done: int = 0, shown: bool = True):
        self.shown = shown
        self.total, self.label, self.done = total, label, done
        self.started, self.start_done = time.monotonic(), done
        self.next_line = done + max(1, total // 10)
        self.bar = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, desc=label, leave=False, dynamic_ncols=True)

    def advance(self, note: str = "") -> None:
        """Count one unit of work; ``note`` is shown beside it."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(1)
            if note:
                self.bar.set_postfix_str(note, refresh=False)
        elif self.shown and (self.done >= self.next_line or self.done == self.total):
            self.next_line = self.done + max(1, self.total // 10)
            seconds = time.monotonic() - self.started
            left = seconds / max(1, self.done - self.start_done) * (self.total - self.done)
            logger.info(
                "%s: %d of %d, about %.0f s left%s",
                self.label,
                self.done,
                self.total,
                left,
                f", {note}" if note else "",
            )

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()


class LogFile(logging.FileHandler):
    """A log file that loses lines where the disk is full, and takes nothing else along.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, path: "Path | str"):
        try:
            super().__init__(path, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror}; check that its folder exists and that you may write to it"
            ) from error

    def flush(self) -> None:
        """Write what is waiting, or keep it waiting."""
        with contextlib.suppress(OSError):
            super().flush()

    def close(self) -> None:
        """Close the file, whatever is still waiting."""
        with contextlib.suppress(OSError):
            super().close()


class DiscreetFormatter(logging.Formatter):
    """Lines without access tokens: messages of the hub's clients may hold the address that they asked."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return hide_secrets(super().format(record))


FORMATTER = DiscreetFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")


def start_logging(log_file: "str | None" = None) -> None:
    """Send log lines to stderr, and to a job's log file where one is given."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if log_file:
        handlers.append(LogFile(log_file))
    for handler in handlers:
        handler.setFormatter(FORMATTER)
    logger.handlers[:] = handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # what libraries say on every start and nobody can act on; bars of theirs would fill log files
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|lm_eval)\b")
    for library in ("bitsandbytes", "lm_eval", "datasets", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)


@contextlib.contextmanager
def run_log(path: Path):
    """Send log lines of one run to a file of its own, too; a resumed run continues its file."""
    handler = LogFile(path)
    handler.setFormatter(FORMATTER)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
