"""Discrete transformations: exact on whole pixels, and orbits of features in the right order."""

import pytest
import torch
import torchvision.transforms.functional as TF
from conftest import make_noise_images

from ciperlib.analyse.orbits import LEVEL, SOURCE, as_orbits, extract_orbits
from ciperlib.data import load_images
from ciperlib.learn.transformations import BLURS, TRANSFORMATIONS, azimuth_steps, blur, jigsaw, make_transformation


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_level_0_leaves_the_image_and_ids_stay(name):
    images, transformation = make_noise_images(5), make_transformation(name)
    for level in range(transformation.m):
        changed = transformation(images, level)
        assert changed.images.shape == images.images.shape
        assert torch.equal(changed.ids, images.ids)
        assert torch.equal(changed.images, images.images) == (level == 0 or name == "identity")
    with pytest.raises(ValueError, match="has levels 0 to"):
        transformation(images, transformation.m)
    assert len(transformation.leak) > 10


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
    turned = TRANSFORMATIONS["rotation"].apply(x, 1)
    torch.testing.assert_close(turned, TF.rotate(x, 90))
    torch.testing.assert_close(TRANSFORMATIONS["horizontal_flip"].apply(x, 1), TF.hflip(x))
    torch.testing.assert_close(TRANSFORMATIONS["vertical_flip"].apply(x, 1), TF.vflip(x))
    torch.testing.assert_close(TRANSFORMATIONS["inversion"].apply(x, 1), TF.invert(x))
    grey = TRANSFORMATIONS["grayscale"].apply(x, 1)
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
    step = azimuth_steps(4)
    turned = step(images, 1)
    torch.testing.assert_close(
        (turned.factors["azimuth"] - images.factors["azimuth"]) % (2 * torch.pi), torch.full((6,), torch.pi / 2),
        atol=1e-5, rtol=0,
    )  # fmt: skip
    same = step(images, 0).images.float() - images.images
    assert same.abs().max() <= 1
    with pytest.raises(ValueError, match="only the turntable"):
        step(make_noise_images(3), 1)


def test_an_unknown_transformation():
    with pytest.raises(ValueError, match="there is no transformation 'shear'"):
        make_transformation("shear")
