"""How representations are laid out: PaCMAP (Wang et al. 2021, arXiv 2012.04456) with PCA beside it, and how far to
believe either picture. Distances between clusters mean nothing in PaCMAP; which points are neighbours may."""

from __future__ import annotations

import getpass
import logging
import os
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.keys import recipe
from ciperlib.files import shared_place

METHODS = ("pacmap", "pca")


class LayoutError(ValueError):
    """Features that cannot be laid out; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Points in the plane, one for each row of `features`.

    Attributes:
        points: float32 [N, 2].
        features: what was laid out, with its factors.
        method: "pacmap" or "pca".
        seed: of PaCMAP.
    """

    points: Tensor
    features: Features
    method: str
    seed: int


@recipe(1)
def fit_layout(features: Features, method: str = "pacmap", *, seed: int = 0, neighbours: int = 10) -> Layout:
    """Lays features out in the plane; the same features and seed give the same bytes.

    Args:
        features: at least `neighbours` + 2 rows.
        method: "pacmap", or "pca": the two leading principal components, each with its largest weight positive.
        seed: of PaCMAP's start and of its pairs.
        neighbours: of each point that PaCMAP keeps near.

    Raises:
        LayoutError: an unknown method, too few rows, or features that are constant or not finite.

    Example:
        >>> from ciperlib.analyse.features import pixel_features
        >>> from ciperlib.data import load_images
        >>> images = [load_images("turntable", split, size=300) for split in ("train", "test")]
        >>> fit_layout(pixel_features(*images)[1], "pca").points.shape
        torch.Size([300, 2])
    """
    if method not in METHODS:
        raise LayoutError(f"method must be one of {METHODS}, not {method!r}")
    matrix = features.matrix
    if len(matrix) < neighbours + 2:
        raise LayoutError(
            f"{len(matrix)} points have no {neighbours} neighbours: take more images, or fewer neighbours"
        )
    if not matrix.isfinite().all():
        raise LayoutError("features hold values that are not finite: extract them again")
    if not (matrix - matrix[0]).any():
        raise LayoutError("all features are the same: there is nothing to lay out")
    points = _pca(matrix) if method == "pca" else _pacmap(matrix, seed, neighbours)
    return Layout(points, features, method, seed)


def neighbourhood_preservation(layout: Layout, k: int = 15) -> float:
    """The share of each point's `k` nearest neighbours in feature space that are among its k nearest in the plane.

    1 is a faithful picture; points strewn at random get k / (N - 1).
    """
    return neighbour_overlap(layout.features.matrix, layout.points, k)


def neighbour_overlap(a: Tensor, b: Tensor, k: int = 15) -> float:
    """The mean share of common k nearest neighbours (Euclidean) of the rows of a [N, d] and b [N, e].

    Of two embeddings with different seeds it is how much of the picture the seed decides.
    """
    if not 1 <= k < len(a):
        raise LayoutError(f"k must be between 1 and {len(a) - 1}, not {k}")
    pairs = zip(_neighbours(a, k), _neighbours(b, k))
    return float(np.mean([np.isin(first, second).mean() for first, second in pairs]))


def trustworthiness(layout: Layout, k: int = 15) -> float:
    """How far the neighbours that the picture shows are true ones (Venna and Kaski 2001): 1 if all are, about 0.5 for
    points strewn at random. Unlike the share of kept neighbours it asks how wrong a false neighbour is: its rank."""
    n = len(layout.points)
    if not 1 <= k < n / 2:
        raise LayoutError(f"k must be between 1 and {(n - 1) // 2}, not {k}")
    shown, excess = _neighbours(layout.points, k), 0.0
    for rows, distance in _distances(layout.features.matrix, own=-1):  # itself is rank 0
        ranks = distance.argsort(dim=1).argsort(dim=1)
        of_shown = ranks.gather(1, torch.from_numpy(shown[rows]))
        excess += float((of_shown - k).clamp_min(0).sum())
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * excess


def picture_quality(layout: Layout, k: int = 15) -> dict[str, float]:
    """How many of the k nearest neighbours a picture keeps, and how true those are that it shows."""
    return {"kept": neighbourhood_preservation(layout, k), "trustworthiness": trustworthiness(layout, k)}


