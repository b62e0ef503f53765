"""Explaining-away: known worlds, laws of the estimator, faults that must be caught."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ciperlib.analyse.features import Features, FeaturesError
from ciperlib.analyse.information import entropy_models
from ciperlib.analyse.information.canonical_variates import assign_folds, fit_canonical_variates
from ciperlib.analyse.information.explaining_away import (
    InformationError,
    conditional_entropy,
    explaining_away,
    learned_by_heart,
    verdict_of,
)
from ciperlib.analyse.information.readings import FAMILIES, Measured, Reading
from ciperlib.analyse.information.vinformation import estimate
from ciperlib.analyse.orbits import LEVEL, SOURCE, as_orbits
from ciperlib.analyse.solvers.softmax import _factor, fit_softmax, log_softmax
from ciperlib.analyse.synthetic import CLASS, CURVED, lift, make_world, six_and_nine
from ciperlib.data import load_images
from ciperlib.data.imageset import ImageSet

FAST = dict(null_samples=20, resamples=100)


# --- the solver ------------------------------------------------------------------------------------------------------


def problem(b=3, n=120, p=4, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, p, generator=generator, dtype=torch.float64)
    x[:, :, -1] = 1
    truth = 2 * torch.randn(b, p, k, generator=generator, dtype=torch.float64)
    y = torch.multinomial((x @ truth).softmax(2).flatten(0, 1), 1, generator=generator).view(b, n)
    return x, y


def test_newton_agrees_with_scikit_learn():
    x, y = problem()
    ridge = torch.tensor([1e-3, 1e-2, 1e-1])
    theta = fit_softmax(x, y, 3, ridge)
    for b in range(3):
        oracle = LogisticRegression(C=1 / (float(ridge[b]) * x.shape[1]), tol=1e-10, max_iter=5000)
        oracle.fit(x[b, :, :-1].numpy(), y[b].numpy())
        expected = torch.from_numpy(oracle.predict_log_proba(x[b, :, :-1].numpy()))
        torch.testing.assert_close(log_softmax(x[b], theta[b]), expected, atol=1e-4, rtol=1e-4)


def test_weights_of_0_are_rows_that_are_not_there_and_an_offset_is_kept():
    x, y = problem(b=1)
    weight = torch.ones(1, 120, dtype=torch.float64)
    weight[:, 80:] = 0
    ridge = torch.tensor([1e-2])
    torch.testing.assert_close(fit_softmax(x, y, 3, ridge, weight=weight), fit_softmax(x[:, :80], y[:, :80], 3, ridge))
    offset = torch.randn(1, 120, 3, dtype=torch.float64)
    stiff = fit_softmax(x, y, 3, torch.tensor([1e6]), offset=offset, penalise_bias=True)
    assert stiff.abs().max() < 1e-5


@pytest.mark.parametrize("penalise_bias", [False, True])
@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
def test_many_parameters_are_fitted_by_lbfgs_to_the_same_minimum(monkeypatch, ridge, penalise_bias):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 400, 9, generator=g, dtype=torch.float64)
    x[..., -1] = 1
    true = torch.randn(3, 9, 6, generator=g, dtype=torch.float64)
    y = (x @ true + torch.randn(3, 400, 6, generator=g, dtype=torch.float64)).argmax(2)
    offset = torch.randn(3, 400, 6, generator=g, dtype=torch.float64)
    weight = (torch.rand(3, 400, generator=g) < 0.8).double()
    choices = dict(weight=weight, offset=offset, penalise_bias=penalise_bias)
    newton = fit_softmax(x, y, 6, torch.full((3,), ridge), **choices)
    monkeypatch.setattr("ciperlib.analyse.solvers.softmax.LARGE", 0)
    lbfgs = fit_softmax(x, y, 6, torch.full((3,), ridge), **choices)
    torch.testing.assert_close(log_softmax(x, lbfgs, offset), log_softmax(x, newton, offset), atol=2e-3, rtol=0)


def test_separable_data_do_not_diverge():
    x, _ = problem(b=1)
    y = (x[:, :, 0] > 0).long()
    theta = fit_softmax(x, y, 2, torch.tensor([1e-6]))
    assert theta.isfinite().all()
    assert log_softmax(x, theta).gather(2, y[..., None]).mean() > -0.01


# --- orbits ----------------------------------------------------------------------------------------------------------


def test_orbits_with_gaps_are_refused():
    orbits = make_world("xor", 20).orbits
    order = torch.randperm(len(orbits), generator=torch.Generator().manual_seed(0))
    block, rows = as_orbits(orbits.subset(order))
    assert torch.equal(block, orbits.matrix.view(20, 2, 1))
    assert rows.factors[SOURCE][::2].tolist() == list(range(20))
    with pytest.raises(FeaturesError, match=r"images \[3\] have not"):
        as_orbits(orbits.subset(torch.arange(40) != 7))
    bare = replace(orbits, factors={CLASS: orbits.factors[CLASS]})
    with pytest.raises(FeaturesError, match="no factor source and no level"):
        as_orbits(bare)


# --- known answers ---------------------------------------------------------------------------------------------------


def test_xor_is_known_to_one_another():
    """Neither Z alone nor the class alone tells anything of A; together almost all."""
    world = make_world("xor", 1500)
    found = explaining_away(world.orbits, CLASS, **FAST)
    assert found.low <= world.truth_nats <= found.high
    assert found.value == pytest.approx(world.truth_nats, abs=0.03)
    assert found.level_entropy == pytest.approx(math.log(2), abs=0.01)
    assert found.class_entropy == pytest.approx(math.log(2), abs=0.01)
    assert found.verdict == "present"
    assert abs(found.forward - found.backward) < 0.01
    assert abs(found.shuffled) < 0.01


def test_an_additive_probe_misses_xor():
    """Why q1 needs interactions: the same rows with onehot(c) merely appended."""
    orbits = make_world("xor", 800).orbits
    level, category = orbits.factors[LEVEL], orbits.factors[CLASS]
    code = torch.nn.functional.one_hot(category, 2).double()
    x = torch.cat([orbits.matrix.double(), code, torch.ones(len(level), 1, dtype=torch.float64)], 1)[None]
    theta = fit_softmax(x, level[None], 2, torch.tensor([1e-4]))
    entropy = -float(log_softmax(x, theta)[0].gather(1, level[:, None]).mean())
    assert entropy > math.log(2) - 0.01


@pytest.mark.parametrize("name", ["copy", "noise", "modular_plain", "quadrant"])
def test_worlds_without_synergy_are_never_called_present(name):
    found = explaining_away(
        make_world(name, 600).orbits, CLASS, null_samples=20, resamples=100, networks=name == "quadrant"
    )
    assert found.value < 0.03
    assert found.verdict != "present"


def test_the_trap_is_seen_by_the_backward_estimate_and_the_bound():
    found = explaining_away(make_world("quadrant", 800).orbits, CLASS, networks=False, **FAST)
    assert found.forward > 0.5  # looks hugely significant
    assert found.p_value < 0.05
    assert abs(found.shuffled) < 0.05
    assert found.backward < 0.03
    assert found.bound < 0.03


@pytest.mark.slow
def test_modular_pose_and_its_lift():
    world = make_world("modular", 1500)
    for version in (world, lift(world, 64)):
        found = explaining_away(version.orbits, CLASS, networks=False, **FAST)
        assert found.value == pytest.approx(world.truth_nats, abs=0.05)
        assert found.value < world.truth_nats + 0.02  # where it errs it errs low
        assert abs(found.forward - found.backward) < 0.05


def test_an_invertible_affine_map_changes_nothing():
    orbits = make_world("mixture", 1200).orbits
    first = explaining_away(orbits, CLASS, networks=False, null_samples=0)
    second = explaining_away(replace(orbits, matrix=5 - 3 * orbits.matrix), CLASS, networks=False, null_samples=0)
    assert second.value == pytest.approx(first.value, abs=1e-3)
    assert first.low <= make_world("mixture", 10).truth_nats <= first.high


def test_the_truth_of_the_mixture_is_that_of_a_sample():
    """Quadrature against the average over drawn points of the same log-densities."""
    world = make_world("mixture", 200_000, a=0.7, c=1.2, sigma=0.8)
    z = world.orbits.matrix[:, 0].double()
    a, c = 2.0 * world.orbits.factors[LEVEL] - 1, 2.0 * world.orbits.factors[CLASS] - 1
    density = lambda s, t: torch.exp(-((z - 0.7 * s - 1.2 * t) ** 2) / (2 * 0.8**2))  # noqa: E731
    both = density(a, c)
    given_z = (density(a, 1) + density(a, -1)) * (density(1, c) + density(-1, c))
    total = density(1, 1) + density(1, -1) + density(-1, 1) + density(-1, -1)
    assert world.truth_nats == pytest.approx(float((both * total / given_z).log().mean()), abs=0.005)


def test_a_nine_that_is_a_turned_six_is_one_bit():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (300, 3, 6, 6), generator=generator).byte()
    images[:, :, :3] = images[:, :, :3] // 4  # a six is dark above and bright below
    ids = torch.arange(300)
    sixes = ImageSet("made", "test", images, {CLASS: torch.full((300,), 6)}, ids, ids)
    world = six_and_nine(sixes, nine_is_turned_six=True)
    found = explaining_away(world.orbits, CLASS, networks=False, **FAST)
    assert world.truth_nats == math.log(2)
    assert found.value == pytest.approx(math.log(2), abs=0.02)
    assert found.level_entropy > math.log(2) - 0.02


def test_networks_that_find_nothing_leave_the_linear_estimate():
    """And one that reads what a linear map cannot lowers the bound: the quadrants by their product."""
    found = explaining_away(make_world("xor", 600).orbits, CLASS, **FAST)
    assert found.forward_mlp == pytest.approx(found.forward, abs=0.02)
    orbits = lift(make_world("quadrant", 600), 16).orbits
    alone, helped = (explaining_away(orbits, CLASS, null_samples=0, networks=networks) for networks in (False, True))
    assert helped.level_entropy < alone.level_entropy - 0.1
    assert helped.forward_mlp < helped.forward - 0.3


def test_the_interval_spans_both_estimates_and_leaves_room_for_what_is_not_learned():
    world = lift(make_world("modular", 2000), 64)
    found = explaining_away(world.orbits, CLASS, networks=False, null_samples=0)
    assert found.low < min(found.forward, found.backward)
    assert max(found.forward, found.backward) < found.high
    assert found.low < world.truth_nats < found.high
    assert [n for n, _ in found.series] == [500, 1000, 2000]
    assert found.readings["forward"].high - found.readings["forward"].low > found.readings["forward"].spread


def test_the_interval_reaches_to_images_without_end():
    """Of constant cross-entropies there is no sampling error: what is left to learn is all that the ends allow for."""
    sizes = (100, 200, 400)

    def side(n, nll):
        return {name: torch.full((n, 1), float(nll), dtype=torch.float64) for name in "AC"}

    def read(without, given):
        parts = [
            Measured(torch.arange(n), torch.arange(n), side(n, q0), side(n, q1), None, None, None)
            for n, q0, q1 in zip(sizes, without, given)
        ]
        found = parts[-1].read(parts, "A", 0, seed=0, resamples=20)
        assert found.spread == pytest.approx(0)
        return found.value, found.low, found.high

    assert read((2, 2, 2), (1, 1, 1)) == pytest.approx((1, 1, 1))
    for power in (0.45, 0.5, 1):  # without end it is 1
        falling = [1 + (100 / n) ** power for n in sizes]
        value, low, high = read((3, 3, 3), falling)
        assert (value, low) == pytest.approx((3 - falling[-1],) * 2)
        assert high > 2 - 0.02
        value, low, high = read([2 + one for one in falling], (1, 1, 1))
        assert (value, high) == pytest.approx((1 + falling[-1],) * 2)
        assert low < 2 + 0.02
        both = read([2 + one for one in falling], falling)  # what both learn changes nothing
        assert both == pytest.approx((2, 2, 2))


def test_a_few_outliers_change_nothing_and_heavy_tails_are_refused():
    world = lift(make_world("modular", 600), 16)
    plain = explaining_away(world.orbits, CLASS, networks=False, null_samples=0, resamples=20)
    wild = world.orbits.matrix.clone()
    wild[7, 3], wild[1000, 0] = 1e4, -1e6
    found = explaining_away(replace(world.orbits, matrix=wild), CLASS, networks=False, null_samples=0, resamples=20)
    assert found.value == pytest.approx(plain.value, abs=0.01)
    assert 0 < found.clipped < 1e-3
    cauchy = torch.distributions.Cauchy(0.0, 1.0)
    torch.manual_seed(0)
    heavy = torch.cat([world.orbits.matrix, cauchy.sample((2400, 48))], 1)
    found = explaining_away(replace(world.orbits, matrix=heavy), CLASS, networks=False, null_samples=0, resamples=20)
    assert found.verdict == "unresolved"
    assert "heavy tails" in found.reason


def test_a_sparse_code_has_no_heavy_tails():
    world = make_world("copy", 600)  # one number in ten is 1, the others nearly 0
    assert explaining_away(world.orbits, CLASS, networks=False, null_samples=0, resamples=20).clipped == 0


@pytest.mark.parametrize("name", CURVED)
def test_worlds_outside_the_linear_family_show_the_same_truth(name):
    """What is shown of A and C is all that the world of the same truth shows, by counting or by its maker."""
    world = make_world(name, 4000)
    level, category = world.orbits.factors[LEVEL], world.orbits.factors[CLASS]
    z = world.orbits.matrix
    if name in ("products", "half_products"):
        upper = z[:, 0] * z[:, 1] if z.shape[1] == 4 else z[:, 0]
        value = 2 * (upper > 0) + (z[:, -2] * z[:, -1] > 0)
    elif name == "checkers":
        field = z.floor().long()
        value = field[:, 0] * 3 + field[:, 1]
    elif name in ("quadrant", "quadrants"):
        assert world.truth_nats == 0
        return
    else:
        assert world.truth_nats == make_world("cells", 10).truth_nats
        return
    shown = value.long() * 40 + level * 10 + category
    joint = torch.bincount(shown, minlength=int(value.max() + 1) * 40).view(-1, 4, 10).double() / len(z)

    def entropy(p):
        return -float((p[p > 0] * p[p > 0].log()).sum())

    plug_in = entropy(joint.sum(2)) + entropy(joint.sum(1)) - entropy(joint.sum((1, 2))) - entropy(joint)
    assert plug_in == pytest.approx(world.truth_nats, abs=0.03)


def test_a_curvature_that_rounding_made_negative_is_raised():
    """The others of the batch are factored as they are."""
    good = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    flat = torch.tensor([[1.0, 1.0], [1.0, 1.0 - 1e-9]], dtype=torch.float64)
    factors = _factor(torch.stack([good, flat]))
    assert (factors.diagonal(dim1=1, dim2=2) > 1e-4).all()  # a step through it stays finite
    torch.testing.assert_close(factors[0] @ factors[0].T, good, atol=1e-12, rtol=0)
    torch.testing.assert_close(factors[1] @ factors[1].T, flat, atol=1e-5, rtol=0)


def test_training_perfect_and_test_low_is_learned_by_heart():
    """The azimuth's pupils that saw each image at one level: 0.017 nats in training, 1.07 of log 4 on others."""
    assert learned_by_heart(0.017, 1.067, 4)
    assert not learned_by_heart(0.6, 1.067, 4)  # lossy, in training too
    assert not learned_by_heart(0.017, 0.05, 4)  # it can be told of all images
    assert not learned_by_heart(0.35, 0.6, 2)


