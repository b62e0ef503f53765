"""The code behind each measure of the library that has a `recipe`, as digests: `python tests/recipes.py` writes them.

Run it after a change that leaves the numbers as they are. A change that moves them raises the measure's recipe first.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import pkgutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ciperlib.analyse
from ciperlib.analyse.keys import names_read

KNOWN = Path(__file__).parent / "snapshot" / "recipes.json"
Thing = Any  # a function or a class of the library


def marked() -> dict[str, Callable]:
    """Every function of the library that has a recipe, by its full name."""
    names = [module.name for module in pkgutil.walk_packages(ciperlib.analyse.__path__, "ciperlib.analyse.")]
    found = [value for name in names for value in vars(importlib.import_module(name)).values()]
    functions = (value for value in found if inspect.isfunction(value) and hasattr(value, "recipe"))
    return {f"{function.__module__}.{function.__qualname__}": function for function in functions}


def code_digest(function: Callable) -> str:
    """Of the code of a function and of all in the library that it names, without comments and docstrings."""
    parts, left, seen = [], [function], set()
    while left:
        thing = inspect.unwrap(left.pop())
        called = f"{thing.__module__}.{thing.__qualname__}"
        if called in seen:
            continue
        seen.add(called)
        parts.append(f"{called}\n{plain_source(thing)}")
        for name, value in sorted(_read_by(thing).items()):
            if _is_library(value):
                left.append(value)
            elif isinstance(value, (int, float, str, tuple, frozenset)):
                parts.append(f"{called}: {name} = {value!r}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


def plain_source(thing: Thing) -> str:
    """Its source without docstrings and without lines that are comments alone."""
    source = textwrap.dedent(inspect.getsource(thing))
    lines, left_out = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            left_out |= set(range(node.body[0].lineno - 1, node.body[0].end_lineno))
    kept = [line for number, line in enumerate(lines) if number not in left_out]
    return "\n".join(line for line in kept if line.strip() and not line.strip().startswith(("#", "@recipe")))


def _read_by(thing: Thing) -> dict[str, Any]:
    functions = [thing] if inspect.isfunction(thing) else [f for f in vars(thing).values() if inspect.isfunction(f)]
    return {name: value for function in functions for name, value in names_read(inspect.unwrap(function)).items()}


def _is_library(value: Any) -> bool:
    own = inspect.unwrap(value) if callable(value) else value
    return (inspect.isfunction(own) or inspect.isclass(own)) and own.__module__.startswith("ciperlib.")


def now() -> dict[str, dict[str, Any]]:
    return {name: {"recipe": f.recipe, "code": code_digest(f)} for name, f in sorted(marked().items())}


if __name__ == "__main__":
    KNOWN.write_text(json.dumps(now(), indent=1) + "\n")
