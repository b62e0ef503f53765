"""Every published number is what it was before the library was mended, or is listed in snapshot/moved.yml with why."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ciperlib.files import project_root

SNAPSHOT = Path(__file__).parent / "snapshot"
PUBLISHED = {path.name: f"figures/{path.name}" for path in SNAPSHOT.glob("*.json")}
PUBLISHED |= {f"sweeps/{path.name}": f"data/sweeps/{path.name}" for path in SNAPSHOT.glob("sweeps/*.csv")}
MACHINES = re.compile(  # what depends on the machine, or on the hour
    r"(^|/)(seconds|versions|environment|ours|theirs|ratio|points_above|busy|megabytes|metric: training_seconds"
    r"|version: .*|\w+_(s|ms|per_s))(/|$)"
)
NAMING = ("measure", "world", "d", "n", "what", "compared with")  # what tells a row of a list from another
IDENTITY = {  # and a row of a table
    "equivariance.csv": ("encoder", "seed", "transformation"),
    "parameters.csv": ("encoder", "seed", "parameter", "reader", "views"),
}
CLOSE = 1e-9


def flatten(value: Any, place: str = "") -> dict[str, Any]:
    """Nested values by their path; captions are their numbers, since words may be chosen anew."""
    if isinstance(value, list):
        value = {", ".join(f"{row[name]}" for name in NAMING if name in row): row for row in value}
    if isinstance(value, dict):
        parts = [flatten(part, f"{place}/{name}" if place else name) for name, part in value.items()]
        return {name: leaf for part in parts for name, leaf in part.items()}
    if MACHINES.search(place):
        return {}
    return {place: re.findall(r"\d[\d.,]*\d|\d", value) if place.startswith("captions/") else value}


def published(path: str) -> str:
    """A file as git has it: `make run` writes this machine's own numbers over it, which nobody has published."""
    found = subprocess.run(["git", "show", f":{path}"], cwd=project_root(), capture_output=True, text=True)
    if found.returncode:
        pytest.skip("needs a git checkout, to tell what was published from what this machine made")
    return found.stdout


def read(name: str, text: str, columns: list[str] | None = None) -> dict[str, Any]:
    """A file's values by key; rows of a table by what identifies them, of `columns` where those are known."""
    name = Path(name).name
    if name.endswith(".json"):
        return flatten(json.loads(text))
    found: dict[str, Any] = {}
    for row in csv.DictReader(text.splitlines()):
        who = IDENTITY.get(name) or [n for n in columns or row if ":" not in n and n not in ("folder", "seconds")]
        key = ", ".join(f"{column}={row[column]}" for column in who if row.get(column))
        cells = {f"{key}/{column}": _number(cell) for column, cell in row.items() if column not in who}
        assert not cells.keys() & found.keys(), f"{name} has {key} twice"
        found |= {key: cell for key, cell in cells.items() if not MACHINES.search(key)}
    return found


def _number(text: str) -> Any:
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    except ValueError:
        return text


def same(a: Any, b: Any) -> bool:
    """Equal; numbers with a fraction to nine digits."""
    if isinstance(a, float) and isinstance(b, (int, float)) or isinstance(b, float) and isinstance(a, int):
        return a == b or math.isclose(a, b, rel_tol=CLOSE) or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


