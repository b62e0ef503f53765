"""Encoders of which it is known what they read, and the controls that must not look like them."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from ciperlib.analyse.attribution.saliency_tests import SaliencyTests, randomised, run_saliency_tests
from ciperlib.analyse.features import extract_features, split_features
from ciperlib.analyse.fingerprints import fingerprint
from ciperlib.analyse.probing.probes import fit_linear_probe, shuffle_targets
from ciperlib.data.imageset import ImageSet

RED, BLUE = 0, 2


def run_sanity_checks(encoder: nn.Module, train: ImageSet, images: ImageSet) -> dict[str, SaliencyTests]:
    """The verdicts on six cases whose answer is known: a copy of `encoder` that reads the object alone (asked for the
    object) and one that reads the background alone (asked for the session, where there are sessions), each as it is,
    with a probe fitted to random labels, and with weights drawn again under the same probe.

    Args:
        encoder: of `ciperlib`.
        train: with masks; where the probes are fitted.
        images: with masks; what the verdict is about, not in `train`.
    """
    world, seen, cases = plant(train), plant(images), {}
    for part, channel, factor in (("object", RED, "object"), ("background", BLUE, "session")):
        if factor in world.factors:
            reader, name = reads_channel(encoder, channel), f"reads the {part} alone"
            fitted, scored = split_features(extract_features(reader, world))
            probe = fit_linear_probe(fitted, scored, factor, resamples=0)
            cases[name] = run_saliency_tests(reader, probe, seen)
            shuffled = fit_linear_probe(shuffle_targets(fitted), scored, factor, resamples=0)
            cases[f"{name}, random labels"] = run_saliency_tests(reader, shuffled, seen)
            blank = randomised(reader)
            probe = replace(probe, encoder_fingerprint=fingerprint(blank))  # the same weights, on purpose
            cases[f"{name}, random weights"] = run_saliency_tests(blank, probe, seen)
    return cases


def plant(images: ImageSet) -> ImageSet:
    """A world in which one colour channel is one part: red shows the object alone, blue the background alone, in grey
    values. An encoder that reads red alone (`reads_channel`) reads the object, whatever its map may look like."""
    grey = images.images.float().mean(1)
    inside = images.masks
    pixels = torch.stack([grey * inside, torch.zeros_like(grey), grey * ~inside], 1).round().byte()
    return replace(images, name=f"planted-{images.name}", images=pixels, renderer=None)


def reads_channel(encoder: nn.Module, channel: int) -> nn.Module:
    """A copy of an encoder of `ciperlib` that is blind to all colour channels but one."""
    blind = copy.deepcopy(encoder)
    for other in {0, 1, 2} - {channel}:
        blind.conv1.weight.data[:, other] = 0
    return blind
