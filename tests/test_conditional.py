"""Probes with a condition, on codes whose answers are known."""

import math
from dataclasses import replace

import pytest
import torch

from ciperlib.analyse.features import Features
from ciperlib.analyse.probing.checks import ProbeError
from ciperlib.analyse.probing.conditional import (
    few_labels,
    fit_two_stage,
    fit_unseen,
    fit_within,
    learning_curve,
    probe_by_object,
)
from ciperlib.analyse.probing.erasure import erase
from ciperlib.analyse.probing.probes import fit_linear_probe, fit_regression_probe, shuffle_targets

OBJECTS, D = 12, 40


def made(front="own", n=1200, noise=0.02, seed=0, objects=OBJECTS, named=True):
    """(train, test): an object's code beside its azimuth, turned by a front of its own, of its category, or none."""
    g = torch.Generator().manual_seed(seed)
    object = torch.arange(n) % objects
    category = object // 4
    azimuth = 2 * math.pi * torch.rand(n, generator=g)
    offset = 2 * math.pi * torch.rand(objects, generator=torch.Generator().manual_seed(7))
    turned = {"shared": azimuth, "own": azimuth + offset[object], "category": azimuth + offset[category]}
    wave = (
        torch.stack((turned[front].cos(), turned[front].sin()), 1)
        if front in turned
        else torch.randn(n, 2, generator=g)
    )
    code = torch.nn.functional.one_hot(object, objects).float() if named else torch.zeros(n, objects)
    mixing = torch.randn(objects + 2, D, generator=torch.Generator().manual_seed(3))
    h = torch.cat((code, wave), 1) @ mixing + noise * torch.randn(n, D, generator=g)
    ids = torch.arange(n)
    factors = {"azimuth": azimuth, "object": object, "category": category}
    whole = Features(h, factors, ids, ids, name="made", encoder_fingerprint="made")
    return whole.subset(slice(n // 2)), whole.subset(slice(n // 2, None))


def degrees(found):
    return found.details["azimuth_error_degrees"]


def test_a_front_of_its_own_is_read_within_each_object_and_by_no_single_map():
    parts = made("own")
    assert degrees(fit_regression_probe(*parts, "azimuth")) > 60
    within = fit_within(*parts, "azimuth", "object")
    assert degrees(within) < 3
    assert within.value > 0.99
    assert degrees(fit_within(*parts, "azimuth", "category")) > 30


def test_fronts_that_a_category_shares_are_read_within_it():
    parts = made("category")
    assert degrees(fit_regression_probe(*parts, "azimuth")) > 45
    assert degrees(fit_within(*parts, "azimuth", "category")) < 3


def test_one_front_is_read_by_one_map_as_well():
    parts = made("shared")
    assert degrees(fit_regression_probe(*parts, "azimuth")) == pytest.approx(
        degrees(fit_within(*parts, "azimuth", "object")), abs=2
    )


def test_where_there_is_no_azimuth_none_is_found():
    parts = made("none")
    found = fit_within(*parts, "azimuth", "object")
    assert found.strength == math.inf
    assert abs(found.value) < 0.05
    assert degrees(found) == pytest.approx(90, abs=8)


def test_objects_dealt_out_anew_are_at_chance():
    """In directions that hold no object, an object's name is all that says which map is right."""
    parts = made("own", named=False)
    dealt = [shuffle_targets(part, seed, only="object") for seed, part in enumerate(parts)]
    assert degrees(fit_within(*parts, "azimuth", "object")) < 3
    assert degrees(fit_within(*dealt, "azimuth", "object")) > 60


def test_without_being_told_it_is_as_good_as_the_guesses():
    told, guessed = (ask(*made("own", noise=0.02), "azimuth", "object") for ask in (fit_within, fit_two_stage))
    assert guessed.details["group_accuracy"] > 0.99
    assert degrees(guessed) == pytest.approx(degrees(told), abs=1)
    blind = fit_two_stage(*made("own", named=False), "azimuth", "object")
    assert blind.details["group_accuracy"] < 0.4
    assert degrees(blind) > 45


def test_whose_map_is_used_is_what_was_told():
    train, test = made("own")
    wrong = (test.factors["object"] + 1) % OBJECTS
    assert degrees(fit_within(train, test, "azimuth", "object", told=wrong)) > 45


def test_an_unseen_object_s_front_cannot_be_known_but_a_shared_one_can():
    assert degrees(fit_unseen(*made("own"), "azimuth", "object")) > 60
    assert degrees(fit_unseen(*made("shared"), "azimuth", "object", folds=4)) < 12


def test_an_unseen_object_s_category_can_be_known_only_where_objects_share_something():
    train, test = made("shared")
    memory = fit_unseen(train, test, "category", "object", folds=4)
    assert memory.value < 0.6 < fit_linear_probe(train, test, "category").value
    for part in (train, test):
        part.matrix[:, :3] += 20 * torch.nn.functional.one_hot(part.factors["category"], 3)
    assert fit_unseen(train, test, "category", "object", folds=4).value > 0.95


def test_no_fold_has_fitted_on_a_value_that_it_is_asked_about():
    """Labels that can be learned by heart alone: whoever has seen the object would know them."""
    train, test = made("shared")
    label = torch.randint(2, (OBJECTS,), generator=torch.Generator().manual_seed(5))
    parts = [part.subset(slice(None)) for part in (train, test)]
    for part in parts:
        part.factors["label"] = label[part.factors["object"]]
    assert fit_linear_probe(*parts, "label").value > 0.99
    assert fit_unseen(*parts, "label", "object", folds=4).value < 0.75


@pytest.mark.parametrize("n", [24, 36, 60])
def test_a_tiny_set_does_no_worse_than_the_mean(n):
    for seed in range(8):
        train, _ = made("none", n=2 * n, noise=1.0, seed=seed)
        _, test = made("none", n=2000, noise=1.0, seed=seed + 100)
        waves = [
            torch.stack((part.factors["azimuth"].sin(), part.factors["azimuth"].cos()), 1) for part in (train, test)
        ]
        found = fit_within(train, test, "azimuth", "object").prediction
        errors = [(guess - waves[1]).square().mean() for guess in (found, waves[0].mean(0))]
        assert errors[0] <= 1.02 * errors[1]


def test_more_images_and_more_labels_tell_more():
    parts = made("own", n=2400)
    curve = learning_curve(
        *parts, lambda a, b: fit_within(a, b, "azimuth", "object", resamples=0), "object", [4, 16, 64]
    )
    errors = curve.groupby("count")["azimuth_error_degrees"].mean()
    assert errors[4] > errors[16] > errors[64]
    labels = learning_curve(*parts, few_labels("object"), "object", [1, 10], draws=2)
    assert list(labels["n"]) == [12, 12, 120, 120]
    assert labels.groupby("count")["value"].mean().is_monotonic_increasing
    one = learning_curve(*parts, few_labels("object"), "object", [1], draws=3)
    assert one["value"].nunique() > 1, "other images in each draw"


def test_the_training_score_stands_beside_the_test_score():
    train, test = made("none", noise=1.0)
    train = train.subset(slice(60))
    found = fit_regression_probe(train, test, "azimuth", regularisation=(1e-6,))
    assert found.details["train_value"] > 0.4 > 0 > found.value
    assert fit_linear_probe(train, test, "object").details["train_value"] > 0.9


def test_the_median_stands_beside_the_mean():
    found = fit_within(*made("own"), "azimuth", "object")
    assert 0 < found.details["azimuth_median_error_degrees"] < degrees(found)


def test_a_single_image_of_an_object_is_its_own_mean():
    train, test = made("own")
    lonely = torch.cat((torch.nonzero(train.factors["object"] != 0).flatten(), torch.tensor([0])))
    assert int((train.factors["object"][lonely] == 0).sum()) == 1
    found = fit_within(train.subset(lonely), test, "azimuth", "object")
    others = test.factors["object"] != 0
    assert torch.isfinite(found.prediction).all()
    assert degrees(fit_within(train.subset(lonely), test.subset(others), "azimuth", "object")) < 3


def test_a_constant_azimuth_within_an_object_is_known():
    parts = made("own")
    for part in parts:
        part.factors["azimuth"] = torch.where(part.factors["object"] == 0, 1.0, part.factors["azimuth"])
    found = fit_within(*parts, "azimuth", "object")
    zero = parts[1].factors["object"] == 0
    guess = torch.atan2(found.prediction[zero, 0], found.prediction[zero, 1])
    assert (guess - 1.0).abs().max() < 0.05


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda a, b: (a.subset(a.factors["object"] != 3), b), "values of object that the training part has not"),
        (lambda a, b: (a, a), "in both parts"),
        (lambda a, b: (a.subset(slice(5)), b), "too few rows"),
    ],
)
def test_what_cannot_be_asked_is_refused(break_it, said):
    with pytest.raises(ProbeError, match=said):
        fit_within(*break_it(*made("own")), "azimuth", "object")


