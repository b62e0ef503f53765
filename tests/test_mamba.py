"""VMamba: the parallel scan is the recurrence, the four ways are what they say, and the encoder is one of ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ciperlib.analyse.attribution.fullgrad import FullGrad, SaliencyError
from ciperlib.config import Config
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.encoders.vmamba import FourWayScan, Recurrence, fold, unfold
from ciperlib.learn.training import fit


def one_after_the_other(a, b):
    h, found = torch.zeros_like(b[..., 0]), []
    for t in range(b.shape[-1]):
        h = a[..., t] * h + b[..., t]
        found.append(h)
    return torch.stack(found, -1)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 33, 256])
def test_the_parallel_scan_is_the_recurrence(length):
    a, b, weight = draw(2, 3, length).sigmoid(), draw(2, 3, length, seed=1), draw(2, 3, length, seed=2)
    results = []
    for recurrence in (one_after_the_other, Recurrence.apply):
        inputs = a.clone().requires_grad_(), b.clone().requires_grad_()
        h = recurrence(*inputs)
        results.append((h.detach(), *torch.autograd.grad((h * weight).sum(), inputs)))
    for expected, found in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_its_gradient_by_differences():
    inputs = draw(2, 5).sigmoid().requires_grad_(), draw(2, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(Recurrence.apply, inputs)


def test_the_four_ways_across_an_image():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    ways = unfold(x)[0, :, 0].tolist()
    assert ways == [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    torch.testing.assert_close(fold(unfold(x), 2, 3), 4 * x)


def lived_in(channels=6, states=2, seed=0):
    torch.manual_seed(seed)
    layer = FourWayScan(channels, states).double()
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer


@torch.no_grad()
def test_a_layer_against_loops():
    layer, x = lived_in(), draw(2, 6, 3, 4)
    rank, n, _ = layer.sizes
    expected = torch.zeros_like(x)
    ways = [[(r, c) for r in range(3) for c in range(4)], [(r, c) for c in range(4) for r in range(3)]]
    for k, way in enumerate([*ways, *(way[::-1] for way in ways)]):
        h = torch.zeros(2, 6, n, dtype=torch.float64)
        for place in way:
            u = x[:, :, place[0], place[1]]
            chosen = u @ layer.select[k].T
            step = F.softplus(chosen[:, :rank] @ layer.step[k].T + layer.step_bias[k])
            write, read = chosen[:, rank : rank + n], chosen[:, rank + n :]
            decay = torch.exp(-step[:, :, None] * layer.log_decay[k].exp())
            h = decay * h + (step * u)[:, :, None] * write[:, None]
            expected[:, :, place[0], place[1]] += (h * read[:, None]).sum(2) + layer.skip[k] * u
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("order", "change"),
    [([2, 3, 0, 1], lambda x: x.flip(2, 3)), ([1, 0, 3, 2], lambda x: x.transpose(2, 3))],
    ids=["half a turn", "transposed"],
)
@torch.no_grad()
def test_turning_the_image_exchanges_the_ways(order, change):
    layer, other, x = lived_in(), lived_in(), draw(2, 6, 3, 5)
    for parameter in other.parameters():
        parameter.data = parameter.data[order]
    torch.testing.assert_close(other(change(x)), change(layer(x)))
    assert not torch.allclose(layer(change(x)), change(layer(x)))


def test_every_place_hears_of_every_other():
    layer, x = lived_in(), draw(1, 6, 4, 4).requires_grad_()
    for row, column in ((0, 0), (3, 3), (1, 2)):
        (gradient,) = torch.autograd.grad(layer(x)[0, :, row, column].sum(), x)
        assert (gradient[0].abs().sum(0) > 0).all()


def test_steps_begin_where_mamba_s_do():
    first = F.softplus(FourWayScan(64).step_bias.detach())
    assert 1e-3 <= float(first.min()) < 2e-3
    assert 5e-2 < float(first.max()) <= 0.1 + 1e-6


def test_the_encoder_is_one_of_ours(tiny, tmp_path):
    encoder = make_encoder(Config(architecture="vmamba")).eval()
    assert encoder.representation_size == 128
    for side in (8, 16, 30, 32):
        assert encoder(torch.rand(2, 3, side, side)).shape == (2, 128)
    run = fit(replace(tiny, architecture="vmamba", epochs=8), tmp_path)
    assert run.history["total"].iloc[-1] < run.history["total"].iloc[0]


def test_fullgrad_refuses_it():
    with pytest.raises(SaliencyError, match="not piecewise linear"):
        FullGrad(make_encoder(Config(architecture="vmamba", width=8)).eval())
