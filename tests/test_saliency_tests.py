"""Where an encoder looks, tested against encoders of which it is known; its arithmetic, against closed forms."""

import pandas as pd
import pytest
import torch
from captum.attr import Occlusion
from scipy.stats import spearmanr
from torch import nn

from ciperlib.analyse.attribution import saliency_tests
from ciperlib.analyse.attribution.fullgrad import FullGrad, FullGradients, SaliencyError
from ciperlib.analyse.attribution.saliency_tests import (
    counterfactuals,
    draw_maps,
    randomised,
    run_saliency_tests,
    share_inside,
)
from ciperlib.analyse.attribution.sanity_checks import plant, reads_channel, run_sanity_checks
from ciperlib.analyse.attribution.targets import Cosine, PredictedChange, read_out, target_of
from ciperlib.analyse.features import extract_features, split_features
from ciperlib.analyse.probing.probes import fit_linear_probe, shuffle_targets
from ciperlib.config import Config
from ciperlib.data import load_images
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.methods.heads import make_predictor


@pytest.fixture(scope="module")
def world():
    """Images in which red is the object and blue the place, and a network of random filters."""
    images = plant(load_images("turntable", "train", size=900))
    encoder = make_encoder(Config(width=16, seed=1)).eval()
    encoder.normalise_with(images.images)
    return images, encoder


def probed(encoder, images, factor, shuffled=False):
    train, test = split_features(extract_features(encoder, images))
    return fit_linear_probe(shuffle_targets(train) if shuffled else train, test, factor, resamples=0)


def unseen(images, n=60):
    _, test = split_features(extract_features(nn.Flatten(), images))
    return images.subset(torch.isin(images.ids, test.ids)).subset(slice(n))


def test_planted_encoders_get_the_right_verdict(world):
    images, encoder = world
    for channel, factor, verdict in ((0, "category", "object"), (2, "session", "surroundings")):
        reader = reads_channel(encoder, channel)
        # fewer maps than images, and more than one batch of them
        found = run_saliency_tests(reader, probed(reader, images, factor), unseen(images, 90), maps=70)
        assert found.verdict == verdict
        assert found["pixels on the object"] == (1 if channel == 0 else 0)
        kept = saliency_tests.OTHER_PLACE if channel == 0 else saliency_tests.HIDDEN
        assert found[f"kept, {kept}"] > (0.999 if channel == 0 else 0.5)


def judged(pixels, swapped, hidden, accuracy=(0.8, 0.9), gap=None, edges=0.3, blank=0.3):
    """The verdict where the area is .3, as are the floors, and the intervals of the three measures are as given."""
    names = (
        "accuracy",
        "pixels on the object",
        f"kept, {saliency_tests.OTHER_PLACE}",
        f"kept, {saliency_tests.HIDDEN}",
    )
    rows = [{"measure": n, "value": sum(i) / 2, "low": i[0], "high": i[1]}
            for n, i in zip(names, (accuracy, pixels, swapped, hidden))]  # fmt: skip
    floors = {"area": 0.3, saliency_tests.EDGES: edges, saliency_tests.RANDOM_WEIGHTS: blank}
    rows += [
        {"measure": name, "value": value, "low": value - 0.1, "high": value + 0.1} for name, value in floors.items()
    ]
    rows += [] if gap is None else [{"measure": "gap of the map", "value": gap, "low": gap, "high": gap}]
    return saliency_tests.verdict_of(pd.DataFrame(rows), 0.1)[0]


MORE, LESS, SOME = (0.5, 0.6), (0.1, 0.2), (0.25, 0.35)


@pytest.mark.parametrize(
    ("pixels", "swapped", "hidden", "verdict"),
    [
        (MORE, MORE, LESS, "object"),
        (LESS, LESS, MORE, "surroundings"),
        (MORE, LESS, MORE, "unresolved"),  # the map alone proves nothing
        (LESS, MORE, LESS, "unresolved"),
        (SOME, MORE, LESS, "unresolved"),  # an interval that holds the area
        (MORE, (0.4, 0.6), (0.2, 0.45), "unresolved"),  # intervals that overlap
        (LESS, (0.2, 0.45), (0.4, 0.6), "unresolved"),
    ],
)
def test_map_and_experiment_have_to_agree(pixels, swapped, hidden, verdict):
    assert judged(pixels, swapped, hidden) == verdict
    assert judged(pixels, swapped, hidden, accuracy=(0.05, 0.9)) == "nothing"  # the interval reaches down to chance


