"""What a notebook's parameters may be: what is out of range is refused where it is set, not deep in a later cell."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ciperlib.config import ConfigError, nearest


def at_least(low: int, **values: int) -> None:
    """Raises ConfigError for the first value that is no whole number from `low` on."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ConfigError(f"{name}={value!r} is out of range: it must be a whole number from {low} on")


def among(known: Collection[str], **values: Iterable[str]) -> None:
    """Raises ConfigError for the first of several values that is not known."""
    for name, chosen in values.items():
        for value in map(str.strip, chosen):
            if value not in known:
                raise ConfigError(f"{name} has no {value!r}{nearest(value, known)}")


def as_seeds(text: str, default: str = "") -> list[int] | None:
    """Seeds as a list: "0,1,2", or `default` where there is nothing; None where that is nothing, too: for each kind of
    encoder as many as the zoo has, see `find_cases`.

    Raises:
        ConfigError: what is no whole number, or given twice.
    """
    said = str(text).strip() or default
    if not said:
        return None
    parts = [part.strip() for part in said.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(f"seeds={text!r} must be whole numbers, each once, divided by commas: 0,1,2")
    return [int(part) for part in parts]
