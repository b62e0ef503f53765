"""Probes: agreement with scikit-learn and with loops, closed forms, symmetries, and faults that must be caught."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score

from ciperlib.analyse.features import Features, split_features
from ciperlib.analyse.probing.probes import (
    SHUFFLED,
    ProbeError,
    evaluate,
    fit_knn_probe,
    fit_linear_probe,
    fit_regression_probe,
    shuffle_targets,
)
from ciperlib.analyse.solvers.linear import LogisticProblem, fit_sgd, moments
from ciperlib.analyse.statistics import bootstrap_interval, circular_error, r2, r2_terms


def make_features(n: int, first_id: int = 0, d: int = 12, seed: int = 0, **changes) -> Features:
    """Features in which objects are clusters that overlap, and pose is written linearly under noise."""
    generator = torch.Generator().manual_seed(seed + first_id)
    ids = torch.arange(n) + first_id
    azimuth = torch.rand(n, generator=generator) * 2 * math.pi
    elevation, distance = torch.rand(n, generator=generator), 2 + torch.rand(n, generator=generator)
    category = torch.randint(4, (n,), generator=generator)
    matrix = torch.randn(n, d, generator=generator)
    matrix[:, :4] += 1.5 * torch.eye(4)[category]
    for column, signal in enumerate((3 * azimuth.sin(), 3 * azimuth.cos(), 9 * elevation, 9 * distance), start=4):
        matrix[:, column] += signal
    factors = {"object": category, "session": ids // 10 % 5}
    factors |= {"azimuth": azimuth, "elevation": elevation, "distance": distance}
    known = {"name": "toy", "split": "train", "encoder_fingerprint": "0123", "unseen": "yes"}
    return Features(matrix, factors, ids, ids // 2, **(known | changes))


@pytest.fixture(scope="module")
def parts() -> tuple[Features, Features]:
    return make_features(600), make_features(400, first_id=600)


def standardised(parts: tuple[Features, Features]) -> tuple[torch.Tensor, torch.Tensor]:
    mean, scale = moments(parts[0].matrix)
    first, second = ((part.matrix.double() - mean) / scale for part in parts)
    return first, second


# ---- the linear probe


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_logistic_regression_agrees_with_scikit_learn(parts, strength):
    train, test = parts
    result = fit_linear_probe(train, test, "object", regularisation=(strength,))
    x, x_test = standardised(parts)
    y = train.factors["object"]
    reference = LogisticRegression(C=1 / (strength * len(train)), tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    ours = result.model(test.matrix.double()).softmax(dim=1)
    theirs = torch.from_numpy(reference.predict_proba(x_test.numpy()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    assert result.value == pytest.approx(reference.score(x_test.numpy(), test.factors["object"].numpy()), abs=0.003)
    assert result.strength == strength
    assert result.details["converged"]

    def objective(weight, bias):
        return float(torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + strength / 2 * (weight**2).sum())

    mine, _ = LogisticProblem(x.float(), y, 4).solve(strength)
    best = objective(torch.from_numpy(reference.coef_), torch.from_numpy(reference.intercept_))
    assert objective(mine.weight, mine.bias) == pytest.approx(best, rel=1e-5)


def test_logistic_regression_agrees_where_columns_nearly_repeat_each_other():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(500, 6, generator=generator)
    x = torch.cat([base, base + 1e-3 * torch.randn(500, 6, generator=generator)], dim=1)
    y = (x[:, 0] - x[:, 6]).gt(0).long() + x[:, 1].gt(0.5).long()
    fit, converged = LogisticProblem(x, y, 3).solve(1e-4)
    reference = LogisticRegression(C=1 / (1e-4 * 500), tol=1e-10, max_iter=100_000).fit(x.double().numpy(), y.numpy())
    theirs = torch.from_numpy(reference.predict_proba(x.double().numpy()))
    assert converged
    torch.testing.assert_close(fit(x.double()).softmax(dim=1), theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 5])
def test_separable_classes_converge_and_are_told_apart(classes):
    y = torch.arange(200) % classes
    x = 50.0 * torch.eye(classes)[y] + torch.randn(200, classes, generator=torch.Generator().manual_seed(0))
    fit, converged = LogisticProblem(x - x.mean(dim=0), y, classes).solve(1e-6)
    assert converged
    assert torch.equal(fit(x - x.mean(dim=0)).argmax(dim=1), y)


def test_a_neighbours_solution_or_decomposition_changes_the_way_not_the_end(parts):
    x, y = standardised(parts)[0].float(), parts[0].factors["object"]
    problem = LogisticProblem(x, y, 4)
    cold, _ = problem.solve(1e-3)
    warm, _ = problem.solve(1e-3, problem.solve(1e-1)[0])
    borrowed, _ = LogisticProblem(x, y, 4, like=LogisticProblem(x[:300], y[:300], 4)).solve(1e-3)
    for other in (warm, borrowed):
        torch.testing.assert_close(other(x).softmax(dim=1), cold(x).softmax(dim=1), rtol=0, atol=1e-3)


def test_sgd_is_the_papers_update_and_schedule():
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(50, 7, generator=generator), torch.randint(3, (50,), generator=generator)
    fit, _ = fit_sgd(x, y, 3, epochs=23, batch_size=20, seed=5)

    draws = torch.Generator().manual_seed(5)
    weight, bias = torch.empty(3, 7), torch.empty(3)
    for tensor in (weight, bias):
        tensor.uniform_(-(7**-0.5), 7**-0.5, generator=draws)
    weights = torch.cat([weight, bias[:, None]], dim=1).double()
    x = torch.cat([x, torch.ones(50, 1)], dim=1).double()
    velocity = torch.zeros_like(weights)
    for epoch in range(23):
        rate = [1, 1 / 3.33, 1 / 3.33**2][epoch // 10]
        order = torch.randperm(50, generator=draws)
        for batch in (order[:20], order[20:40], order[40:]):
            error = (x[batch] @ weights.T).softmax(dim=1) - torch.eye(3, dtype=torch.float64)[y[batch]]
            gradient = error.T @ x[batch] / len(batch) + 1e-6 * weights
            velocity = 0.9 * velocity + gradient
            weights = weights - rate * (gradient + 0.9 * velocity)
    torch.testing.assert_close(torch.cat([fit.weight, fit.bias[:, None]], dim=1), weights, rtol=1e-3, atol=1e-4)


def test_both_protocols_agree_where_there_are_enough_images():
    train, test = make_features(1000), make_features(2000, first_id=1000)
    default = fit_linear_probe(train, test, "object", resamples=0)
    papers = fit_linear_probe(train, test, "object", protocol="sgd", resamples=0)
    assert default.value >= papers.value - 0.005
    assert papers.strength is None
    assert papers.protocol == "sgd"


def test_sgd_that_diverges_says_what_to_do(parts):
    train, test = (replace(part, matrix=part.matrix * 1e30) for part in parts)
    with pytest.raises(ProbeError, match="protocol='lbfgs'"):
        fit_linear_probe(train, test, "object", protocol="sgd")


# ---- the other probes


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_ridge_agrees_with_scikit_learn(parts, strength):
    train, test = parts
    result = fit_regression_probe(train, test, "distance", regularisation=(strength,))
    x, x_test = standardised(parts)
    y, truth = (part.factors["distance"].double().numpy() for part in parts)
    guess = Ridge(alpha=strength * len(train)).fit(x.numpy(), y).predict(x_test.numpy())
    np.testing.assert_allclose(result.prediction[:, 0], guess, rtol=1e-9)
    assert result.value == pytest.approx(r2_score(truth, guess), rel=1e-9)
    torch.testing.assert_close(result.model(test.matrix.double()), result.prediction)


def test_exact_linear_targets_have_r2_one_and_no_error(parts):
    parts = [replace(part, factors={"distance": 3 + part.matrix @ torch.linspace(-1, 1, 12)}) for part in parts]
    result = fit_regression_probe(*parts, "distance", regularisation=(1e-9,))
    assert result.value == pytest.approx(1, abs=1e-9)
    assert result.low == pytest.approx(1, abs=1e-9)
    assert result.details["distance_error"] < 1e-5


def test_predicting_the_mean_has_r2_zero():
    truth = torch.randn(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e4
    sums = r2_terms(truth.mean(dim=0).expand(100, 3), truth).sum(dim=0).numpy()
    assert r2(sums) == pytest.approx(0, abs=1e-12)


def test_pose_is_four_columns_and_its_errors_are_in_degrees(parts):
    result = fit_regression_probe(*parts, "pose")
    columns = ("sin_azimuth", "cos_azimuth", "elevation", "distance")
    assert result.details["columns"] == columns
    assert result.value == pytest.approx(sum(result.details[f"R2_{column}"] for column in columns) / 4)
    truth, guess = parts[1].factors, result.prediction
    sine, cosine = guess[:, 0].numpy(), guess[:, 1].numpy()
    gap = np.abs(np.degrees(np.arctan2(sine, cosine)) % 360 - np.degrees(truth["azimuth"].double().numpy()))
    turn = np.minimum(gap, 360 - gap).mean()
    elevation = math.degrees((guess[:, 2] - truth["elevation"]).abs().mean())
    distance = float((guess[:, 3] - truth["distance"]).abs().mean())
    assert result.details["azimuth_error_degrees"] == pytest.approx(turn, rel=1e-5)
    assert result.details["elevation_error_degrees"] == pytest.approx(elevation)
    assert result.details["distance_error"] == pytest.approx(distance)
    expected = (turn + elevation + distance) / 3
    assert result.details["paper_style_error"] == pytest.approx(expected, rel=1e-5)
    assert "paper_style_error" not in fit_regression_probe(*parts, "azimuth").details


def test_circular_error_goes_the_short_way_round():
    cases = {(1, 359): 2, (0, 360): 0, (10, 190): 180, (350, 20): 30, (-90, 270): 0, (720, 45): 45}
    for (a, b), expected in cases.items():
        error = circular_error(*(torch.tensor(math.radians(angle), dtype=torch.float64) for angle in (a, b)))
        assert math.degrees(float(error)) == pytest.approx(expected, abs=1e-9)
    a, b = torch.rand(2, 100_000, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    assert math.degrees(float(circular_error(a, b).mean())) == pytest.approx(90, abs=0.5)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (50, 0.5)])
def test_neighbours_vote_as_in_a_loop(parts, k, temperature):
    train, test = parts[0], parts[1].subset(slice(0, 60))
    result = fit_knn_probe(train, test, "object", k=k, temperature=temperature)
    bank = train.matrix.double().numpy()
    for i, query in enumerate(test.matrix.double().numpy()):
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        votes = dict.fromkeys(range(4), 0.0)
        for j in np.argsort(-cosines)[:k]:
            votes[int(train.factors["object"][j])] += math.exp(cosines[j] / temperature)
        assert int(result.prediction[i]) == max(votes, key=votes.get)
    assert result.value == pytest.approx(float(result.scores.mean()))
    assert result.details["k"] == k


@pytest.mark.parametrize(("temperature", "winner"), [(0.05, 1), (1.0, 0)])
def test_a_near_neighbour_outvotes_three_far_ones_where_the_temperature_is_low(temperature, winner):
    """One of cosine 1 against three of cosine 0.8: exp(1 / t) and 3 exp(0.8 / t), even at t = 0.2 / log 3 = 0.18."""
    matrix = torch.cat((torch.tensor([[1.0, 0.0]]), torch.tensor([[0.8, 0.6]]).repeat(9, 1)))
    ids = torch.arange(10)
    train = Features(matrix, {"object": (ids < 1).long()}, ids, ids, name="a")
    test = Features(matrix[:1].repeat(2, 1), {"object": torch.ones(2).long()}, ids[:2], ids[:2], name="b")
    assert fit_knn_probe(train, test, "object", k=4, temperature=temperature).prediction.tolist() == [winner, winner]


# ---- symmetries


PROBES = [
    lambda train, test: fit_linear_probe(train, test, "object"),
    lambda train, test: fit_knn_probe(train, test, "object", k=30),
    lambda train, test: fit_regression_probe(train, test, "pose"),
]


@pytest.mark.parametrize("probe", PROBES)
def test_the_order_of_rows_does_not_matter(parts, probe):
    shuffled = [part.subset(torch.randperm(len(part), generator=torch.Generator().manual_seed(1))) for part in parts]
    first, second = probe(*parts), probe(*shuffled)
    assert second.value == pytest.approx(first.value, abs=1e-9)
    assert second.strength == first.strength
    assert (second.low, second.high) == pytest.approx((first.low, first.high), abs=1e-9)


@pytest.mark.parametrize("probe", PROBES[:2])
def test_the_names_of_classes_do_not_matter(parts, probe):
    names = torch.tensor([17, -3, 8, 0])
    renamed = [replace(part, factors={"object": names[part.factors["object"]]}) for part in parts]
    first, second = probe(*parts), probe(*renamed)
    assert torch.equal(second.prediction, names[first.prediction])
    assert second.value == first.value


def test_scale_and_shift_of_columns_do_not_matter(parts):
    scaled = [replace(part, matrix=part.matrix * torch.logspace(-3, 3, 12) + 5) for part in parts]
    for probe in (PROBES[0], PROBES[2]):
        assert probe(*scaled).value == pytest.approx(probe(*parts).value, abs=2e-3)


@pytest.mark.parametrize("probe", PROBES)
def test_the_same_call_gives_the_same_bits(parts, probe):
    first, second = probe(*parts), probe(*parts)
    assert (first.value, first.low, first.high) == (second.value, second.low, second.high)
    assert torch.equal(first.prediction, second.prediction)


def test_constant_columns_are_ignored(parts):
    padded = [
        replace(part, matrix=torch.cat([part.matrix, torch.full((len(part), 1), 0.1), torch.zeros(len(part), 1)], 1))
        for part in parts
    ]
    for probe in (PROBES[0], PROBES[2]):
        result = probe(*padded)
        assert result.value == pytest.approx(probe(*parts).value, abs=1e-6)
        assert result.model.weight[:, -2:].abs().max() < 1e-6


@pytest.mark.parametrize("noise", [0, 1e-7, 3e-7])
@pytest.mark.parametrize("level", [0.1, 1.0, 300.0])
def test_columns_that_only_rounding_moves_are_constant(parts, noise, level):
    """A dead channel in batches of several sizes: divided by its rounding it would be noise of size 1."""
    generator = torch.Generator().manual_seed(0)
    padded = []
    for i, part in enumerate(parts):
        dead = level * (1 + noise * (torch.rand(len(part), 1, generator=generator) - 0.5))
        dead = dead if i == 0 else dead + 1  # and the test part has something there
        padded.append(replace(part, matrix=torch.cat([part.matrix, dead], 1)))
    assert moments(padded[0].matrix)[1][-1] == math.inf
    for probe in (PROBES[0], PROBES[2]):
        assert probe(*padded).value == pytest.approx(probe(*parts).value, abs=0.005)


@pytest.mark.parametrize("kind", ["twice", "rank 1", "zero", "one wide", "many", "sum"])
@pytest.mark.parametrize("factor", ["object", "pose"])
def test_features_of_low_rank_are_probed_like_what_they_hold(parts, kind, factor):
    def changed(matrix):
        return {
            "twice": lambda: torch.cat([matrix, matrix], 1),
            "rank 1": lambda: matrix[:, :1] * torch.linspace(-1, 2, 20),
            "zero": lambda: torch.zeros(len(matrix), 6),
            "one wide": lambda: matrix[:, :1],
            "many": lambda: torch.cat([matrix] * 60, 1),  # more columns than images
            "sum": lambda: torch.cat([matrix, matrix.sum(1, keepdim=True)], 1),
        }[kind]()

    train, test = (replace(part, matrix=changed(part.matrix)) for part in parts)
    same = {"rank 1": [replace(part, matrix=part.matrix[:, :1].contiguous()) for part in parts]}.get(kind, parts)
    protocols = ("lbfgs", "knn", "sgd") if factor == "object" else ("ridge",)
    for protocol in protocols if kind != "many" else protocols[:2]:
        result = evaluate(train, test, factor, protocol=protocol, shuffled=False, resamples=0)
        assert math.isfinite(result.value)
        if kind == "zero":
            assert result.value == pytest.approx(0 if factor == "pose" else result.details["majority"], abs=0.1)
        elif protocol in ("lbfgs", "ridge") and kind != "one wide":
            expected = evaluate(*same, factor, protocol=protocol, shuffled=False, resamples=0)
            assert result.value == pytest.approx(expected.value, abs=0.02)


def test_of_equal_strengths_the_strongest_is_taken():
    """On whitened features with as many directions as images all strengths guess held-out images alike, up to
    rounding, and the test part by no means."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(60, 80, generator=generator, dtype=torch.float64)
    centred = matrix - matrix.mean(dim=0)
    white = torch.linalg.svd(centred, full_matrices=False)[0][:, :59] * math.sqrt(60)
    factors = {"distance": torch.randn(60, generator=generator)}
    train = Features(white.float(), factors, torch.arange(60), torch.arange(60), name="a")
    test = Features(torch.randn(40, 59, generator=generator), {"distance": torch.randn(40, generator=generator)},
                    torch.arange(40), torch.arange(40), name="b")  # fmt: skip
    for _ in range(5):
        result = fit_regression_probe(train, test, "distance", resamples=0)
        spread = max(result.details["validation"].values()) - min(result.details["validation"].values())
        assert spread < 1e-7
        assert result.strength == 10
        train = replace(train, matrix=train.matrix * (1 + 1e-7))