def test_a_map_has_to_beat_an_edge_detector_and_random_weights():
    """Above the area is any map of a picture whose object has edges."""
    assert judged(MORE, MORE, LESS, edges=0.49, blank=0.49) == "object"
    assert judged(MORE, MORE, LESS, edges=0.52) == "unresolved"
    assert judged(MORE, MORE, LESS, blank=0.52) == "unresolved"
    assert judged(LESS, LESS, MORE, edges=0.1) == "surroundings"  # edges say nothing against it
    assert judged(LESS, LESS, MORE, blank=0.15) == "unresolved"


def test_an_untrained_encoder_is_not_said_to_look_at_the_object():
    images = load_images("turntable", "train", size=900)
    encoder = make_encoder(Config(width=16, seed=1)).eval()
    encoder.normalise_with(images.images)
    found = run_saliency_tests(encoder, probed(encoder, images, "object"), unseen(images, 90))
    assert found["pixels on the object"] > found["area"]
    assert found[saliency_tests.EDGES] > found["pixels on the object"]
    assert found.verdict == "unresolved"
    assert found.reason


def test_weights_drawn_again_are_blind_to_nothing(world):
    images, encoder = world
    reader = reads_channel(encoder, 0)
    blank = randomised(reader)
    assert not torch.equal(blank.conv1.weight, reader.conv1.weight)
    few, weights = images.floats(slice(4)), torch.randn(2, encoder.representation_size)
    seen = {name: FullGrad(read_out(e, weights)).decompose(few, 0).input for name, e in (("r", reader), ("b", blank))}
    assert not seen["r"][:, 2].any()
    assert seen["b"][:, 2].any()


def test_all_planted_cases_at_once(world):
    original, encoder = load_images("turntable", "train", size=900), world[1]
    found = run_sanity_checks(encoder, original.subset(slice(0, 840)), original.subset(slice(840, None)))
    verdicts = {name: own.verdict for name, own in found.items()}
    assert verdicts.pop("reads the object alone") == "object"
    assert verdicts.pop("reads the background alone") == "surroundings"
    assert len(verdicts) == 4
    assert set(verdicts.values()) == {"nothing"}


def test_a_planted_world_has_each_part_in_its_channel(world):
    images, _ = world
    original = load_images("turntable", "train", size=900)
    assert not images.images[:, 0][~images.masks].any()
    assert not images.images[:, 2][images.masks].any()
    grey = images.images[:, 0] + images.images[:, 2]
    assert (grey.float() - original.images.float().mean(1)).abs().max() <= 0.5


def test_exchanges_replace_one_part_and_leave_the_other():
    images = load_images("turntable", "test", size=40)
    mask = images.masks[:, None].expand(-1, 3, -1, -1)
    changed = counterfactuals(images)
    for name in (saliency_tests.OTHER_PLACE, saliency_tests.PLAIN):
        assert torch.equal(changed[name].images[mask], images.images[mask])
        assert not torch.equal(changed[name].images, images.images)
    hidden = changed[saliency_tests.HIDDEN].images
    assert all(
        len(image[:, m].unique(dim=1).T) == 1 for image, m in zip(hidden, images.masks)
    )  # one colour: no outline
    corner = ~saliency_tests._boxes(images.masks)[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(hidden[corner], images.images[corner])
    difference = (changed[saliency_tests.OTHER_PLACE].images.float() - images.images).abs()[~mask].mean()
    assert difference > 20  # another place, not another noise


def test_boxes_are_the_smallest_with_a_margin():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2, 3] = mask[0, 4, 5] = True
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:6, 2:7] = True
    assert torch.equal(saliency_tests._boxes(mask)[0], expected)


def test_shares_of_known_maps():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    maps = torch.zeros(3, 1, 4, 4)
    maps[0, 0, :2] = 3  # all inside
    maps[1] = 5  # even
    assert share_inside(maps, masks).tolist() == [1, 0.5, 0.5]  # an empty map counts as an even one
    with pytest.raises(SaliencyError, match="not of the same images"):
        share_inside(maps, masks[:, :, :3])


def test_the_parts_of_a_map_add_up(world):
    images, encoder = world
    few = images.subset(slice(5))
    terms = FullGrad(read_out(encoder, torch.randn(3, encoder.representation_size))).decompose(few.floats(), 1)
    shares = saliency_tests.shares_inside(terms, few.masks)
    assert set(shares) == {"map", "pixels", "coordinates", "biases"}
    bare = FullGradients(terms.value, terms.input, {})
    torch.testing.assert_close(shares["pixels"], saliency_tests.shares_inside(bare, few.masks)["map"])


