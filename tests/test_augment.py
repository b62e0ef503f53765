"""Augmentations against torchvision's float tensor operations, loops, and the published parameter statistics."""

from __future__ import annotations

import copy
import gc
import math
import pickle
from itertools import permutations

import pytest
import torch
from conftest import make_noise_images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms import functional as tv

from ciperlib.config import IMAGE_STEPS
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment import Augmentation, View, augmentation, positives
from ciperlib.learn.methods.targets import pair_targets

ALL = ("pose", "session", *IMAGE_STEPS)  # steps that ship
PAPER_COLUMNS = ("crop_x", "crop_y", "crop_height", "crop_width", "flip")
PAPER_COLUMNS += ("brightness", "contrast", "saturation", "hue", "grayscale")
TOLERANCE = 2e-5  # of 1; a step of eight bits is 4e-3


def make_images(count: int = 64, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """A mixture of noise, smooth colours, saturated colours, black, white and grey: uint8 [count, 3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    coarse = torch.rand(count, 3, 3, 3, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").byte()
    images = torch.where(torch.arange(count)[:, None, None, None] % 3 == 0, noise, smooth)
    images[4::9] = (images[4::9] > 127).byte() * 255
    images[7::9] = images[7::9, :1].expand(-1, 3, -1, -1)
    return images


def make_set(images: Tensor | None = None, **factors: Tensor) -> ImageSet:
    images = make_images() if images is None else images
    numbers = torch.arange(len(images))
    return ImageSet("made by hand", "train", images, factors, ids=numbers, groups=numbers)


def make_world(objects: int = 5, sessions: int = 3, copies: int = 4) -> ImageSet:
    """Unevenly many images of each object in each session, shuffled, with random poses."""
    generator = torch.Generator().manual_seed(1)
    rows = [(o, s) for o in range(objects) for s in range(sessions) for _ in range(copies + (o + s) % 3)]
    rows = torch.tensor(rows)[torch.randperm(len(rows), generator=generator)]
    pose = torch.rand(3, len(rows), generator=generator)
    return make_set(
        make_images(len(rows), 6, 6),
        object=10 * rows[:, 0] + 3,  # neither starts at 0 nor is without gaps
        session=rows[:, 1],
        azimuth=2 * math.pi * pose[0],
        elevation=pose[1],
        distance=1 + pose[2],
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view_of(augmentation: Augmentation, images: ImageSet, seed: int = 0) -> View:
    return augmentation(images, torch.arange(len(images)), seeded(seed))


def by_torchvision(image: Tensor, augmentation: Augmentation, row: Tensor) -> Tensor:
    """One image [3, H, W] through torchvision's operations, with the parameters of one row."""
    named = {spec.name: float(value) for spec, value in zip(augmentation.specs, row)}
    height, width = image.shape[-2:]
    if "crop" in augmentation.steps:
        top, h = round(named["crop_y"] * height), round(named["crop_height"] * height)
        left, w = round(named["crop_x"] * width), round(named["crop_width"] * width)
        image = tv.resized_crop(image, top, left, h, w, [height, width], antialias=True)
    if named.get("flip"):
        image = tv.hflip(image)
    factors = [named.get(name) for name in ("brightness", "contrast", "saturation", "hue")]
    if "jitter" in augmentation.steps and factors != [1, 1, 1, 0]:
        operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
        for number in list(permutations(range(4)))[round(named["jitter_order"])]:
            image = operations[number](image, factors[number])
    return tv.rgb_to_grayscale(image, 3) if named.get("grayscale") else image


def assert_as_torchvision(augmentation: Augmentation, images: Tensor, parameters: Tensor, made: Tensor) -> None:
    wanted = [by_torchvision(x / 255, augmentation, row) for x, row in zip(images, parameters)]
    difference = (made - torch.stack(wanted)).abs().flatten(1).amax(1)
    worst = int(difference.argmax())
    assert difference[worst] < TOLERANCE, f"image {worst}: {difference[worst]}, parameters {parameters[worst].tolist()}"


# ---- pixels


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (20, 48), (7, 5)])
@pytest.mark.parametrize("steps", [*((step,) for step in IMAGE_STEPS), ("crop", "flip"), IMAGE_STEPS])
def test_operations_agree_with_torchvision(steps, size):
    augmentation = Augmentation(steps, grayscale_probability=0.4)
    images = make_images(120, *size)
    view = view_of(augmentation, make_set(images))
    assert view.images.dtype == torch.float32
    assert view.images.is_contiguous()
    assert view.images.min() >= 0
    assert view.images.max() <= 1
    assert_as_torchvision(augmentation, images, view.parameters, view.images)