def test_parts_of_the_pose_that_never_change_are_left_out(parts):
    def at_one_height(part):
        return replace(part, factors={**part.factors, "elevation": torch.full((len(part),), 0.5)})

    result = fit_regression_probe(*map(at_one_height, parts), "pose")
    assert result.details["columns"] == ("sin_azimuth", "cos_azimuth", "distance")
    with pytest.raises(ProbeError, match="all training images have the same elevation"):
        fit_regression_probe(at_one_height(parts[0]), parts[1], "pose")
    fixed = [replace(part, factors={"distance": torch.ones(len(part))}) for part in parts]
    with pytest.raises(ProbeError, match=r"no pose to probe \(the same distance in all images\)"):
        fit_regression_probe(*fixed, "pose")
    with pytest.raises(ProbeError, match=r"no pose to probe \(none of azimuth"):
        fit_regression_probe(*(replace(part, factors={}) for part in parts), "pose")


def test_azimuths_of_a_whole_turn_have_no_cosine_to_learn(parts):
    turned = [replace(part, factors={"azimuth": 2 * math.pi * (torch.arange(len(part)) % 2)}) for part in parts]
    assert math.isfinite(fit_regression_probe(*turned, "azimuth", resamples=0).value)


@pytest.mark.parametrize("n", [12, 199, 200, 201])
def test_without_k_two_hundred_vote_or_all_there_are(parts, n):
    train = parts[0].subset(slice(n))
    result = fit_knn_probe(train, parts[1], "object", resamples=0)
    assert result.details["k"] == min(n, 200)
    assert torch.equal(
        result.prediction, fit_knn_probe(train, parts[1], "object", k=min(n, 200), resamples=0).prediction
    )
    with pytest.raises(ProbeError, match=f"between 1 and the {n} training images, not {n + 1}"):
        fit_knn_probe(train, parts[1], "object", k=n + 1)


