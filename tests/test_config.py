"""Configs: what they refuse, and the names they give to runs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ciperlib.config import Config, ConfigError, _choice
from ciperlib.data.imageset import ImageSet
from ciperlib.data.turntable import DRAWN, _factors
from ciperlib.files import project_root
from ciperlib.learn.augment import Augmentation
from ciperlib.learn.augment.positives import PositivesError, find_positives
from ciperlib.registry import datasets, methods, steps

RENDERED = ("turntable", "turntable_sessions", "turntable_families")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"alpah": 1}, ["alpah", "did you mean 'alpha'"]),
        ({"alpha": -1}, ["alpha=-1", "at least 0"]),
        ({"alpha": float("nan")}, ["alpha=nan", "finite"]),
        ({"alpha": float("inf")}, ["alpha=inf", "finite"]),
        ({"alpha": "1"}, ["alpha='1'", "finite number"]),
        ({"alpha": True}, ["alpha=True", "finite number"]),
        ({"method": "simclr", "alpha": 3}, ["alpha=3", "simclr", "ciper"]),
        ({"method": "simcrl"}, ["simcrl", "did you mean 'simclr'"]),
        ({"augmentations": ()}, ["augmentations=()", "no views"]),
        ({"augmentations": ("crop", "crop")}, ["crop", "more than once"]),
        ({"augmentations": ("crop", "blur")}, ["blur", "known are"]),
        ({"batch_size": 6000}, ["batch_size=6000", "train_size=5000"]),
        ({"epochs": 0}, ["epochs=0", "at least 1"]),
        ({"epochs": 1.5}, ["epochs=1.5", "whole number"]),
        ({"temperature": 0}, ["temperature=0", "greater than 0"]),
        ({"dataset": "cifar"}, ["cifar", "did you mean 'cifar10'"]),
        ({"dataset": "cifar10", "augmentations": "pose"}, ["pose", "cifar10", "turntable"]),
        ({"norm": "group", "width": 2}, ["width=2", "multiple of 4"]),
        ({"recipe": 99}, ["recipe=99", "which behaviour"]),
        ({"coordinates": 1}, ["coordinates=1", "true or false"]),
        ({"transformation": "rotate"}, ["rotate", "did you mean"]),
        (
            {"method": "transformation_prediction", "transformation": "azimuth", "dataset": "cifar10"},
            ["azimuth", "cifar10", "turntable"],
        ),
        (
            {"method": "transformation_prediction", "transformation": "horizontal_flip"},
            ["horizontal_flip", "leave flip out"],
        ),
    ],
)
def test_refuses_with_the_name_the_value_and_what_is_allowed(parameters, words):
    with pytest.raises(ConfigError) as caught:
        Config.from_parameters(**parameters)
    for word in words:
        assert word in str(caught.value)


def test_ciper_with_alpha_0_is_simclr():
    assert Config(method="ciper", alpha=0) == Config(method="simclr")
    assert Config(method="ciper", alpha=0).name == Config(method="simclr").name
    assert Config(alpha=0).canonical() == Config(method="simclr").canonical()


def test_one_and_one_point_zero_are_the_same_choice():
    assert Config(alpha=1, epochs=30.0, weight_decay=0) == Config(alpha=1.0, epochs=30, weight_decay=0.0)
    assert Config(alpha=2).name == Config(alpha=2.0).name


def test_the_order_in_which_augmentations_are_given_does_not_matter():
    assert Config(augmentations="flip, crop") == Config(augmentations=["crop", "flip"])


SIE_READS = ("sie", "invariant_share")


def test_every_choice_that_is_read_changes_the_name():
    other = dict(
        method="predictive", alpha=2.0, augmentations="crop", seed=1, dataset="turntable_sessions", train_size=4000,
        image_size=48, architecture="resnet18", width=32, norm="group", coordinates=False, projector_width=64,
        predictor_width=64, epochs=3, batch_size=64, learning_rate=0.1, momentum=0.8, weight_decay=0.0,
        precision="float32", temperature=0.2, contrastive="cross_view", standardisation="fixed",
        anchor_forward="joint", anchor_gradient=False, flip_probability=0.8, jitter_strength=0.8,
        prediction_sign="minus", augmentation_order="reversed", optimiser="adamw",
    )  # fmt: skip
    special = {  # choices that one method reads
        "transformation_prediction": {"transformation": "jigsaw", "class_information": "added"},
        "clever": {"invariant_share": 0.6, "orthogonality": "sample"},
    }
    read = {field for choices in special.values() for field in choices}
    assert other.keys() | read | {"recipe", "recipes", "content", "options"} == Config.__dataclass_fields__.keys()
    names = {Config(**{field: value}).name for field, value in other.items()}
    for method, choices in special.items():
        names |= {Config(method=method, **{field: value}).name for field, value in choices.items()}
        for other_method in set(methods) - {method}:
            unread = {field: value for field, value in choices.items() if (other_method, field) != SIE_READS}
            assert Config(method=other_method, **unread).name == Config(method=other_method).name
    assert len(names | {Config().name}) == len(other) + len(read) + 1
    assert Config(method="sie", invariant_share=0.6).name != Config(method="sie").name


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"method": "essl", "alpha": 0}, "alpha=0 does not go with method='essl'"),
        ({"method": "simclr", "alpha": 3}, "choose one of ciper, essl"),
        ({"method": "augself", "augmentations": "grayscale"}, "predicts pose, crop, flip, jitter"),
        ({"method": "clever", "augmentations": "pose"}, "crops of several sizes: add crop"),
        ({"method": "clever", "invariant_share": 1}, "leaves a part of h empty"),
        ({"method": "sie", "invariant_share": 0.001}, "leaves a part of h empty"),
        ({"architecture": "c4_resnet10"}, "choose coordinates=False"),
        ({"architecture": "c4_resnet10", "coordinates": False, "image_size": 36}, "multiples of 2 and 8"),
        ({"architecture": "vit_tiny", "image_size": 30}, "whose patches have 4 pixels"),
        ({"architecture": "vit_tiny", "image_size": 20, "method": "essl"}, "choose a multiple of 8"),
        ({"architecture": "vit_tiny", "width": 25}, "divided among heads of 64"),
        (
            {"architecture": "c4_resnet10", "coordinates": False, "image_size": 24, "method": "essl"},
            "multiples of 2 and 16",
        ),
        ({"architecture": "c4_resnet10", "coordinates": False, "width": 12, "norm": "group"}, "multiples of 8 and 8"),
    ],
)
def test_what_cannot_work_among_the_kin_is_refused(choices, message):
    with pytest.raises(ConfigError, match=message):
        Config(**choices)


def test_each_method_has_its_own_alpha_and_split():
    assert [Config(method=method).alpha for method in ("ciper", "essl", "sie", "simclr")] == [1.0, 0.4, 0.45, 0.0]
    assert Config(method="essl", alpha=0.4).name == Config(method="essl").name
    assert Config(method="essl").name.startswith("essl-a0.4-image-turntable-s0-")
    assert Config(method="clever", invariant_share=0.8) == Config(method="clever")
    adamw = Config(optimiser="adamw")
    assert Config(optimiser="adamw", momentum=0.5).name == adamw.name != Config().name
    assert [Config(method=method).split for method in ("sie", "clever", "ciper")] == [64, 102, 0]
    for method in ("essl", "clever"):
        config = Config(method=method)
        assert Config.from_parameters(**config.to_dict()) == config


def test_a_choice_that_the_method_never_reads_changes_nothing():
    simclr = Config(method="simclr").name
    assert Config(method="simclr", predictor_width=64, anchor_gradient=False).name == simclr
    assert Config(alpha=0, predictor_width=64).name == simclr
    assert Config(method="simclr", temperature=0.2).name != simclr
    assert Config(method="predictive", temperature=0.2).name == Config(method="predictive").name
    assert Config(temperature=0.2).name != Config().name


def test_a_transformation_can_be_predicted_without_augmentation():
    config = Config(method="transformation_prediction", augmentations=(), class_information="removed", seed=3)
    assert config.name.startswith("predicts-rotation-removed-turntable-s3-")
    assert (
        Config(method="transformation_prediction", temperature=0.1, augmentations=(), seed=3).name
        == Config(method="transformation_prediction", augmentations=(), seed=3).name
    )


def test_a_random_encoder_does_not_depend_on_how_it_would_be_trained():
    assert Config(method="random", epochs=3, temperature=0.1, augmentations="crop").name == Config(method="random").name
    assert Config(method="random", width=32).name != Config(method="random").name


@dataclass(frozen=True)
class LaterConfig(Config):
    """The config of some later version, with one choice more."""

    magic: int = _choice(3, "a choice that did not exist", low=0)


def test_a_field_added_with_its_default_renames_nothing():
    for choices in ({}, {"width": 32, "seed": 3}, {"method": "simclr", "augmentations": "pose"}):
        assert LaterConfig(**choices).name == Config(**choices).name
        assert LaterConfig(**choices, magic=4).name != Config(**choices).name


def test_shipped_runs_keep_their_names():
    folders = [path.parent for path in (project_root() / "data" / "zoo").glob("*/config.json")]
    for folder in folders:
        config = Config.from_parameters(**json.loads((folder / "config.json").read_text()))
        assert folder.name in (config.name, *(older.name for older in config.older()))
    assert Config().name == "ciper-a1-image-turntable-s0-eab378d8"
    assert Config(method="simclr", augmentations="pose", seed=2).name == "simclr-pose-turntable-s2-81bdb7ce"


@given(
    method=st.sampled_from(list(methods)),
    augmentations=st.sets(st.sampled_from(tuple(steps)), min_size=1),
    seed=st.integers(0, 2**40),
    learning_rate=st.floats(0, 10),
    epochs=st.integers(1, 10**6),
)
def test_a_config_survives_json(method, augmentations, seed, learning_rate, epochs):
    if method in ("augself", "clever"):
        augmentations = augmentations | {"crop"}  # without, they refuse
    config = Config(
        method=method, augmentations=tuple(augmentations), seed=seed, learning_rate=learning_rate, epochs=epochs
    )
    again = Config.from_parameters(**json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.name == config.name


@pytest.mark.parametrize(("dataset", "step"), [(d, s) for d in RENDERED for s in datasets[d].enough])
def test_so_many_images_and_no_fewer_give_each_object_another_view(dataset, step):
    """The bound is of the images as they are dealt out: with one image less some object has no partner."""
    enough = datasets[dataset].enough[step]
    index = torch.arange(enough)
    pixels, factors = torch.zeros(enough, 3, 1, 1, dtype=torch.uint8), _factors(DRAWN[dataset]["train"], enough)
    images = ImageSet(dataset, "train", pixels, factors, index, index)
    steps = Augmentation((step,), sessions=11).dataset_steps
    find_positives(images, steps)
    with pytest.raises(PositivesError, match="no other image"):
        find_positives(images.subset(slice(enough - 1)), steps)
    choices = dict(dataset=dataset, augmentations=step, batch_size=16)
    assert Config(**choices, train_size=enough).train_size == enough
    with pytest.raises(ConfigError, match=f"choose {enough} or more"):
        Config(**choices, train_size=enough - 1)