@pytest.mark.slow
@pytest.mark.long
def test_p_values_of_a_world_without_synergy_are_spread_evenly():
    """A thin slice of `make validate`. With a statistic chosen for the observed classes their mean is 0.69."""
    worlds = [make_world("modular_plain", 1000, seed=seed).orbits for seed in range(30)]
    p = [
        explaining_away(world, CLASS, networks=False, null_samples=19, seed=i).p_value for i, world in enumerate(worlds)
    ]
    assert sum(p) / len(p) == pytest.approx(0.525, abs=0.1)  # of 1/20, 2/20 ... 1


def test_networks_start_as_the_linear_family(monkeypatch):
    """Before the first step they say what the linear maps say that were fitted on the same rows."""
    monkeypatch.setattr(entropy_models, "STEPS", 0)
    orbits = make_world("mixture", 200).orbits
    level, category = orbits.factors[LEVEL], orbits.factors[CLASS]
    question = (level, 2, category, 2)
    summaries = fit_canonical_variates(orbits.matrix, level * 2 + category, 4, assign_folds(orbits.groups, 5, 0))
    linear = estimate(summaries, *question)
    lead, _ = entropy_models.quadratic(orbits.matrix)
    for nll, logits in zip(entropy_models.network_nll(lead, [summaries], [linear], *question), linear.inner):
        own = logits[summaries.folds, torch.arange(400)].log_softmax(1).gather(1, level[:, None])[:, 0]
        torch.testing.assert_close(nll, -own, atol=1e-5, rtol=1e-5)