def test_edges_of_a_step_and_of_nothing():
    image = torch.zeros(1, 3, 6, 6)
    image[..., 3:] = 1
    edges = saliency_tests.edge_map(image)
    torch.testing.assert_close(edges[0, 0, 2], torch.tensor([0.0, 0, 1, 1, 0, 0]))
    assert not saliency_tests.edge_map(torch.ones(1, 3, 6, 6)).any()


def test_similarity_is_spearman_s():
    a, b = torch.rand(2, 3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    a[0, 0, 0] = 0.5  # ties
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b)]
    torch.testing.assert_close(saliency_tests.map_similarity(a, b), torch.tensor(expected, dtype=torch.float64))
    assert saliency_tests.map_similarity(a, 3 * a**3).min() > 0.999
    assert saliency_tests.map_similarity(a, torch.ones_like(a)).tolist() == [0, 0, 0]


def test_curves_of_a_network_that_reads_one_half():
    fc = nn.Linear(3 * 64, 2, bias=False)
    fc.weight.data.zero_()
    half = torch.zeros(3, 8, 8)
    half[:, :, :4] = 1
    fc.weight.data[1] = half.flatten() / 20
    model = nn.Sequential(nn.Flatten(), fc).eval()
    images = torch.zeros(2, 3, 8, 8)
    images[..., :4] = 1
    good, bad = half[None, :1].expand(2, -1, -1, -1), 1 - half[None, :1].expand(2, -1, -1, -1)
    curves = saliency_tests.perturbation_curves(model, images, good, 1, steps=4)
    start, end = model(images).softmax(1)[0, 1], model(torch.full_like(images, 0.5)).softmax(1)[0, 1]
    for curve, first, last in (("deletion", start, end), ("insertion", end, start)):
        torch.testing.assert_close(curves[curve][:, 0], first.expand(2).detach())
        torch.testing.assert_close(curves[curve][:, -1], last.expand(2).detach())
    worse = saliency_tests.perturbation_curves(model, images, bad, 1, steps=4)
    assert curves["deletion"].mean() < worse["deletion"].mean()
    assert curves["insertion"].mean() > worse["insertion"].mean()


def test_occlusion_sees_the_same_object_as_the_map(world):
    """An independent method: captum's occlusion, on an encoder that reads the object alone."""
    images, encoder = world
    reader = reads_channel(encoder, 0)
    probe, few = probed(reader, images, "category"), images.subset(slice(8))
    model = read_out(reader, probe)
    size = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
    target = target_of(probe, few.factors["category"])
    occlusion = Occlusion(model).attribute(few.floats(), target=target, **size).abs().sum(1, keepdim=True)
    area = few.masks.flatten(1).double().mean(1)
    assert (share_inside(occlusion, few.masks) > area).all()
    outside = nn.functional.max_pool2d(few.masks.float()[:, None], 4).eq(0)
    assert not nn.functional.max_pool2d(occlusion, 4)[outside].any()
    shown = draw_maps(reader, probe, few, rescale=False)
    assert (share_inside(shown, few.masks) > area).all()