def test_object_by_object_it_says_what_each_probe_says():
    train, test = made("own", n=2400)
    for seed, part in enumerate((train, test)):
        place = torch.randint(0, 5, (len(part),), generator=torch.Generator().manual_seed(seed))
        # in the last place an object looks like no object elsewhere: only who has met it there can tell
        elsewhere, there = (
            torch.randn(OBJECTS + 2, D, generator=torch.Generator().manual_seed(of))[part.factors["object"]]
            for of in (3, 8)
        )
        part.matrix.add_(torch.where((place == 4)[:, None], there - elsewhere, 0))
        part.factors["session"] = place
    found = probe_by_object(train, test)
    assert found.shape == (13, 3 + OBJECTS)
    means = found.set_index(["factor", "how"])["value"]
    for how, ask in (("object", fit_within), ("guessed object", fit_two_stage)):
        assert means["azimuth", how] == pytest.approx(degrees(ask(train, test, "azimuth", "object")), abs=1e-6)
    assert means["azimuth", "all"] > 60 > 3 > means["azimuth", "object"]
    assert means["azimuth", "object dealt out"] > 60
    assert means["azimuth", "other objects"] > 60
    places = fit_unseen(train, test, "object", "session", resamples=0).value
    assert means["object", "other places"] == pytest.approx(places, abs=0.01)
    assert places == pytest.approx(0.8 + 0.2 / OBJECTS, abs=0.06)
    assert means["object", "all"] > 0.99
    assert means["object", "1 label"] <= means["object", "5 labels"] + 0.02
    one = found[found["how"] == "object"][3].item()
    own = [part.subset(part.factors["object"] == 3) for part in (train, test)]
    strength = fit_within(train, test, "azimuth", "object", resamples=0).strength
    alone = fit_regression_probe(*own, "azimuth", regularisation=(strength,), resamples=0)
    assert one == pytest.approx(degrees(alone), abs=1)  # its own mean and spread, and no other object's


