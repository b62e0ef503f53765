"""Batches and steps as the objective is given them and as the weights feel them: laws of the training loop, whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from conftest import TINY, make_noise_images

from ciperlib.config import Config
from ciperlib.learn.augment import View
from ciperlib.learn.encoders.base import Encoder
from ciperlib.learn.methods.base import Batch
from ciperlib.learn.training import Trainer
from ciperlib.registry import methods

IMAGE = ("crop", "flip", "jitter", "grayscale")
TRAINED = [name for name, method in methods.items() if method.trained]
CPU = torch.device("cpu")


@dataclass
class Epoch:
    """What an objective was given in one epoch: its batches, and the learning rate that each step was taken with."""

    batches: list[Batch]
    rates: list[float]

    @property
    def index(self) -> torch.Tensor:
        return torch.cat([batch.index for batch in self.batches])

    def view(self, place: int) -> View:
        return View(*(torch.cat(parts) for parts in zip(*(batch.views[place] for batch in self.batches))))


def make_trainer(images=None, **choices) -> Trainer:
    images = make_noise_images() if images is None else images
    return Trainer(Config(**{**TINY, "train_size": 1000, "width": 8, **choices}), images, CPU)


def watch(trainer: Trainer) -> Epoch:
    """Trains one epoch and looks on: nothing is asked of the trainer but that it calls its objective."""
    seen = Epoch([], [])

    def look(_objective, arguments):
        seen.batches.append(arguments[0])
        seen.rates.append({group["lr"] for group in trainer.optimiser.param_groups})

    hook = trainer.objective.register_forward_pre_hook(look)
    trainer.train_epoch()
    hook.remove()
    assert all(len(rates) == 1 for rates in seen.rates)
    seen.rates = [rate for rates in seen.rates for rate in rates]
    return seen


# --- order -----------------------------------------------------------------------------------------------------------


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    trainers = [make_trainer(seed=seed) for seed in (0, 1)]
    orders = [tuple(watch(trainer).index.tolist()) for trainer in trainers for _ in range(3)]
    assert len(set(orders)) == 6
    assert tuple(range(48)) not in orders
    assert orders[0] == tuple(watch(make_trainer(seed=0)).index.tolist())  # and it is the seed's


def test_an_image_is_met_at_most_once_an_epoch_and_none_is_left_out_for_ever():
    trainer = make_trainer(make_noise_images(61), epochs=8)  # 13 of 61 are left over in each epoch
    epochs = [watch(trainer).index.tolist() for _ in range(8)]
    assert all(len(order) == len(set(order)) == 48 for order in epochs)
    assert set().union(*epochs) == set(range(61))
    left = [set(range(61)) - set(order) for order in epochs]
    assert len({frozenset(images) for images in left}) == 8


def test_batches_are_mixed_anew_and_not_only_dealt_in_another_order():
    trainer = make_trainer()
    together = [{frozenset(batch.index.tolist()) for batch in watch(trainer).batches} for _ in range(2)]
    assert not together[0] & together[1]


# --- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentations", [IMAGE, ("pose",), ("session", "flip")])
def test_an_image_has_other_views_in_every_epoch(augmentations):
    trainer = make_trainer(make_noise_images(96), augmentations=augmentations)
    by_image = []
    for _ in range(2):
        epoch = watch(trainer)
        by_image.append(epoch.view(0).parameters[epoch.index.argsort()])
    same = (by_image[0] == by_image[1]).all(1).double().mean()
    assert same < 0.6  # of two sessions, or a flip, the same is drawn again by chance


@pytest.mark.parametrize("method", TRAINED)
def test_the_anchor_is_the_clean_image_and_index_and_category_are_its_own(method):
    images = make_noise_images()
    for batch in watch(make_trainer(images, method=method)).batches:
        assert torch.equal(batch.anchor, images.floats(batch.index))
        assert torch.equal(batch.factors["category"], images.factors["category"][batch.index])
        for view in batch.views:
            assert torch.equal(view.source, batch.index)  # image steps are made of the anchor itself
            assert not torch.equal(view.images, batch.anchor)


@pytest.mark.parametrize("method", TRAINED)
def test_views_are_what_their_parameters_say(method):
    images = make_noise_images()
    trainer = make_trainer(images, method=method)
    for batch in watch(trainer).batches:
        for view in batch.views:
            again = trainer.augmentation.replay(images.images[view.source], view.parameters)
            assert torch.equal(again, view.images)


@pytest.mark.parametrize("method", ["simclr", "essl", "clever", "transformation_prediction"])
def test_crops_are_of_the_size_that_the_method_asks_for(method):
    """Within what rounding to whole pixels does, and from end to end of the range."""
    side = 32
    images = make_noise_images(512, size=side)
    choices = {"image_size": side, "batch_size": 256, "augmentations": "crop", "method": method}
    trainer = make_trainer(images, **choices)
    epoch, column = watch(trainer), trainer.augmentation.specs
    names = [spec.name for spec in column]
    crops = trainer.objective.crops
    assert len(epoch.batches[0].views) == len(crops)
    for place, (low, high) in enumerate(crops):
        parameters = epoch.view(place).parameters
        height, width = (side * parameters[:, names.index(f"crop_{name}")] for name in ("height", "width"))
        area, rounding = height * width, (height + width) / 2 + 0.25
        assert (area >= low * side**2 - rounding).all()
        assert (area <= high * side**2 + rounding).all()
        assert area.min() < (low + 0.1 * (high - low)) * side**2
        assert area.max() > (high - 0.1 * (high - low)) * side**2


def test_clever_asks_for_two_whole_views_and_four_small_ones():
    crops = methods["clever"].build.crops
    assert crops == (*2 * ((0.4, 1.0),), *4 * ((0.05, 0.4),))
    assert methods["simclr"].build.crops == methods["ciper"].build.crops == 2 * ((0.2, 1.0),)


def test_views_are_drawn_independently_of_each_other():
    """No parameter of the first view tells anything of any of the second one's, though both are of one image."""
    epoch = watch(make_trainer(make_noise_images(960, size=8), image_size=8, batch_size=480))
    first, second = (epoch.view(place).parameters.double() for place in (0, 1))
    columns = first.shape[1]
    between = torch.corrcoef(torch.cat((first, second), 1).T)[:columns, columns:]
    assert between.abs().max() < 4.5 / math.sqrt(960)


