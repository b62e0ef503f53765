"""Discrete transformations: exact on whole pixels, and orbits of features in the right order."""

import pytest
import torch
import torchvision.transforms.functional as TF
from conftest import make_noise_images

from ciperlib.analyse.orbits import LEVEL, SOURCE, as_orbits, extract_orbits, pixel_orbits
from ciperlib.data import load_images
from ciperlib.learn.augment import Augmentation
from ciperlib.learn.augment.pixels import BLENDS
from ciperlib.learn.augment.transformations import (
    BLURS,
    PARAMETER_STEPS,
    Transformed,
    azimuth_steps,
    blur,
    jigsaw,
    make_transformation,
    parameter_steps,
)
from ciperlib.registry import transformations

MOVES_PIXELS = [name for name in transformations if name not in ("azimuth", "elevation", "distance", *PARAMETER_STEPS)]


def test_each_is_known_by_its_own_name_and_says_its_leak():
    known = {name: make_transformation(name) for name in transformations}
    assert all(t.name == name and len(t.leak) > 10 for name, t in known.items())


@pytest.mark.parametrize("name", MOVES_PIXELS)
def test_level_0_leaves_the_image_and_ids_stay(name):
    images, transformation = make_noise_images(5), make_transformation(name)
    for level in range(transformation.m):
        changed = transformation(images, level)
        assert changed.images.shape == images.images.shape
        assert torch.equal(changed.ids, images.ids)
        assert torch.equal(changed.images, images.images) == (level == 0 or name == "identity")
    with pytest.raises(ValueError, match="has levels 0 to"):
        transformation(images, transformation.m)


@pytest.mark.parametrize(
    ("name", "times"), [("rotation", 4), ("horizontal_flip", 2), ("vertical_flip", 2), ("inversion", 2)]
)
def test_groups_close(name, times):
    images, transformation = make_noise_images(3), make_transformation(name)
    again = images
    for _ in range(times):
        again = transformation(again, 1)
    assert torch.equal(again.images, images.images)


def test_agreement_with_torchvision():
    x = make_noise_images(4).floats()
    turned = make_transformation("rotation").apply(x, 1)
    torch.testing.assert_close(turned, TF.rotate(x, 90))
    torch.testing.assert_close(make_transformation("horizontal_flip").apply(x, 1), TF.hflip(x))
    torch.testing.assert_close(make_transformation("vertical_flip").apply(x, 1), TF.vflip(x))
    torch.testing.assert_close(make_transformation("inversion").apply(x, 1), TF.invert(x))
    grey = make_transformation("grayscale").apply(x, 1)
    torch.testing.assert_close(grey, TF.rgb_to_grayscale(x, 3), atol=1e-3, rtol=0)
    wide = torch.rand(2, 3, 32, 32)
    for level, side in enumerate(BLURS):
        if side:
            torch.testing.assert_close(blur(wide, level), TF.gaussian_blur(wide, [side, side]), atol=1e-4, rtol=1e-4)


def test_jigsaw_moves_quarters_and_nothing_else():
    x = torch.zeros(1, 3, 4, 4)
    x[..., :2, :2], x[..., :2, 2:], x[..., 2:, :2], x[..., 2:, 2:] = 0.1, 0.2, 0.3, 0.4
    shown = {tuple(jigsaw(x, level)[0, 0, ::2, ::2].flatten().mul(10).round().int().tolist()) for level in range(24)}
    assert len(shown) == 24
    assert jigsaw(x, 1)[0, 0, ::2, ::2].flatten().mul(10).round().tolist() == [1, 2, 4, 3]


def test_orbits_have_every_level_of_every_image_in_order():
    images = make_noise_images(6)
    encoder = torch.nn.Flatten()
    orbits = extract_orbits(encoder, images, make_transformation("rotation"))
    block, rows = as_orbits(orbits)
    assert block.shape == (6, 4, 3 * 16 * 16)
    for level in range(4):
        expected = torch.rot90(images.floats(), level, (2, 3)).flatten(1)
        torch.testing.assert_close(block[:, level], expected)
    assert torch.equal(rows.factors["object"][::4], images.factors["object"])
    assert orbits.factors[LEVEL][:4].tolist() == [0, 1, 2, 3]
    assert torch.equal(orbits.factors[SOURCE], images.ids.repeat_interleave(4))
    assert len(orbits.ids.unique()) == 24
    assert torch.equal(orbits.groups, images.groups.repeat_interleave(4))
    assert orbits.labels[LEVEL] == ("0°", "90°", "180°", "270°")


def test_the_turntable_turns_by_rendering():
    images = load_images("turntable", "test", size=6)
    step, part = azimuth_steps(4), torch.pi / 2
    level = step.draw_levels(images, torch.arange(6), torch.Generator())
    for k in range(4):
        turned = step(images, k)
        azimuth = turned.factors["azimuth"]
        assert torch.equal((azimuth / part).long(), torch.full((6,), k))
        torch.testing.assert_close(azimuth % part, images.factors["azimuth"] % part, atol=1e-5, rtol=0)
        own = level == k
        if own.any():  # images that are in that part already are what they were
            assert (turned.images[own].float() - images.images[own]).abs().max() <= 1
    with pytest.raises(ValueError, match="only what is rendered"):
        step(make_noise_images(3), 1)