@pytest.mark.parametrize("only", [None, "brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("strength", [0.4, 2.0])
def test_jitter_agrees_with_torchvision_in_all_orders(strength, only):
    augmentation = Augmentation(("jitter",), jitter_strength=strength, jitter_probability=1)
    images = make_images(240, 8, 8)
    parameters = view_of(augmentation, make_set(images)).parameters
    parameters[:, augmentation.column("jitter_order")] = torch.arange(240) % 24
    for name, neutral in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        if only not in (None, name):
            parameters[:, augmentation.column(name)] = neutral
    assert_as_torchvision(augmentation, images, parameters, augmentation.replay(images, parameters))


def test_jitter_order_matters():
    """Otherwise the test above would not notice a wrong order."""
    augmentation = Augmentation(("jitter",))
    images = make_images(1, seed=3).expand(24, -1, -1, -1)
    row = torch.tensor([1.4, 0.6, 1.4, 0.1])
    made = augmentation.replay(images, torch.cat([row.expand(24, 4), torch.arange(24.0)[:, None]], 1))
    distances = torch.pdist(made.flatten(1), p=math.inf)
    assert (distances > 1e-3).float().mean() > 0.9


def test_crop_of_the_whole_image_changes_nothing():
    augmentation = Augmentation(("crop", "flip"))
    images = make_images()
    row = torch.tensor([0.0, 0, 1, 1, 0]).expand(len(images), -1)
    assert torch.equal(augmentation.replay(images, row), images / 255)


def test_crop_does_not_see_beyond_its_edge():
    images = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    images[:, :, 4:9, 3:13] = 60
    row = torch.tensor([[3 / 16, 4 / 16, 5 / 16, 10 / 16]])
    assert (Augmentation(("crop",)).replay(images, row) * 255 - 60).abs().max() < 1e-3


def test_where_jitter_is_not_applied_no_bit_changes():
    augmentation = Augmentation(("jitter", "grayscale"), jitter_probability=0.5, grayscale_probability=0)
    images = make_images(200)
    view = view_of(augmentation, make_set(images))
    left_out = (view.parameters[:, :4] == torch.tensor([1.0, 1, 1, 0])).all(1)
    assert 60 < left_out.sum() < 140
    assert torch.equal(view.images[left_out], images[left_out] / 255)
    assert (view.images != images / 255).flatten(1).any(1)[~left_out].float().mean() > 0.9


def test_no_steps_give_the_images_themselves():
    images = make_images(5)
    index = torch.tensor([3, 3, 0])
    view = Augmentation(())(make_set(images), index, seeded())
    assert torch.equal(view.images, images[index] / 255)
    assert torch.equal(view.source, index)
    assert view.parameters.shape == (3, 0)
    assert Augmentation(()).specs == ()


@given(
    height=st.integers(2, 12),
    width=st.integers(2, 12),  # torch's own antialiasing repeats one row over images that are one pixel wide
    count=st.integers(0, 4),
    steps=st.sets(st.sampled_from(IMAGE_STEPS)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_batch(height, width, count, steps, seed):
    augmentation = Augmentation(tuple(steps))
    images = make_images(count + 1, height, width)
    view = augmentation(make_set(images), torch.arange(count), seeded(seed))
    assert view.images.shape == (count, 3, height, width)
    assert view.parameters.shape == (count, len(augmentation.specs))
    if count:
        assert_as_torchvision(augmentation, images[:count], view.parameters, view.images)


def test_large_batches_are_done_in_parts_without_a_seam(monkeypatch):
    images = make_images(50, 8, 8)
    whole = view_of(Augmentation(IMAGE_STEPS), make_set(images))
    monkeypatch.setattr(augmentation, "CHUNK", 7 * 64)
    parts = view_of(Augmentation(IMAGE_STEPS), make_set(images))
    assert torch.equal(whole.parameters, parts.parameters)
    torch.testing.assert_close(whole.images, parts.images, rtol=0, atol=1e-6)


def test_autocast_does_not_cost_precision():
    augmentation, images = Augmentation(IMAGE_STEPS), make_set()
    plain = view_of(augmentation, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(view_of(augmentation, images).images, plain.images)


# ---- replay


@pytest.mark.parametrize("size", [(32, 32), (20, 48)])
@pytest.mark.parametrize("steps", [*((step,) for step in ALL), IMAGE_STEPS, ALL, ()])
def test_replay_gives_the_same_pixels(steps, size):
    world = make_world()
    images = make_set(make_images(len(world), *size), **world.factors)
    augmentation = Augmentation(steps, sessions=3)
    index = torch.randint(len(images), (80,), generator=seeded(5))
    view = augmentation(images, index, seeded(6))
    before = images.images.clone()
    assert torch.equal(augmentation.replay(images.images[view.source], view.parameters), view.images)
    floats = images.floats(view.source)
    assert torch.equal(augmentation.replay(floats, view.parameters), view.images)
    assert torch.equal(floats, images.floats(view.source)), "replay changed what it was given"
    assert torch.equal(images.images, before)


def test_replay_of_one_image_of_a_batch():
    augmentation, images = Augmentation(IMAGE_STEPS), make_set()
    view = view_of(augmentation, images)
    for row in range(0, 64, 7):
        alone = augmentation.replay(images.images[row : row + 1], view.parameters[row : row + 1])
        torch.testing.assert_close(alone, view.images[row : row + 1], rtol=0, atol=1e-6)


def test_replay_refuses_parameters_of_another_augmentation():
    with pytest.raises(ValueError, match=r"\[2, 1\].*\[2, 4\]"):
        Augmentation(("flip",)).replay(make_images(2), torch.zeros(2, 4))


def test_same_seed_same_view_and_next_view_differs():
    augmentation, images = Augmentation(IMAGE_STEPS), make_set()
    generator = seeded(3)
    first, second = (augmentation(images, torch.arange(64), generator) for _ in range(2))
    again = view_of(augmentation, images, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not (first.parameters == second.parameters).all(1).any()


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    view_of(Augmentation(ALL, sessions=3), make_world())
    assert torch.equal(torch.get_rng_state(), before)


# ---- parameters


def draw(count: int, augmentation: Augmentation | None = None, size: tuple[int, int] = (32, 32)) -> Tensor:
    """Parameters [count, D] without pixels."""
    augmentation = augmentation or Augmentation(IMAGE_STEPS)
    drawn = augmentation._draw(lambda rows: torch.rand(rows, count, generator=seeded()), *size)
    return augmentation._stack(drawn)


def test_columns_are_the_papers_ten_and_the_order():
    specs = Augmentation(("grayscale", "jitter", "flip", "crop")).specs
    assert tuple(spec.name for spec in specs if spec.predicted) == PAPER_COLUMNS
    assert [spec.name for spec in specs if not spec.predicted] == ["jitter_order"] == [specs[-1].name]
    names = [spec.name for spec in Augmentation(ALL[::-1], sessions=4).specs]
    assert names == ["sin_azimuth", "cos_azimuth", "elevation", "distance", "session", *PAPER_COLUMNS, "jitter_order"]
    session = Augmentation(("session",), sessions=4).specs[0]
    assert (session.kind, session.low, session.high, session.predicted) == ("categorical", 0, 3, True)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.5])
def test_parameters_stay_in_the_range_of_their_spec(strength):
    augmentation = Augmentation(ALL, sessions=3, jitter_strength=strength)
    world = make_world()
    view = augmentation(world, torch.arange(len(world)).repeat(40), seeded())
    for spec, column in zip(augmentation.specs, view.parameters.T, strict=True):
        assert column.min() >= spec.low - 1e-6, spec
        assert column.max() <= spec.high + 1e-6, spec
        if spec.kind != "continuous":
            assert set(column.tolist()) == set(range(int(spec.high) + 1)), spec


def test_crop_statistics_are_those_of_the_literature():
    """A simulation of torchvision's crop with 200,000 draws, as used for CIFAR in EquiMod."""
    parameters = draw(200_000)
    pixels = parameters[:, :4] * 32
    assert torch.equal(pixels, pixels.round())
    wanted = {"crop_y": (4.305, 3.979), "crop_x": (4.312, 3.976)}
    wanted |= {"crop_height": (23.374, 4.967), "crop_width": (23.360, 4.960)}
    augmentation = Augmentation(IMAGE_STEPS)
    for name, (mean, spread) in wanted.items():
        column = pixels[:, augmentation.column(name)]
        assert column.mean() == pytest.approx(mean, abs=0.05), name
        assert column.std() == pytest.approx(spread, abs=0.04), name
    whole = (pixels[:, 2:] == 32).all(1).float().mean()
    assert whole == pytest.approx(0.0025, abs=0.0006)
    assert (pixels[:, :2] + pixels[:, [3, 2]]).max() == 32


@pytest.mark.parametrize("size", [(32, 32), (8, 40), (40, 8)])
def test_crops_are_distributed_as_torchvisions(size):
    """Two samples of each of five quantities; the last two sizes often need the centre crop."""
    count = 6000
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    pairs = [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = torch.tensor(pairs, dtype=torch.float32)  # top, left, height, width
    ours = (draw(count, Augmentation(("crop",)), size)[:, [1, 0, 2, 3]] * torch.tensor([*size, *size])).round()
    for a, b in zip([*ours.T, ours[:, 2] * ours[:, 3]], [*theirs.T, theirs[:, 2] * theirs[:, 3]]):
        values = torch.cat([a, b]).unique()
        distance = ((a[:, None] <= values).float().mean(0) - (b[:, None] <= values).float().mean(0)).abs().max()
        assert distance < 1.95 * math.sqrt(2 / count)  # Kolmogorov-Smirnov, p = 0.001


def test_jitter_is_distributed_as_torchvisions():
    augmentation = Augmentation(IMAGE_STEPS)
    parameters = draw(40_000, augmentation)
    reference = ColorJitter(0.4, 0.4, 0.4, 0.1)
    applied = (parameters[:, 5:9] != torch.tensor([1.0, 1, 1, 0])).any(1)
    assert applied.float().mean() == pytest.approx(0.8, abs=0.01)
    for name in ("brightness", "contrast", "saturation", "hue"):
        column, (low, high) = parameters[:, augmentation.column(name)][applied], getattr(reference, name)
        assert column.min() == pytest.approx(low, abs=2e-3)
        assert column.max() == pytest.approx(high, abs=2e-3)
        assert column.mean() == pytest.approx((low + high) / 2, abs=0.01)
        assert column.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.02)
    orders = torch.bincount(parameters[:, -1].long(), minlength=24)
    assert len(orders) == 24
    assert (orders / 40_000 * 24 - 1).abs().max() < 0.12
    for name, probability in (("flip", 0.5), ("grayscale", 0.2)):
        assert parameters[:, augmentation.column(name)].mean() == pytest.approx(probability, abs=0.01)


def test_draws_are_independent():
    """Of the other view, of the next sample, and of the other parameters that torchvision draws on their own."""
    augmentation, images = Augmentation(IMAGE_STEPS, jitter_probability=1), make_set(make_images(8, 4, 4))
    generator, index = seeded(), torch.zeros(20_000, dtype=torch.int64)
    first, second = (augmentation(images, index, generator).parameters for _ in range(2))
    both = torch.cat([first[:-1], second[:-1], first[1:]], 1)
    width = first.shape[1]
    correlation = torch.corrcoef(both.T)
    assert correlation[:width, width:].abs().max() < 0.035
    free = [augmentation.column(name) for name in PAPER_COLUMNS[4:]] + [width - 1]
    within = correlation[:width][free][:, free] - torch.eye(len(free))
    assert within.abs().max() < 0.035
    assert len(first.unique(dim=0)) == len(first)


def test_probabilities_and_scale_reach_the_draws():
    augmentation = Augmentation(
        IMAGE_STEPS, crop_scale=(0.5, 0.6), flip_probability=1, jitter_probability=0, grayscale_probability=0
    )
    parameters = draw(2000, augmentation, (64, 64))
    area = parameters[:, 2] * parameters[:, 3]
    assert area.min() > 0.48
    assert area.max() < 0.62
    assert (parameters[:, 4:10] == torch.tensor([1.0, 1, 1, 1, 0, 0])).all()


# ---- partners


def check_partners(view: View, world: ImageSet, index: Tensor, other_session: bool) -> None:
    """Each anchor's partners are all the images they may be, about equally often."""
    objects, sessions = world.factors["object"].tolist(), world.factors["session"].tolist()
    for anchor in index.unique().tolist():
        allowed = {
            i
            for i in range(len(world))
            if objects[i] == objects[anchor] and i != anchor and not (other_session and sessions[i] == sessions[anchor])
        }
        drawn = view.source[index == anchor].bincount(minlength=len(world))
        assert set(drawn.nonzero()[:, 0].tolist()) == allowed
        expected = drawn.sum() / len(allowed)
        assert (drawn[drawn > 0] - expected).abs().max() < 6 * math.sqrt(expected)


@pytest.mark.parametrize("steps", [("pose",), ("session",), ("pose", "session")])
def test_partners(steps):
    world = make_world()
    augmentation = Augmentation(steps, sessions=3)
    index = torch.arange(len(world)).repeat(400)
    view = augmentation(world, index, seeded())
    check_partners(view, world, index, "session" in steps)
    assert torch.equal(view.images, world.floats(view.source))
    for row in range(0, len(index), 611):
        named = dict(zip([spec.name for spec in augmentation.specs], view.parameters[row].tolist()))
        change = {k: float(v[view.source[row]] - v[index[row]]) for k, v in world.factors.items()}
        if "pose" in steps:
            # the angle wraps: what counts is where it leads to, not how it is written
            angle = math.atan2(named["sin_azimuth"], named["cos_azimuth"])
            assert math.remainder(angle - change["azimuth"], 2 * math.pi) == pytest.approx(0, abs=1e-5)
            assert named["elevation"] == pytest.approx(change["elevation"], abs=1e-6)
            assert named["distance"] == pytest.approx(change["distance"], abs=1e-6)
        if "session" in steps:
            assert named["session"] == world.factors["session"][view.source[row]]


def test_a_turn_can_be_said_in_degrees_and_wraps():
    world = make_world()
    plain, said = Augmentation(("pose",)), Augmentation(("pose",), azimuth_as="degrees")
    index = torch.arange(len(world)).repeat(20)
    turn, degrees = (augmentation(world, index, seeded()) for augmentation in (plain, said))
    assert torch.equal(turn.source, degrees.source)
    assert [spec.name for spec in said.specs] == ["azimuth_degrees", "elevation", "distance"]
    angle = torch.atan2(turn.parameters[:, 0], turn.parameters[:, 1]).rad2deg()
    found = degrees.parameters[:, 0]
    assert found.min() >= -180
    assert found.max() < 180
    gap = (found - angle + 180) % 360 - 180
    assert gap.abs().max() < 1e-3
    torch.testing.assert_close(degrees.parameters[:, 1:], turn.parameters[:, 2:])
    difference = pair_targets(said.specs, degrees.parameters[:10], degrees.parameters[10:20])["pose"]
    assert difference[:, 0].abs().max() <= 180


def test_pose_then_image_steps_change_the_partner():
    world = make_world()
    augmentation = Augmentation(("flip", "pose"), flip_probability=1)
    view = view_of(augmentation, world)
    assert torch.equal(view.images, world.floats(view.source).flip(-1))
    assert (view.source != torch.arange(len(world))).all()


def test_each_image_set_has_its_own_partners():
    augmentation, world = Augmentation(("pose",)), make_world()
    view_of(augmentation, world)
    turned = world.subset(torch.arange(len(world)).flip(0))
    index = torch.arange(len(world)).repeat(400)
    check_partners(augmentation(turned, index, seeded()), turned, index, other_session=False)
    before = len(positives._TABLES)
    del turned
    gc.collect()
    assert len(positives._TABLES) < before


def test_one_image_set_serves_several_augmentations():
    world = make_world()
    index = torch.arange(len(world)).repeat(400)
    for steps in (("pose",), ("session",), ("pose", "session"), ("pose",)):
        check_partners(Augmentation(steps, sessions=3)(world, index, seeded()), world, index, "session" in steps)


def test_partners_need_no_poses_for_another_session():
    world = make_world()
    factors = {name: world.factors[name] for name in ("object", "session")}
    view_of(Augmentation(("session",), sessions=3), make_set(world.images, **factors))
    with pytest.raises(ValueError, match=r"'pose'.*'azimuth'.*'made by hand'"):
        view_of(Augmentation(("pose", "session"), sessions=3), make_set(world.images, **factors))


# ---- errors


@pytest.mark.parametrize("steps", [("crop", "blur"), ("crop", "crop"), "crop"])
def test_wrong_steps(steps):
    with pytest.raises(ValueError, match="pose, session, crop, flip, jitter, grayscale"):
        Augmentation(steps)


@pytest.mark.parametrize(
    "argument",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.8, 0.2)},
        {"crop_scale": (0.2, 1.5)},
        {"flip_probability": 1.1},
        {"jitter_strength": -0.1},
        {"jitter_probability": math.nan},
        {"grayscale_probability": -1},
    ],
)
def test_numbers_out_of_range(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        Augmentation(IMAGE_STEPS, **argument)


def test_sessions_must_be_counted():
    with pytest.raises(ValueError, match="sessions"):
        Augmentation(("session",))
    with pytest.raises(ValueError, match=r"sessions=2 .*\[0, 1, 2\]"):
        view_of(Augmentation(("session",), sessions=2), make_world())


def test_missing_factor_names_it_and_the_image_set():
    with pytest.raises(ValueError, match=r"'object'.*'made by hand'"):
        view_of(Augmentation(("pose",)), make_set())


def test_object_without_partner_is_named():
    world = make_world()
    one = (world.factors["object"] == 23).nonzero()[0]
    rest = (world.factors["object"] != 23).nonzero()[:, 0]
    with pytest.raises(ValueError, match=r"object 23 .*no other image.*leave the object out"):
        view_of(Augmentation(("pose",)), world.subset(torch.cat([one, rest])))
    here = (world.factors["object"] != 13) | (world.factors["session"] == 1)
    with pytest.raises(ValueError, match=r"object 13 .*from another session"):
        view_of(Augmentation(("session",), sessions=3), world.subset(here))
    view_of(Augmentation(("pose",)), world.subset(here))


def test_column_that_is_not_there():
    augmentation = Augmentation(("flip", "grayscale"))
    assert augmentation.column("grayscale") == 1
    with pytest.raises(ValueError, match=r"'hue'.*flip, grayscale"):
        augmentation.column("hue")


def test_augmentations_can_be_copied_and_pickled():
    augmentation, world = Augmentation(ALL, sessions=3), make_world()
    view = view_of(augmentation, world)
    for other in (copy.deepcopy(augmentation), pickle.loads(pickle.dumps(augmentation))):
        assert torch.equal(view_of(other, world).images, view.images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_same():
    world = make_world()
    world = make_set(make_images(len(world)), **world.factors)
    augmentation = Augmentation(ALL, sessions=3)
    there = view_of(augmentation, world.to("cuda"))
    here = view_of(augmentation, world)
    assert torch.equal(there.source.cpu(), here.source)
    torch.testing.assert_close(there.parameters.cpu(), here.parameters, rtol=0, atol=1e-5)
    torch.testing.assert_close(there.images.cpu(), here.images, rtol=0, atol=1e-3)
    replayed = augmentation.replay(world.to("cuda").images[there.source], there.parameters)
    assert torch.equal(replayed, there.images)
    own = augmentation(world.to("cuda"), torch.arange(9), torch.Generator("cuda").manual_seed(0))
    assert own.images.device.type == "cuda"
    assert own.images.shape == (9, 3, 32, 32)


def test_colours_first_is_the_same_operations_in_another_order():
    images = make_noise_images(64, 16)
    paper, colours = (Augmentation(IMAGE_STEPS, order=order) for order in ("paper", "reversed"))
    view, other = (order(images, torch.arange(64), torch.Generator().manual_seed(0)) for order in (paper, colours))
    assert torch.equal(view.parameters, other.parameters)
    assert torch.equal(colours.replay(images.images, other.parameters), other.images)
    expected = images.images
    for steps in (("grayscale",), ("jitter",), ("crop", "flip")):
        part = Augmentation(steps)
        expected = part.replay(expected, view.parameters[:, [colours.column(spec.name) for spec in part.specs]])
    assert torch.allclose(other.images, expected, atol=TOLERANCE)
    assert (view.images - other.images).abs().max() > 0.01
    with pytest.raises(ValueError, match="order"):
        Augmentation(IMAGE_STEPS, order="backwards")
