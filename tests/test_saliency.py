"""FullGrad: complete on every piecewise linear network, and every way to break that is caught."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import IntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ciperlib.analyse.attribution import fullgrad
from ciperlib.analyse.attribution.fullgrad import FullGrad, SaliencyError, saliency_map
from ciperlib.config import Config
from ciperlib.learn.encoders import make_encoder


def lived_in(model: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, with BatchNorm statistics, weights and biases that are not those of a new network."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval()


class Drawn(nn.Module):
    """A network with what trips FullGrad up: in-place ReLUs, a shortcut, a module used twice, one never used."""

    def __init__(self, width: int, twice: bool, shortcut: bool, affine: bool, pool: bool, classes: int):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width, affine=affine)
        self.unused = nn.Conv2d(width, width, 1)
        self.again = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2) if pool else nn.AvgPool2d(2)
        self.twice, self.shortcut = twice, shortcut
        self.norm, self.fc = nn.BatchNorm1d(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.relu(self.bn(self.first(x)))
        for _ in range(2 if self.twice else 1):
            y = self.again(x)
            x = self.relu(y + x if self.shortcut else y)
        return self.fc(self.norm(self.pool(x).mean((2, 3))))


networks = st.builds(
    Drawn, width=st.integers(1, 6), twice=st.booleans(), shortcut=st.booleans(), affine=st.booleans(),
    pool=st.booleans(), classes=st.integers(1, 4),
)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(
    network=networks, dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 9), n=st.integers(1, 3)
)
def test_the_terms_add_up_to_the_output(network, dtype, seed, n):
    network = lived_in(network, seed).to(dtype)
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
    for target in range(network.fc.out_features):
        terms = FullGrad(network).decompose(x, target)
        assert torch.equal(terms.value, network(x)[:, target].detach())
        assert terms.gap().max() <= fullgrad.TOLERANCE[dtype]


@pytest.mark.parametrize("coordinates", [True, False])
def test_the_workbook_s_encoders_with_a_probe_on_top(coordinates):
    encoder = lived_in(make_encoder(Config(width=8, coordinates=coordinates)))
    encoder.normalise_with(torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8))
    model = nn.Sequential(encoder, nn.Linear(64, 5)).eval().double()
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    terms = FullGrad(model).decompose(images, [0, 4, 2])
    assert terms.gap().max() <= 1e-12
    assert ("coordinates" in terms.constants) == coordinates
    assert terms.constants["normalisation"].shape == (3, 3, 16, 16)
    assert encoder.prepare.__func__ is type(encoder).prepare  # nothing is left behind


def test_torchvision_s_resnet18():
    model = lived_in(torchvision.models.resnet18(num_classes=7)).double()
    terms = FullGrad(model).decompose(torch.rand(2, 3, 48, 48, dtype=torch.float64), 3)
    assert terms.gap().max() <= 1e-12
    assert sum("bn" in name or "downsample" in name for name in terms.constants) == 20


class NormAndReLU(nn.BatchNorm2d):
    """As timm has them: a layer that does more than its type says."""

    def forward(self, x):
        return super().forward(x).relu_()


class Functional(nn.Module):
    """Convolution and normalisation without modules of their own, and containers that are empty."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))
        self.norm, self.empty = NormAndReLU(4), nn.Sequential()

    def forward(self, x):
        x = self.empty(self.norm(F.conv2d(x, weight=self.weight, bias=self.bias, groups=1)))
        return F.max_pool2d(x, 6).flatten(1)


def test_layers_that_no_module_shows():
    model = lived_in(Functional()).double()
    terms = FullGrad(model).decompose(torch.rand(2, 3, 8, 8, dtype=torch.float64), 3)
    assert terms.gap().max() <= 1e-12
    assert set(terms.constants) == {"norm", ""}


@pytest.mark.parametrize("name", ["vgg11_bn", "densenet121", "regnet_x_400mf", "shufflenet_v2_x0_5", "googlenet"])
def test_more_of_torchvision(name):
    options = dict(aux_logits=False, init_weights=False) if name == "googlenet" else {}
    model = lived_in(torchvision.models.get_model(name, num_classes=3, **options)).double()
    assert FullGrad(model).decompose(torch.rand(1, 3, 64, 64, dtype=torch.float64), 2).gap().max() <= 1e-12


