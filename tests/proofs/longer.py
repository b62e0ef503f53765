"""The tests that take too long for `make test`, such as every notebook by plain papermill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ciperlib.files import project_root
from proofs.trial import failing_tests


def prove(share: float, seed: int) -> dict[str, Any]:
    """All of them, whatever the share; `found`: those that fail."""
    return {"found": failing([project_root() / "tests"])}


def failing(paths: Sequence[Path]) -> list[str]:
    """The tests marked `long` in these files that fail."""
    return failing_tests("long", paths)