def test_where_the_hessian_is_as_good_as_singular():
    """A column twice, the smallest penalty that is used: MKL's batched LU has failed on such problems."""
    x, y = problem(b=40, p=6)
    x[:, :, 1] = x[:, :, 0]
    bare, ridge = x[:, :, [0, 2, 3, 4, 5]].clone(), torch.full((40,), 1e-4)
    bare[:, :, 0] *= 2**0.5  # two equal columns share their weight: together they are penalised half as much
    both, single = (log_softmax(z, fit_softmax(z, y, 3, ridge)).exp() for z in (x, bare))
    torch.testing.assert_close(both, single, atol=1e-4, rtol=0)


def test_real_digits_leave_little_to_explain():
    digits = load_images("digits", "train", root=Path("nowhere"))
    found = explaining_away(six_and_nine(digits, nine_is_turned_six=False), CLASS, networks=False, **FAST)
    assert found.bound < 0.2
    assert found.value <= found.bound + 1e-9


# --- faults ----------------------------------------------------------------------------------------------------------


def test_leaking_groups_would_inflate_the_entropy_s_fall():
    """Memorable images: if an image's rows lie in both parts, its class is remembered. The folds keep groups whole."""
    generator = torch.Generator().manual_seed(0)
    n, m, d = 60, 4, 200
    matrix = torch.randn(n, d, generator=generator).repeat_interleave(m, 0)
    matrix += 0.01 * torch.randn(n * m, d, generator=generator)
    category = torch.randint(0, 2, (n,), generator=generator).repeat_interleave(m)
    source, level = torch.arange(n).repeat_interleave(m), torch.arange(m).repeat(n)
    whole = assign_folds(source, 5, 0)
    assert all(len(whole[source == s].unique()) == 1 for s in range(n))
    leaking = assign_folds(torch.arange(n * m), 5, 0)
    entropies = []
    for folds in (whole, leaking):
        summaries = fit_canonical_variates(matrix, category, 2, folds)
        entropies.append(estimate(summaries, category, 2, torch.zeros_like(level), 1).entropy())
    assert entropies[0] > 0.6 > 0.3 > entropies[1]


