"""The notebooks, for the tests: where they lie, what is in them, what they need to end within seconds."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from ciperlib.files import project_root

NOTEBOOKS = sorted((project_root() / "notebooks").glob("[0-9]*.ipynb"))
SHIPPED = {"06_ablations": {"table": "data/sweeps/ablations.csv", "sweep_profile": "teaching"}}  # without its sweep
LONG = (pytest.mark.slow, pytest.mark.long)  # of `make prove`
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str | None = None, tag: str | None = None) -> list[nbformat.NotebookNode]:
    """A notebook's cells, of one kind, with one tag."""
    found = nbformat.read(path, as_version=4).cells
    found = [cell for cell in found if kind in (None, cell.cell_type)]
    return [cell for cell in found if tag is None or tag in cell.metadata.get("tags", [])]
