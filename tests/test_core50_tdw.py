"""CORe50 and TDW: fixtures made in the official layouts, gaps included, and the paper's protocols on them."""

import math

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from ciperlib.__main__ import main
from ciperlib.analyse.probing.tables import probe_run
from ciperlib.config import Config, ConfigError
from ciperlib.data import DataError, core50, load_images, tdw
from ciperlib.learn.training import fit

FRAMES = (0, 1, 60)  # of each video here: frame 60 is in another block of time


def write(path, colour, side=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)


@pytest.fixture(scope="module")
def core50_files(tmp_path_factory):
    """Eleven sessions of fifty objects, three frames each; one frame of session 3 does not exist."""
    root = tmp_path_factory.mktemp("core50")
    for s in range(1, 12):
        for o in range(1, 51):
            for f in FRAMES:
                if (s, o, f) != (3, 1, 0):
                    name = f"C_{s:02d}_{o:02d}_{f:03d}.png"
                    write(root / "core50_128x128" / f"s{s}" / f"o{o}" / name, (20 * s, 5 * o, f))
    (root / "core50_128x128" / "s1" / "o1" / ".DS_Store").touch()
    return root


@pytest.fixture
def core50_counts(monkeypatch):
    monkeypatch.setattr(core50, "FRAMES", {s: 149 if s == 3 else 150 for s in range(1, 12)})


@pytest.mark.usefixtures("core50_counts")
def test_core50_in_its_official_layout(core50_files):
    train, test = (load_images("core50", split, image_size=10, root=core50_files) for split in ("train", "test"))
    assert (len(train), len(test)) == (300, 1349)
    assert set(train.factors["session"].tolist()) == {s - 1 for s in core50.TRAIN_SESSIONS}
    assert len(test.factors["session"].unique()) == 9
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    assert len(set(test.ids.tolist())) == len(test)
    for images in (train, test):
        red, green, blue = images.images[:, :, 0, 0].long().T
        assert torch.equal(images.factors["session"], red // 20 - 1)
        assert torch.equal(images.factors["object"], green // 5 - 1)
        assert torch.equal(images.factors["category"], images.factors["object"] // 5)
        block = images.groups * 1000 + blue  # a group: one video's frames of the same 50
        for group in images.groups.unique()[:40]:
            frames = blue[images.groups == group] // core50.BLOCK
            assert len(frames.unique()) == 1
        assert block.numel() == len(images)
    assert train.labels["object"][5] == "mobile phone 1"
    few = load_images("core50", "test", size=200, image_size=10, root=core50_files)
    assert torch.equal(few.ids, test.ids[:200])
    assert len(few.factors["session"].unique()) == 9  # a prefix is a fair sample


@pytest.mark.usefixtures("core50_counts")
def test_core50_that_is_not_whole(core50_files, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"core50_128x128 or .* not there. Get it from .*core50_128x128\.zip"):
        load_images("core50", "train", root=tmp_path)
    monkeypatch.setitem(core50.FRAMES, 8, 151)
    with pytest.raises(DataError, match="holds 150 of the session's 151 frames"):
        load_images("core50", "train", image_size=10, root=core50_files)
    for session in core50.TRAIN_SESSIONS:
        (tmp_path / "core50_128x128" / f"s{session}" / "o1").mkdir(parents=True)
    with pytest.raises(DataError, match="s8/o2 is missing"):
        load_images("core50", "train", image_size=10, root=tmp_path)
    write(tmp_path / "core50_128x128" / "s8" / "o1" / "C_09_01_000.png", 0)
    with pytest.raises(DataError, match="a frame of session 9, object 1"):
        load_images("core50", "train", image_size=10, root=tmp_path)


@pytest.mark.usefixtures("core50_counts")
def test_the_paper_s_protocol_on_core50(core50_files, tmp_path):
    """Trained in two sessions with session views; category and object read in unseen ones, sessions in time blocks."""
    choices = {**TINY, "train_size": 300, "image_size": 16, "epochs": 1}
    run = fit(Config(dataset="core50", augmentations="session", **choices), tmp_path, data_root=core50_files)
    train, test = (load_images("core50", split, image_size=16, root=core50_files) for split in ("train", "test"))
    results = probe_run(run, train, test, resamples=20)
    assert set(results) == {"category", "object", "session"}
    assert results["session"].classes == 9
    assert results["object"].unseen == "yes"
    with pytest.raises(ConfigError, match="pose needs images"):
        Config(dataset="core50", augmentations="pose")


@pytest.fixture(scope="module")
def tdw_files(tmp_path_factory):
    """12,096 files in each part; their names are in order, and mean nothing else. The colour says which is which."""
    root = tmp_path_factory.mktemp("tdw")
    for split in ("train", "test"):
        folder = root / tdw.FOLDER / split
        folder.mkdir(parents=True)
        for i in range(12 * 1008):
            colour = (20 * (i // 1008), i % 1008 // 4, i % 1008 % 4)
            Image.new("RGB", (16, 16), colour).save(folder / f"{i:05d}.bmp")
        (folder / ".hidden").touch()
    return root


def test_tdw_in_its_official_layout(tdw_files):
    train, test = (load_images("tdw", split, image_size=16, root=tdw_files) for split in ("train", "test"))
    assert len(train) == len(test) == 12_096
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    red, green, blue = train.images[:, :, 0, 0].long().T
    view = 4 * green + blue
    assert torch.equal(train.factors["object"], red // 20)
    assert torch.allclose(train.factors["azimuth"], torch.deg2rad(10.0 * (view % 36)))
    assert torch.allclose(train.factors["elevation"], torch.deg2rad(10.0 + 10 * (view // 36 % 7)))
    assert torch.allclose(train.factors["distance"], torch.tensor([0.3, 0.4, 0.5, 0.6])[view // 252])
    assert len(load_images("tdw", "train", size=300, image_size=16, root=tdw_files).factors["object"].unique()) == 12
    assert train.factors["azimuth"].max() == pytest.approx(math.radians(350))


def test_tdw_that_is_not_whole(tdw_files, tmp_path, capsys):
    with pytest.raises(DataError, match="zenodo"):
        load_images("tdw", "train", root=tmp_path)
    assert main(["data", "tdw", "--data", str(tmp_path)]) == 2
    assert "spherical_photoreal_64x64_DoF" in capsys.readouterr().err
    (tmp_path / tdw.FOLDER / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="holds 0 files, not 12,096"):
        load_images("tdw", "train", root=tmp_path)
    with pytest.raises(DataError, match="test is missing"):
        load_images("tdw", "test", root=tmp_path)


def test_the_paper_s_protocol_on_tdw(tdw_files, tmp_path):
    """Pose views with relative (sin, cos azimuth, elevation, distance), and the view error by factor, in its unit."""
    choices = {**TINY, "train_size": 480, "image_size": 16, "epochs": 1}
    run = fit(Config(dataset="tdw", augmentations="pose", **choices), tmp_path, data_root=tdw_files)
    parts = [load_images("tdw", split, size=480, image_size=16, root=tdw_files) for split in ("train", "test")]
    pose = probe_run(run, *parts, resamples=20)["pose"]
    names = ("azimuth_error_degrees", "elevation_error_degrees", "distance_error")
    errors = [pose.details[name] for name in names]
    assert pose.details["paper_style_error"] == pytest.approx(np.mean(errors))
    with pytest.raises(ConfigError, match="session needs images"):
        Config(dataset="tdw", augmentations="session")
