"""Tables that come with the workbook, so that a lesson need not wait: each says which images it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from ciperlib.data.imageset import ImageSet
from ciperlib.data.turntable import VERSION
from ciperlib.files import SealError, read_sealed, sha256, write_sealed

IMAGES = "images.json"  # beside the tables: name -> its SHA-256, and the key of its images


class ShippedError(ValueError):
    """A table that is of other images, damaged, or of images that nobody has noted."""


RENAMED = {"kept": "r2", "gain": "r2_gain", "first": "hits_at_1", "turn_error": "rotation_error"}


def image_key(images: ImageSet) -> str:
    """Which images these are, the same on every machine: name, ids and the renderer's version, 16 hexadecimal digits.

    Not their pixels, which may differ by 1/255 between machines.
    """
    return hashlib.sha256(f"{images.digest()} {len(images)} {VERSION}".encode()).hexdigest()[:16]


def read_shipped(path: Path, images: ImageSet, measure: Callable | None = None) -> pd.DataFrame:
    """A table that was measured on exactly these images; where it was noted whose the rows are, with a column `run`.

    Args:
        measure: by which it must have been measured, as it is now: its `recipe` counts.

    Raises:
        ShippedError: it was measured on others, or otherwise, was changed since, or says nothing of its images.
    """
    try:
        known = read_sealed(path.parent / IMAGES)[0].get(path.name)
        if known is None or known["table"] != sha256(path):
            raise ShippedError(f"{path} is not the table that {IMAGES} beside it names; restore it, or measure anew")
    except (SealError, OSError, KeyError, TypeError) as error:
        raise ShippedError(f"{path} cannot be trusted ({error}); restore it, or measure anew") from error
    if known["images"] != image_key(images):
        raise ShippedError(
            f"{path} was measured on {known['of']}, not on these {len(images)} of {images.name}: ask for those, or "
            'measure anew with table=""'
        )
    if measure is not None and known.get("recipe", 1) != measure.recipe:
        raise ShippedError(f'{path} was measured by an older {measure.__name__}: measure anew with table=""')
    table = pd.read_csv(path).rename(columns=_as_now)
    if runs := known.get("runs"):
        table["run"] = [runs[name].get(str(seed)) for name, seed in zip(table["encoder"], table["seed"])]
    return table


def _as_now(column: str) -> str:
    """The name that a column has now; shipped tables are never rewritten."""
    name, *end = column.rsplit("_", 1) if column.endswith(("_low", "_high")) else (column,)
    return "_".join((RENAMED.get(name, name), *end))


def ship_table(
    path: Path, images: ImageSet, runs: Mapping[str, Mapping[int, str]] | None = None, recipe: int = 1
) -> None:  # fmt: skip
    """Notes of a table which images it is of.

    Args:
        runs: encoder -> seed -> name of its run, of a table with the columns encoder and seed.
        recipe: of what measured it.
    """
    index = path.parent / IMAGES
    known = read_sealed(index)[0] if index.exists() else {}
    about = {"table": sha256(path), "images": image_key(images), "of": f"{len(images)} of {images.name}"}
    about |= {"recipe": recipe} | ({"runs": runs} if runs else {})
    write_sealed(index, json.loads(json.dumps({**known, path.name: about})))