@pytest.mark.parametrize("name", ["resnet18", "regnetx_002", "densenet121", "resnet26d"])
def test_timm(name):
    timm = pytest.importorskip("timm", reason="timm comes with the extra `dev`")
    model = lived_in(timm.create_model(name, num_classes=3)).double()
    assert FullGrad(model).decompose(torch.rand(1, 3, 64, 64, dtype=torch.float64), 2).gap().max() <= 1e-12


def test_a_linear_network_has_the_analytic_answer():
    fc = nn.Linear(3 * 4 * 4, 2).double()
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    terms = FullGrad(nn.Sequential(nn.Flatten(), fc).eval()).decompose(x, 1)
    torch.testing.assert_close(terms.input, fc.weight[1].view(3, 4, 4).detach() * x)
    assert torch.equal(terms.constants["1"], torch.stack([torch.zeros(2), fc.bias[1].detach().expand(2)], 1).double())


def test_captum_s_integrated_gradients_on_the_same_network_and_target():
    network = lived_in(Drawn(4, True, True, True, False, 3)).double()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    attribution = IntegratedGradients(network).attribute(x, target=1, n_steps=300, method="riemann_trapezoid")
    difference = (network(x) - network(torch.zeros_like(x)))[:, 1]
    torch.testing.assert_close(attribution.flatten(1).sum(1), difference.detach(), atol=2e-2, rtol=2e-2)
    assert FullGrad(network).decompose(x, 1).gap().max() <= 1e-12


def test_hooks_always_go_away():
    network = lived_in(Drawn(4, False, True, True, True, 2))
    FullGrad(network).attribute(torch.rand(1, 3, 8, 8), 0)
    with pytest.raises(SaliencyError):
        FullGrad(network).attribute(torch.rand(1, 3, 8, 8), 9)
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert torch.overrides._get_current_function_mode() is None


def nothing(*args, **kwargs):
    return None, None


def doubled(*args, **kwargs):
    layer, constant = fullgrad._bias(*args, **kwargs)
    return layer, None if constant is None else 2 * constant


@pytest.mark.parametrize(("function", "fault"), [(F.batch_norm, nothing), (F.linear, doubled), (F.conv2d, doubled)])
def test_a_planted_fault_is_caught(function, fault, monkeypatch):
    """BatchNorm's bias left out; a bias counted twice."""
    monkeypatch.setitem(fullgrad.CONSTANTS, function, (fault, fullgrad.CONSTANTS[function][1]))
    network = lived_in(Drawn(4, False, True, True, True, 2))
    with pytest.raises(SaliencyError, match="miss the output"):
        FullGrad(network).attribute(torch.rand(1, 3, 8, 8), 0)


