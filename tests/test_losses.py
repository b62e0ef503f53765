"""Losses against loops in float64, closed forms and symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ciperlib.learn.methods.losses import cross_view_nt_xent, nt_xent, parameter_loss, standardise


def pairs(n, d, seed=0):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_nt_xent(z1, z2, temperature):
    """SimCLR's Eq. 1, as printed."""
    z = [row / row.norm() for row in torch.cat((z1, z2))]
    n, total = len(z1), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        below = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(float(z[i] @ z[j]) / temperature) / below)
    return total / (2 * n)


def loop_cross_view(z1, z2, temperature):
    n, total = len(z1), 0.0
    for a, b in ((z1, z2), (z2, z1)):
        for i in range(n):
            s = [float(torch.cosine_similarity(a[i], b[k], dim=0)) / temperature for k in range(n)]
            total += math.log(sum(map(math.exp, s))) - s[i]
    return total / (2 * n)


@settings(deadline=None, max_examples=20)
@given(n=st.integers(1, 7), d=st.integers(1, 9), temperature=st.sampled_from([0.1, 0.5, 2.0]), seed=st.integers(0, 99))
def test_contrastive_losses_equal_their_loops(n, d, temperature, seed):
    z1, z2 = pairs(n, d, seed)
    assert float(nt_xent(z1, z2, temperature)) == pytest.approx(loop_nt_xent(z1, z2, temperature), rel=1e-10, abs=1e-12)
    expected = loop_cross_view(z1, z2, temperature)
    assert float(cross_view_nt_xent(z1, z2, temperature)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_closed_forms():
    equal = torch.ones(8, 5)
    assert float(nt_xent(equal, equal)) == pytest.approx(math.log(15))
    assert float(cross_view_nt_xent(equal, equal)) == pytest.approx(math.log(8))
    axes = torch.eye(4, dtype=torch.float64)  # partners equal, strangers orthogonal
    for t in (0.1, 0.5, 1.0):
        assert float(nt_xent(axes, axes, t)) == pytest.approx(math.log(1 + 6 * math.exp(-1 / t)))
        assert float(cross_view_nt_xent(axes, axes, t)) == pytest.approx(math.log(1 + 3 * math.exp(-1 / t)))


@pytest.mark.parametrize("loss", [nt_xent, cross_view_nt_xent])
def test_symmetries(loss):
    z1, z2 = pairs(6, 4)
    value = loss(z1, z2)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    torch.testing.assert_close(loss(z2, z1), value)
    torch.testing.assert_close(loss(z1[order], z2[order]), value)
    torch.testing.assert_close(loss(z1 @ turn, z2 @ turn), value)
    torch.testing.assert_close(loss(7 * z1, z2), value)
    assert not torch.isclose(loss(z1[order], z2), value)  # partners matter


def test_bfloat16_embeddings_are_compared_in_float32():
    z1, z2 = (z.bfloat16() for z in pairs(16, 32))
    assert nt_xent(z1, z2).dtype == torch.float32
    torch.testing.assert_close(nt_xent(z1, z2), nt_xent(z1.float(), z2.float()))


def test_gradients_are_right():
    z1, z2 = (z.requires_grad_() for z in pairs(4, 3))
    assert torch.autograd.gradcheck(nt_xent, (z1, z2))
    assert torch.autograd.gradcheck(cross_view_nt_xent, (z1, z2))


def test_standardised_targets_have_mean_0_and_spread_1():
    parameters = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.2]) + 3
    target = standardise(parameters)
    torch.testing.assert_close(target.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(0, unbiased=False), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(standardise(4 * parameters + 7)[:, :2], target[:, :2], atol=1e-3, rtol=0)


def test_standardisation_is_batch_norm_without_an_affine_part():
    parameters = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(standardise(parameters), torch.nn.BatchNorm1d(4, affine=False)(parameters))


def test_a_column_that_never_varies_becomes_0():
    assert torch.equal(standardise(torch.full((5, 1), 0.3)), torch.zeros(5, 1))


def test_standardisation_lets_no_gradient_through():
    parameters = torch.randn(5, 2, requires_grad=True)
    assert not standardise(parameters).requires_grad


def test_parameter_loss_is_equation_1_with_a_plus():
    predicted, target = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n, m, total = 3, 3, 0.0  # two views of three images
    for row in range(2 * n):
        for k in range(m):
            total += float(target[row, k] - predicted[row, k]) ** 2
    assert float(parameter_loss(predicted, target)) == pytest.approx(total / (2 * n * m))
    assert float(parameter_loss(torch.zeros(6, 3), standardise(torch.randn(6, 3)))) == pytest.approx(1, abs=1e-3)