# ---- intervals


def test_interval_is_that_of_a_loop_over_drawn_groups(parts):
    test = parts[1].subset(slice(0, 40))
    truth = test.factors["elevation"].double()[:, None]
    guess = truth + 0.1 * test.matrix[:, :1].double()
    low, high = bootstrap_interval(test.groups, r2_terms(guess, truth), r2, seed=4, resamples=50)
    generator, distinct, values = np.random.default_rng(4), torch.unique(test.groups), []
    for _ in range(50):
        drawn = generator.integers(len(distinct), size=len(distinct))
        rows = torch.cat([torch.nonzero(test.groups == distinct[g]).flatten() for g in drawn])
        values.append(r2_score(truth[rows].numpy(), guess[rows].numpy()))
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


@pytest.mark.parametrize("size", [1, 8])
def test_interval_covers_the_truth_about_95_times_in_100_whatever_the_groups(size):
    generator, covered = np.random.default_rng(0), 0
    groups = torch.arange(120 * size) // size
    for trial in range(200):
        right = np.repeat(generator.random(120) < 0.7, size)  # the images of a group are right or wrong together
        terms = torch.tensor(np.stack([right, np.ones(len(right))], axis=1))
        low, high = bootstrap_interval(groups, terms, lambda sums: sums[:, 0] / sums[:, 1], trial, resamples=300)
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_one_group_has_no_interval(parts):
    test = replace(parts[1], groups=torch.full((400,), 10**6))
    result = fit_linear_probe(parts[0], test, "object")
    assert math.isnan(result.low)
    assert math.isnan(result.high)
    assert "no interval" in result._repr_html_()