@pytest.mark.parametrize("augmentations", ["pose", "session"])
def test_partners_are_drawn_independently_of_each_other(augmentations):
    """Of images of one object in one session, that have the same others to choose from."""
    images = make_noise_images(960, size=8)
    epoch = watch(make_trainer(images, image_size=8, batch_size=480, augmentations=augmentations))
    first, second = (epoch.view(place).source for place in (0, 1))
    cell = images.factors["object"][epoch.index] * 3 + images.factors["session"][epoch.index]
    for value in cell.unique():
        own = cell == value
        pair = torch.stack((first[own], second[own])).double()
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 4.5 / math.sqrt(int(own.sum()))
        assert (first[own] == second[own]).double().mean() < 0.06


# --- dataset steps ---------------------------------------------------------------------------------------------------


def test_a_pose_view_is_another_image_of_the_object_and_says_how_it_was_turned():
    images = make_noise_images(96)
    trainer = make_trainer(images, augmentations="pose")
    names, sessions = [spec.name for spec in trainer.augmentation.specs], []
    for batch in watch(trainer).batches:
        for view in batch.views:
            assert (view.source != batch.index).all()
            assert torch.equal(view.images, images.floats(view.source))
            factors = {name: (column[batch.index], column[view.source]) for name, column in images.factors.items()}
            assert torch.equal(*factors["object"])
            turn = factors["azimuth"][1] - factors["azimuth"][0]
            expected = {"sin_azimuth": turn.sin(), "cos_azimuth": turn.cos()}
            expected |= {name: factors[name][1] - factors[name][0] for name in ("elevation", "distance")}
            for name, column in expected.items():
                torch.testing.assert_close(view.parameters[:, names.index(name)], column)
            sessions.append(factors["session"][0] == factors["session"][1])
    assert 0.1 < torch.cat(sessions).double().mean() < 0.6  # the session is free: neither kept nor forced


def test_a_session_view_is_of_the_object_in_another_session_and_says_in_which():
    images = make_noise_images(96)
    for batch in watch(make_trainer(images, augmentations="session")).batches:
        for view in batch.views:
            factors = {name: (column[batch.index], column[view.source]) for name, column in images.factors.items()}
            assert torch.equal(*factors["object"])
            assert (factors["session"][0] != factors["session"][1]).all()
            assert torch.equal(view.parameters[:, 0], factors["session"][1].float())


def test_every_other_image_of_the_object_can_be_the_partner():
    images = make_noise_images(24)  # six of each object, two in each session
    trainer = make_trainer(images, augmentations="pose", batch_size=24, epochs=60)
    seen = {(int(a), int(b)) for _ in range(60) for view in (0, 1) for a, b in _pairs(watch(trainer), view)}
    objects = images.factors["object"].tolist()
    assert seen == {(a, b) for a in range(24) for b in range(24) if a != b and objects[a] == objects[b]}


def _pairs(epoch, place):
    return zip(epoch.index, epoch.view(place).source)


# --- steps -----------------------------------------------------------------------------------------------------------


