"""No estimate knows what it is asked: laws for everything that is fitted on some rows and scored on others.

The rows are memorable (more dimensions than rows, so that any labels can be told apart in sight) and the labels are
random: on rows that were fitted on the cross-entropy would be near 0, on others it is log k at best (Gibbs). Each law
is shown to see a leak: with twins, the same rows once more in other groups, it would fail.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import make_noise_images
from torch import Tensor, nn

from ciperlib.analyse.equivariance import level_probes
from ciperlib.analyse.equivariance.actions import REGULARISATION, fit_action
from ciperlib.analyse.equivariance.battery import measure_equivariance
from ciperlib.analyse.equivariance.decodability import decode_parameters
from ciperlib.analyse.equivariance.level_probes import fit_level_probes
from ciperlib.analyse.features import Features, split_features
from ciperlib.analyse.information import entropy_models, vinformation
from ciperlib.analyse.information.canonical_variates import CanonicalVariates, assign_folds, fit_canonical_variates
from ciperlib.analyse.information.entropy_models import direct_nll, network_nll, quadratic
from ciperlib.analyse.information.explaining_away import conditional_entropy, explaining_away
from ciperlib.analyse.information.vinformation import estimate
from ciperlib.analyse.orbits import LEVEL
from ciperlib.analyse.probing.checks import inner_split
from ciperlib.analyse.probing.perturbations import perturbation_table
from ciperlib.analyse.probing.probes import fit_knn_probe, fit_linear_probe, fit_regression_probe
from ciperlib.analyse.probing.tables import probe_features
from ciperlib.analyse.report import EvaluationImages
from ciperlib.analyse.solvers.linear import LogisticProblem
from ciperlib.data.imageset import TrainedOn
from ciperlib.learn.augment import Augmentation
from ciperlib.learn.runs import STATUS
from ciperlib.learn.zoo import zoo_root

N, D, K, G = 150, 300, 3, 2


def memorable(n: int = N, d: int = D, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """z [n, d], labels of K kinds and of G kinds, drawn independently of it and of each other."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g)
    return z, torch.randint(K, (n,), generator=g), torch.randint(G, (n,), generator=g)


def twice(*columns: Tensor) -> list[Tensor]:
    return [torch.cat((column, column)) for column in columns]


def standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))


# --- cross-fitted nlls ------------------------------------------------------------------------------------------


def of_the_summary(z, y, given, groups):
    summaries = fit_canonical_variates(z, y, K, assign_folds(groups, 5, 0))
    return -estimate(summaries, y, K, given, G).truth0


def of_the_summary_and_the_class(z, y, given, groups):
    summaries = fit_canonical_variates(z, y * G + given, K * G, assign_folds(groups, 5, 0))
    return -estimate(summaries, y, K, given, G).truth1


def of_the_representation(z, y, given, groups):
    return direct_nll(z, y, K, groups, 0)


def of_networks(z, y, given, groups):
    return _networks(z, y, given, groups)[0]


def of_networks_and_the_class(z, y, given, groups):
    return _networks(z, y, given, groups)[1]


def _networks(z, y, given, groups):
    lead, curved = quadratic(z)
    folds = assign_folds(groups, 5, 0)
    summaries = [fit_canonical_variates(x, y * G + given, K * G, folds) for x in (z, curved)]
    estimates = [estimate(one, y, K, given, G) for one in summaries]
    return network_nll(lead, summaries, estimates, y, K, given, G)


SURPRISES = (
    of_the_summary,
    of_the_summary_and_the_class,
    of_the_representation,
    of_networks,
    of_networks_and_the_class,
)


@pytest.mark.parametrize("nll", SURPRISES)
def test_nobody_knows_random_labels_of_rows_that_were_held_out(nll):
    z, y, given = memorable()
    said = nll(z, y, given, torch.arange(N))
    assert said.shape == (N,)
    assert float(said.mean()) > math.log(K) - 3 * standard_error(said)


@pytest.mark.parametrize("nll", SURPRISES)
def test_a_twin_among_the_fitted_rows_would_be_seen(nll):
    """The planted leak behind the law above; and twins in one group are no leak, because folds keep groups whole."""
    z, y, given = twice(*memorable())
    leaking = nll(z, y, given, torch.arange(2 * N))
    assert float(leaking.mean()) < math.log(K) - 6 * standard_error(leaking)
    whole = nll(z, y, given, torch.arange(N).repeat(2))
    assert float(whole.mean()) > math.log(K) - 3 * standard_error(whole[:N])


