"""Run all of notebooks 01 to 05 in JupyterLab beside two busy processes: no figure is empty. See tests/overload.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TRIES = 10


def prove(share: float, seed: int) -> dict[str, Any]:
    """Figures expected and drawn; `found`: tries with empty ones."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        return {"skipped": "no browser here", "found": []}
    script = Path(__file__).parents[1] / "overload.py"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "overload.json"
        tries = str(max(1, round(share * TRIES)))
        subprocess.run([sys.executable, str(script), "--tries", tries, "--output", str(output)])
        outcome = json.loads(output.read_text())
    found = [f"try {number}: {empty} empty" for number, empty in enumerate(outcome["empty"]) if empty]
    missing = [d for d, expected in zip(outcome["drawn"], outcome["expected"]) if d < expected]
    found += [f"{len(missing)} tries drew fewer figures than the notebooks have"] if missing and not found else []
    return {"tries": len(outcome["drawn"]), "drawn": sum(outcome["drawn"]), "found": found}
