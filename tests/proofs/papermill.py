"""Every notebook by plain papermill, as somebody runs it who knows nothing of `python -m ciperlib run`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from books import NOTEBOOKS, SHIPPED

from ciperlib.files import home
from ciperlib.present import batch
from proofs.trial import draw, tell


def prove(share: float, seed: int) -> dict[str, Any]:
    """Notebooks in the smoke profile; `found`: which of them papermill could not end, with the error."""
    paths, found = draw(NOTEBOOKS, share, seed), []
    for path in paths:
        tell(path.stem)
        try:
            run(path)
        except Exception as error:
            found.append(f"{path.stem}: {type(error).__name__}: {str(error)[-300:]}")
    return {"tried": len(paths), "found": found}


def run(path: Path) -> None:
    """One notebook, in the smoke profile.

    Raises:
        papermill.PapermillExecutionError: a cell fails.
    """
    import papermill

    values = {**batch.profile_parameters("smoke", path.stem), **SHIPPED.get(path.stem, {}), "interactive": False}
    with tempfile.TemporaryDirectory() as folder:
        papermill.execute_notebook(
            str(path), str(Path(folder) / "out.ipynb"), values, cwd=str(home()), progress_bar=False
        )  # fmt: skip