def test_occlusion_measures_the_change_of_the_target():
    """A network that adds up its pixels: a patch in the mean colour changes it by its excess over the mean."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 1, bias=False)).eval()
    model[1].weight.data.fill_(1)
    images = torch.zeros(1, 3, 8, 8)
    images[..., :4, :4] = 1
    change = saliency_tests.occlusion_map(model, images, 0, size=4)
    assert change.argmax() in (0, 1, 8, 9)
    torch.testing.assert_close(change[0, 0, 0, 0], torch.tensor(3 * 16 * 0.75))
    torch.testing.assert_close(change[0, 0, 7, 7], torch.tensor(3 * 16 * 0.25))


def test_masks_of_their_absence_and_a_regression(world):
    images, encoder = world
    probe = probed(encoder, images, "category")
    bare = images.subset(slice(4))
    object.__setattr__(bare, "masks", None)
    with pytest.raises(SaliencyError, match="has no masks"):
        run_saliency_tests(encoder, probe, bare)


def test_targets_are_the_probe_s_own_outputs(world):
    images, encoder = world
    features = extract_features(encoder, images)
    train, test = split_features(features)
    probe = fit_linear_probe(train, test, "object", resamples=0)
    logits = read_out(encoder, probe)(images.floats(slice(6)))
    torch.testing.assert_close(logits, probe.model(features.matrix[:6]), atol=1e-3, rtol=1e-3, check_dtype=False)
    assert target_of(probe, torch.tensor([7, 0])).tolist() == [7, 0]
    few = train.subset(torch.isin(train.factors["object"], torch.tensor([4, 9])))
    pair = fit_linear_probe(
        few, test.subset(torch.isin(test.factors["object"], torch.tensor([4, 9]))), "object", resamples=0
    )
    assert target_of(pair, torch.tensor([9, 4])).tolist() == [1, 0]
    with pytest.raises(SaliencyError, match="not all categories of the probe"):
        target_of(pair, torch.tensor([5]))
    with pytest.raises(SaliencyError, match="has no column 'azimuth'"):
        target_of(pair, "azimuth")
    vectors = torch.randn(2, encoder.representation_size)
    torch.testing.assert_close(read_out(encoder, vectors)(images.floats(slice(6))), features.matrix[:6] @ vectors.T)


def test_a_ridge_probe_is_explained_exactly(world):
    from ciperlib.analyse.probing.probes import fit_regression_probe

    images, encoder = world
    probe = fit_regression_probe(*split_features(extract_features(encoder, images)), "pose", resamples=0)
    column = target_of(probe, "sin_azimuth")
    terms = FullGrad(read_out(encoder, probe)).decompose(images.floats(slice(4)), column)
    torch.testing.assert_close(
        terms.value.double(), probe.model(extract_features(encoder, images).matrix[:4].double())[:, column],
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip


def test_a_probe_of_another_encoder_is_refused(world):
    images, encoder = world
    probe = probed(encoder, images, "category")
    with pytest.raises(SaliencyError, match="fitted on another encoder"):
        read_out(reads_channel(encoder, 0), probe)
    train, test = split_features(extract_features(encoder, images))
    from ciperlib.analyse.probing.probes import fit_knn_probe

    with pytest.raises(SaliencyError, match="no weights to explain"):
        read_out(encoder, fit_knn_probe(train, test, "category", k=5, resamples=0))


def test_a_cosine_and_a_predictor_are_approximations_whose_gap_is_told(world):
    images, encoder = world
    x, d = images.floats(slice(3)), encoder.representation_size
    with pytest.raises(SaliencyError, match="Cosine"):
        FullGrad(read_out(encoder, Cosine(torch.randn(2, d))))
    # without constants, in float64, Euler's identity is exact: the terms sum to 0
    bare = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, d, bias=False)).eval()
    terms = FullGrad(read_out(bare, Cosine(torch.randn(2, d))).double(), approximate=True).decompose(x.double(), 0)
    torch.testing.assert_close(terms.input.flatten(1).sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    predictor = make_predictor(d, 32, 5).eval()
    head = PredictedChange(predictor, encoder(images.floats(slice(3, 6))).detach())
    with pytest.raises(SaliencyError, match="LayerNorm"):
        FullGrad(read_out(encoder, head))
    terms = FullGrad(read_out(encoder, head), approximate=True).decompose(x, 2)
    assert terms.gap().shape == (3,)
    assert terms.gap().max() > 1e-4


def test_a_size_that_the_network_cannot_take():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).eval()
    with pytest.raises(SaliencyError, match=r"does not take float32 inputs \[1, 3, 9, 9\]"):
        FullGrad(network).attribute(torch.rand(1, 3, 9, 9), 0)
    with pytest.raises(SaliencyError, match="does not take float64 inputs"):
        FullGrad(network).attribute(torch.rand(1, 3, 8, 8).double(), 0)


def test_a_transformer_is_tested_with_its_gap_and_a_map_that_misses_too_much_says_nothing(world):
    images, exact = world
    transformer = make_encoder(Config(architecture="vit_tiny", width=8)).eval()
    for encoder, has_gap in ((transformer, True), (exact, False)):
        found = run_saliency_tests(encoder, probed(encoder, images, "category"), unseen(images), maps=8)
        assert ("gap of the map" in found.table["measure"].tolist()) == has_gap
    assert judged((0.5, 0.6), (0.8, 0.9), (0.1, 0.2), gap=0.05) == "object"
    assert judged((0.5, 0.6), (0.8, 0.9), (0.1, 0.2), gap=0.2) == "unresolved"