def check_that_no_fold_hears_its_own_labels(nll, y, given, folds):
    """Two rows of a fold exchange their labels: what is said of the fold's other rows stays as it is, to rounding. So
    neither weights nor strengths, temperatures or the step to stop at come from the rows that are scored.

    nll: (y, given) -> [R].
    """
    before = nll(y, given)
    for fold in (0, int(folds.max())):
        rows = torch.nonzero(folds == fold).flatten()
        order = torch.arange(len(y))
        for value in given.unique():  # how often each cell is there stays as it is
            first, second = (rows[(y[rows] == label) & (given[rows] == value)] for label in (0, 1))
            half = min(len(first), len(second)) // 2 + 1
            order[first[:half]], order[second[:half]] = second[:half].clone(), first[:half].clone()
        others = rows[order[rows] == rows]
        after = nll(y[order], given)
        torch.testing.assert_close(after[others], before[others], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(after[folds != fold], before[folds != fold], atol=1e-3), "the other folds hear it"


def telling() -> tuple[Tensor, Tensor, Tensor]:
    """As `memorable`, but few dimensions that tell the labels: what is chosen hangs on whether the labels are true."""
    z, y, given = memorable(2 * N, 10)
    z[:, :K] += 3 * torch.eye(K)[y]
    z[:, K : K + G] += 3 * torch.eye(G)[given]
    return z, y, given


@pytest.mark.parametrize("world", [memorable, telling])
@pytest.mark.parametrize("nll", SURPRISES[:3])
def test_what_is_said_of_a_row_does_not_hang_on_the_labels_of_its_fold(nll, world, monkeypatch):
    monkeypatch.setattr(vinformation, "KEPT", 1e-8)  # folds are fitted side by side, to the tolerance of the last one
    z, y, given = world()
    groups = torch.arange(len(z))
    folds = assign_folds(groups, entropy_models.FOLDS if nll is of_the_representation else 5, 0)
    check_that_no_fold_hears_its_own_labels(lambda y, given: nll(z, y, given, groups), y, given, folds)


@pytest.mark.parametrize("sees_the_class", [False, True])
def test_what_a_network_says_of_a_row_does_not_hang_on_the_labels_of_its_fold(sees_the_class, monkeypatch):
    """In a world in which there is something to learn: a network that finds nothing is not used."""
    monkeypatch.setattr(entropy_models, "STEPS", 160)
    g, rows = torch.Generator().manual_seed(0), 400
    x = torch.randn(rows, 4, generator=g).double()
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0) ^ (torch.rand(rows, generator=g) < 0.1)).long()
    given, folds = torch.randint(2, (rows,), generator=g), assign_folds(torch.arange(rows), 5, 0)
    nothing = SimpleNamespace(inner=2 * (torch.zeros(5, rows, 2),))

    def nll(y, given):
        summary = CanonicalVariates(x.expand(5, -1, -1), folds)
        return network_nll(x.float(), [summary], [nothing], y, 2, given, 2)[sees_the_class]

    assert float(nll(y, given).mean()) < math.log(2) - 0.03
    check_that_no_fold_hears_its_own_labels(nll, y, given, folds)


def _all_rows(task, f, choosing):
    return torch.ones(N, dtype=torch.bool)


def _of_all_rows(x, y, k, like=None):
    """The direct reader's last fit of each fold, of 135 of 150 rows, becomes one of all."""
    return LogisticProblem(x, y, k, like) if like is None or len(y) < 0.85 * N else like


@pytest.mark.parametrize(
    ("nll", "place", "name", "fault"),
    [
        (of_the_summary, vinformation._Task, "training", _all_rows),
        (of_the_summary_and_the_class, vinformation._Task, "held", lambda task, f: task.folds == f),
        (of_the_representation, entropy_models, "LogisticProblem", _of_all_rows),
    ],
)
def test_a_fold_that_hears_its_own_labels_would_be_found(nll, place, name, fault, monkeypatch):
    monkeypatch.setattr(place, name, fault)
    with pytest.raises(AssertionError, match="not close"):
        test_what_is_said_of_a_row_does_not_hang_on_the_labels_of_its_fold(nll, memorable, monkeypatch)


def test_the_strength_is_chosen_on_rows_that_were_not_fitted_on(monkeypatch):
    """Of random labels the strongest is best; where the weights were fitted, the weakest would be."""
    (z, y, given), groups = memorable(), torch.arange(N)
    chosen = direct_nll(z, y, K, groups, 0)
    monkeypatch.setattr(entropy_models, "REGULARISATION", entropy_models.REGULARISATION[:1])
    torch.testing.assert_close(chosen, direct_nll(z, y, K, groups, 0), atol=0.02, rtol=0.02)
    for nll in (of_the_summary, of_the_summary_and_the_class):
        assert float(nll(z, y, given, groups).mean()) < math.log(K) + 0.1


