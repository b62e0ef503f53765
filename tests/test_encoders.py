"""Encoders: shape, torchvision's names, and what happens to the images before the first layer."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from ciperlib.config import Config
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.methods.heads import make_predictor, make_projector
from ciperlib.learn.seeds import derived_seed, seeded


def test_resnet18_is_torchvisions_but_for_its_stem():
    ours = make_encoder(Config(architecture="resnet18", width=64, coordinates=False))
    theirs = torchvision.models.resnet18(num_classes=10)
    shapes = {n: p.shape for n, p in ours.state_dict().items() if not n.startswith("pixel_")}
    expected = {n: p.shape for n, p in theirs.state_dict().items() if not n.startswith("fc.")}
    assert shapes.keys() == expected.keys()
    assert {n for n in shapes if shapes[n] != expected[n]} == {"conv1.weight"}
    assert shapes["conv1.weight"] == (64, 3, 3, 3)


def test_resnet18_computes_what_torchvisions_does():
    ours = make_encoder(Config(architecture="resnet18", width=64, coordinates=False)).eval()
    theirs = torchvision.models.resnet18()
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool, theirs.fc = torch.nn.Identity(), torch.nn.Identity()
    weights = {n: p for n, p in ours.state_dict().items() if not n.startswith("pixel_")}
    theirs.eval().load_state_dict(weights)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs((images - 0.5) / 0.25))


def test_the_teaching_encoder_has_the_size_it_is_meant_to_have():
    encoder = make_encoder(Config())
    assert encoder.representation_size == 128
    assert sum(p.numel() for p in encoder.parameters()) == 307_824


@settings(deadline=None, max_examples=10)
@given(b=st.integers(1, 3), h=st.integers(8, 40), w=st.integers(8, 40), coordinates=st.booleans())
def test_any_size_gives_a_representation(b, h, w, coordinates):
    encoder = make_encoder(Config(width=8, coordinates=coordinates)).eval()
    assert encoder(torch.rand(b, 3, h, w)).shape == (b, 64)


def test_coordinates_are_appended_after_normalisation_and_are_the_same_for_every_image():
    encoder = make_encoder(Config(width=8))
    images = torch.rand(2, 3, 5, 9)
    x = encoder.prepare(images)
    torch.testing.assert_close(x[:, :3], (images - 0.5) / 0.25)
    assert torch.equal(x[0, 3:], x[1, 3:])
    torch.testing.assert_close(x[0, 3], torch.linspace(-1, 1, 9).expand(5, 9))
    torch.testing.assert_close(x[0, 4], torch.linspace(-1, 1, 5)[:, None].expand(5, 9))
    torch.testing.assert_close(encoder.prepare(images.flip(3))[:, 3:], x[:, 3:])  # a flip cannot move them


def test_normalisation_comes_from_the_training_images(noise_images):
    encoder = make_encoder(Config(width=8))
    encoder.normalise_with(noise_images.images)
    x = encoder.prepare(noise_images.floats())[:, :3]
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = make_encoder(Config(width=8)).state_dict()
    torch.manual_seed(2)
    second = make_encoder(Config(width=8, method="predictive", augmentations="pose")).state_dict()
    other = make_encoder(Config(width=8, seed=1)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_making_an_encoder_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make_encoder(Config(width=8))
    assert torch.equal(torch.rand(3), expected)


def test_seeds_differ_by_name_and_are_the_same_on_every_machine():
    assert derived_seed(0, "encoder") == 7383734732022728942
    assert len({derived_seed(s, n) for s in range(3) for n in ("encoder", "projector", "epoch")}) == 9
    with seeded(0, "x"):
        a = torch.rand(2)
    with seeded(0, "x"):
        assert torch.equal(torch.rand(2), a)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_heads(norm):
    projector, predictor = make_projector(8, 32, norm), make_predictor(8, 16, 10)
    h = torch.randn(6, 8)
    z = projector(h)
    assert z.shape == (6, 32)
    assert predictor(h).shape == (6, 10)
    dimension = 0 if norm == "batch" else 1  # what the last norm has levelled
    torch.testing.assert_close(z.mean(dimension), torch.zeros(z.shape[1 - dimension]), atol=1e-5, rtol=0)
    assert not any(name.endswith("bias") for name, _ in list(projector.named_parameters())[-1:])


def test_group_norm_does_not_mix_images():
    encoder = make_encoder(Config(width=8, norm="group")).train()
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(encoder(images)[:1], encoder(images[:1]), atol=1e-5, rtol=1e-4)