def orbit_order(points: Tensor, features: Features) -> float:
    """Whether the view orders an object's images: the share of each image's two nearest images of the same object that
    are its two neighbours in azimuth. 1 for closed loops; strewn at random, 2 / (views - 1).

    Args:
        points: float [N, d], of an embedding or `features.matrix` itself.
        features: with the factors object and azimuth, at least four views an object.
    """
    shares = []
    for value in features.factors["object"].unique():
        rows = torch.nonzero(features.factors["object"] == value).flatten()
        if len(rows) < 4:
            raise LayoutError(f"object {int(value)} has {len(rows)} views, too few for an order: give at least 4")
        rows = rows[features.factors["azimuth"][rows].argsort()]
        nearest = torch.from_numpy(_neighbours(points[rows], 2))
        steps = (nearest - torch.arange(len(rows))[:, None]) % len(rows)
        shares.append(float(((steps == 1) | (steps == len(rows) - 1)).double().mean()))
    return float(np.mean(shares))


def share_within(features: Features, factor: str) -> float:
    """The share of the features' variance that lies within the values of a factor: 0 if only the factor moves them.

    Within objects it says how much of h the views move, which no picture that chooses its own scale can show.
    """
    x, total = features.matrix.double(), 0.0
    for value in features.factors[factor].unique():
        rows = x[features.factors[factor] == value]
        total += float((rows - rows.mean(0)).square().sum())
    return total / float((x - x.mean(0)).square().sum())


def shuffle_columns(features: Features, seed: int = 0) -> Features:
    """A control: every dimension dealt out to other images on its own. Whatever structure is left is the method's."""
    generator = torch.Generator().manual_seed(seed)
    columns = [column[torch.randperm(len(column), generator=generator)] for column in features.matrix.T]
    return replace(features, matrix=torch.stack(columns, 1))


def orbit_trail(layout: Layout, factor: str, value: int, along: str = "azimuth") -> Tensor:
    """Points of the images whose `factor` is `value`, in order of `along`, back to the first: [n + 1, 2].

    For an object's views in order of azimuth, a closed loop is what "encodes the view" should look like.
    """
    rows = torch.nonzero(layout.features.factors[factor] == value).flatten()
    if not len(rows):
        raise LayoutError(f"no image has {factor} {value}")
    order = rows[layout.features.factors[along][rows].argsort()]
    return layout.points[torch.cat((order, order[:1]))]


def _neighbours(x: Tensor, k: int) -> np.ndarray:
    """Indices [N, k] of the nearest other rows."""
    parts = [distance.topk(k, largest=False).indices for _, distance in _distances(x, own=torch.inf)]
    return torch.cat(parts).numpy()


def _distances(x: Tensor, own: float) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances of rows to all rows, in chunks that fit into memory; `own` stands for those to themselves."""
    x = x.double()
    for start in range(0, len(x), 1024):
        distance = torch.cdist(x[start : start + 1024], x)
        distance.diagonal(start).fill_(own)
        yield slice(start, start + 1024), distance


def _pca(matrix: Tensor) -> Tensor:
    centred = (matrix - matrix.mean(0)).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, [-1, -2]]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return (centred @ (directions * largest.sign())).float()


def _pacmap(matrix: Tensor, seed: int, neighbours: int) -> Tensor:
    with _one_thread(), warnings.catch_warnings():
        pacmap = _import_pacmap()
        # it warns, and logs, that a random state is set, which is what was asked for
        warnings.simplefilter("ignore")
        logging.getLogger("pacmap").setLevel(logging.ERROR)
        method = pacmap.PaCMAP(n_components=2, n_neighbors=neighbours, random_state=seed, verbose=False)
        return torch.from_numpy(method.fit_transform(matrix.numpy(), init="pca")).float()


def _import_pacmap() -> ModuleType:
    """PaCMAP, whose compiled functions are kept beside it or in the user's cache; where neither can be written (a
    read-only environment) they are kept in a temporary folder."""
    try:
        import pacmap
    except RuntimeError:  # "cannot cache function ...: no locator available"
        import numba

        numba.config.CACHE_DIR = _private_folder()
        import pacmap
    return pacmap


def _private_folder() -> str:
    """A temporary folder for compiled code, which is run as it is found there: nobody else's, and found again."""
    folder = shared_place(f"ciper-numba-{getpass.getuser()}")
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.stat(follow_symlinks=False)
        if os.name != "posix" or (facts.st_uid == os.getuid() and stat.S_IMODE(facts.st_mode) == 0o700):
            return str(folder)
    return tempfile.mkdtemp(prefix="ciper-numba-")


@contextmanager
def _one_thread() -> Iterator[None]:
    """PaCMAP repeats itself to the bit on one thread only.

    Torch's own number is put back as well: importing PaCMAP changes it, and a training's last bits depend on it.
    """
    threads = torch.get_num_threads()
    import faiss
    import numba

    before = numba.get_num_threads(), faiss.omp_get_max_threads()
    numba.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
        torch.set_num_threads(threads)
