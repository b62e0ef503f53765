"""Faults planted in a copy of the tree, one at a time: the tests named for each must fail. See tests/planted.py."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def prove(share: float, seed: int) -> dict[str, Any]:
    """Faults planted and caught; `found`: those that survived."""
    script = Path(__file__).parents[1] / "planted.py"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "planted.json"
        command = [sys.executable, str(script), "--share", str(share), "--seed", str(seed), "--output", str(output)]
        subprocess.run(command)
        outcome = json.loads(output.read_text())
    survived = sorted(name for name, fate in outcome.items() if fate != "caught")
    return {"planted": len(outcome), "caught": len(outcome) - len(survived), "found": survived}