# ---- honesty


@pytest.mark.parametrize("factor", ["object", "pose"])
def test_the_choice_of_strength_never_looks_at_the_test_part(parts, factor):
    train, test = parts
    first = evaluate(train, test, factor, shuffled=False)
    second = evaluate(train, shuffle_targets(test, seed=9), factor, shuffled=False)
    third = evaluate(train, replace(test, matrix=torch.randn(400, 12)), factor, shuffled=False)
    assert first.strength == second.strength == third.strength
    assert torch.equal(first.model.weight, second.model.weight)
    assert torch.equal(first.model.weight, third.model.weight)
    assert second.value < first.value - 0.2


def test_the_choice_of_strength_keeps_groups_together():
    # every group has its own answer and its own direction: only held-out groups tell that nothing can be learned
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(400) // 10
    target = torch.randn(40, generator=generator)[groups]
    matrix = torch.randn(40, 30, generator=generator)[groups] + 0.01 * torch.randn(400, 30, generator=generator)
    train = Features(matrix, {"distance": target}, torch.arange(400), groups, name="a")
    test = make_features(50, d=30, name="b", encoder_fingerprint="")
    assert fit_regression_probe(train, test, "distance").strength >= 1
    leaking = replace(train, groups=torch.arange(400))
    assert fit_regression_probe(leaking, test, "distance").strength < 1e-2


