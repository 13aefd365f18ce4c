"""Errors that a caller can cause or handle.

One root, and beneath it one class per kind of trouble; each also descends from the built-in that
it refines, so that ``except ValueError`` keeps working for people who do not know this module.
A message says what was found, what was expected and what to do.
"""


class MoeloraError(Exception):
    """Root of all errors that moelora raises on purpose."""


class ConfigError(MoeloraError, ValueError):
    """A suite, method, task, model or plan file says something that cannot be meant."""


class TargetModulesError(MoeloraError, ValueError):
    """A target pattern matches no module, too few modules, or modules that exclude each other."""


class AdapterError(MoeloraError, ValueError):
    """An adapter is truncated, belongs to another base model, or cannot be used as asked."""


class MergeError(MoeloraError, NotImplementedError):
    """The adapter depends on its input and so has no merged form."""


class RecordError(MoeloraError, ValueError):
    """A record, manifest or results file is truncated, altered or of another schema."""


class AllocationError(MoeloraError, ValueError):
    """An allocation or the sensitivities that lead to it cannot be used."""


class DataUnavailableError(MoeloraError, OSError):
    """A data set cannot be had: unknown id, no network, gated, or a missing split."""


class ModelUnavailableError(MoeloraError, OSError):
    """A model cannot be had: unknown id, no network, gated, or no known layout."""


class OutputError(MoeloraError, OSError):
    """A result cannot be written: read-only folder, full disk, or a path in the way."""


def nearest(word: str, known: "list[str] | tuple[str, ...] | set[str]") -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or the list of what there is."""
    import difflib

    names = sorted(map(str, known))
    close = difflib.get_close_matches(str(word)[:100], names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; there are: {', '.join(names)}" if names else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; some libraries raise errors without one."""
    return next(iter(str(error).strip().splitlines()), "no message")


SHOWN = 120
"""Characters of a value in a message."""


def show(value: object) -> str:
    """Return a value for a message: in quotes where it is text, cut where it is long.

    What is not ASCII in a word is written out, or a look-alike of a letter would be shown beside it as its equal.
    """
    if isinstance(value, str):
        shown = f"'{value}'" if value.isascii() and value.isprintable() else ascii(value)
    else:
        try:
            shown = repr(value)
        except ValueError:  # a whole number of more digits than Python prints
            shown = f"a {type(value).__name__}"
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 2]}…{shown[-1]}"
