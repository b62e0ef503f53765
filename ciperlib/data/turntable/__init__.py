"""The known world: fifty objects on a turntable, ray-cast in torch, with every factor of every image known.

`load` gives image sets, rendered on first use and cached; `render` gives any view of any object in any session.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from ciperlib.data.imageset import ImageSet, data_root
from ciperlib.data.turntable.catalogue import CATEGORIES, OBJECTS, SESSIONS
from ciperlib.data.turntable.raycaster import Rendering, render
from ciperlib.files import write_atomically
from ciperlib.registry import datasets

__all__ = ["CATEGORIES", "OBJECTS", "RENDERED", "SESSIONS", "Rendering", "load", "orbits", "render"]

VERSION = 4  # of the pixels: raise it whenever an image changes, and cached images are rendered again
RENDERED = ("object", "session", "azimuth", "elevation", "distance")  # what render takes, in its order
FACTORS = ("category", *RENDERED)
SIZES = {"train": 5000, "test": 2500}
ELEVATIONS = (math.radians(10), math.radians(70))
DISTANCES = (0.8, 1.3)
TRAINING_SESSIONS = 2  # the first ones, in "turntable_sessions"
TEST_IDS = 1_000_000
SEEDS = {"turntable": {"train": 101, "test": 102}, "turntable_sessions": {"train": 201, "test": 202}}


@datasets.register(
    "turntable", label="turntable", factors=FACTORS, enough={"pose": 100, "session": 159}, fixed=True,
    rendered=True, place=10,
)  # fmt: skip
@datasets.register(
    "turntable_sessions", label="turntable, new places", factors=FACTORS, enough={"pose": 100, "session": 409},
    fixed=True, rendered=True, place=20,
)  # fmt: skip
def load(
    name: str,
    split: str,
    *,
    size: int | None = None,
    image_size: int = 32,
    root: str | Path | None = None,
) -> ImageSet:
    """The known world's image sets, rendered on first use and then kept under `data_root(root)/cache`.

    Factors: category, object and session (int64 [N]); azimuth and elevation in radians, and distance (float32 [N]).
    The objects are balanced in every prefix, and the first n images are the same whatever `size` is.

    Args:
        name: "turntable" (all sessions in both splits, other poses) or "turntable_sessions" (two sessions in "train",
            the nine others in "test").
        split: "train" or "test".
        size: number of images; None for 5,000 and 2,500.
        image_size: side in pixels.
        root: folder of the data; without it `CIPER_DATA`, then `data/` of the checkout.
    """
    size = SIZES[split] if size is None else size
    factors = _factors(name, split, size)
    images, masks = _cached(name, split, size, image_size, data_root(root) / "cache")
    ids = torch.arange(size) + (TEST_IDS if split == "test" else 0)
    labels = {"category": CATEGORIES, "object": OBJECTS, "session": tuple(SESSIONS)}
    return ImageSet(f"{name}-{image_size}", split, images, factors, ids, ids.clone(), labels, masks, _rerender)


def orbits(
    objects: Tensor, steps: int = 36, *, session: int = 0, elevation: float = math.radians(30), distance: float = 1.05,
    image_size: int = 32,
) -> ImageSet:  # fmt: skip
    """Each of `objects` (int64 [n]) turned once around in `steps` equal steps, all else the same: n * steps images.

    A group is an object; ids count within this image set alone.
    """
    object = objects.repeat_interleave(steps)
    azimuth = (2 * math.pi * torch.arange(steps) / steps).repeat(len(objects))
    same = torch.ones(len(object))
    factors = {"category": object // 5, "object": object, "session": torch.full_like(object, session)}
    factors |= {"azimuth": azimuth, "elevation": elevation * same, "distance": distance * same}
    images, masks = _rerender(factors, image_size)
    labels = {"category": CATEGORIES, "object": OBJECTS, "session": tuple(SESSIONS)}
    ids, name = torch.arange(len(object)), f"turntable_orbits-{image_size}"
    return ImageSet(name, "test", images, factors, ids, object.clone(), labels, masks, _rerender)


def _rerender(factors: dict[str, Tensor], image_size: int, **options: int) -> tuple[Tensor, Tensor]:
    rendered = render(*(factors[name] for name in RENDERED), image_size=image_size, **options)
    return rendered.images, rendered.masks


def _factors(name: str, split: str, size: int) -> dict[str, Tensor]:
    draws = np.random.default_rng(SEEDS[name][split]).random((size, 4))  # row by row, so a prefix stays the same
    blocks = np.random.default_rng([SEEDS[name][split], 1]).random((-(-size // len(OBJECTS)), len(OBJECTS)))
    object = torch.from_numpy(blocks.argsort(1).reshape(-1)[:size].copy())
    first, last = 0, len(SESSIONS)
    if name == "turntable_sessions":
        first, last = (0, TRAINING_SESSIONS) if split == "train" else (TRAINING_SESSIONS, len(SESSIONS))
    between = lambda u, low, high: torch.from_numpy((low + u * (high - low)).astype(np.float32))  # noqa: E731
    return {
        "category": object // 5,
        "object": object,
        "session": torch.from_numpy((first + draws[:, 0] * (last - first)).astype(np.int64)),
        "azimuth": between(draws[:, 1], 0, 2 * math.pi),
        "elevation": between(draws[:, 2], *ELEVATIONS),
        "distance": between(draws[:, 3], *DISTANCES),
    }


def _cached(name: str, split: str, size: int, image_size: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Images and masks from the smallest file that has enough of them, else rendered and stored."""
    stem = f"{name}-{image_size}-{split}"
    for stored, path in _stored(folder, stem):
        if stored >= size and (content := _read(path, _factors(name, split, stored))):
            return content[0][:size], content[1][:size]
    factors = _factors(name, split, size)
    images, masks = _render_all(stem, factors, image_size)
    _write(folder / f"{stem}-{size}-v{VERSION}.safetensors", images, masks, factors)
    return images, masks