def test_evaluate_fills_in_the_baselines(parts):
    random = [replace(part, matrix=torch.randn(len(part), 5), encoder_fingerprint="9") for part in parts]
    result = evaluate(*parts, "object", baselines={"random encoder": tuple(random), "pixels": 0.4}, resamples=100)
    assert list(result.baselines) == ["random encoder", "pixels", SHUFFLED]
    assert result.baselines["pixels"] == 0.4
    assert result.low <= result.value <= result.high
    assert result.low < result.high
    assert max(result.baselines["random encoder"], result.baselines[SHUFFLED]) < 0.35 < result.value
    assert (result.metric, result.classes, result.chance, result.n) == ("accuracy", 4, 0.25, 400)
    pose = evaluate(*parts, "pose")
    assert (pose.metric, pose.protocol, pose.chance) == ("R2", "ridge", 0.0)
    assert pose.scores is None
    assert pose.baselines[SHUFFLED] < 0.1 < pose.value
    assert evaluate(*parts, "object", protocol="knn", k=20).baselines[SHUFFLED] < 0.4
    assert evaluate(*parts, "object", shuffled=False).baselines == {}


def test_baselines_must_be_of_the_same_images(parts):
    with pytest.raises(ProbeError, match="same images"):
        evaluate(*parts, "object", baselines={"pixels": (parts[0], parts[1].subset(slice(1, None)))})