def test_other_refusals():
    train, test = made("own")
    with pytest.raises(ProbeError, match="azimuth is continuous"):
        fit_within(train, test, "azimuth", "azimuth")
    with pytest.raises(ProbeError, match="object is categorical"):
        fit_within(train, test, "object", "category")
    with pytest.raises(ProbeError, match="folds must be from 2 to the 12 values"):
        fit_unseen(train, test, "azimuth", "object", folds=13)
    with pytest.raises(ProbeError, match="with the values of category in 3 folds"):
        fit_unseen(train, test, "object", "category", folds=3)
    with pytest.raises(ProbeError, match="azimuth is continuous: name a categorical factor"):
        learning_curve(train, test, few_labels("object"), "azimuth", [1])
    with pytest.raises(ProbeError, match="must be at least 1"):
        learning_curve(train, test, few_labels("object"), "object", [0])
    bad = [part.subset(slice(None)) for part in (train, test)]
    bad[0].matrix[3, 1] = math.nan
    with pytest.raises(ProbeError, match="not finite"):
        fit_within(*bad, "azimuth", "object")


def test_more_values_than_images_is_answered():
    train, test = made("own", n=60, objects=OBJECTS)
    found = fit_within(train, test, "azimuth", "object")
    assert found.details["maps"] == OBJECTS
    assert torch.isfinite(found.prediction).all()


