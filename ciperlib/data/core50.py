"""CORe50 (Lomonaco and Maltoni 2017): 50 hand-held objects of 10 categories, filmed in 11 sessions."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch

from ciperlib.data.imageset import DataError, ImageSet, data_root
from ciperlib.data.photographs import find_folder, first, read_images
from ciperlib.registry import datasets

FOLDERS = ("core50_128x128", "core50_32x32")  # as unpacked from the official archives
CATEGORIES = (
    "plug adapter", "mobile phone", "scissor", "light bulb", "can", "glass", "ball", "marker", "cup", "remote control",
)  # fmt: skip
OBJECTS = 50
TRAIN_SESSIONS = (8, 9)  # drawn once: the paper trains in two sessions and does not say which
FRAMES = {
    1: 14989,
    2: 14986,
    3: 14992,
    4: 14995,
    5: 14966,
    6: 14989,
    7: 14994,
    8: 14984,
    9: 14994,
    10: 14986,
    11: 14991,
}
PATTERN = re.compile(r"C_(\d\d)_(\d\d)_(\d\d\d)\.png")
BLOCK = 50  # frames (2.5 seconds of video) that are not divided between fitting and testing


@datasets.register("core50", label="CORe50", factors=("category", "object", "session"), place=60)
def load(
    name: str, split: str, *, size: int | None = None, image_size: int = 32, root: str | Path | None = None
) -> ImageSet:
    """The frames of two sessions in "train" and of the nine others in "test" (paper, section 4.1), in random order.

    Factors: category, object and session (int64; session s is s - 1). Groups are blocks of 50 successive frames of one
    video: neighbours in time are almost the same image. Some frames do not exist; that is so in the original.

    Raises:
        DataError: files missing or damaged, another number of frames than a session has, or smaller than `image_size`.
    """
    source = "https://vlomonaco.github.io/core50 (core50_128x128.zip, 164,866 images; or core50_32x32.zip)"
    folder = find_folder(data_root(root), FOLDERS, "CORe50", source)
    chosen = TRAIN_SESSIONS if split == "train" else tuple(s for s in FRAMES if s not in TRAIN_SESSIONS)
    found = index_frames(folder, chosen)
    rows = first(np.random.default_rng(50).permutation(len(found)), size, f"CORe50 ({split})")
    session, object, frame = torch.from_numpy(found[rows]).unbind(1)
    paths = [folder / f"s{s}" / f"o{o}" / f"C_{s:02d}_{o:02d}_{f:03d}.png" for s, o, f in found[rows].tolist()]
    video = (session - 1) * OBJECTS + object - 1
    return ImageSet(
        name=f"{name}-{image_size}",
        split=split,
        images=read_images(paths, image_size),
        factors={"category": (object - 1) // 5, "object": object - 1, "session": session - 1},
        ids=video * 1000 + frame,
        groups=video * 1000 + frame // BLOCK,
        labels={
            "category": CATEGORIES,
            "object": tuple(f"{CATEGORIES[o // 5]} {o % 5 + 1}" for o in range(OBJECTS)),
            "session": tuple(f"session {s}" for s in FRAMES),
        },
    )


def index_frames(folder: Path, sessions: tuple[int, ...]) -> np.ndarray:
    """Session, object and frame, int64 [N, 3], of every frame of these sessions, in that order.

    Raises:
        DataError: a folder that is missing, a file in the wrong place, or a session with another number of frames.
    """
    rows: list[tuple[int, int, int]] = []
    for session in sessions:
        before = len(rows)
        for object in range(1, OBJECTS + 1):
            place = folder / f"s{session}" / f"o{object}"
            if not place.is_dir():
                raise DataError(f"{place} is missing: unpack CORe50 again")
            own = [tuple(map(int, match.groups())) for name in os.listdir(place) if (match := PATTERN.fullmatch(name))]
            if wrong := [row for row in own if row[:2] != (session, object)]:
                raise DataError(
                    f"{place} holds a frame of session {wrong[0][0]}, object {wrong[0][1]}: unpack it again"
                )
            rows += sorted(own)
        if len(rows) - before != FRAMES[session]:
            raise DataError(
                f"{folder / f's{session}'} holds {len(rows) - before:,} of the session's {FRAMES[session]:,} frames: "
                "unpack CORe50 again"
            )
    return np.array(rows, dtype=np.int64).reshape(-1, 3)
