"""Embeddings: repeatable, faithful where the data allow it, and compared with what no structure gives."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness as sklearn_trustworthiness
from sklearn.neighbors import NearestNeighbors

from ciperlib.analyse.features import Features
from ciperlib.analyse.layout import layouts
from ciperlib.analyse.layout.layouts import (
    LayoutError,
    fit_layout,
    neighbour_overlap,
    neighbourhood_preservation,
    orbit_order,
    orbit_trail,
    picture_quality,
    share_within,
    shuffle_columns,
    trustworthiness,
)


def clusters(n=300, d=16, seed=0):
    """Three clusters in 16 dimensions, each a ring in the order of azimuth."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(n)
    azimuth = 2 * math.pi * torch.rand(n, generator=generator)
    centres = 10 * torch.randn(3, d, generator=generator)
    matrix = centres[index % 3] + 0.05 * torch.randn(n, d, generator=generator)
    matrix[:, 0] += azimuth.cos()
    matrix[:, 1] += azimuth.sin()
    factors = {"object": index % 3, "azimuth": azimuth}
    return Features(matrix, factors, index, index, name="made", encoder_fingerprint="x")


def test_the_same_seed_gives_the_same_bytes_and_another_another_picture():
    features = clusters()
    first, again, other = (fit_layout(features, seed=seed).points for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert neighbour_overlap(first, other) > 0.3  # but neighbours stay neighbours


def test_torch_keeps_its_number_of_threads():
    """In a process of its own: it is the first import of PaCMAP that would change it."""
    code = (
        "import torch; torch.set_num_threads(1); from ciperlib.analyse.layout.layouts import fit_layout; "
        "from ciperlib.analyse.features import Features; i = torch.arange(60); "
        "fit_layout(Features(torch.randn(60, 4), {}, i, i)); assert torch.get_num_threads() == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_clusters_stay_together_and_neighbours_stay_neighbours():
    embedding = fit_layout(clusters())
    assert embedding.points.shape == (300, 2)
    assert neighbourhood_preservation(embedding) > 0.4
    nearest = torch.cdist(embedding.points, embedding.points).fill_diagonal_(torch.inf).argmin(1)
    same = embedding.features.factors["object"] == embedding.features.factors["object"][nearest]
    assert same.float().mean() > 0.99


def test_shuffled_columns_lose_the_neighbours_and_keep_each_column():
    features = clusters()
    shuffled = shuffle_columns(features)
    assert torch.equal(shuffled.matrix.sort(0).values, features.matrix.sort(0).values)
    assert neighbour_overlap(features.matrix, shuffled.matrix) < 0.15
    strewn = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    assert neighbour_overlap(features.matrix, strewn) == pytest.approx(15 / 299, abs=0.03)


def test_pca_is_scikit_learn_s_up_to_sign():
    features = clusters()
    points = fit_layout(features, "pca").points
    expected = torch.from_numpy(PCA(2).fit_transform(features.matrix.double().numpy())).float()
    torch.testing.assert_close(points.abs(), expected.abs(), atol=1e-3, rtol=1e-3)


def test_overlap_against_scikit_learn_s_neighbours():
    a, b = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(0))
    sets = []
    for x in (a, b):
        index = NearestNeighbors(n_neighbors=6).fit(x.numpy()).kneighbors(return_distance=False)
        sets.append([set(row) for row in index])
    expected = sum(len(i & j) / 6 for i, j in zip(*sets)) / 60
    assert neighbour_overlap(a, b, 6) == pytest.approx(expected)
    assert neighbour_overlap(a, a, 6) == 1


def test_a_trail_goes_round_an_object_in_order_of_azimuth():
    embedding = fit_layout(clusters(), "pca")
    trail = orbit_trail(embedding, "object", 1)
    assert trail.shape == (101, 2)
    assert torch.equal(trail[0], trail[-1])
    steps, shuffled = trail.diff(dim=0).norm(dim=1).mean(), trail[torch.randperm(101)].diff(dim=0).norm(dim=1).mean()
    assert steps < shuffled
    with pytest.raises(LayoutError, match="no image has object 7"):
        orbit_trail(embedding, "object", 7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m[:8], "8 points have no 10 neighbours"),
        (lambda m: torch.ones_like(m), "all features are the same"),
        (lambda m: torch.where(m > 10, torch.nan, m), "not finite"),
    ],
)
def test_what_cannot_be_laid_out(change, words):
    matrix = change(clusters().matrix)
    index = torch.arange(len(matrix))
    with pytest.raises(LayoutError, match=words):
        fit_layout(Features(matrix, {}, index, index))
    with pytest.raises(LayoutError, match="pacmap"):
        fit_layout(clusters(), "tsne")
    with pytest.raises(LayoutError, match="k must be"):
        neighbour_overlap(matrix, matrix, len(matrix))


