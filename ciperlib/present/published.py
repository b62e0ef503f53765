"""Pages that quote what was published: their tables and numbers are made from files, the words around them are kept.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. A number in a sentence stands between
`<!-- FILE | KEY | FORMAT -->` and `<!-- -->`, which no reader sees. FILE is one of figures/, without its ending.
KEY is one of its metrics, or the way to a value in it, divided by ` > `. FORMAT is one of Python's (`.2f`);
`difference`, for the metrics "KEY (difference)", (low) and (high); or `range .2f`, from the least to the most of the
metrics that KEY, a regular expression, matches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)
NUMBER = re.compile(r"(<!-- (\w+) \| ((?:(?!-->).)+?) \| ([^|>]+) -->)(?:(?!<!--).)*?(<!-- -->)", re.S)
Read = Callable[[str], str]  # a path in the checkout -> the file's text


class ResultsError(Exception):
    """A table or number that nobody can make, or a file that it is made of; the message names it."""


def fill(text: str, read: Read, tables: Mapping[str, Callable[[Read], str]], page: str) -> str:
    """The same page with each of its tables and numbers made anew.

    Args:
        read: gives the text of a file by its path in the checkout.
        tables: what makes each table.
        page: the page's name, for messages.

    Raises:
        ResultsError: a mark that names no table, or a file that lacks what is asked of it.
    """

    def make(what: str, value: Callable[[], str]) -> str:
        try:
            return value()
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ResultsError(f"the {what} of {page} cannot be made ({error!r})") from error

    def fill_table(mark: re.Match) -> str:
        name = mark[2]
        if name not in tables:
            raise ResultsError(f"{page} asks for a table {name!r}; there are {', '.join(tables)}")
        return f"{mark[1]}{make(f'table {name!r}', lambda: tables[name](read))}\n{mark[3]}"

    def fill_number(mark: re.Match) -> str:
        before, file, key, form, after = mark.groups()
        return f"{before}{make(f'number {key!r}', lambda: number(read, file, key, form))}{after}"

    return NUMBER.sub(fill_number, TABLE.sub(fill_table, text))


def number(read: Read, file: str, key: str, form: str) -> str:
    """A published value as a sentence shows it."""
    published = json.loads(read(f"figures/{file}.json"))
    metrics = published.get("metrics", {})
    if form == "difference":
        return with_interval(metrics, key)
    if form.startswith("range "):
        found = [value for name, value in metrics.items() if re.fullmatch(key, name)]
        return " to ".join(format(end(found), form.removeprefix("range ")) for end in (min, max))
    if key in metrics:
        return format(metrics[key], form)
    for step in key.split(" > "):
        published = published[step]
    return format(published, form)


def metrics_of(read: Read, notebook: str) -> dict[str, Any]:
    """The published metrics of a notebook."""
    return json.loads(read(f"figures/{notebook}.json"))["metrics"]


def with_interval(metrics: Mapping[str, float], name: str) -> str:
    """A difference with its interval, from the metrics "NAME (difference)", (low) and (high)."""
    difference, low, high = (metrics[f"{name} ({end})"] for end in ("difference", "low", "high"))
    return f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]"