def orbits_of(block: Tensor, groups: Tensor | None = None, **factors: Tensor) -> Features:
    """Representations [N, m, d] in the long form; factors and groups [N] are the images'."""
    n, m, _ = block.shape
    source, level = torch.arange(n).repeat_interleave(m), torch.arange(m).repeat(n)
    groups = source if groups is None else groups.repeat_interleave(m)
    columns = {name: column.repeat_interleave(m) for name, column in factors.items()}
    matrix = block.flatten(0, 1).float()
    return Features(matrix, {"source": source, LEVEL: level, **columns}, source * m + level, groups)


def test_the_entropies_of_what_cannot_be_known_are_whole():
    g = torch.Generator().manual_seed(0)
    block, category = torch.randn(60, 4, 300, generator=g), torch.arange(60) % 2
    orbits = orbits_of(block, category=category)
    assert conditional_entropy(orbits) > math.log(4) - 0.03
    assert conditional_entropy(orbits, "category") > math.log(2) - 0.03
    found = explaining_away(orbits, "category", resamples=100, null_samples=0)
    assert found.level_entropy > math.log(4) - 0.03
    assert found.class_entropy > math.log(2) - 0.03
    assert max(found.forward, found.backward, found.forward_mlp, found.backward_mlp) < 0.03
    twins = orbits_of(torch.cat((block, block)), category=category.repeat(2))
    assert conditional_entropy(twins) < math.log(4) - 0.3


# --- fitted on a half, scored on the other ---------------------------------------------------------------------------


def excess(measure) -> float:
    """How far a value lies above 0, in standard errors of its own interval."""
    return measure.value / max((measure.high - measure.low) / 3.92, 1e-9)


def test_levels_without_meaning_cannot_be_read_retrieved_or_predicted():
    g = torch.Generator().manual_seed(0)
    block = torch.randn(80, 4, 250, generator=g)
    found = measure_equivariance(orbits_of(block))
    assert all(excess(measure) < 3 for measure in found.decodable.values())
    assert excess(found.r2) < 3
    assert found.mrr.value - found.mrr_chance < 3 * (found.mrr.high - found.mrr.low) / 3.92
    twins = torch.cat((block, block))
    leaking = measure_equivariance(orbits_of(twins))  # half of the twins lie on both sides of the division
    assert excess(leaking.best_probe) > 5
    assert excess(leaking.decodable["view"]) > 3
    assert leaking.r2_gain.low > 0.5 > found.r2_gain.high
    assert leaking.hits_at_1.low > 0.5 > found.hits_at_1.high
    whole = measure_equivariance(orbits_of(twins, groups=torch.arange(80).repeat(2)))
    assert all(excess(measure) < 3 for measure in whole.decodable.values())


def test_no_reader_knows_the_levels_of_images_that_it_was_not_fitted_on():
    g = torch.Generator().manual_seed(0)
    fit, test = torch.randn(2, 40, 4, 250, generator=g).double()
    groups = torch.arange(40)
    action = fit_action(fit, groups)
    assert action.strength == REGULARISATION[0]  # among fitted images the weakest pull would win
    for name, left in fit_level_probes(fit, test, action, groups, 0).items():
        nothing = math.log(left.shape[1])
        assert float(left.mean()) > nothing - 3 * standard_error(left.mean(1)), name
    for name, left in fit_level_probes(fit, fit, action, groups, 0).items():
        assert float(left.mean()) < math.log(left.shape[1]) - (0.1 if name != "action" else 0), name


def test_readers_choose_their_strength_on_images_that_they_were_not_fitted_on(monkeypatch):
    """The strongest, where there is nothing to read; chosen where it was fitted, the weakest would win."""
    g = torch.Generator().manual_seed(0)
    fit, test = torch.randn(2, 40, 4, 250, generator=g).double()
    action, everything = fit_action(fit, torch.arange(40)), torch.arange(40)
    chosen = fit_level_probes(fit, test, action, everything, 0)["view"]
    with monkeypatch.context() as planted:
        planted.setattr(level_probes, "inner_split", lambda *_: (everything, everything))
        fault = fit_level_probes(fit, test, action, everything, 0)["view"]
    monkeypatch.setattr(level_probes, "REGULARISATION", level_probes.REGULARISATION[:1])
    torch.testing.assert_close(chosen, fit_level_probes(fit, test, action, everything, 0)["view"], atol=0.05, rtol=0.05)
    assert float(fault.mean()) > float(chosen.mean()) + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_inner_split_keeps_groups_whole_and_loses_no_row(seed):
    groups = torch.randint(30, (200,), generator=torch.Generator().manual_seed(seed))
    fitted, held = inner_split(groups, seed)
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(200))
    assert not set(groups[fitted].tolist()) & set(groups[held].tolist())
    assert len(groups[held].unique()) == len(groups.unique()) // 5


