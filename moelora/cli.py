"""The command line: one verb per arrow between two files.

Handlers import what they need when they are called, so that ``moelora --help`` answers at once.
"""

import argparse
import importlib
import os
import sys
from typing import Any

from moelora import __version__
from moelora.verbs import preparing, reporting, running


def main(arguments: "list[str] | None" = None) -> int:
    """Run one verb and return its exit code.

    An error that moelora raises on purpose becomes one line on stderr and exit code 2; set
    ``MOELORA_TRACEBACK=1`` to see where it came from.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    from moelora.errors import MoeloraError
    from moelora.startup import leave_out_bitsandbytes, quick_imports

    options.alone = arguments is None  # a process of its own
    try:
        if options.alone:
            from moelora.turns import attend

            sys.excepthook = _print_discreetly
            attend()
            leave_out_bitsandbytes(_plans(options))
        with quick_imports(options.alone):
            handler = _load(options.handler)
        code = handler(options)
        sys.stdout.flush()
        return int(code or 0)
    except MoeloraError as error:
        if os.environ.get("MOELORA_TRACEBACK") == "1":
            raise
        print(f"moelora: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moelora: interrupted; the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left: not our error, and Python must not complain on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _one_line(error: Exception) -> str:
    """Return an error's message in one line that a terminal shows as it is, without tokens."""
    from moelora.secrets import hide_secrets

    text = hide_secrets(" ".join(str(error).split()))
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _print_discreetly(kind: type, error: BaseException, trace: Any) -> None:
    """Print the traceback of an error that nobody expected, without tokens: a job's stderr is its log."""
    import traceback

    from moelora.secrets import hide_secrets

    sys.stderr.write(hide_secrets("".join(traceback.format_exception(kind, error, trace))))


def _plans(options: argparse.Namespace) -> list:
    """Return the plan files that a verb is about to carry out."""
    plans = getattr(options, "plans", None) or getattr(options, "plan", None) or []
    return plans if isinstance(plans, list) else [plans]


def _load(handler: str):
    """Return the function named ``module:function``."""
    module, function = handler.split(":")
    return getattr(importlib.import_module(module), function)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="moelora",
        description="A reproducible benchmark for LoRA-type fine-tuning with mixtures of experts.",
        epilog="The workflow calls these verbs; a line copied from its log repeats one step. "
        "An argument @FILE is replaced by the lines of FILE.",
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--version", action="version", version=f"moelora {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (*preparing.VERBS, *running.VERBS, *reporting.VERBS):
        add(verbs)
    return parser