def test_results_show_what_a_reader_needs(parts):
    result = evaluate(*parts, "object", baselines={"a <floor>": 0.4}, resamples=50)
    html = result._repr_html_()
    assert f"{result.value:.3f} [{result.low:.3f}, {result.high:.3f}]" in html
    assert "<th>unseen by the encoder</th>" in html
    assert "<td>400</td>" in html
    assert "a &lt;floor&gt; 0.400" in html
    row = result.to_row()
    assert row["baseline: a <floor>"] == 0.4
    assert row["unseen"] == "yes"
    assert row["classes"] == 4
    assert all(value is None or isinstance(value, (int, float, str)) for value in row.values())


# ---- faults that must be caught


def test_shared_groups_and_other_encoders_are_refused(parts):
    train, test = parts
    straddling = replace(test, groups=test.groups - 1)
    with pytest.raises(ProbeError, match=r"1 groups of toy .* are in both parts.*split_features"):
        fit_linear_probe(train, straddling, "object")
    fit_linear_probe(train, replace(straddling, name="another set"), "object", resamples=0)
    with pytest.raises(ProbeError, match="different encoders"):
        fit_regression_probe(train, replace(test, encoder_fingerprint="4567"), "pose")


def test_held_out_sessions_say_how_to_be_probed():
    train, test = split_features(make_features(600), hold_out="session", values=[3, 4])
    with pytest.raises(ProbeError, match=r"\[3, 4\].*held out on purpose"):
        fit_linear_probe(train, test, "session")
    assert evaluate(*split_features(test), "session").classes == 2