@pytest.mark.parametrize("k", [1, 5, 40])
def test_trustworthiness_is_scikit_learn_s(k):
    embedding = fit_layout(clusters(n=120), "pca")
    expected = sklearn_trustworthiness(embedding.features.matrix.numpy(), embedding.points.numpy(), n_neighbors=k)
    assert trustworthiness(embedding, k) == pytest.approx(expected, abs=1e-9)
    assert picture_quality(embedding, k)["kept"] == neighbourhood_preservation(embedding, k)
    with pytest.raises(LayoutError, match="k must be between 1 and 59"):
        trustworthiness(embedding, 60)


def test_the_order_of_orbits_of_loops_and_of_dust():
    n = 40
    azimuth = (2 * math.pi * torch.arange(n) / n).repeat(2)
    index = torch.arange(2 * n)
    loops = torch.stack([azimuth.cos(), azimuth.sin(), 9.0 * (index >= n)], 1)
    order = torch.randperm(2 * n, generator=torch.Generator().manual_seed(0))
    factors = {"object": (index >= n).long()[order], "azimuth": azimuth[order]}
    features = Features(loops[order], factors, index, index, name="made", encoder_fingerprint="x")
    assert orbit_order(features.matrix, features) == 1
    dust = torch.randn(2 * n, 3, generator=torch.Generator().manual_seed(1))
    assert orbit_order(dust, features) == pytest.approx(2 / (n - 1), abs=0.05)
    few = features.subset(slice(0, 5))
    with pytest.raises(LayoutError, match="too few for an order"):
        orbit_order(few.matrix, few)


def test_the_share_of_variance_within_a_factor():
    index = torch.arange(100)
    matrix = torch.stack([10.0 * (index % 2), torch.randn(100, generator=torch.Generator().manual_seed(0))], 1)
    factors = {"object": index % 2, "half": (index >= 50).long()}
    features = Features(matrix, factors, index, index, name="made", encoder_fingerprint="x")
    noise = float(matrix[:, 1].var(correction=0))
    assert share_within(features, "object") == pytest.approx(noise / (25 + noise), rel=0.1)
    assert share_within(features, "half") > 0.98


READ_ONLY = """
from numba.core import caching
def refuse(self): raise OSError("read-only file system")
caching.InTreeCacheLocator.ensure_cache_path = caching.UserWideCacheLocator.ensure_cache_path = refuse
import torch
from ciperlib.analyse.layout.layouts import fit_layout
from ciperlib.analyse.features import Features
rows = torch.arange(40)
features = Features(torch.randn(40, 5), {"object": rows % 3}, rows, rows, name="made", encoder_fingerprint="x")
print(len(fit_layout(features).points))
"""


@pytest.mark.slow
@pytest.mark.long
def test_pacmap_runs_in_an_environment_that_cannot_be_written(tmp_path):
    """Half a minute, in which it is compiled anew."""
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", READ_ONLY], env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == "40", done.stderr
    assert list(tmp_path.glob("ciper-numba-*/*"))


def test_compiled_code_is_kept_in_nobody_else_s_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = Path(layouts._private_folder())
    assert own.parent == tmp_path
    assert layouts._private_folder() == str(own)
    own.chmod(0o777)  # anybody could have put something there
    assert layouts._private_folder() != str(own)
    own.rmdir()
    own.symlink_to(tmp_path)
    assert layouts._private_folder() != str(own)