def _stored(folder: Path, stem: str) -> list[tuple[int, Path]]:
    """Files of this version with their numbers of images, smallest first."""
    pattern = re.compile(rf"{stem}-(\d+)-v{VERSION}\.safetensors")
    with contextlib.suppress(OSError):  # a folder that cannot be listed holds nothing for us
        paths = [path for path in folder.glob(f"{stem}-*") if pattern.fullmatch(path.name)]
        return sorted((int(pattern.fullmatch(path.name)[1]), path) for path in paths)
    return []


def _render_all(title: str, factors: dict[str, Tensor], image_size: int) -> tuple[Tensor, Tensor]:
    columns = [factors[name] for name in RENDERED]
    steps = tqdm(range(0, len(columns[0]), 250), f"rendering {title}", leave=False, delay=2, disable=None)
    parts = [render(*(column[i : i + 250] for column in columns), image_size=image_size) for i in steps]
    return torch.cat([part.images for part in parts]), torch.cat([part.masks for part in parts])


def _digest(path: Path, images: Tensor, masks: Tensor, factors: dict[str, Tensor]) -> str:
    content = hashlib.sha256(path.name.encode())  # a renamed file must not pass for another
    for tensor in (images, masks, *factors.values()):
        content.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        content.update(tensor.contiguous().numpy().tobytes())
    return content.hexdigest()


def _read(path: Path, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            images, masks = file.get_tensor("images"), file.get_tensor("masks")
            intact = (file.metadata() or {}).get("sha256") == _digest(path, images, masks, factors)
    except (OSError, SafetensorError):
        intact = False
    if intact:
        return images, masks
    warnings.warn(f"{path} is damaged and not used: the images are rendered again.", stacklevel=5)
    return None


def _write(path: Path, images: Tensor, masks: Tensor, factors: dict[str, Tensor]) -> None:
    metadata = {"version": str(VERSION), "sha256": _digest(path, images, masks, factors)}
    content = save({"images": images, "masks": masks}, metadata=metadata)
    try:
        write_atomically(path, content)
    except OSError as error:
        warnings.warn(
            f"Rendered images cannot be kept in {path.parent} ({error.strerror or error}) and will be rendered again "
            "next time. Make room there, or let CIPER_DATA name a folder that can be written.",
            stacklevel=5,
        )
