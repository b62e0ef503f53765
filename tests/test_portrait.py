"""Portraits: the same numbers as the analyses they come from, whole or refused."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from ciperlib.analyse import portrait as portraits
from ciperlib.analyse.portrait import (
    PORTRAIT,
    PortraitError,
    Sitting,
    as_embedding,
    load_portrait,
    make_portrait,
    portrayed,
    read_floors,
    read_portrait,
    write_portrait,
)
from ciperlib.config import Config
from ciperlib.files import home
from ciperlib.learn.runs import find_run, load_run, zoo_root
from ciperlib.learn.training import fit


@pytest.fixture(scope="module")
def small():
    """A sitting of few images, and a run and its portrait in it, with the steps it reported."""
    sitting, steps = Sitting(train_size=300, test_size=500), []
    run = fit(Config(method="random"))
    return sitting, run, make_portrait(run, sitting, report=steps.append), steps


def test_the_grid_of_the_explorer_is_whole():
    """Alpha 0, 0.1, 1 and 10 for both kinds of views, and each image step left out, with three seeds."""
    found = {(c.alpha, c.augmentations, c.seed) for c in portrayed() if c.method in ("ciper", "simclr")}
    image = ("crop", "flip", "jitter", "grayscale")
    for seed in range(3):
        assert {(alpha, views, seed) for alpha in (0, 0.1, 1, 10) for views in (image, ("pose",))} <= found
        assert {(1, tuple(step for step in image if step != left), seed) for left in image} <= found
    for config in portrayed():
        own = load_portrait(config)
        assert own.points.shape == (500, 2)
        assert own.maps.shape == (10, 32, 32)


def test_portraits_agree_with_what_was_measured_elsewhere():
    """Their probes with the run's metrics, their meter with notebook 05."""
    published = json.loads((home() / "figures" / "05_explaining_away.json").read_text())["metrics"]
    values = []
    for config in portrayed():
        own, metrics = load_portrait(config), find_run(config, zoo_root()).metrics
        for factor in ("category", "object", "session", "pose"):
            assert own.scores[factor] == pytest.approx(metrics[factor], abs=0.01)
        if config.method == "ciper" and config.alpha == 1 and len(config.augmentations) == 4:
            values.append(own.synergy["value"])
    assert sum(values) / 3 == pytest.approx(published["value_nats: CIPER, image aug."], abs=0.003)
    assert read_floors()["pixels"]["synergy"] == pytest.approx(published["value_nats: pixels"], abs=0.003)


def test_a_portrait_is_of_unseen_images_one_of_each_category(small):
    sitting, _run, own, steps = small
    assert steps == ["probes", "saliency maps", "PaCMAP", "explaining-away"]
    assert sitting.looked_at.factors["category"].tolist() == list(range(10))
    assert len(sitting.laid_out.factors["object"].unique()) == 10
    assert len(own.points) == len(sitting.laid_out)
    assert own.maps.amin((1, 2)).eq(0).all()
    assert own.maps.amax((1, 2)).eq(255).all()
    assert {"category", "object_low", "pose_high"} <= own.scores.keys()
    assert own.synergy["levels"] == 4
    assert torch.equal(as_embedding(own, sitting).features.ids, sitting.laid_out.ids)


def test_it_is_written_and_read_to_the_bit(small, tmp_path):
    _sitting, run, own, _steps = small
    write_portrait(tmp_path, own)
    again = read_portrait(tmp_path, run.config)
    assert torch.equal(again.points, own.points)
    assert torch.equal(again.maps, own.maps)
    assert (again.scores, again.synergy) == (own.scores, own.synergy)


@pytest.mark.parametrize("harm", ["missing", "truncated", "changed", "another's", "not a portrait"])
def test_a_damaged_portrait_is_named(small, tmp_path, harm):
    _sitting, run, own, _steps = small
    path = tmp_path / PORTRAIT
    write_portrait(tmp_path, own if harm != "another's" else dataclasses.replace(own, name="another"))
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "changed":
        content[-1] ^= 1
        path.write_bytes(content)
    elif harm == "not a portrait":
        save_file({"points": own.points, "maps": own.maps}, path)
    with pytest.raises(PortraitError, match="make zoo") as error:
        read_portrait(tmp_path, run.config)
    assert str(tmp_path) in str(error.value)


def test_a_portrait_of_other_images_is_refused(small):
    sitting, _run, own, _steps = small
    with pytest.raises(PortraitError, match="other images"):
        as_embedding(dataclasses.replace(own, points=own.points[1:]), sitting)


def test_missing_floors_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CIPER_ZOO", str(tmp_path))
    with pytest.raises(PortraitError, match=r"floors\.json"):
        read_floors()


def test_the_zoo_makes_what_is_missing_of_portraits_and_floors(small, tmp_path, monkeypatch):
    from ciperlib.__main__ import main

    sitting, _run, _own, _steps = small
    source = zoo_root() / Config(method="simclr").name
    shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns(PORTRAIT))
    monkeypatch.setattr(portraits, "portrayed", lambda: [Config(method="simclr")])
    monkeypatch.setattr(portraits, "Sitting", lambda *_: sitting)
    monkeypatch.setattr(portraits, "measure_floors", lambda _: {"pixels": {"synergy": 0.1}})
    monkeypatch.setattr("ciperlib.learn.runs.zoo_grid", lambda part=None: ([{"method": "simclr"}], [0]))
    assert main(["zoo", "--root", str(tmp_path)]) == 0
    run = load_run(tmp_path / source.name)
    assert read_portrait(run.folder, run.config).synergy["levels"] == 4
    assert json.loads((tmp_path / "floors.json").read_text()) == {"pixels": {"synergy": 0.1}}
