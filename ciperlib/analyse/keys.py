"""Which question was asked: a digest of a function and of all that it reads, so that an answer can be found again.

A function of a notebook's cell or of a user's file counts with its code and with what the names in it stand for now:
images by their pixels, encoders by their weights, other functions likewise. One of the library counts by its name and
`recipe`; without one it is another function with every change of the library.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ciperlib.analyse.fingerprints import digest, fingerprint
from ciperlib.config import Config
from ciperlib.data.imageset import ImageSet
from ciperlib.files import sha256
from ciperlib.learn.augment.transformations import Transformation
from ciperlib.registry import Entry, transformations

LIBRARY = Path(__file__).parents[1]
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.device, torch.dtype, torch.Size, range, slice)
Function = TypeVar("Function", bound=Callable[..., Any])


class NoKeyError(TypeError):
    """Something of which nobody can say whether it is still the same; the message names it."""


def recipe(number: int) -> Callable[[Function], Function]:
    """A decorator for what the library measures. Whoever changes its numbers raises the number, and what was kept of
    it is measured again; a test fails where its code changed and the number did not."""

    def mark(function: Function) -> Function:
        function.recipe = number
        return function

    return mark


def key_of(*values: Any) -> str:
    """The same 32 hexadecimal digits for the same values, in any process and on any machine of one Python version.

    Args:
        values: numbers, texts, tensors, tables, image sets, encoders, configs, files by their path, functions, and
            whatever holds such things.

    Raises:
        NoKeyError: something else is among them.
    """
    said = json.dumps([_describe(value, "it", ()) for value in values])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _describe(value: Any, name: str, inside: tuple[int, ...]) -> Any:
    """A value in words; `name` is what it is called where it is read, `inside` are the ids of what it is part of."""
    if isinstance(value, PLAIN):
        return f"{type(value).__name__} {value!r}"
    if id(value) in inside:
        return "itself"
    inside = (*inside, id(value))
    if isinstance(value, (list, tuple)):
        return [_describe(part, name, inside) for part in value]
    if isinstance(value, Mapping):
        return ["mapping", *([_describe(k, name, inside), _describe(part, name, inside)] for k, part in value.items())]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(json.dumps(_describe(part, name, inside)) for part in value)]
    known = _describe_ours(value, inside)
    if known is not None:
        return known
    if isinstance(value, types.ModuleType):
        file = getattr(value, "__file__", None)
        return ["module", value.__name__, sha256(Path(file)) if file and _is_own(file) else ""]
    if callable(value):
        return _describe_callable(value, name, inside)
    if is_dataclass(value):
        return [
            type(value).__qualname__,
            {f.name: _describe(getattr(value, f.name), name, inside) for f in fields(value)},
        ]
    raise NoKeyError(f"{name}, which is a {type(value).__name__}")


def _describe_ours(value: Any, inside: tuple[int, ...]) -> Any:
    """What has a digest of its own; None for anything else."""
    if isinstance(value, Tensor):
        return ["tensor", str(value.dtype), list(value.shape), digest(value)]
    if isinstance(value, (np.ndarray, np.generic)):
        return ["array", str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        return ["table", hashlib.sha256(value.to_json(date_format="iso", double_precision=15).encode()).hexdigest()]
    if isinstance(value, ImageSet):
        masks = None if value.masks is None else digest(value.masks)
        return ["images", value.content(), digest(value.groups), masks]
    if isinstance(value, nn.Module):
        return ["network", _describe(type(value), type(value).__name__, inside), fingerprint(value)]
    if isinstance(value, Config):
        return ["config", value.name, value.plugins]
    if isinstance(value, Path):
        return ["path", str(value), sha256(value) if value.is_file() else ""]
    if isinstance(value, Transformation):
        entry = transformations.get(value.name)
        own = [entry.recipe, entry.digest] if entry else _describe(value.apply, value.name, inside)
        return ["transformation", value.name, list(value.levels), own]
    if isinstance(value, Entry):
        return ["entry", type(value).__name__, value.name, value.recipe, value.digest]
    if not isinstance(value, type) and isinstance(getattr(value, "key", None), str):
        return ["key", type(value).__qualname__, value.key]
    return None


def _describe_callable(value: Callable[..., Any], name: str, inside: tuple[int, ...]) -> Any:
    if isinstance(value, functools.partial):
        return ["partial", *(_describe(part, name, inside) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, types.MethodType):
        return ["method", _describe(value.__func__, name, inside), _describe(value.__self__, name, inside)]
    if isinstance(value, types.BuiltinMethodType) and not isinstance(value.__self__, (types.ModuleType, type)):
        return ["method", value.__name__, _describe(value.__self__, name, inside)]
    own = inspect.unwrap(value)  # of a function whose answers are cached
    module, called = getattr(own, "__module__", None) or "builtins", getattr(own, "__qualname__", "")
    if module.partition(".")[0] == LIBRARY.name:
        inner = _describe(_closure(own), name, inside) if isinstance(own, types.FunctionType) else ""
        return ["library", module, called, getattr(own, "recipe", None) or library_digest(), inner]
    if isinstance(own, types.FunctionType) and _is_own(own.__code__.co_filename):
        read = {part: _describe(found, part, inside) for part, found in sorted(names_read(own).items())}
        defaults = _describe([own.__defaults__, own.__kwdefaults__], name, inside)
        return ["function", _describe_code(own.__code__), defaults, read]
    methods = [part for part in vars(own).values() if inspect.isfunction(part)] if isinstance(own, type) else []
    if any(_is_own(method.__code__.co_filename) for method in methods):
        return ["class", called, [_describe(method, name, inside) for method in methods]]
    if isinstance(own, (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc)) and called:
        return ["other", module, called]
    raise NoKeyError(f"{name}, which is a {type(value).__name__}")


def _is_own(file: str) -> bool:
    """Whether code of this file is the user's: a cell, a script or a plugin, and no installed package."""
    return not any(part in file for part in ("site-packages", "dist-packages", "/lib/python"))


def names_read(function: types.FunctionType) -> dict[str, Any]:
    """What the names in a function's code stand for now: of its module and of the function that it was made in."""
    names = {i.argval for code in _codes(function.__code__) for i in dis.get_instructions(code) if "GLOBAL" in i.opname}
    return {name: function.__globals__[name] for name in names if name in function.__globals__} | _closure(function)


def _closure(function: types.FunctionType) -> dict[str, Any]:
    """Names of the function that it was made in; without those that have no value yet."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def _codes(code: types.CodeType) -> list[types.CodeType]:
    """A function's code and that of all that is defined inside it."""
    return [code, *(part for c in code.co_consts if isinstance(c, types.CodeType) for part in _codes(c))]


def _describe_code(code: types.CodeType) -> Any:
    constants = [_describe_code(part) if isinstance(part, types.CodeType) else repr(part) for part in code.co_consts]
    return [code.co_code.hex(), constants, code.co_names, code.co_varnames]


@cache
def library_digest() -> str:
    """Of all code of the library."""
    files = sorted(path for path in LIBRARY.rglob("*.py"))
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()[:16]
