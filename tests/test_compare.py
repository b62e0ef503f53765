"""One question to many encoders: whose each row is, what fails, and what is found again."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from conftest import make_noise_images

from ciperlib.analyse import compare as comparing
from ciperlib.analyse.compare import Case, CompareError, as_metrics, average, compare, differences, find_cases
from ciperlib.analyse.features import extract_features
from ciperlib.config import Config
from ciperlib.learn.training import fit
from ciperlib.learn.zoo import zoo_grid

QUIET = dict(progress="none", train_size=64, batch_size=32, projector_width=8)


@pytest.fixture(autouse=True)
def _kept_here(tmp_path, monkeypatch):
    monkeypatch.setenv("CIPER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(comparing, "data_root", lambda: tmp_path / "data")


@pytest.fixture
def cases():
    return find_cases([{"method": "random", "width": 4}, {"method": "random", "width": 6}], (0, 1), **QUIET)


class Counted:
    """A measure, and how often it was asked."""

    def __init__(self, answer=lambda case: {"value": float(case.seed), "verdict": f"seed {case.seed}"}):
        self.asked, self.answer = [], answer

    def cell(self):
        """As a notebook's cell defines it."""

        def measure(case):
            self.asked.append(case.who)
            return self.answer(case)

        return measure


def test_every_row_says_whose_it_is(cases):
    table = compare(cases, lambda case: [{"part": part, "value": case.seed} for part in "ab"])
    assert list(table) == ["encoder", "method", "seed", "part", "value"]
    assert list(table["encoder"]) == [case.name for case in cases for _ in "ab"]
    assert len({case.name for case in cases}) == 2
    assert list(table["seed"]) == [0, 0, 1, 1, 0, 0, 1, 1]


def test_nothing_is_read_or_trained_before_its_turn(cases, monkeypatch):
    trained = []
    monkeypatch.setattr(
        comparing, "fit", lambda config, **options: trained.append(config.name) or fit(config, **options)
    )

    def ask(case):
        return {"before": len(trained), "d": case.encoder.representation_size}

    seen = compare(cases, ask, keep=False)
    assert list(seen["before"]) == [0, 1, 2, 3]
    assert list(seen["d"]) == [32, 32, 48, 48]


def test_a_second_time_is_free_and_equal(cases, monkeypatch):
    images = make_noise_images(8)

    def measure(case):
        matrix = extract_features(case.encoder, images).matrix
        return {"value": matrix.mean(), "nothing": math.nan, "n": 8, "said": "a <b>", "sure": True}

    first = compare(cases, measure)
    monkeypatch.setattr(Case, "encoder", property(lambda case: pytest.fail("it was read again")))
    pd.testing.assert_frame_equal(compare(cases, measure), first)
    assert len(files()) == 4


def files():
    return {path.name for path in comparing.data_root().rglob("*.json")}


def test_another_pixel_measure_parameter_or_encoder_is_measured_anew(cases):
    images, factor = make_noise_images(8), 2

    def ask(images=images, factor=factor, cases=cases[:1]):
        def measure(case):
            return {"value": factor * extract_features(case.encoder, images).matrix.mean()}

        compare(cases, measure)
        return len(files())

    assert (ask(), ask()) == (1, 1)
    assert ask(factor=3) == 2
    changed = make_noise_images(8)
    changed.images[0, 0, 0, 0] ^= 1
    assert ask(images=changed) == 3
    assert ask(cases=cases[1:2]) == 4

    def measure(case):
        return {"value": factor * extract_features(case.encoder, images).matrix.mean() + 0}

    compare(cases[:1], measure)
    assert len(files()) == 5


def test_a_kept_answer_that_was_changed_is_not_believed(cases):
    def measure(case):
        return {"value": 1.5}

    compare(cases[:1], measure)
    (path,) = comparing.data_root().rglob("*.json")
    path.write_text(path.read_text().replace("1.5", "9.5"))
    assert compare(cases[:1], measure)["value"].tolist() == [1.5]


def test_a_kept_answer_that_nobody_vouches_for_is_not_believed(cases):
    def measure(case):
        return {"value": 1.5}

    compare(cases[:1], measure)
    (path,) = comparing.data_root().rglob("*.json")
    path.write_text('{"rows": [[["value", 9.5]]]}')
    assert compare(cases[:1], measure)["value"].tolist() == [1.5]