class Secret(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.gelu(self.fc(x.mean((2, 3))))


def test_what_is_not_piecewise_linear_is_named_or_its_gap_reported():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    with pytest.raises(SaliencyError, match=r"1 \(GELU\) is not piecewise linear"):
        FullGrad(network)
    x = torch.randn(2, 3, 8, 8)
    terms = FullGrad(network, approximate=True).decompose(x, 0)
    assert terms.gap().max() > 1e-4
    with pytest.raises(SaliencyError, match="miss the output"):  # a GELU that no module shows
        FullGrad(Secret().eval()).attribute(x, 0)


@pytest.mark.parametrize(
    ("inputs", "target", "words"),
    [
        (torch.rand(3, 8, 8), 0, r"\[B, C, H, W\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 0, "float32 or float64"),
        (torch.full((1, 3, 8, 8), torch.nan), 0, "not finite"),
        (torch.rand(1, 3, 8, 8), 2, "numbered 0 to 1"),
        (torch.rand(1, 3, 8, 8), -1, "numbered 0 to 1"),
        (torch.rand(1, 3, 8, 8), None, "which of the 2 outputs"),
        (torch.rand(2, 3, 8, 8), [0, 1, 0], "each of the 2 images"),
        (torch.rand(1, 3, 8, 8), 0.5, "must be an int"),
    ],
)
def test_inputs_and_targets_that_do_not_fit(inputs, target, words):
    with pytest.raises(SaliencyError, match=words):
        FullGrad(lived_in(Drawn(4, False, True, True, True, 2))).attribute(inputs, target)


def test_train_mode_is_refused():
    network = lived_in(Drawn(4, False, True, True, True, 2))
    network.bn.train()
    with pytest.raises(SaliencyError, match="bn is in train mode"):
        FullGrad(network)


def test_layers_are_enlarged_as_is_asked():
    corner = torch.zeros(1, 1, 2, 2)
    corner[0, 0, 0, 0] = 1
    terms = fullgrad.FullGradients(torch.zeros(1), torch.zeros(1, 3, 4, 4), {"conv": corner})
    for align in (False, True):
        expected = torch.nn.functional.interpolate(corner, (4, 4), mode="bilinear", align_corners=align)
        torch.testing.assert_close(saliency_map(terms, align_corners=align), expected)


def test_maps_are_the_sum_of_rescaled_parts_and_survive_a_constant_one():
    terms = fullgrad.FullGradients(
        torch.zeros(1), torch.tensor([[[[0.0, -2.0], [1.0, 0.0]]]]),
        {"conv": torch.full((1, 2, 1, 1), 3.0), "fc": torch.ones(1, 4)},
    )  # fmt: skip
    expected = torch.tensor([[[[0.0, 1.0], [0.5, 0.0]]]])  # the constant layer has nothing to show
    torch.testing.assert_close(saliency_map(terms), expected)
    many = fullgrad.FullGradients(torch.zeros(1), torch.zeros(1, 3, 4, 4), {"conv": torch.full((1, 64, 4, 4), 0.1)})
    for per_channel in (True, False):
        assert not saliency_map(many, per_channel=per_channel).any()
    raw = saliency_map(terms, rescale=False)
    torch.testing.assert_close(raw, torch.tensor([[[[1.5, 3.5], [2.5, 1.5]]]]))  # 2 x 3 spread over four pixels
    assert raw.sum() == terms.input.abs().sum() + terms.constants["conv"].abs().sum()


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_map_is_the_one_of_the_definition(per_channel):
    """Every channel rescaled and enlarged on its own, then added: slower, and the same."""
    generator = torch.Generator().manual_seed(0)
    layers = {"a": torch.randn(2, 5, 4, 4, generator=generator), "b": torch.randn(2, 3, 8, 8, generator=generator)}
    terms = fullgrad.FullGradients(torch.zeros(2), torch.randn(2, 3, 8, 8, generator=generator), layers)
    expected = torch.zeros(2, 1, 8, 8)
    for part in (terms.input, *layers.values()):
        for image in range(2):
            for channel in part[image].abs():
                low, high = (channel if per_channel else part[image].abs()).aminmax()
                large = F.interpolate(((channel - low) / (high - low))[None, None], (8, 8), mode="bilinear")
                expected[image] += large[0]
    torch.testing.assert_close(saliency_map(terms, per_channel=per_channel), expected)


def test_a_network_that_reads_one_corner_is_seen_to_look_there():
    x = torch.rand(1, 3, 8, 8)
    fc = nn.Linear(3 * 64, 1)
    mask = torch.zeros(3, 8, 8)
    mask[:, :4, :4] = 1
    fc.weight.data.mul_(mask.flatten())
    shown = FullGrad(nn.Sequential(nn.Flatten(), fc).eval()).attribute(x)
    assert shown[..., :4, :4].sum() / shown.sum() > 0.999


class ChannelsLast(nn.Module):
    """A 1x1 convolution done by a Linear on [B, H, W, C], as Swin and ConvNeXt do theirs; and then a ReLU."""

    def __init__(self, linear: bool):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.mix = nn.Linear(4, 5) if linear else nn.Conv2d(4, 5, 1)
        self.last = nn.Linear(5, 2)
        self.linear = linear

    def forward(self, x):
        x = self.first(x).relu()
        x = self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.linear else self.mix(x)
        return self.last(x.relu().mean((2, 3)))


def test_a_linear_map_of_channels_that_come_last_is_drawn_as_the_convolution_that_it_is():
    last, first = (lived_in(ChannelsLast(linear)) for linear in (True, False))
    weights = {name: w[..., None, None] if name == "mix.weight" else w for name, w in last.state_dict().items()}
    first.load_state_dict(weights)
    x = torch.rand(2, 3, 9, 6)
    ours, theirs = (FullGrad(network).decompose(x, 1) for network in (last, first))
    assert ours.constants["mix"].shape == (2, 5, 9, 6)
    torch.testing.assert_close(saliency_map(ours), saliency_map(theirs))


def test_the_mode_is_checked_at_every_call():
    network = lived_in(Drawn(4, False, True, True, True, 2))
    explain, x = FullGrad(network), torch.rand(2, 3, 8, 8)
    explain.attribute(x, 0)
    network.train()
    with pytest.raises(SaliencyError, match="train mode"):
        explain.attribute(x, 0)


@pytest.mark.parametrize(("layer", "words"), [
    (nn.BatchNorm2d(4, track_running_stats=False), "keeps no statistics"), (nn.ReLU6(), "adds constants"),
    (nn.ConstantPad2d(1, 0.5), "adds constants"), (nn.LayerNorm([4, 6, 6]), "not piecewise linear"),
    (nn.GroupNorm(2, 4), "not piecewise linear"), (nn.Softplus(), "not piecewise linear"),
    (nn.Threshold(0.1, 20), "none of the layers that are known"),
])  # fmt: skip
def test_a_refusal_says_what_is_true_of_the_layer(layer, words):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises(SaliencyError, match=words):
        FullGrad(network)
    terms = FullGrad(network, approximate=True).decompose(torch.rand(2, 3, 8, 8), 0)
    assert terms.gap().isfinite().all()


@pytest.mark.parametrize("layer", [
    nn.ReflectionPad2d(1), nn.PReLU(), nn.ConvTranspose2d(4, 4, 2, stride=2), nn.ReplicationPad2d(2),
])  # fmt: skip
def test_more_layers_that_are_exact(layer):
    parts = nn.Conv2d(3, 4, 3), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    terms = FullGrad(lived_in(nn.Sequential(*parts))).decompose(torch.rand(2, 3, 8, 8), 0)
    assert terms.gap().max() < 1e-5


class Placed(nn.Module):
    """Tokens with a position of their own each, and a class token: piecewise linear but for that."""

    def __init__(self):
        super().__init__()
        self.patches, self.positions = nn.Conv2d(3, 4, 2, stride=2), nn.Parameter(torch.randn(1, 16, 4))
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.last(self.first(tokens).relu().mean(1))


def test_positions_that_are_added_count_and_tokens_are_drawn_where_they_are():
    terms = FullGrad(Placed().eval()).decompose(torch.rand(2, 3, 8, 8), 0)  # exactly
    assert terms.constants["+"].shape == (2, 4, 4, 4)
    assert terms.constants["first"].shape == (2, 6, 4, 4)


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_transformers_and_their_like_are_drawn_with_their_gap(name):
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 64} if "convnext" not in name else {}
    sizes |= {"window_size": 4} if "swin" in name else {}
    network = timm.create_model(name, num_classes=3, **sizes).eval()
    with pytest.raises(SaliencyError, match=r"not piecewise linear|none of the layers"):
        FullGrad(network)
    explain = FullGrad(network, approximate=True)
    terms, x = explain.decompose(torch.rand(2, 3, 64, 64), 1), torch.rand(2, 3, 64, 64)
    assert 0 < float(terms.gap().max()) < 2
    spatial = [term for term in terms.constants.values() if term.ndim == 4 and term.shape[2] == term.shape[3] > 1]
    assert len(spatial) > 10
    picture = explain.attribute(x, 1)
    assert picture.shape == (2, 1, 64, 64)
    assert bool((picture >= 0).all())