def test_levels_of_an_image_in_several_groups_are_refused():
    """The guard behind the test above: such folds would divide them."""
    orbits = make_world("xor", 60).orbits
    with pytest.raises(FeaturesError, match=r"levels of images \[0, 1, 2, 3, 4\] are in several groups"):
        explaining_away(replace(orbits, groups=torch.arange(120)), CLASS)


def made(**changes):
    orbits = make_world("xor", 60).orbits
    return replace(orbits, **changes)


@pytest.mark.parametrize(
    ("change", "target", "words"),
    [
        ({}, "kind", "no factor 'kind'"),
        ({}, LEVEL, "the transformation itself"),
        ({"matrix": torch.zeros(120, 1)}, CLASS, "all representations are the same"),
        ({"matrix": torch.full((120, 1), torch.nan)}, CLASS, "not finite"),
        ({"size": torch.rand(60).repeat_interleave(2)}, "size", "continuous"),
        ({"same": torch.zeros(120).long()}, "same", "all images have the same same"),
        ({"rare": (torch.arange(120) < 6).long()}, "rare", "3 images .* fewer than the 5 folds"),
        ({"moving": torch.arange(120) % 2}, "moving", "changes along the orbit"),
    ],
)
def test_what_cannot_be_estimated(change, target, words):
    orbits = made(**{k: v for k, v in change.items() if k == "matrix"})
    extra = {k: v for k, v in change.items() if k != "matrix"}
    orbits = replace(orbits, factors={**orbits.factors, **extra})
    with pytest.raises(InformationError, match=words):
        explaining_away(orbits, target)