def test_what_has_no_key_is_measured_each_time_and_said(cases, capsys):
    counted = Counted()
    for _ in range(2):
        compare(cases[:2], counted.cell())
    assert len(counted.asked) == 4
    assert "reads" in (said := capsys.readouterr().out)
    assert "not kept" in said


def test_where_nothing_can_be_written_it_is_measured_all_the_same(cases, tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setattr(comparing, "data_root", lambda: blocked)
    assert compare(cases[:1], lambda case: {"value": 2})["value"].tolist() == [2]
    assert "cannot be kept" in capsys.readouterr().out


def test_one_that_fails_is_a_row_that_says_why(cases, capsys):
    def measure(case):
        if case is cases[1]:
            raise ZeroDivisionError("by zero")
        return None if case is cases[2] else {"value": 1.0}

    table = compare(cases, measure, keep=False)
    assert table["error"].fillna("").tolist() == [
        "",
        "ZeroDivisionError: by zero",
        "CompareError: the measure found nothing",
        "",
    ]
    assert table["value"].isna().tolist() == [False, True, True, False]
    assert capsys.readouterr().out.count("not measured: ") == 2
    assert average(table, {"value": "v"})["v"].tolist() == ["1.00 (1 of 2)"] * 2


def test_none_that_could_be_measured_is_an_error(cases):
    def measure(case):
        raise ZeroDivisionError("by zero")

    with pytest.raises(CompareError, match=r"none of 4 .* by zero"):
        compare(cases, measure)


NO_ROWS = {
    "a number": 3,
    "a text": "x",
    "a list": {"value": [1, 2]},
    "an array": {"value": np.zeros(2)},
    "a thing": object(),
}


@pytest.mark.parametrize("found", NO_ROWS.values(), ids=NO_ROWS)
def test_what_is_no_row_is_said(found, cases):
    with pytest.raises(CompareError, match=r"must give a row|holds numbers and texts"):
        compare(cases[:1], lambda case: found, keep=False)


def test_cases_that_a_row_would_hide_are_refused():
    same, other = Config(method="random"), Config(method="random", width=4)
    with pytest.raises(CompareError, match="differ in more than their seed"):
        compare([Case("a", "random", 0, same), Case("a", "random", 1, other)], lambda case: {"value": 1})
    with pytest.raises(CompareError, match="is there twice"):
        compare([Case("a", "random", 0, same), Case("a", "random", 0, same)], lambda case: {"value": 1})
    with pytest.raises(CompareError, match="no cases"):
        compare([], lambda case: {"value": 1})


def test_the_same_kind_twice_is_one_case():
    assert len(find_cases([{"method": "simclr"}, {"alpha": 0.0}], (0, 1))) == 2


def test_without_seeds_each_kind_has_its_own():
    kinds = [{"method": "random", "width": 4, "seeds": [3, 5]}, {"method": "random", "width": 6}]
    assert [case.seed for case in find_cases(kinds)] == [3, 5, 0, 1, 2]
    assert [case.seed for case in find_cases(kinds, (7,))] == [7, 7]
    five = [case for case in find_cases(zoo_grid("probing")) if case.name == "CIPER, pose aug."]
    assert [case.seed for case in five] == [0, 1, 2, 3, 4]


def test_an_encoder_from_elsewhere_is_a_case(capsys):
    cases = find_cases([{"method": "simclr"}], (0,), external="torchvision/resnet18", progress="none")
    table = compare(cases, lambda case: {"d": case.encoder.representation_size, "seen": case.trained_on is not None})
    assert table[["encoder", "d", "seen"]].values.tolist()[1] == ["external", 512, False]
    with pytest.raises(CompareError, match="comes from elsewhere"):
        _ = cases[1].run


def test_known_rows_are_not_asked_again(cases):
    known = pd.DataFrame([{**case.who, "encoder": "?", "value": -1.0, "run": case.config.name} for case in cases[1:3]])
    table = compare(cases, lambda case: {"value": 1.0}, known=known)
    assert table["value"].tolist() == [1, -1, -1, 1]
    assert table["encoder"].tolist() == [case.name for case in cases]
    assert list(table) == ["encoder", "method", "seed", "value"]


def test_a_namesake_with_another_choice_is_not_taken_for_it(cases):
    other = find_cases([{"method": "random", "width": 4, "coordinates": False}], (0,), **QUIET)
    known = pd.DataFrame([{**other[0].who, "value": -1.0, "run": cases[0].config.name}])
    assert compare(other, lambda case: {"value": 1.0}, known=known)["value"].tolist() == [1]


def test_a_case_that_says_less_has_gaps(cases):
    table = compare(cases[:2], lambda case: {"a": 1.0, **({"b": 2.0} if case.seed else {})}, keep=False)
    assert table["b"].isna().tolist() == [True, False]


def scores():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            dict(encoder=name, method="made", seed=seed, part=part, value=rng.normal(), verdict=f"v{seed % 2}")
            for name in "abc" for seed in range(4) for part in ("x", "y")
        ]
    )  # fmt: skip