def _trained(trainer):
    return {name: p.detach().clone() for name, p in trainer.objective.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_weight_decay_reaches_every_weight(method, optimiser):
    """The first step with it and the one without start alike and have the same gradient: between them lies
    -rate * decay * weight, of every weight and bias that is trained (paper, section 4.1)."""
    one_step = {"method": method, "optimiser": optimiser, "batch_size": 48, "precision": "float32"}
    with_decay, without = (make_trainer(**one_step, learning_rate=0.01, weight_decay=decay) for decay in (0.5, 0.0))
    for trainer in (with_decay, without):
        for parameter in trainer.objective.parameters():
            if parameter.requires_grad and not parameter.any():  # a bias of 0 would not show it
                parameter.data.fill_(0.1)
    before = _trained(with_decay)
    for trainer in (with_decay, without):
        trainer.train_epoch()
    after, plain = _trained(with_decay), _trained(without)
    for name, start in before.items():
        torch.testing.assert_close(after[name] - plain[name], -0.01 * 0.5 * start, atol=2e-6, rtol=2e-3, msg=name)


def test_the_rate_follows_a_cosine_from_the_config_s_to_nothing_step_by_step():
    trainer = make_trainer(epochs=5)
    rates = [rate for _ in range(5) for rate in watch(trainer).rates]
    assert len(rates) == 15
    assert rates == pytest.approx([0.03 * (1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)])
    assert rates[0] == 0.03
    assert [row["learning_rate"] for row in trainer.history] == rates[2::3]


@pytest.mark.parametrize("rate", [0.03, 0.015])
def test_a_step_is_the_rate_times_the_gradient(rate):
    """Of plain SGD without decay; the gradient is asked for a second time, from the weights before the step."""
    choices = {"batch_size": 48, "precision": "float32", "norm": "group", "weight_decay": 0.0, "learning_rate": rate}
    trainer, twin = make_trainer(**choices), make_trainer(**choices)
    batch = watch(trainer).batches[0]
    twin.objective.train()(batch).total.backward()
    for (name, after), before in zip(trainer.objective.named_parameters(), twin.objective.parameters()):
        torch.testing.assert_close(
            after.detach() - before.detach(), -rate * before.grad, atol=1e-6, rtol=1e-2, msg=name
        )


def test_momentum_carries_the_steps_before():
    """With a rate of 0 the velocity still gathers: v = 0.9 v + gradient, of each batch the gradient alone."""
    choices = {"precision": "float32", "learning_rate": 0.0, "weight_decay": 0.0, "norm": "group"}
    trainer, twin = make_trainer(**choices), make_trainer(**choices)
    velocity = [torch.zeros_like(parameter) for parameter in twin.objective.parameters()]
    for batch in watch(trainer).batches:
        gradient = torch.autograd.grad(twin.objective.train()(batch).total, list(twin.objective.parameters()))
        velocity = [0.9 * v + g for v, g in zip(velocity, gradient)]
    for expected, parameter in zip(velocity, trainer.objective.parameters()):
        found = trainer.optimiser.state[parameter]["momentum_buffer"]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("method", TRAINED)
def test_batch_norm_learns_the_statistics_of_each_training_pass(method):
    """Even if somebody looked at the encoder in eval mode between two epochs."""
    trainer = make_trainer(method=method)
    encoders = [module for module in trainer.objective.modules() if isinstance(module, Encoder)]
    passes = [0] * len(encoders)
    for place, encoder in enumerate(encoders):
        encoder.register_forward_hook(lambda *_, place=place: passes.__setitem__(place, passes[place] + 1))
    for _ in range(2):
        trainer.objective.eval()
        trainer.train_epoch()
    assert all(count >= 6 for count in passes)  # at least one for each of three steps
    for encoder, count in zip(encoders, passes):
        assert int(encoder.bn1.num_batches_tracked) == count
        assert encoder.bn1.running_mean.abs().max() > 1e-3


def test_the_history_is_the_mean_of_what_the_objective_said():
    trainer, said = make_trainer(method="sie", learning_rate=0.001), []
    trainer.objective.register_forward_hook(lambda _m, _i, losses: said.append(losses))
    row = trainer.train_epoch()
    assert row["total"] == pytest.approx(sum(losses.total.item() for losses in said) / 3, rel=1e-6)
    for name in said[0].terms:
        assert row[name] == pytest.approx(sum(losses.terms[name].item() for losses in said) / 3, rel=1e-6)
    assert row["epoch"] == 1


@pytest.mark.parametrize("steps", [3, 7])
def test_the_share_of_the_training_that_is_done_ends_at_1(steps):
    """A teacher's momentum hangs on it: after the first step 1 / all steps, after the last one 1."""
    trainer, told = make_trainer(batch_size=48 // steps, epochs=2), []
    trainer.objective.after_step = told.append
    for _ in range(2):
        trainer.train_epoch()
    count = 2 * trainer.steps
    assert told == pytest.approx([(step + 1) / count for step in range(count)])