def test_one_level_is_no_transformation():
    orbits = make_world("xor", 60).orbits
    with pytest.raises(InformationError, match="one level only"):
        explaining_away(orbits.subset(orbits.factors[LEVEL] == 0), CLASS)


def judged(
    networks=True, clipped=0.0, p_value=0.01, shuffled=0.001, before=0.3, spread=0.1, series=None, **ends
):  # fmt: skip
    """The verdict of .3 nats, where all families lie between .25 and .35 but for those that are named."""
    names = FAMILIES if networks else ("forward", "backward")
    readings = {name: Reading(0.3, *ends.get(name, ends.get("all", (0.25, 0.35))), 0.1) for name in names}
    series = series or ((500, before), (1000, 0.3))
    numbers = dict(value=0.3, shuffled=shuffled, p_value=p_value, series=series, clipped=clipped, bound=0.6)
    return verdict_of(readings, networks, spread, **numbers)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "present"),
        ({"backward_mlp": (0.019, 0.35)}, "unresolved"),  # one family may be below the margin
        ({"forward": (0.019, 0.35), "networks": False}, "unresolved"),
        ({"networks": False}, "present"),
        ({"shuffled": 0.26}, "unresolved"),  # shuffling gives as much
        ({"p_value": 0.2}, "unresolved"),
        ({"p_value": math.nan}, "unresolved"),
        ({"all": (-0.02, 0.019)}, "absent"),
        ({"all": (-0.02, 0.019), "networks": False}, "unresolved"),  # networks were not asked
        ({"all": (-0.02, 0.019), "forward_mlp": (-0.02, 0.3)}, "unresolved"),  # and they are asked before it is said
        ({"before": 0.19}, "not converged"),
        ({"before": 0.21}, "present"),
        ({"before": 0.285, "spread": 0.001}, "present"),  # it moved by less than the margin
        ({"clipped": 0.003}, "unresolved"),
        ({"series": ((60, 0.3),)}, "unresolved"),  # too few for a series
    ],
)
def test_the_verdict_needs_every_family_to_agree(changes, verdict):
    found, reason = judged(**changes)
    assert found == verdict
    assert reason


def test_a_result_says_all_of_it_and_shows_raw_values():
    found = explaining_away(make_world("noise", 300).orbits, CLASS, networks=False, null_samples=0)
    row = found.to_row()
    assert row["forward_nats"] == found.forward  # not clipped at 0
    assert math.isnan(row["p_value"])
    assert "verdict" in found._repr_html_()
    assert conditional_entropy(make_world("copy", 300).orbits) < 0.05
    assert conditional_entropy(make_world("noise", 300).orbits) == pytest.approx(math.log(4), abs=0.05)
    assert conditional_entropy(make_world("noise", 300).orbits, CLASS) < 0.05


def test_the_same_seed_gives_the_same_result():
    orbits: Features = make_world("xor", 200).orbits
    assert explaining_away(orbits, CLASS, **FAST).to_row() == explaining_away(orbits, CLASS, **FAST).to_row()