@pytest.mark.parametrize(
    ("probe", "factor", "message"),
    [
        (fit_linear_probe, "objekt", "did you mean 'object'"),
        (fit_linear_probe, "azimuth", "continuous"),
        (fit_knn_probe, "azimuth", "continuous"),
        (fit_regression_probe, "object", "categorical"),
        (evaluate, "elevatoin", "did you mean 'elevation'"),
    ],
)
def test_unfit_factors_are_refused(parts, probe, factor, message):
    with pytest.raises(ProbeError, match=message):
        probe(*parts, factor)


def test_unfit_data_are_refused(parts):
    train, test = parts
    broken = train.matrix.clone()
    broken[3, 4] = float("nan")
    with pytest.raises(ProbeError, match="1 rows of the training features are not finite"):
        fit_linear_probe(replace(train, matrix=broken), test, "object")
    with pytest.raises(ProbeError, match="too few rows: 9"):
        fit_linear_probe(train.subset(slice(0, 9)), test, "object")
    with pytest.raises(ProbeError, match="nothing to tell apart"):
        fit_linear_probe(train.subset(train.factors["object"] == 1), test, "object")
    constant = replace(test, factors={**test.factors, "distance": torch.ones(400)})
    with pytest.raises(ProbeError, match="all test images have the same distance"):
        fit_regression_probe(train, constant, "pose")
    with pytest.raises(ProbeError, match=r"one group.*regularisation="):
        fit_linear_probe(replace(train, groups=torch.full((600,), -1)), test, "object")


@pytest.mark.parametrize(
    ("probe", "factor", "options", "message"),
    [
        (fit_linear_probe, "object", {"protocol": "adam"}, "protocol"),
        (fit_linear_probe, "object", {"regularisation": ()}, "regularisation"),
        (fit_regression_probe, "pose", {"regularisation": (1, 0)}, "regularisation"),
        (fit_knn_probe, "object", {"k": 601}, "600 training images"),
        (fit_knn_probe, "object", {"temperature": 0}, "temperature"),
        (evaluate, "pose", {"protocol": "sgd"}, "measured by R2"),
        (evaluate, "object", {"protocol": "ridge"}, "measured by accuracy"),
    ],
)
def test_unfit_options_are_refused(parts, probe, factor, options, message):
    with pytest.raises(ProbeError, match=message):
        probe(*parts, factor, **options)
