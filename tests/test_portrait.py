"""Portraits: the same numbers as the analyses they come from, whole or refused."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from ciperlib.analyse import portrait as portraits
from ciperlib.analyse.portrait import (
    FLOORS,
    PORTRAIT,
    PortraitError,
    Sitting,
    as_embedding,
    load_portrait,
    make_portrait,
    portrayed,
    read_floors,
    read_or_make,
    read_portrait,
    write_portrait,
)
from ciperlib.config import Config
from ciperlib.files import home, read_sealed
from ciperlib.learn.runs import DIGESTS, find_run, load_run, zoo_root
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
    assert (again.images, again.pixels) == (own.images, own.pixels)
    assert again.is_of(_sitting)


@pytest.mark.parametrize(
    "harm",
    ["missing", "truncated", "changed", "another's", "not a portrait", "a folder", "text", "{}", "verdict", "score",
     "no score", "a list"],
)  # fmt: skip
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
    elif harm == "a folder":
        path.unlink()
        path.mkdir()
    elif harm in ("text", "{}"):
        path.write_text(harm)
    elif harm in ("verdict", "score"):  # one letter, one digit: its checksum is over them, too
        word = own.synergy["verdict"] if harm == "verdict" else str(own.scores["category"])[:5]
        path.write_bytes(bytes(content).replace(word.encode(), word[:-1].encode() + b"7"))
        assert path.read_bytes() != content
    elif harm == "no score":
        write_portrait(tmp_path, dataclasses.replace(own, scores={}))
    elif harm == "a list":
        write_portrait(tmp_path, dataclasses.replace(own, scores=[1], synergy=[]))
    with pytest.raises(PortraitError, match="make zoo") as error:
        read_portrait(tmp_path, run.config)
    assert str(tmp_path) in str(error.value)


def test_a_portrait_of_other_images_is_refused(small):
    sitting, _run, own, _steps = small
    for other in (dict(points=own.points[1:]), dict(images="0" * 16)):
        with pytest.raises(PortraitError, match="other images"):
            as_embedding(dataclasses.replace(own, **other), sitting)


def test_which_images_does_not_depend_on_the_machine_and_pixels_do(small, monkeypatch):
    sitting, _run, own, _steps = small
    again = Sitting(train_size=300, test_size=500)
    again._unseen.images.add_(1)  # as another machine renders them
    assert own.is_of(sitting)
    assert again.images == sitting.images
    assert not own.is_of(again)
    assert dataclasses.replace(own, pixels="").is_of(again)
    assert Sitting(train_size=400, test_size=500).images != sitting.images
    monkeypatch.setattr("ciperlib.analyse.shipped.VERSION", 99)
    assert Sitting(train_size=300, test_size=500).images != sitting.images


def test_a_portrait_of_other_pixels_is_made_again_where_it_was_made_here(small, tmp_path, monkeypatch):
    sitting, run, own, _steps = small
    monkeypatch.setattr(portraits, "make_portrait", lambda *_, **__: own)
    folder = tmp_path / run.name
    shutil.copytree(run.folder, folder)
    here = dataclasses.replace(run, folder=folder)
    write_portrait(folder, dataclasses.replace(own, pixels="0" * 16))
    assert read_or_make(here, sitting).pixels == own.pixels
    # the zoo's may have been rendered elsewhere, and is never replaced
    monkeypatch.setenv("CIPER_ZOO", str(tmp_path))
    write_portrait(folder, dataclasses.replace(own, pixels="0" * 16))
    assert read_or_make(here, sitting).points.equal(own.points)
    write_portrait(folder, dataclasses.replace(own, images="0" * 16))
    before = (folder / PORTRAIT).read_bytes()
    with pytest.raises(PortraitError, match="other images"):
        read_or_make(here, sitting)
    assert (folder / PORTRAIT).read_bytes() == before


def test_the_zoo_s_portraits_are_of_the_images_that_this_version_renders():
    """Who changes them raises the turntable's VERSION, and makes portraits anew."""
    assert Sitting().images == portraits.SHIPPED_IMAGES
    assert load_portrait(portrayed()[0]).is_of(Sitting())


def test_every_flipped_bit_of_a_shipped_portrait_s_text_is_found(tmp_path, monkeypatch):
    """Its own digest was over its tensors alone; a table beside the zoo vouches for the file."""
    config = portrayed()[0]
    shutil.copytree(zoo_root() / config.name, tmp_path / config.name)
    shutil.copy(zoo_root() / DIGESTS, tmp_path)
    monkeypatch.setenv("CIPER_ZOO", str(tmp_path))
    path = tmp_path / config.name / PORTRAIT
    load_portrait(config)
    content = path.read_bytes()
    for place in range(content.index(b"scores"), content.index(b"digest"), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(PortraitError, match="damaged"):
            load_portrait(config)
    path.write_bytes(content)
    (tmp_path / DIGESTS).unlink()  # an older checkout has no table
    assert load_portrait(config).images == portraits.SHIPPED_IMAGES
    (tmp_path / DIGESTS).write_text("[]")
    with pytest.raises(PortraitError, match="damaged"):
        read_portrait(path.parent, config)


@pytest.mark.parametrize("text", [None, "text", "{}", "[]", '{"pixels": {"category": 1}}', "digit", "\x00\xff"])
def test_missing_or_damaged_floors_are_named(text, tmp_path, monkeypatch):
    shutil.copy(zoo_root() / DIGESTS, tmp_path)
    if text is not None:
        text = (zoo_root() / FLOORS).read_text().replace("0.5592", "0.5593") if text == "digit" else text
        (tmp_path / FLOORS).write_bytes(text.encode("latin-1"))
    monkeypatch.setenv("CIPER_ZOO", str(tmp_path))
    with pytest.raises(PortraitError, match=r"floors\.json is missing or damaged; delete it"):
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
    assert read_sealed(tmp_path / "floors.json") == ({"pixels": {"synergy": 0.1}}, True)
