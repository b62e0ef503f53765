"""Drawn worlds in which the truth is known: how often does a 95% interval hold it, and a corrected test lie?"""

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t

from ciperlib.analyse.statistics import (
    adjust,
    bootstrap_interval,
    over_seeds,
    over_seeds_and_groups,
    p_value_over_seeds,
)

WORLDS = 1000
SLACK = 3 * (0.95 * 0.05 / WORLDS) ** 0.5  # three standard errors of a share of the worlds


def coverage(interval, draw, worlds=WORLDS):
    """The share of drawn worlds, all of mean 0, whose interval holds 0."""
    rng = np.random.default_rng(0)
    return np.mean([low <= 0 <= high for low, high in (interval(draw(rng)) for _ in range(worlds))])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_over_seeds_holds_the_mean_in_95_of_100_worlds(seeds):
    found = coverage(lambda values: over_seeds(values)[1:], lambda rng: rng.normal(size=seeds))
    assert abs(found - 0.95) <= SLACK


@pytest.mark.parametrize("seeds", [3, 5])
def test_paired_differences_hold_it_too_where_the_seeds_have_much_in_common(seeds):
    def draw(rng):
        common = 5 * rng.normal(size=seeds)
        return (common + rng.normal(size=seeds)) - (common + rng.normal(size=seeds))

    assert abs(coverage(lambda values: over_seeds(values)[1:], draw) - 0.95) <= SLACK


def of_groups(values):
    """Of a mean over images of groups, five to each."""
    terms = torch.stack([torch.ones(values.size), torch.from_numpy(values.ravel())], dim=1).double()
    groups = torch.arange(len(values)).repeat_interleave(values.shape[1])
    return bootstrap_interval(groups, terms, lambda sums: sums[..., 1] / sums[..., 0], resamples=200)


@pytest.mark.parametrize(("groups", "least"), [(10, 0.88), (50, 0.92)])
def test_the_bootstrap_of_groups_holds_it_where_images_of_a_group_are_alike(groups, least):
    """Percentiles of few groups are a little narrow; intervals that took images for independent would hold it in half
    of the worlds."""

    def draw(rng):
        return rng.normal(size=(groups, 1)) + 0.5 * rng.normal(size=(groups, 5))

    worlds = 500
    assert least <= coverage(of_groups, draw, worlds) <= 0.97

    def each_image_for_itself(values):
        return of_groups(values.reshape(-1, 1))

    assert coverage(each_image_for_itself, draw, worlds) < 0.7


@pytest.mark.parametrize("shape", [(3, 50), (3, 10), (5, 50)], ids=str)
@pytest.mark.parametrize("spreads", [(1, 1, 1), (0.1, 1, 1), (1, 0.1, 1), (0.3, 1, 0.5)], ids=str)
def test_the_interval_over_seeds_and_groups_holds_it_whatever_varies_most(shape, spreads):
    seeds, groups = shape

    def draw(rng):
        parts = rng.normal(size=(seeds, 1)), rng.normal(size=(1, groups)), rng.normal(size=(seeds, groups))
        return sum(spread * part for spread, part in zip(spreads, parts))

    assert 0.925 <= coverage(lambda values: over_seeds_and_groups(values)[1:], draw) <= 0.985


def test_neither_alone_would_do():
    """The same worlds: groups of one training, or the trainings' means, each leave out what the other one counts."""

    def draw(rng):
        return rng.normal(size=(3, 1)) + rng.normal(size=(1, 50)) + rng.normal(size=(3, 50))

    def one_training(values):
        half = student_t.ppf(0.975, 49) * values[0].std(ddof=1) / 50**0.5
        return values[0].mean() - half, values[0].mean() + half

    assert coverage(one_training, draw) < 0.6

    def many_groups(rng):
        return 0.1 * rng.normal(size=(3, 1)) + rng.normal(size=(1, 50)) + 0.1 * rng.normal(size=(3, 50))

    assert coverage(lambda values: over_seeds(values.mean(axis=1))[1:], many_groups) < 0.8


def test_the_mean_over_seeds_and_groups_of_a_table_by_hand():
    mean, low, high = over_seeds_and_groups(np.array([[1.0, 3.0], [2.0, 4.0]]))
    assert mean == 2.5
    assert mean - low == pytest.approx(high - mean)
    # mean squares 1 (seeds), 4 (groups), 0 (rest): 5 / 4 is the variance of the mean, 25 / 17 its degrees of freedom
    assert high - mean == pytest.approx(student_t.ppf(0.975, 25 / 17) * (5 / 4) ** 0.5)
    assert over_seeds_and_groups(np.ones((3, 4))) == (1, 1, 1)


@pytest.mark.parametrize(
    "values", [np.ones((1, 5)), np.ones((5, 1)), np.ones(5), np.array([[1, np.nan], [1, 2]])], ids=str
)
def test_a_table_without_an_interval_is_refused(values):
    with pytest.raises(ValueError, match="seeds, groups"):
        over_seeds_and_groups(values)


def test_corrections_against_their_definitions():
    p = np.random.default_rng(0).uniform(size=20) ** 2
    holm, bh = adjust(p), adjust(p, "benjamini-hochberg")
    order = np.argsort(p)
    for rank, index in enumerate(order):
        assert holm[index] == pytest.approx(min(1, max(p[order[k]] * (20 - k) for k in range(rank + 1))))
        assert bh[index] == pytest.approx(min(1, min(p[order[k]] * 20 / (k + 1) for k in range(rank, 20))))
    assert (adjust(p, "none") == p).all()
    assert (holm >= bh).all()


def test_what_was_not_tested_is_not_counted():
    assert adjust([0.02, np.nan, 0.5]).tolist() == pytest.approx([0.04, np.nan, 0.5], nan_ok=True)
    assert np.isnan(adjust([np.nan])).all()
    assert adjust([]).size == 0
    with pytest.raises(ValueError, match="correction must be"):
        adjust([0.1], "bonferroni")


def test_of_twenty_differences_that_are_none_holm_shows_one_in_five_of_100_worlds():
    rng = np.random.default_rng(1)
    shown = np.array(
        [
            [(adjust(p, name) < 0.05).any() for name in ("none", "holm", "benjamini-hochberg")]
            for p in ([p_value_over_seeds(gaps) for gaps in rng.normal(size=(20, 3))] for _ in range(300))
        ]
    ).mean(axis=0)
    assert shown[0] > 0.5
    assert max(shown[1:]) <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def test_a_difference_without_spread_has_the_p_value_that_it_must_have():
    assert (p_value_over_seeds([1, 1, 1]), p_value_over_seeds([0, 0, 0])) == (0, 1)
    assert np.isnan(p_value_over_seeds([1.0]))