def compare(before: dict[str, Any], now: dict[str, Any], moved: dict[str, Any], renamed: dict[str, Any]) -> list[str]:
    """What is wrong, in sentences: values that moved and are not listed, and entries that list what did not happen."""
    wrong, changed, used = [], {}, set()
    for key, old in before.items():
        here, gone = key, False
        for part, other in renamed.items() if key not in now else ():
            if part in here:
                used.add(part)
                here, gone = here.replace(part, other or ""), gone or other is None
        if gone:
            continue
        if here not in now:
            wrong.append(f"{key} is gone")
        elif not same(old, now[here]):
            changed[key] = (old, now[here])
    listed = {}
    for key, entry in moved.items():
        pattern = re.compile(re.escape(key).replace(r"\*", ".*"))
        listed[key] = [name for name in changed if name == key or "*" in key and pattern.fullmatch(name)]
        if "why" not in entry:
            wrong.append(f"the entry {key} does not say why")
        if "*" in key:
            if len(listed[key]) != entry.get("count"):
                wrong.append(f"{len(listed[key])} values moved that are called {key}, not {entry.get('count')}")
        elif not listed[key]:
            wrong.append(f"{key} is listed, and did not move")
        elif not all(same(a, b) for a, b in zip((entry.get("from"), entry.get("to")), changed[key])):
            wrong.append(f"{key} moved from {changed[key][0]} to {changed[key][1]}, not as its entry says")
    known = {name for names in listed.values() for name in names}
    wrong += [f"{key} moved from {old} to {new}" for key, (old, new) in changed.items() if key not in known]
    return wrong + [f"nothing was renamed from {part!r}" for part in renamed if part not in used]


def moved_table() -> dict[str, dict[str, dict]]:
    return yaml.safe_load((SNAPSHOT / "moved.yml").read_text())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_is_published_is_what_was_or_is_listed_with_why(name):
    table, text = moved_table(), (SNAPSHOT / name).read_text()
    columns = text.splitlines()[0].split(",") if name.endswith(".csv") else None
    before, now = read(name, text, columns), read(name, published(PUBLISHED[name]), columns)
    assert before
    wrong = compare(before, now, table["moved"].get(name, {}), table["renamed"].get(name, {}))
    assert not wrong, f"{len(wrong)} in {name}: " + "; ".join(wrong[:20])


def test_entries_are_of_files_that_there_are():
    assert {name for part in ("moved", "renamed") for name in moved_table()[part]} <= PUBLISHED.keys()


BEFORE = {"metrics/a": 1.0, "metrics/b": "x", "metrics/c: floor": 3, "metrics/d": 0.5}


@pytest.mark.parametrize(
    ("change", "moved", "renamed", "words"),
    [
        ({}, {}, {}, []),
        ({"metrics/a": 1 + 1e-12, "metrics/new": 7}, {}, {}, []),
        ({"metrics/a": 1.001}, {}, {}, ["metrics/a moved from 1.0 to 1.001"]),
        ({"metrics/b": "y"}, {}, {}, ["metrics/b moved"]),
        ({"metrics/c: floor": 4}, {}, {}, ["metrics/c: floor moved from 3 to 4"]),
        ({"metrics/a": 2.0}, {"metrics/a": {"from": 1.0, "to": 2.0, "why": "mended"}}, {}, []),
        ({"metrics/a": 2.0}, {"metrics/a": {"from": 1.0, "to": 2.0}}, {}, ["does not say why"]),
        ({"metrics/a": 2.0}, {"metrics/a": {"from": 1.0, "to": 3.0, "why": "mended"}}, {}, ["not as its entry says"]),
        ({}, {"metrics/a": {"from": 1.0, "to": 2.0, "why": "mended"}}, {}, ["metrics/a is listed, and did not move"]),
        ({"metrics/a": 2.0, "metrics/d": 0.6}, {"metrics/*": {"count": 2, "why": "mended"}}, {}, []),
        ({"metrics/a": 2.0}, {"metrics/*": {"count": 2, "why": "mended"}}, {}, ["1 values moved"]),
        ({"metrics/c: floor": None, "metrics/c: baseline": 3}, {}, {"floor": "baseline"}, []),
        ({"metrics/c: floor": None}, {}, {}, ["metrics/c: floor is gone"]),
        ({"metrics/c: floor": None}, {}, {"metrics/c: floor": None}, []),
        ({}, {}, {"floor": "baseline"}, ["nothing was renamed from 'floor'"]),
    ],
)
def test_what_moved_in_silence_is_found_and_so_is_an_entry_that_lies(change, moved, renamed, words):
    now = {key: value for key, value in {**BEFORE, **change}.items() if value is not None}
    wrong = compare(BEFORE, now, moved, renamed)
    assert len(wrong) == len(words)
    assert all(word in sentence for word, sentence in zip(words, wrong))
