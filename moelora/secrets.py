"""Access tokens and passwords: found in text, so that they are refused in files and left out of logs and records."""

import os
import re

_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|PGPASSWORD|API_KEY|ACCESS_KEY)$")
"""Names of environment variables whose value is nobody's business."""

_LEAST = 8
"""Characters of a value from which it counts as a secret; a shorter one would be found by chance."""

_SHAPES = (
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),  # the hub's
    re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,})"),
    re.compile(r"(?<=://)[^/\s@:'\"]*:[^/\s@'\"]+(?=@)"),  # user:password of a URL
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?i)(?<=[?&]token=)[^&\s'\"]+|(?<=[?&]access_token=)[^&\s'\"]+"),
)
HIDDEN = "[hidden]"


def hide_secrets(text: str) -> str:
    """Return a text with every access token and password in it replaced by ``[hidden]``.

    These are the values of environment variables whose names end like HF_TOKEN or PGPASSWORD, and whatever has the
    shape of a token, of the user and password of a URL, or of an authorisation.
    """
    for value in _environment():
        text = text.replace(value, HIDDEN)
    for shape in _SHAPES:
        text = shape.sub(HIDDEN, text)
    return text


def holds_secret(text: str) -> bool:
    """Return whether there is an access token or a password in a text."""
    return any(value in text for value in _environment()) or any(shape.search(text) for shape in _SHAPES)


def _environment() -> list[str]:
    """Return the values of secret environment variables, the longest first: one may be a part of another."""
    found = {value for name, value in os.environ.items() if _NAMES.search(name.upper()) and len(value) >= _LEAST}
    return sorted(found, key=len, reverse=True)