def test_averages_against_a_loop():
    table = scores()
    shown = average(table, {"value": "mean", "verdict": "said", "missing": "m"}, by=("encoder", "part"), digits=3)
    assert list(shown) == ["mean", "said"]
    values = table[(table["encoder"] == "b") & (table["part"] == "y")]["value"]
    half = 3.1824463 * values.std() / 2  # t of three degrees of freedom
    expected = f"{values.mean():.3f} [{values.mean() - half:.3f}, {values.mean() + half:.3f}]"
    assert shown.loc[("b", "y"), "mean"] == expected
    assert shown.loc[("b", "y"), "said"] == "v0, v1, v0, v1"
    assert re.fullmatch(r"-?\d\.\d", average(table, {"value": "v"}, interval=False, digits={"value": 1}).loc["a", "v"])


def test_differences_of_three_seeds_by_hand():
    rows = [
        (name, seed, value)
        for name, values in {"a": [0.8, 0.9, 0.7], "b": [0.5, 0.8, 0.6]}.items()
        for seed, value in enumerate(values)
    ]
    (row,) = differences(pd.DataFrame(rows, columns=["encoder", "seed", "value"]), ["value"], [("a", "b")]).itertuples()
    gaps = [0.3, 0.1, 0.1]  # by seed; b's mean taken off every a would give others
    mean = sum(gaps) / 3
    sem = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / 2 / 3)
    assert row.difference == pytest.approx(mean)
    assert row.high == pytest.approx(mean + 4.302652729911275 * sem)  # t quantile, two degrees of freedom
    assert row.seeds == 3


def test_differences_against_a_loop():
    table = scores()
    found = differences(table, ["value"], [("a", "b"), ("a", "nobody")], by="part")
    assert found["pair"].tolist() == ["a minus b"] * 2
    x = table[table["part"] == "x"].pivot(index="seed", columns="encoder", values="value")
    gaps = x["a"] - x["b"]
    assert found["difference"][0] == pytest.approx(gaps.mean())
    assert found["high"][0] - found["low"][0] == pytest.approx(2 * 3.1824463 * gaps.std() / 2)
    smaller, larger = sorted(found["p_value"])
    assert sorted(found["adjusted"]) == pytest.approx([2 * smaller, max(2 * smaller, larger)])


def test_seeds_that_do_not_pair_are_not_compared():
    table = pd.DataFrame(
        [
            dict(encoder="a", seed=0, value=1.0),
            dict(encoder="a", seed=1, value=2.0),
            dict(encoder="b", seed=1, value=0.0),
        ]
    )
    found = differences(table, ["value"], [("a", "b")])
    assert (found["difference"][0], found["seeds"][0]) == (2, 1)
    assert found[["low", "high", "p_value", "adjusted"]].isna().all(axis=None)
    none = differences(table[table["seed"] == 0], ["value"], [("a", "b")])
    assert none.empty
    assert {"pair", "measure", "difference", "low"} <= set(none)


def test_metrics_leave_out_what_is_not_known():
    table = scores().assign(value=lambda rows: rows["value"].where(rows["encoder"] != "c"))
    metrics = as_metrics(table, ("value", "verdict", "missing"), by=("encoder", "part"))
    assert "value: c, x" not in metrics
    assert metrics["value: a, x"] == pytest.approx(table.query("encoder == 'a' and part == 'x'")["value"].mean())
    assert metrics["verdict: c, y"] == "v0, v1, v0, v1"
    assert all(isinstance(value, (float, str)) for value in metrics.values())


def test_a_batch_says_how_long_it_will_take(cases, monkeypatch, capsys):
    monkeypatch.setattr(comparing, "SECONDS_BETWEEN_LINES", 0.0)
    shown = [Case(case.name, case.method, case.seed, case.config) for case in cases]

    def category(case):
        return {"value": 1}

    compare(shown, category, keep=False)
    assert re.findall(r"category: (\d) of 4 encoders, about \d+ s left", capsys.readouterr().out) == ["1", "2", "3"]
