"""Networks that turn with the image, and the small transformer: exact laws, and what FullGrad makes of them."""

from __future__ import annotations

import pytest
import torch

from ciperlib.analyse.attribution.fullgrad import FullGrad, SaliencyError
from ciperlib.config import Config
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.encoders.c4 import GroupConv, Lifting


def c4(architecture="c4_resnet10", **choices):
    return make_encoder(Config(architecture=architecture, coordinates=False, **{"width": 8, **choices}))


def lived_in(encoder, dtype=torch.float64):
    """In eval mode, with BatchNorm statistics that are not those it was born with."""
    generator = torch.Generator().manual_seed(3)
    for module in encoder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return encoder.to(dtype).eval()


def images(n=3, side=16, dtype=torch.float64):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_quarter_turn_moves_each_field_s_numbers_by_one_place(turns, norm):
    encoder, x = lived_in(c4(norm=norm)), images()
    h, turned = encoder(x), encoder(x.rot90(turns, (2, 3)))
    torch.testing.assert_close(turned.view(3, -1, 4), h.view(3, -1, 4).roll(turns, 2), atol=1e-12, rtol=1e-12)
    assert not torch.allclose(turned, h)
    single = lived_in(c4(norm=norm), torch.float32)
    h, turned = single(x.float()), single(x.float().rot90(turns, (2, 3)))
    torch.testing.assert_close(turned.view(3, -1, 4), h.view(3, -1, 4).roll(turns, 2), atol=1e-6, rtol=1e-5)


def test_every_layer_s_planes_turn_and_change_places():
    encoder, x, seen = lived_in(c4()), images(), {}
    hooks = [
        getattr(encoder, name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.setdefault(name, []).append(out)
        )
        for name in ("conv1", "layer1", "layer2", "layer3", "layer4")
    ]
    for image in (x, x.rot90(1, (2, 3))):
        encoder(image)
    for first, second in seen.values():
        torch.testing.assert_close(second, first.rot90(1, (3, 4)).roll(1, 2), atol=1e-12, rtol=1e-12)
    assert [hook.remove() for hook in hooks]


def test_in_train_mode_too():
    encoder, x = c4().double().train(), images(4)
    h, turned = encoder(x), encoder(x.rot90(1, (2, 3)))
    torch.testing.assert_close(turned.view(4, -1, 4), h.view(4, -1, 4).roll(1, 2), atol=1e-10, rtol=1e-10)


def test_the_invariant_one_does_not_move_and_is_no_constant():
    encoder, x = lived_in(c4("c4_resnet10_invariant")), images()
    torch.testing.assert_close(encoder(x.rot90(1, (2, 3))), encoder(x), atol=1e-12, rtol=1e-12)
    assert (encoder(x)[0] - encoder(x)[1]).abs().max() > 1e-3
    assert (encoder(x.flip(3)) - encoder(x)).abs().max() > 1e-6  # C4 has no reflections


def test_a_group_convolution_against_a_loop():
    conv, x = GroupConv(2, 3).double(), torch.randn(1, 2, 4, 5, 5, dtype=torch.float64)
    weight = conv.weight.view(3, 2, 4, 3, 3)
    for field in range(3):
        for turn in range(4):
            expected = torch.zeros(5, 5, dtype=torch.float64)
            for part in range(2):
                for plane in range(4):
                    kernel = weight[field, part, (plane - turn) % 4].rot90(turn, (0, 1))
                    expected += torch.nn.functional.conv2d(x[:, part, plane][None], kernel[None, None], padding=1)[0, 0]
            torch.testing.assert_close(conv(x)[0, field, turn], expected)


def test_a_planted_fault_a_filter_that_turns_and_keeps_its_parts_in_place(monkeypatch):
    """Without the change of places nothing commutes: the law above must see it."""
    encoder, x = lived_in(c4()), images()
    monkeypatch.setattr(torch.Tensor, "roll", lambda self, *_: self)
    h, turned = encoder(x), encoder(x.rot90(1, (2, 3)))
    monkeypatch.undo()
    assert not torch.allclose(turned.view(3, -1, 4), h.view(3, -1, 4).roll(1, 2), atol=1e-6)


def test_all_encoders_have_the_same_representation_size():
    sizes = {name: c4(name, width=16).representation_size for name in ("c4_resnet10", "c4_resnet10_invariant")}
    sizes["resnet10"] = make_encoder(Config()).representation_size
    vit = make_encoder(Config(architecture="vit_tiny"))
    assert set(sizes.values()) == {128} == {vit.representation_size}
    assert vit(torch.rand(2, 3, 32, 32)).shape == (2, 128) == c4(width=16)(torch.rand(2, 3, 32, 32)).shape


def test_the_lifting_layer_is_four_turned_convolutions():
    layer, x = Lifting(3, 2).double(), images(1)
    for turn in range(4):
        expected = torch.nn.functional.conv2d(x, layer.weight.rot90(turn, (2, 3)), padding=1)
        torch.testing.assert_close(layer(x)[:, :, turn], expected)


@pytest.mark.parametrize("name", ["c4_resnet10", "c4_resnet10_invariant"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fullgrad_takes_them_apart_exactly(name, dtype, tolerance):
    encoder = lived_in(c4(name), dtype)
    terms = FullGrad(encoder).decompose(images(dtype=dtype), 5)
    assert terms.gap().max() <= tolerance
    assert {"normalisation", "bn1", "layer4.0.bn2", "bn_last"} <= terms.constants.keys()
    assert all(term.ndim in (2, 4) for term in terms.constants.values())
    assert FullGrad(encoder).attribute(images(dtype=dtype), 5).shape == (3, 1, 16, 16)


def test_fullgrad_refuses_the_transformer_and_approximates_it_when_told():
    encoder = make_encoder(Config(architecture="vit_tiny", width=8, image_size=16)).eval()
    with pytest.raises(SaliencyError, match="not piecewise linear"):
        FullGrad(encoder)
    terms = FullGrad(encoder, approximate=True).decompose(images(dtype=torch.float32), 5)
    assert terms.gap().max() > 1e-4  # it says how far off it is


def test_the_transformer_takes_views_of_half_the_side():
    encoder = make_encoder(Config(architecture="vit_tiny", width=8)).eval()
    assert encoder(torch.rand(2, 3, 16, 16)).shape == (2, 64)
    assert sum(p.numel() for p in make_encoder(Config(architecture="vit_tiny", width=24)).parameters()) > 5_000_000


@pytest.mark.parametrize("name", ["c4_resnet10", "vit_tiny", "vmamba"])
def test_weights_depend_on_the_seed_alone(name):
    choices = dict(architecture=name, coordinates=False, width=8)
    torch.manual_seed(1)
    first = make_encoder(Config(**choices)).state_dict()
    torch.manual_seed(2)
    second, other = (make_encoder(Config(**choices, seed=seed)).state_dict() for seed in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