@pytest.mark.parametrize("pair", [(1.0, math.pi - 1.0), (1.0, 1.0 + 2 * math.pi)], ids=["one sine", "one angle"])
def test_a_column_that_does_not_vary_is_predicted_by_its_mean(pair):
    """Two azimuths of one sine, or a whole turn apart: what cannot vary must not spoil what does."""
    parts = made("shared")
    for part in parts:
        part.factors["azimuth"] = torch.where(part.factors["azimuth"] < math.pi, *pair)
    assert torch.isfinite(fit_within(*parts, "azimuth", "object").prediction).all()


# --- erasing ---------------------------------------------------------------------------------------------------------


def test_what_is_erased_leaves_no_linear_trace_and_takes_nothing_else():
    """The object and the azimuth in directions of their own."""
    parts = made("shared")
    *blind, directions = erase(*parts, ["azimuth"])
    assert directions == 2
    train, test = blind
    waves = torch.stack((train.factors["azimuth"].sin(), train.factors["azimuth"].cos()), 1).double()
    covariance = (train.matrix.double() - train.matrix.double().mean(0)).T @ (waves - waves.mean(0)) / len(train)
    assert covariance.abs().max() < 1e-6
    assert fit_regression_probe(train, test, "azimuth").value < 0.02
    assert fit_linear_probe(train, test, "object").value == 1
    *nameless, directions = erase(*parts, ["object"])
    assert directions == OBJECTS - 1
    assert fit_linear_probe(*nameless, "object").value < 2.5 / OBJECTS
    assert degrees(fit_regression_probe(*nameless, "azimuth")) < 5
    *_, directions = erase(*parts, ["object", "azimuth"])
    assert directions == OBJECTS - 1 + 2


def test_a_factor_takes_along_what_shares_its_directions():
    train, test = made("shared", objects=2)
    for part in (train, test):
        part.factors["side"] = (part.factors["azimuth"].sin() > 0).long()
    parts = erase(train, test, ["azimuth"])[:2]
    assert fit_linear_probe(train, test, "side").value > 0.95
    assert fit_linear_probe(*parts, "side").value < 0.65


def test_erasing_moves_representations_as_little_as_can_be():
    """Less than the orthogonal projection away from the directions that are related to the factor."""
    train, test = made("shared")
    x = train.matrix.double() - train.matrix.double().mean(0)
    told = torch.nn.functional.one_hot(train.factors["object"]).double()
    basis = torch.linalg.qr(torch.linalg.svd(x.T @ (told - told.mean(0)), full_matrices=False)[0][:, : OBJECTS - 1])[0]
    plain = (x @ basis).square().sum()
    moved = (erase(train, test, ["object"])[0].matrix - train.matrix).double().square().sum()
    assert moved < 0.9 * plain


def test_a_dimension_that_never_varies_stays():
    parts = [replace(part, matrix=torch.nn.functional.pad(part.matrix, (0, 1), value=3.0)) for part in made("shared")]
    for part in erase(*parts, ["azimuth"])[:2]:
        assert part.matrix[:, -1].eq(3).all()


def test_a_factor_that_is_not_there_cannot_be_erased():
    with pytest.raises(ProbeError, match="no factor 'colour'"):
        erase(*made(), ["colour"])