@pytest.mark.parametrize("name", PARAMETER_STEPS)
def test_a_parameter_s_levels_are_the_augmentation_with_the_others_neutral(name):
    x = make_noise_images(3).floats()
    step = parameter_steps(name, 3)
    low, high = PARAMETER_STEPS[name][:2]
    for level, value in enumerate((low, (low + high) / 2, high)):
        changed = step.apply(x, level)
        if name in BLENDS:
            torch.testing.assert_close(changed, getattr(TF, f"adjust_{name}")(x, value), atol=1e-4, rtol=0)
        elif name == "hue":
            torch.testing.assert_close(changed, TF.adjust_hue(x, value), atol=5e-3, rtol=0)
        else:
            side = round((value if name == "crop_size" else 0.5) * 16)
            left, top = {"crop_x": (value * 16, 0), "crop_y": (0, value * 16)}.get(name, ((16 - side) / 2,) * 2)
            crop = TF.resized_crop(x, round(top), round(left), side, side, [16, 16], antialias=False)
            torch.testing.assert_close(changed, crop, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="there are no steps of 'flip'"):
        parameter_steps("flip")


@pytest.mark.parametrize("steps", [(), ("crop", "flip")])
def test_a_transformation_on_top_of_an_augmentation(steps):
    """Every level is drawn as often, said in the last column, and comes after the base."""
    images = make_noise_images(40)
    both = Transformed(Augmentation(steps), make_transformation("rotation"))
    index = torch.arange(40).repeat(50)
    view = both(images, index, torch.Generator().manual_seed(0))
    level = view.parameters[:, -1].long()
    assert torch.bincount(level).min() > 430
    assert both.specs[-1].high == 3
    torch.testing.assert_close(both.replay(images.images[index], view.parameters), view.images)
    base = both.base(images, index, torch.Generator().manual_seed(0))
    for k in range(4):
        torch.testing.assert_close(view.images[level == k], torch.rot90(base.images[level == k], k, (2, 3)))


def test_rendered_levels_are_drawn_anew_and_rendered():
    """As every other transformation's: another level each time an image is met, the rest of it as it was."""
    images, index = load_images("turntable", "train", size=48), torch.tensor([5, 3, 40, 7])
    both = Transformed(Augmentation(()), azimuth_steps(4))
    generator = torch.Generator().manual_seed(0)
    met = [both(images, index, generator) for _ in range(40)]
    levels = torch.stack([view.parameters[:, -1] for view in met])
    assert all(set(column.tolist()) == {0, 1, 2, 3} for column in levels.T)
    orbit = azimuth_steps(4).orbit(images.subset(index))
    for view in met:
        wanted = torch.stack([orbit[int(k)].images[i] for i, k in enumerate(view.parameters[:, -1])])
        assert torch.equal(view.images.mul(255).round().byte(), wanted)
        assert torch.equal(view.source, index)


def test_an_azimuth_is_read_off_the_image_it_came_from():
    images = load_images("turntable", "train", size=200)
    both = Transformed(Augmentation(("pose",)), azimuth_steps(4))
    view = both(images, torch.arange(200), torch.Generator().manual_seed(0))
    expected = images.factors["azimuth"][view.source] // (torch.pi / 2)
    assert torch.equal(view.parameters[:, -1], expected)
    torch.testing.assert_close(view.images, images.floats(view.source))


def test_some_of_the_levels():
    images, whole = make_noise_images(3), make_transformation("jigsaw")
    some = whole.only(0, 23)
    assert some.levels == (whole.levels[0], whole.levels[23])
    assert torch.equal(some(images, 1).images, whole(images, 23).images)
    with pytest.raises(ValueError, match="another number of them"):
        azimuth_steps(4).only(0, 1)


def test_an_orbit_is_made_once_for_many_encoders():
    images, transformation = make_noise_images(5), make_transformation("rotation")
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4)).eval()
    levels = transformation.orbit(images)
    assert len(levels) == 4
    once, again = (extract_orbits(encoder, given, transformation) for given in (levels, images))
    assert torch.equal(once.matrix, again.matrix)
    assert torch.equal(once.ids, again.ids)


def test_pixels_as_orbits_lie_as_an_encoder_s_do():
    """Projected alike at every level: with all components kept, an image's levels have the pixels' own distances."""
    images, transformation = make_noise_images(6, size=6), make_transformation("rotation")
    block, rows = as_orbits(pixel_orbits(make_noise_images(40, size=6), images, transformation))
    levels = transformation.orbit(images)
    assert rows.factors[SOURCE][::4].tolist() == images.ids.tolist()
    for i in range(4):
        ours, pixels = block[:, i], levels[i].floats().flatten(1)
        torch.testing.assert_close(torch.cdist(ours, ours), torch.cdist(pixels, pixels), atol=2e-3, rtol=0)


def test_an_unknown_transformation():
    with pytest.raises(ValueError, match="there is no transformation 'shear'"):
        make_transformation("shear")
