"""The battery: made representations whose verdict is known, laws, and what cannot be measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import QuarterColours, make_noise_images

from ciperlib.analyse.equivariance.actions import chance_mrr, distances, fit_action, reciprocal_ranks
from ciperlib.analyse.equivariance.battery import (
    EquivarianceError,
    Interval,
    _rotation_error,
    evaluate_equivariance,
    measure_equivariance,
    shuffle_levels,
    take,
    verdict_of,
)
from ciperlib.analyse.equivariance.sensitivity import SensitivityError, local_sensitivity
from ciperlib.analyse.features import Features, FeaturesError, split_features
from ciperlib.analyse.layout.metrics import alignment, debiased_cka, rankme, uniformity
from ciperlib.analyse.synthetic import KINDS, ORBITS, make_orbits
from ciperlib.data import load_images
from ciperlib.learn.augment.transformations import make_transformation

LEVELS, SIZE = 4, 8


def made(kind, n=600, m=LEVELS, noise=0.05):
    return make_orbits(kind, n, m=m, d=SIZE, noise=noise)


def as_features(block):
    n, m, _ = block.shape
    source, level = torch.arange(n).repeat_interleave(m), torch.arange(m).repeat(n)
    return Features(block.flatten(0, 1).float(), {"source": source, "level": level}, source * m + level, source)


@pytest.mark.parametrize("m", [2, LEVELS])
@pytest.mark.parametrize(("kind", "verdict"), ORBITS.items())
def test_made_encoders_get_the_verdict_that_is_known(kind, verdict, m):
    found = measure_equivariance(made(kind, m=m))
    assert found.verdict == verdict
    assert found.content.value + found.shift.value + found.interaction.value == pytest.approx(1, abs=1e-9)
    assert found.n == 300


@pytest.mark.parametrize("kind", ORBITS)
def test_few_images_are_unresolved(kind):
    assert measure_equivariance(made(kind, n=40, noise=0.3)).verdict == "unresolved"


def test_what_each_kind_is_made_of():
    invariant, shifted, turned, lost = (measure_equivariance(made(kind)) for kind in KINDS)
    assert invariant.invariance_error.high < 0.01
    assert invariant.content.low > 0.98
    assert shifted.interaction.high < 0.01
    assert shifted.shift.low > 0.2
    assert shifted.decodable["view"].low > 0.5  # the images differ as much as the levels do
    assert shifted.decodable["difference"].low > 0.9
    assert turned.interaction.low > 0.5
    assert turned.decodable["pair"].high < 0.1 < 0.9 < turned.decodable["action"].low  # no linear reader sees a turn
    assert turned.r2_gain.low > 1
    assert turned.r2.low > 0.95
    assert turned.hits_at_1.low > 0.95
    assert abs(lost.invariance_error.value - 1) < 0.1
    assert lost.r2.high < 0.1
    assert lost.best_probe.high < 0.1
    for found in (invariant, lost):
        assert found.mrr.low < found.mrr_chance + 0.05
        assert found.mrr.high > found.mrr_chance - 0.05


def test_shuffled_levels_are_the_baseline():
    orbits = made("additive")
    found = measure_equivariance(shuffle_levels(orbits))
    assert found.best_probe.high < 0.1
    assert found.verdict != "re-encoded"
    assert torch.equal(shuffle_levels(orbits).matrix.sort(0).values, orbits.matrix.sort(0).values)


def test_rotation_and_scale_of_h_change_nothing():
    orbits = made("additive")
    turn = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(1)))[0]
    moved = replace(orbits, matrix=3 * orbits.matrix @ turn)
    first, second = measure_equivariance(orbits), measure_equivariance(moved)
    for name in ("invariance_error", "whitened_error", "content", "shift", "r2", "r2_gain", "mrr"):
        assert getattr(first, name).value == pytest.approx(getattr(second, name).value, abs=2e-3), name


def test_the_invariance_error_and_the_shares_against_loops():
    orbits = made("additive", n=40)
    found, block = measure_equivariance(orbits), orbits.matrix.view(40, LEVELS, SIZE).double()
    scored = split_features(orbits.subset(slice(0, None, LEVELS)), test_share=0.5)[1].groups
    rows = block[scored]
    n = len(rows)
    moved = np.mean([float((h[a] - h[0]).square().sum()) for h in rows for a in range(1, LEVELS)])
    apart = np.mean([float((rows[i, 0] - rows[j, 0]).square().sum()) for i in range(n) for j in range(n) if i != j])
    assert found.invariance_error.value == pytest.approx(moved / apart, rel=1e-9)
    mean = rows.mean((0, 1))
    whole = sum(float((h - mean).square().sum()) for image in rows for h in image)
    content = LEVELS * sum(float((image.mean(0) - mean).square().sum()) for image in rows)
    shift = n * sum(float((rows[:, a].mean(0) - mean).square().sum()) for a in range(LEVELS))
    assert found.content.value == pytest.approx(content / whole, rel=1e-9)
    assert found.shift.value == pytest.approx(shift / whole, rel=1e-9)


def test_a_map_that_too_few_images_cannot_fit_is_not_called_lost():
    for m in (2, 4):
        few = measure_equivariance(make_orbits("turned", 100, m=m, d=64))
        assert few.fitted == 50 < 64
        assert few.verdict != "lost"
    assert measure_equivariance(make_orbits("destroyed", 100, d=64)).verdict == "unresolved"
    assert measure_equivariance(make_orbits("destroyed", 400, d=64)).verdict == "lost"


def test_a_verdict_that_half_of_the_images_do_not_give_is_unresolved():
    """An orthogonal map with as much noise as was once called lost: with too few images it is not called anything."""
    few = measure_equivariance(make_orbits("turned", 400, d=128, noise=0.5))
    assert few.verdict != "lost"
    many = measure_equivariance(make_orbits("turned", 2000, d=128, noise=0.5))
    assert many.verdict == "re-encoded"
    assert [n for n, *_ in many.curve] == [500, 1000, 2000]
    assert [r2 for _, r2, _ in many.curve] == sorted(r2 for _, r2, _ in many.curve)
    border = make_orbits("additive", 300, d=8, noise=1.35)
    found = measure_equivariance(border)
    assert found.verdict in ("unresolved", "re-encoded")
    assert found.reason


def test_a_verdict_needs_half_of_the_images(monkeypatch):
    """Whatever all of the images say: as if the first half had given another answer."""
    asked = []

    def sized(found):
        asked.append(found.n)
        return ("invariant", "so") if found.n == asked[0] else ("lost", "otherwise")

    monkeypatch.setattr("ciperlib.analyse.equivariance.battery.verdict_of", sized)
    found = measure_equivariance(make_orbits("additive", 200))
    assert (found.verdict, asked[0]) == ("unresolved", 100)
    assert found.reason == "invariant with 200 images, with 100 of them not: otherwise"


def test_noise_alone_is_not_called_re_encoded():
    """Of two levels a noisy h is best predicted by h drawn to its mean: that is more than the identity, and no map."""
    found = measure_equivariance(make_orbits("invariant", 2000, m=2, d=64, noise=0.5))
    assert found.r2.low > 0.5
    assert found.r2_gain.low > 0
    assert found.verdict == "unresolved"


def test_what_the_map_knows_beyond_the_mean():
    """A level that only draws h to its mean, and adds noise, is no map that is worth its name: nothing is beyond."""
    g = torch.Generator().manual_seed(0)
    start = torch.randn(1000, SIZE, generator=g, dtype=torch.float64)
    drawn = 0.5 * start + torch.randn(1000, SIZE, generator=g, dtype=torch.float64)
    found = measure_equivariance(as_features(torch.stack((start, drawn), 1)))
    assert found.r2_gain.low > 0.1  # than the identity any map does better that draws h in
    assert abs(found.r2_beyond.value) < 0.03
    turned = measure_equivariance(make_orbits("turned", 1000, d=SIZE))
    assert turned.r2_beyond.low > 0.8


def test_images_that_become_one_point_are_lost_however_well_the_level_is_told():
    block = make_orbits("additive", 600, m=LEVELS, d=SIZE).matrix.view(600, LEVELS, SIZE).double()
    block[:, 1:] = torch.arange(1, LEVELS, dtype=torch.float64)[None, :, None] + 0.01 * block[:, 1:]
    found = measure_equivariance(as_features(block))
    assert found.decodable["view"].low > 0.5
    assert found.remaining.high < 0.01
    assert found.verdict == "lost"
    assert "become alike" in found.reason


def test_a_cycle_closes_and_a_shift_does_not():
    m = 4
    quarter = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)] * (SIZE // 2))
    z = torch.randn(400, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = torch.stack([z @ torch.linalg.matrix_power(quarter, a).T for a in range(m)], 1)
    assert measure_equivariance(as_features(block), "rotation").cycle_error < 1e-3
    assert measure_equivariance(made("additive"), "rotation").cycle_error > 1
    assert math.isnan(measure_equivariance(made("additive"), "blur").cycle_error)


def test_the_action_is_the_identity_under_much_shrinkage_and_exact_under_little():
    orbits = made("turned", noise=0.0)
    block = orbits.matrix.view(-1, LEVELS, SIZE).double()
    groups = torch.arange(len(block))
    much, little = (fit_action(block, groups, (strength,)) for strength in (1e9, 1e-9))
    assert much.weight.abs().max() < 1e-6
    torch.testing.assert_close(little(block[:, 0]), block, atol=1e-4, rtol=0)
    assert fit_action(block, groups).strength == 1e-4


def test_ties_score_chance():
    for m in (2, 5, 16):
        reciprocal, first = reciprocal_ranks(torch.ones(3, m, m))
        torch.testing.assert_close(reciprocal, torch.full((3, m), chance_mrr(m)).double())
        torch.testing.assert_close(first, torch.full((3, m), 1 / m).double())
    gaps = torch.tensor([[[0.0, 1.0, 2.0], [5.0, 3.0, 3.0], [0.0, 0.0, 9.0]]])
    reciprocal, first = reciprocal_ranks(gaps)
    assert reciprocal.tolist() == [[1.0, (1 / 1 + 1 / 2) / 2, pytest.approx(1 / 3)]]
    assert first.tolist() == [[1.0, 0.5, 0.0]]


def test_retrieval_by_a_loop():
    block = torch.randn(5, 3, 2, dtype=torch.float64)
    guess = torch.randn(5, 3, 2, dtype=torch.float64)
    gaps = distances(guess, block)
    for i in range(5):
        for a in range(3):
            order = [float((guess[i, a] - block[i, b]).square().sum()) for b in range(3)]
            rank = 1 + sum(value < order[a] for value in order)
            assert float(reciprocal_ranks(gaps)[0][i, a]) == pytest.approx(1 / rank)


def test_the_rotation_error_is_that_of_quaternions():
    m = 8
    angle = 2 * math.pi * torch.arange(m).double() / m
    block = torch.stack((angle.cos(), angle.sin()), 1).expand(100, m, 2) + torch.randn(100, 1, 2).double()
    assert measure_equivariance(as_features(block), "azimuth").rotation_error < 0.01
    lost = measure_equivariance(made("destroyed", m=m), "azimuth").rotation_error
    assert lost == pytest.approx(0.5, abs=0.1)  # a turn at random


@pytest.mark.parametrize("m", [4, 5, 8])
def test_the_rotation_error_by_a_loop_over_quaternions(m):
    """1 - <q, q'>^2 of turns about the vertical, q = (cos(t / 2), 0, 0, sin(t / 2)); levels 1 to m - 1 are told
    apart."""
    gaps = torch.rand(20, m - 1, m - 1, generator=torch.Generator().manual_seed(m))
    expected = []
    for image in gaps:
        for a in range(m - 1):
            turns = [2 * math.pi * (1 + level) / m for level in (a, int(image[a].argmin()))]
            q, r = ((math.cos(t / 2), math.sin(t / 2)) for t in turns)
            expected.append(1 - (q[0] * r[0] + q[1] * r[1]) ** 2)
    assert _rotation_error(gaps) == pytest.approx(sum(expected) / len(expected))
    off_by_one = 1 - torch.eye(m - 1).roll(1, 1)[None]  # the next level, and of the last one the first: two steps
    shares = [math.sin(math.pi / m) ** 2] * (m - 2) + [math.sin(2 * math.pi / m) ** 2]
    assert _rotation_error(off_by_one) == pytest.approx(sum(shares) / (m - 1))


def verdict(
    error=(0.5, 0.45, 0.55), known=(0.3, 0.25, 0.35), r2=(0.2, 0.15, 0.25), r2_gain=(0.1, 0.05, 0.15),
    r2_beyond=(0.0, -0.05, 0.05), remaining=(1.0, 0.9, 1.1), **facts,
):  # fmt: skip
    measured = measure_equivariance(made("additive", n=64))
    numbers = dict(invariance_error=error, r2=r2, r2_gain=r2_gain, r2_beyond=r2_beyond, remaining=remaining)
    numbers = {name: Interval(*values) for name, values in numbers.items()}
    facts = {"n": 200, "fitted": 200, "d": 100, "levels": 4, **facts}
    return verdict_of(replace(measured, decodable={"view": Interval(*known)}, **numbers, **facts))[0]


NONE, LITTLE = (0.02, -0.02, 0.09), (0.05, -0.02, 0.12)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "re-encoded"),
        ({"error": (0.05, 0.02, 0.09)}, "invariant"),
        ({"error": (0.05, 0.02, 0.11)}, "unresolved"),  # the interval holds the line, a tenth
        ({"error": (0.15, 0.09, 0.2)}, "unresolved"),
        ({"known": (0.2, 0.09, 0.3)}, "unresolved"),  # a tenth of what there is to know
        ({"r2_gain": (0.1, -0.01, 0.2)}, "unresolved"),
        ({"known": NONE}, "lost"),
        ({"known": LITTLE}, "unresolved"),
        ({"known": NONE, "r2": (0.4, 0.3, 0.51)}, "unresolved"),  # half of h
        ({"known": NONE, "r2": (0.4, 0.3, 0.49)}, "lost"),
        ({"known": NONE, "fitted": 149}, "unresolved"),  # three images for two dimensions
        ({"known": NONE, "fitted": 150}, "lost"),
        # of two levels the map is enough, if it knows more than that h is drawn to its mean
        ({"known": NONE, "levels": 2, "r2": (0.6, 0.51, 0.7), "r2_beyond": (0.02, 0.01, 0.03)}, "re-encoded"),
        ({"known": NONE, "levels": 2, "r2": (0.6, 0.51, 0.7), "r2_beyond": (0.0, -0.01, 0.01)}, "unresolved"),
        ({"known": NONE, "levels": 2, "r2": (0.6, 0.49, 0.7)}, "unresolved"),
        ({"known": NONE, "levels": 2, "r2_beyond": (0.2, 0.11, 0.3)}, "re-encoded"),
        ({"known": NONE, "levels": 2, "r2_beyond": (0.1, 0.05, 0.15)}, "unresolved"),
        ({"known": NONE, "levels": 2}, "lost"),
        ({"known": NONE, "r2_beyond": (0.1, 0.05, 0.15)}, "unresolved"),
        ({"remaining": (0.05, 0.02, 0.09)}, "lost"),
        ({"remaining": (0.09, 0.05, 0.15)}, "re-encoded"),
        ({"n": 29}, "unresolved"),
        ({"n": 30}, "re-encoded"),
        ({"r2": (math.nan,) * 3}, "unresolved"),
    ],
)
def test_the_lines_of_the_verdict_are_where_the_docstring_says(facts, expected):
    assert verdict(**facts) == expected


def test_health():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, generator=g)
    assert rankme(x) == pytest.approx(6, abs=0.05)
    assert rankme(x[:, :1] @ torch.randn(1, 6, generator=g)) == pytest.approx(1, abs=1e-3)
    values = torch.linalg.svdvals(x[:50].double())
    p = values / values.sum()
    assert rankme(x[:50]) == pytest.approx(math.exp(-sum(float(v) * math.log(float(v)) for v in p)))
    with pytest.raises(ValueError, match="more rows than columns"):
        rankme(x[:6])
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-9)
    assert alignment(x, -x) == pytest.approx(4)
    assert uniformity(torch.ones(10, 3)) == pytest.approx(0, abs=1e-6)
    assert uniformity(x[:500]) < -2


def test_cka_is_1_up_to_rotation_and_scale_and_0_for_noise_at_any_n():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 50, generator=g)
    turn = torch.linalg.qr(torch.randn(50, 50, generator=g))[0]
    assert debiased_cka(x, 2 * x @ turn + 3) == pytest.approx(1, abs=1e-5)
    draws = [debiased_cka(torch.randn(30, 50, generator=g), torch.randn(30, 50, generator=g)) for _ in range(60)]
    assert abs(float(np.mean(draws))) < 0.03  # the biased estimate gives 0.6 here
    with pytest.raises(ValueError, match="the same images"):
        debiased_cka(x, x[:5])


def test_a_battery_of_images_and_an_encoder():
    images, rotation = make_noise_images(200), make_transformation("rotation")
    found = evaluate_equivariance(QuarterColours(), images, rotation)
    assert found.verdict == "re-encoded"
    assert found.r2.value > 0.99
    assert found.cycle_error < 0.05
    same = evaluate_equivariance(QuarterColours(), rotation.orbit(images), rotation)
    assert same.to_row() == pytest.approx(found.to_row(), nan_ok=True)
    assert found.to_row()["decodable_action_low"] == found.decodable["action"].low
    assert "re-encoded" in found._repr_html_()
    flipped = evaluate_equivariance(QuarterColours(), images, make_transformation("horizontal_flip"))
    assert set(flipped.decodable) == {"view"}
    assert flipped.mrr_chance == 1


def test_what_cannot_be_measured_is_said():
    images = make_noise_images(40)
    with pytest.raises(EquivarianceError, match="changes no pixel"):
        evaluate_equivariance(QuarterColours(), images, make_transformation("identity"))
    with pytest.raises(EquivarianceError, match="at least two levels"):
        measure_equivariance(made("additive", m=1))
    with pytest.raises(EquivarianceError, match="at least two levels"):
        evaluate_equivariance(QuarterColours(), (images,), make_transformation("rotation"))
    with pytest.raises(EquivarianceError, match="too few"):
        measure_equivariance(made("additive", n=10))
    with pytest.raises(EquivarianceError, match="same representation"):
        measure_equivariance(as_features(torch.ones(40, 3, 2).double()))
    with pytest.raises(EquivarianceError, match="leaves none of the 8"):
        take(made("additive"), slice(8, None))
    with pytest.raises(FeaturesError, match=r"must return \[40, d\]"):
        evaluate_equivariance(torch.nn.Conv2d(3, 4, 3), images, make_transformation("rotation"))
    with pytest.raises(SensitivityError, match="only the turntable"):
        local_sensitivity(QuarterColours(), images, "azimuth")


def test_the_local_sensitivity_of_a_blurred_picture_holds_still():
    """Of an encoder that sees a smooth blur of the picture, it changes little with the step."""
    images = load_images("turntable", "test", size=30)
    value, step, still = local_sensitivity(QuarterColours(), images, "elevation")
    assert still
    assert step <= 0.1
    again, _, _ = local_sensitivity(QuarterColours(), images, "elevation", step=2 * step)
    assert again == pytest.approx(value, rel=0.3)


@pytest.mark.parametrize(("factor", "slope"), [("elevation", 3.0), ("azimuth", -0.5), ("distance", 20.0)])
def test_the_local_sensitivity_of_a_representation_that_is_the_factor(factor, slope, monkeypatch):
    """h = (slope * t, 0, ...): |dh/dt| is |slope|, the spread of h is |slope| times that of the factor, and the answer
    is one over the latter, with any step."""

    def read(_encoder, images):
        columns = torch.zeros(len(images), 4)
        columns[:, 0] = slope * images.factors[factor]
        return Features(columns, images.factors, images.ids, images.groups)

    def move(images, name, by):
        return replace(images, factors={**images.factors, name: images.factors[name] + by})

    monkeypatch.setattr("ciperlib.analyse.equivariance.sensitivity.extract_features", read)
    monkeypatch.setattr("ciperlib.analyse.equivariance.sensitivity._moved", move)
    images = load_images("turntable", "test", size=40)
    value, step, still = local_sensitivity(None, images, factor)
    assert value == pytest.approx(1 / float(images.factors[factor].double().std(correction=0)), rel=1e-3)
    assert (step, still) == (0.05, True)  # the first halving changes nothing


def test_parts_of_the_turntable_s_range():
    images = load_images("turntable", "test", size=12)
    for name, low, high in (("elevation", math.radians(10), math.radians(70)), ("distance", 0.8, 1.3)):
        transformation = make_transformation(name)
        level = transformation.draw_levels(images, torch.arange(12), torch.Generator())
        for k, part in enumerate(transformation.orbit(images)):
            share = (part.factors[name] - low) / (high - low) * 4
            assert ((share > k - 1e-3) & (share < k + 1 + 1e-3)).all()
            own = level == k
            assert (part.images[own].float() - images.images[own]).abs().max() <= 1 if own.any() else True


def test_made_orbits_are_of_known_kinds_alone():
    with pytest.raises(ValueError, match="invariant, additive, turned, destroyed, affine"):
        make_orbits("moved")
