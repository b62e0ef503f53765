"""Tables of probes: the same images, the same floors, paired by seed."""

import math

import pandas as pd
import pytest
import torch
from conftest import make_noise_images

from ciperlib.analyse.features import Features
from ciperlib.analyse.tables import (
    default_factors,
    paired_difference,
    paired_differences,
    probe_encoder,
    probe_features,
    probe_floors,
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


def test_floors_and_tables():
    train, test = make_noise_images(200), make_noise_images(100, seed=1)
    test = ImageSet("noise", "test", test.images, test.factors, test.ids + 1000, test.groups + 1000, test.labels)
    config = Config(width=4)
    floors = probe_floors(train, test, ("object", "pose"), config)
    assert floors["object"].keys() == {"pixels", "random encoder", "shuffled labels"}
    results = probe_encoder(make_encoder(config), train, test, ("object", "pose"), floors=floors)
    table = to_table(results, encoder="e", seed=0)
    assert list(table["factor"]) == ["object", "pose"]
    assert table["floor: pixels"].notna().all()
    assert abs(results["object"].value - 0.25) < 0.2  # noise tells nothing
    metrics = to_metrics(results)
    assert metrics["object"] == results["object"].value
    assert metrics["pose_azimuth_error_degrees"] > 0


def test_paired_differences_against_a_loop():
    rows = [
        (e, s, v) for e, values in {"a": [0.8, 0.9, 0.7], "b": [0.5, 0.7, 0.6]}.items() for s, v in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["encoder", "seed", "value"]).assign(factor="object")
    result = paired_difference(table, "object", "a", "b")
    differences = [0.3, 0.2, 0.1]
    mean = sum(differences) / 3
    sem = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2 / 3)
    assert result["difference"] == pytest.approx(mean)
    assert result["high"] == pytest.approx(mean + 4.302652729911275 * sem)  # t quantile, two degrees of freedom
    assert result["seeds"] == 3
    assert math.isnan(paired_difference(table[table["seed"] == 0], "object", "a", "b")["low"])


def test_several_differences_are_the_single_ones():
    rows = [
        {"encoder": e, "factor": f, "seed": s, "value": v + 0.01 * s * (e == "b")}
        for e, v in (("a", 0.1), ("b", 0.3), ("c", 0.2))
        for f in ("object", "pose")
        for s in range(3)
    ]
    table = pd.DataFrame(rows)
    found = paired_differences(table, ["object", "pose"], ["a", "b", "c"], "a")
    assert list(found.index) == [(f, f"{e} - a") for f in ("object", "pose") for e in ("b", "c")]
    assert found.loc[("pose", "b - a")].to_dict() == paired_difference(table, "pose", "b", "a")
