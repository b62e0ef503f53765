"""What a choice that cannot work is answered with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A choice that cannot work; the message names the parameter, the value and what is allowed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that offers the nearest known name."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(sorted(known))}"
