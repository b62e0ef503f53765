"""The quick tests as on another system: without fcntl (Windows has none), on an imitated CPU without fast bf16."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ciperlib.files import project_root
from proofs.cpu import AVX2
from proofs.trial import draw, failing_tests

WITHOUT_FCNTL = """
import builtins

real = builtins.__import__


def find(name, globals=None, *rest, **more):
    importer = ((globals or {}).get("__name__") or "").partition(".")[0]
    if name == "fcntl" and importer in ("ciperlib", "filelock", "test_planted"):  # others have their own way elsewhere
        raise ImportError("there is no fcntl here")
    return real(name, globals, *rest, **more)


builtins.__import__ = find
"""


def prove(share: float, seed: int) -> dict[str, Any]:
    """Files of tests that were run; `found`: tests that fail there."""
    files = draw(sorted((project_root() / "tests").glob("test_*.py")), share, seed)
    return {"files": len(files), "found": failing(files)}


def failing(files: Sequence[Path]) -> list[str]:
    """The quick tests of these files that fail on the other system."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(WITHOUT_FCNTL)
        return failing_tests("not slow", files, **AVX2, PYTHONPATH=folder)
