"""Probes of a network's stages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ciperlib.analyse.features import extract_features
from ciperlib.analyse.probing.checks import ProbeError
from ciperlib.analyse.probing.probes import fit_linear_probe
from ciperlib.analyse.probing.stages import Stage, probe_stages
from ciperlib.config import Config
from ciperlib.data import load_images
from ciperlib.learn.zoo import find_run


@pytest.fixture(scope="module")
def encoder():
    return find_run(Config(method="simclr", augmentations="pose")).load_encoder()


def test_the_last_stage_is_h_and_the_first_a_convolution(encoder):
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(Stage(encoder, encoder.stages)(images), encoder(images))
        first = encoder.bn1(encoder.conv1(encoder.prepare(images))).relu().mean((2, 3))
        torch.testing.assert_close(Stage(encoder, 0)(images), first)


@pytest.mark.slow
def test_stages_say_what_the_probes_of_their_features_say(encoder):
    train, test = (load_images("turntable", split, size=600) for split in ("train", "test"))
    projector = nn.Linear(encoder.representation_size, 3)
    found = probe_stages(encoder, train, test, projector).set_index("stage")
    assert list(found.index) == [0, 1, 2, 3, 4, "z"]
    assert list(found["channels"]) == [16, 16, 32, 64, 128, 3]
    h = [extract_features(encoder, part) for part in (train, test)]
    assert found.loc[4, "object"] == pytest.approx(fit_linear_probe(*h, "object", resamples=0).value)
    assert found.loc["z", "object"] < found.loc[4, "object"]
    assert found.loc[0, "object"] < found.loc[4, "object"]


def test_other_networks_have_no_stages():
    with pytest.raises(ProbeError, match="Flatten has no stages"):
        probe_stages(
            nn.Flatten(), load_images("turntable", "train", size=60), load_images("turntable", "test", size=60)
        )