# --- probes ----------------------------------------------------------------------------------------------------------


def parts_of(z: Tensor, y: Tensor, split: int = N) -> tuple[Features, Features]:
    ids = torch.arange(len(z))
    factors = {"object": y, "session": y, "size": torch.randn(len(z), generator=torch.Generator().manual_seed(5))}
    whole = Features(z, factors, ids, ids, name="memorable", encoder_fingerprint="x")
    return whole.subset(slice(split)), whole.subset(slice(split, None))


def seen(train: Features) -> Features:
    """The training part under another name: what a probe would be scored on if it was scored where it was fitted."""
    return replace(train, name="seen", groups=train.groups + 10_000)


PROBES = {
    "lbfgs": lambda train, test: fit_linear_probe(train, test, "object"),
    "sgd": lambda train, test: fit_linear_probe(train, test, "object", protocol="sgd"),
    "knn": lambda train, test: fit_knn_probe(train, test, "object", k=1),
    "ridge": lambda train, test: fit_regression_probe(train, test, "size"),
}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_of_random_labels_is_at_chance_where_it_was_not_fitted(name):
    z, y, _ = memorable(2 * N)
    train, test = parts_of(z, y)
    found = PROBES[name](train, test)
    chance = max(found.chance, found.details.get("majority", 0))
    assert found.value < chance + 3 * (found.high - found.low) / 3.92
    assert PROBES[name](train, seen(train)).value > chance + 0.2


def test_sessions_that_are_probed_within_the_test_part_are_scored_on_the_other_half():
    z, _, _ = memorable(3 * N)
    session = torch.cat((torch.zeros(N), 1 + torch.arange(2 * N) % 3)).long()
    train, test = parts_of(z, session)
    found = probe_features(train, test, ("session",))["session"]
    assert found.n < len(test)
    assert found.value < 1 / 3 + 3 * (found.high - found.low) / 3.92
    fitted, scored = split_features(test)
    assert not set(fitted.groups.tolist()) & set(scored.groups.tolist())


@pytest.mark.parametrize("reader", ["view", "difference", "pair"])
def test_a_flip_that_noise_does_not_show_cannot_be_read(reader):
    images = make_noise_images(200, size=8)
    train, test = images.subset(slice(100)), images.subset(slice(100, 200))
    flip = dict(augmentation=Augmentation(("flip",)), readers=(reader,))
    found = decode_parameters(nn.Flatten(), train, test, **flip).iloc[0]
    assert found["value"] < 3 * (found["high"] - found["low"]) / 3.92
    assert decode_parameters(nn.Flatten(), train, replace(train, name="seen"), **flip).iloc[0]["value"] > 0.2


def test_a_probe_under_perturbations_is_scored_on_images_that_it_was_not_fitted_on():
    images = make_noise_images(300)
    labels = torch.randint(3, (300,), generator=torch.Generator().manual_seed(1))
    images = replace(images, factors={**images.factors, "object": labels})
    train, test = images.subset(slice(150)), images.subset(slice(150, 300))
    found = perturbation_table(nn.Flatten(), train, test)
    assert (found["value"] < 1 / 3 + 3 * (found["high"] - found["low"]) / 3.92).all()
    leaking = perturbation_table(nn.Flatten(), train, replace(train, name="seen")).set_index("perturbation")
    assert leaking["value"]["clean"] > 0.9


def test_no_encoder_of_the_zoo_has_seen_the_images_of_the_reports():
    evaluation = EvaluationImages()
    ids = {name: getattr(evaluation, name).ids for name in ("test", "laid_out", "looked_at")}
    assert not set(evaluation.train.ids.tolist()) & set(ids["test"].tolist())
    for path in zoo_root().glob(f"*/{STATUS}"):
        trained_on = TrainedOn.from_list(**json.loads(path.read_text())["trained_on"])
        assert trained_on.name == evaluation.train.name
        assert not any(trained_on.seen(own).any() for own in ids.values()), path
