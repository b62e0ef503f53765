"""Tables of probes: the same images, the same baselines, paired by seed."""

import pytest
import torch
from conftest import make_noise_images

from ciperlib.analyse.features import Features
from ciperlib.analyse.probing.checks import ProbeError
from ciperlib.analyse.probing.tables import (
    default_factors,
    probe_baselines,
    probe_encoder,
    probe_features,
    to_metrics,
    to_table,
)  # fmt: skip
from ciperlib.config import Config
from ciperlib.data import ImageSet
from ciperlib.learn.encoders import make_encoder


def test_default_factors(noise_images):
    assert default_factors(noise_images) == ("category", "object", "session", "pose")
    photographs = ImageSet("x", "train", noise_images.images, {"category": torch.arange(48) % 2},
                           noise_images.ids, noise_images.groups)  # fmt: skip
    assert default_factors(photographs) == ("category",)


def an_image_set(n=24, **factors):
    pixels = torch.zeros(n, 3, 4, 4, dtype=torch.uint8)
    return ImageSet("x", "test", pixels, factors, torch.arange(n), torch.arange(n))


INDEX = torch.arange(24)
QUANTITY = torch.linspace(0, 1, 24)


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({"disease": INDEX % 2}, ("disease",)),
        ({"weight": QUANTITY}, ("weight",)),
        ({"disease": INDEX % 2, "session": INDEX % 3, "category": INDEX % 4}, ("category", "session", "disease")),
        ({"weight": QUANTITY, "b": INDEX % 2, "azimuth": QUANTITY, "a": INDEX % 3}, ("b", "a", "pose", "weight")),
        ({"category": 0 * INDEX, "disease": INDEX % 2}, ("disease",)),  # of one value nothing can be told
        ({"weight": 0 * QUANTITY + 0.1, "elevation": 0 * QUANTITY + 0.3, "disease": INDEX % 2}, ("disease",)),
        ({"distance": 0 * QUANTITY + 1, "azimuth": QUANTITY}, ("pose",)),
        ({"number": 10**9 + INDEX % 2}, ("number",)),  # two values, however near each other
        ({}, ()),
    ],
)
def test_every_factor_that_images_have_is_worth_probing(factors, expected):
    assert default_factors(an_image_set(**factors)) == expected


def test_what_the_training_part_cannot_teach_is_left_out():
    test = an_image_set(patient=INDEX % 3, disease=INDEX % 2, session=INDEX % 5, weight=QUANTITY, size=QUANTITY)
    train = an_image_set(
        patient=3 + INDEX % 3, disease=INDEX % 4, session=5 + INDEX % 5, weight=0 * QUANTITY, size=QUANTITY
    )
    assert default_factors(test) == ("session", "patient", "disease", "weight", "size")
    assert default_factors(test, train) == ("session", "disease", "size")  # sessions are probed within the test part
    assert default_factors(test, train, "knn") == ("session", "disease")


def test_a_table_without_factors_says_so():
    images = an_image_set()
    with pytest.raises(ProbeError, match=r"x has no factor to probe: .*column of factors"):
        probe_encoder(make_encoder(Config(width=8)), images, images)


def test_an_unknown_factor_is_probed_with_its_baselines():
    train, test = make_noise_images(60), make_noise_images(40, seed=1)
    kinds = {"disease": train.factors["object"] // 2}, {"disease": test.factors["object"] // 2}
    train = ImageSet("noise", "train", train.images, kinds[0], train.ids, train.groups)
    test = ImageSet("noise", "test", test.images, kinds[1], test.ids + 1000, test.groups + 1000)
    for options in ({}, {"protocol": "knn"}, {"protocol": "sgd"}):
        baselines = probe_baselines(train, test, config=Config(width=8), **options)
        assert baselines.keys() == {"disease"}
        results = probe_encoder(make_encoder(Config(width=8)), train, test, baselines=baselines, resamples=0, **options)
        assert list(to_table(results)["factor"]) == ["disease"]


def made(sessions, n=240, first=0):
    """Features that tell the session (one-hot plus noise) and nothing else."""
    generator = torch.Generator().manual_seed(first)
    index = torch.arange(n)
    session = torch.tensor(sessions)[index % len(sessions)]
    matrix = torch.nn.functional.one_hot(session, 12).float() + 0.1 * torch.randn(n, 12, generator=generator)
    factors = {"session": session, "object": torch.randint(3, (n,), generator=generator)}
    return Features(matrix, factors, index + first, index + first, name="made", encoder_fingerprint="x")


def test_sessions_that_the_training_part_lacks_are_probed_within_the_test_part():
    results = probe_features(made([0, 1]), made([2, 3, 4, 5], first=1000), ("session", "object"))
    assert results["session"].classes == 4
    assert results["session"].value > 0.95
    assert results["session"].n < 240
    assert results["object"].n == 240
    assert results["object"].value < 0.5


def test_baselines_and_tables():
    train, test = make_noise_images(200), make_noise_images(100, seed=1)
    test = ImageSet("noise", "test", test.images, test.factors, test.ids + 1000, test.groups + 1000, test.labels)
    config = Config(width=8)
    baselines = probe_baselines(train, test, ("object", "pose"), config)
    assert baselines["object"].keys() == {"pixels", "random encoder", "shuffled labels"}
    results = probe_encoder(make_encoder(config), train, test, ("object", "pose"), baselines=baselines)
    table = to_table(results, encoder="e", seed=0)
    assert list(table["factor"]) == ["object", "pose"]
    assert table["baseline: pixels"].notna().all()
    assert abs(results["object"].value - 0.25) < 0.2  # noise tells nothing
    metrics = to_metrics(results)
    assert metrics["object"] == results["object"].value
    assert metrics["pose_azimuth_error_degrees"] > 0
