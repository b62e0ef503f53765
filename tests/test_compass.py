"""Each object's compass, against codes in which the answer is planted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ciperlib.analyse.features import Features
from ciperlib.analyse.probing.checks import ProbeError
from ciperlib.analyse.probing.compass import compass_cost, fit_teams, fit_turned
from ciperlib.analyse.probing.conditional import degrees_off, fit_within
from ciperlib.analyse.probing.families import NEW, PLACES, SEEN, probe_families
from ciperlib.analyse.probing.probes import fit_linear_probe, fit_regression_probe
from ciperlib.analyse.statistics import circular_error

OBJECTS, VIEWS, D = 24, 40, 48


def code(turn: float, *, noise=0.05, mirrored=0.0, objects=range(OBJECTS), views=VIEWS, seed=0, circle=1.0) -> Features:
    """h = A [cos(+-a + t), sin(+-a + t)] + an object's offset + noise; t is the object's turn times `turn`."""
    fixed = torch.Generator().manual_seed(99)  # of the encoder and the objects
    matrix = torch.randn(2, D, generator=fixed)
    turns = turn * 2 * math.pi * torch.rand(200, generator=fixed)
    signs = 1 - 2 * (torch.rand(200, generator=fixed) < mirrored).float()
    offsets = 2 * torch.randn(200, D, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    object = torch.tensor(list(objects)).repeat_interleave(views)
    azimuth = 2 * math.pi * torch.rand(len(object), generator=generator)
    angle = signs[object] * azimuth + turns[object]
    h = circle * torch.stack([angle.cos(), angle.sin()], 1) @ matrix + offsets[object]
    h = h + noise * torch.randn(h.shape, generator=generator)
    ids = torch.arange(len(object)) + 10_000 * seed
    labels = {"object": tuple(map(str, range(200)))}
    return Features(h, {"object": object, "azimuth": azimuth}, ids, ids.clone(), labels)


def degrees(result, test: Features) -> float:
    guess = torch.atan2(*result.prediction.unbind(1))
    return float(circular_error(guess, test.factors["azimuth"].double()).mean()) * 180 / math.pi


def test_a_front_of_its_own_is_found_and_one_map_is_at_chance():
    train, test = code(1.0), code(1.0, seed=1)
    assert degrees(fit_turned(train, test, resamples=0), test) < 3
    assert degrees(fit_within(train, test, "azimuth", "object", resamples=0), test) < 3
    assert degrees(fit_regression_probe(train, test, "azimuth", resamples=0), test) > 60


def test_with_one_front_for_all_one_map_does_as_well():
    train, test = code(0.0), code(0.0, seed=1)
    pooled = degrees(fit_regression_probe(train, test, "azimuth", resamples=0), test)
    turned = fit_turned(train, test, resamples=0)
    assert degrees(turned, test) == pytest.approx(pooled, abs=3)
    assert turned.details["turns"].std() < 0.05


def test_without_an_azimuth_there_is_nothing_to_turn():
    train, test = code(1.0, circle=0.0, noise=1.0), code(1.0, circle=0.0, noise=1.0, seed=1)
    assert degrees(fit_turned(train, test, resamples=0), test) == pytest.approx(90, abs=6)
    assert compass_cost(train, code(1.0, circle=0.0, noise=1.0, objects=range(100, 110), seed=2))["value"].min() > 80


def test_the_turns_are_the_objects_up_to_one_for_all():
    train, test = code(1.0), code(1.0, seed=1)
    found = fit_turned(train, test, resamples=0).details["turns"]
    fixed = torch.Generator().manual_seed(99)
    torch.randn(2, D, generator=fixed)
    planted = (2 * math.pi * torch.rand(200, generator=fixed))[:OBJECTS].double()
    gap = torch.polar(torch.ones_like(found), found - planted)
    assert gap.mean().abs() > 0.999


def test_mirrored_objects_need_to_be_asked_for():
    train, test = code(1.0, mirrored=0.5), code(1.0, mirrored=0.5, seed=1)
    assert degrees(fit_turned(train, test, resamples=0), test) > 20
    found = fit_turned(train, test, mirrored=True, resamples=0)
    assert degrees(found, test) < 5
    assert 0.2 < found.details["mirrored"].double().mean() < 0.8


def test_objects_dealt_out_anew_are_at_chance():
    train, test = code(1.0), code(1.0, seed=1)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(3))
    dealt = [replace(part, factors={**part.factors, "object": part.factors["object"][order]}) for part in (train, test)]
    assert degrees(fit_turned(*dealt, resamples=0), test) > 70  # and one map for all is no better


def test_a_new_object_costs_one_view_where_a_turn_is_all_that_it_has():
    found = compass_cost(code(1.0), code(1.0, objects=range(100, 120), seed=2), counts=(1, 2, 5, 10))
    by = found.set_index(["views", "how"])["value"]
    assert by[1, "one turn"] < 8
    assert by[1, "own map"] > 60
    assert by[10, "own map"] < by[1, "own map"]
    assert list(found.columns[3:]) == [str(i) for i in range(100, 120)]
    assert found.iloc[0, 3:].astype(float).mean() == pytest.approx(found["value"][0])


def test_the_more_objects_a_map_serves_the_worse_it_reads_them():
    train, test = code(1.0, noise=0.5), code(1.0, noise=0.5, seed=1)
    errors = [degrees(fit_teams(train, test, size), test) for size in (1, 6, OBJECTS)]
    assert errors[0] < errors[1] < errors[2]
    one = fit_within(train, test, "azimuth", "object", resamples=0)
    assert errors[0] == pytest.approx(degrees(one, test), abs=1e-6)


def test_what_cannot_be_asked_is_refused():
    train = code(1.0)
    with pytest.raises(ProbeError, match="object 3 is in both parts"):
        compass_cost(train, code(1.0, objects=range(3, 30), seed=2))
    new = code(1.0, objects=range(100, 110), views=5, seed=2)
    for counts in ((0,), (5,), ()):
        with pytest.raises(ProbeError, match="labelled views must be from 1 to 4"):
            compass_cost(train, new, counts=counts)
    with pytest.raises(ProbeError, match="a team has from 1 to the 24"):
        fit_teams(train, code(1.0, seed=1), 25)
    with pytest.raises(ProbeError):  # whose team would that be?
        fit_teams(train, code(1.0, objects=range(30), seed=1), 5)
    with pytest.raises(ProbeError, match="no factor"):
        fit_turned(train, code(1.0, seed=1), "category")
    with pytest.raises(ProbeError):
        fit_turned(train, code(1.0, objects=range(30), seed=1))


def test_a_single_view_of_each_object_does_not_break_it():
    train, test = code(1.0, views=1), code(1.0, views=1, seed=1)
    assert math.isfinite(degrees(fit_turned(train, test, resamples=0), test))


def test_the_table_of_the_families_says_what_each_probe_says():
    def parted(features: Features) -> Features:
        n, generator = len(features), torch.Generator().manual_seed(int(features.ids[0]))
        factors = {
            "category": features.factors["object"] % 3,
            "session": torch.randint(0, 2, (n,), generator=generator),
        }
        factors |= {name: torch.rand(n, generator=generator) for name in ("elevation", "distance")}
        return replace(features, factors={**features.factors, **factors}, encoder_fingerprint="made")

    train, seen = (
        parted(code(1.0, objects=range(120), views=20)),
        parted(code(1.0, objects=range(120), views=5, seed=1)),
    )
    new, places = (
        parted(code(1.0, objects=some, views=12, seed=s)) for some, s in ((range(120, 140), 2), (range(120), 3))
    )
    found = probe_families(train, seen, new, places)
    by = found.set_index(["factor", "how", "of"])["value"]
    turned = degrees_off(fit_turned(train, seen, resamples=0), seen)
    assert by["azimuth", "turn", SEEN] == pytest.approx(float(turned.mean()), abs=1e-6)
    assert by["azimuth", "turn", SEEN] < 20 < 60 < by["azimuth", "all", SEEN]
    assert by["azimuth", "1 views, one turn", NEW] < by["azimuth", "1 views, own map", NEW]
    for of, part in ((NEW, new), (PLACES, places)):
        told = fit_linear_probe(train, part, "category", resamples=0).value
        assert by["category", "all", of] == pytest.approx(told)
    assert by["category", "all", SEEN] > by["category", "all", NEW]
    rows = found.set_index(["factor", "how", "of"])
    assert rows.loc[("category", "all", NEW)].dropna().shape[0] == 1 + 20
    with pytest.raises(ProbeError, match=r"object 0 is in both parts: it is not new \(120 are\)"):
        probe_families(train, seen, seen, places)
