"""The quick tests as on another system: without fcntl (Windows has none), on an imitated CPU without fast bf16."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ciperlib.files import home
from proofs.cpu import AVX2
from proofs.trial import draw

WITHOUT_FCNTL = 'import sys\n\nsys.modules["fcntl"] = None\n'  # whoever imports it gets an ImportError


def prove(share: float, seed: int) -> dict[str, Any]:
    """Files of tests that were run; `found`: tests that fail there."""
    files = draw(sorted((home() / "tests").glob("test_*.py")), share, seed)
    return {"files": len(files), "found": failing(files)}


def failing(files: list[Path]) -> list[str]:
    """The quick tests of these files that fail on the other system."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(WITHOUT_FCNTL)
        command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-m", "not slow", "-rfE", *files]
        environment = {**os.environ, **AVX2, "PYTHONPATH": folder}
        done = subprocess.run(command, cwd=home(), env=environment, capture_output=True, text=True)
    found = re.findall(r"^(?:FAILED|ERROR) .+", done.stdout, re.MULTILINE)
    return found or ([] if done.returncode in (0, 5) else [done.stdout[-300:] + done.stderr[-300:]])  # 5: none is quick
