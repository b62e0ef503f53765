"""A user's own methods, networks, images, steps and measures, from a file of theirs; loading one runs its code."""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ciperlib.config import ConfigError
from ciperlib.files import project_root, sha256
from ciperlib.registry import REGISTRIES, RegistryError

_LOADED: dict[Path, str] = {}  # file -> its digest


class PluginError(ConfigError):
    """A plugin that is missing, fails, or registers what it must not; the message names the file."""


def find_plugin(path: str | Path) -> Path:
    """The file that a `plugin` parameter means: as it is given, or from the checkout.

    Raises:
        PluginError: there is none.
    """
    given = Path(path).expanduser()
    for place in (given, project_root() / given):
        if place.is_file():
            return place.resolve()
    raise PluginError(f"plugin={str(path)!r}: there is no such file (looked in {Path.cwd()} and {project_root()})")


def load_plugin(path: str | Path) -> None:
    """Runs a user's file, once, so that what it registers can be chosen by name; "" is none.

    A file that has changed since is run again, and what it registers replaces what it registered. If it fails, nothing
    of it is left registered.

    Raises:
        PluginError: the file is missing, fails, or registers a name that is taken.

    Example:
        >>> load_plugin("tests/examples/vicreg.py")
        >>> from ciperlib.config import Config
        >>> Config(method="vicreg", options="vicreg_invariance=10").option("vicreg_invariance")
        10.0
    """
    if not str(path).strip():
        return
    file = find_plugin(path)
    digest = sha256(file)
    if _LOADED.get(file) == digest:
        return
    # a name of the place's own: what another file of this name registers is not taken for this one's
    place = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    name = f"ciper_plugin_{re.sub(r'[^a-zA-Z0-9]', '_', file.stem)}_{place}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin={str(path)!r} is no Python file")
    with _all_or_nothing(file):
        linecache.checkcache(str(file))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except RegistryError as error:
            raise PluginError(f"plugin={str(path)!r}: {error}") from error
        except Exception as error:
            frames = reversed(traceback.extract_tb(error.__traceback__))
            line = next((frame.lineno for frame in frames if frame.filename == str(file)), "?")
            raise PluginError(f"plugin={str(path)!r}, line {line}: {type(error).__name__}: {error}") from error
    _LOADED[file] = digest


@contextmanager
def _all_or_nothing(file: Path) -> Iterator[None]:
    """Forgets what the file registered before; and, if it fails, puts everything back as it was."""
    before = [dict(registry.entries()) for registry in REGISTRIES]
    for registry in REGISTRIES:
        registry.forget(str(file))
    try:
        yield
    except BaseException:
        for registry, entries in zip(REGISTRIES, before):
            registry.restore(entries)
        raise
