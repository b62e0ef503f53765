"""Perturbed test images: the same for whoever asks, one step on top of the other, torchvision's where it has them."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.functional as TF
from conftest import QuarterColours, make_noise_images

from ciperlib.analyse.probing.perturbations import PERTURBATIONS, _bend, _rotate, perturb, perturbation_table
from ciperlib.data import load_images


@pytest.mark.parametrize("name", PERTURBATIONS[1:])
def test_an_image_s_draw_is_its_own(name):
    """Not that of its place in the set, nor of its neighbours; another seed is another draw."""
    images = make_noise_images(12)
    whole, some = perturb(images, name), perturb(images.subset(torch.tensor([7, 2])), name)
    assert torch.equal(some.images, whole.images[[7, 2]])
    assert not torch.equal(perturb(images, name, seed=1).images, whole.images)
    assert not torch.equal(whole.images, images.images)
    assert torch.equal(whole.ids, images.ids)


def test_one_step_on_top_of_the_other():
    images = make_noise_images(6)
    jittered = perturb(images, "jitter")
    assert torch.equal(perturb(images, "jitter + flip").images, jittered.images.flip(-1))
    assert perturb(images, "clean") is images
    with pytest.raises(ValueError, match="there is no perturbation 'blur'"):
        perturb(images, "blur")


def test_a_rotation_is_torchvision_s():
    x = make_noise_images(3, size=17).floats()
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    angles = [90.0 * (2 * float(torch.rand(1, generator=torch.Generator().manual_seed(i))) - 1) for i in range(3)]
    turned = _rotate(x, generators)
    for image, angle, ours in zip(x, angles, turned):
        theirs = TF.rotate(image, angle, TF.InterpolationMode.BILINEAR)
        assert (ours - theirs).abs().median() < 1e-4  # at the edge the two treat the outside differently
    assert max(map(abs, angles)) <= 90


def test_a_displacement_is_as_large_for_its_side_at_any_size():
    ramp = {}
    for side in (32, 224):
        x = torch.linspace(0, 1, side).expand(3, side, side)[None].repeat(4, 1, 1, 1)
        bent = _bend(x, [torch.Generator().manual_seed(i) for i in range(4)])
        inside = slice(side // 8, -side // 8)
        ramp[side] = float((bent - x)[:, :, inside, inside].std())
    assert ramp[32] == pytest.approx(ramp[224], rel=0.25)
    assert 0.003 < ramp[224] < 0.02  # about half a hundredth of the side


def test_the_table_of_an_encoder_and_its_parts():
    train, test = (load_images("turntable", split, size=200) for split in ("train", "test"))
    table = perturbation_table(QuarterColours(), train, test, "session", parts={"all": slice(None), "red": slice(0, 4)})
    assert list(table["perturbation"]) == 2 * list(PERTURBATIONS)
    value = table.set_index(["part", "perturbation"])["value"]
    assert value["all", "clean"] > value["all", "jitter"]  # it knows the colours
    assert value["all", "clean"] > value["red", "clean"]
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
