"""The known world: the ray caster against closed forms and brute force, the laws of its factors, and its cache."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from pathlib import Path

import pytest
import torch

from ciperlib.analyse.features import Features
from ciperlib.analyse.probing.probes import fit_linear_probe
from ciperlib.data import turntable
from ciperlib.data.imageset import load_images
from ciperlib.data.turntable import CATEGORIES, OBJECTS, SESSIONS, families, raycaster, render, scene, solids
from ciperlib.data.turntable.catalogue import ball
from ciperlib.data.turntable.scene import load_scene, make_table


def views(n: int, seed: int = 0) -> list[torch.Tensor]:
    """Random object, session, azimuth, elevation, distance."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(n, 3, generator=generator)
    object = torch.randint(0, len(OBJECTS), (n,), generator=generator)
    session = torch.randint(0, len(SESSIONS), (n,), generator=generator)
    low, high = turntable.ELEVATIONS
    return [object, session, 2 * math.pi * draws[:, 0], low + (high - low) * draws[:, 1], 0.8 + 0.5 * draws[:, 2]]


def pose(n: int, object=0, session=0, azimuth=0.0, elevation=0.5, distance=1.0) -> list[torch.Tensor]:
    """The same view n times, save for the columns that are given as tensors."""
    columns = (object, session, azimuth, elevation, distance)
    return [column if isinstance(column, torch.Tensor) else torch.full((n,), column) for column in columns]


@pytest.fixture
def world(monkeypatch):
    """Lets a test put other parts in the place of every object; no parts: the empty room."""
    scene = load_scene(torch.device("cpu"))

    def build(parts, height=0.25):
        heights = scene.height if height is None else torch.full((len(OBJECTS),), height)
        kinds = {part.kind for part in parts}
        tables = [
            make_table(kind, [[p for p in parts if p.kind == kind]] * len(OBJECTS))
            if kind in kinds
            else table._replace(used=torch.zeros_like(table.used))
            for kind, table in enumerate(scene.tables)
        ]
        new = scene._replace(tables=tuple(tables), height=heights)
        monkeypatch.setattr(raycaster, "load_scene", lambda *_: new)

    return build


# --- solids: against brute force in float64 -------------------------------------------------------------------------


def inside(kind: int, q: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Whether points [3, ...] are in the solid, from its definition."""
    a, b, c = size
    x, y, z = q
    if kind == 0:
        return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 <= 1
    if kind == 1:
        return (x.abs() <= a) & (y.abs() <= b) & (z.abs() <= c)
    if kind == 2:
        return (z.abs() <= c) & (torch.hypot(x, y) <= a + (b - a) * (z + c) / (2 * c))
    return torch.sqrt(x**2 + y**2 + (z.abs() - b).clamp_min(0) ** 2) <= a


def random_rays(kind: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(kind)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    size = 0.1 + 0.5 * draw(3, n)
    d = torch.nn.functional.normalize(draw(3, n) - 0.5, dim=0)
    d[:, :20] = torch.eye(3, dtype=torch.float64)[:, [0, 1, 2, 2]].repeat(1, 5)  # along an axis too
    p = draw(3, n) - 0.5
    return p - (p * d).sum(0) * d, d, size


@pytest.mark.parametrize("kind", range(4))
def test_each_solid_is_met_where_a_march_along_the_ray_enters_it(kind):
    p, d, size = random_rays(kind, 400)
    steps = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    along = p[..., None] + steps * d[..., None]
    occupied = inside(kind, along, size[..., None])
    expected = steps[occupied.byte().argmax(1)].masked_fill(~occupied.any(1), math.inf)
    for dtype, tolerance in ((torch.float64, 1.01e-3), (torch.float32, 1.2e-3)):
        t = solids.SOLIDS[kind][0](p.to(dtype), d.to(dtype), size.to(dtype)).double()
        both = t.isfinite() & expected.isfinite()
        assert both.sum() > 80
        assert (expected.isinf() & t.isinf()).sum() > 20
        # a march can step over a thin edge, but never find what is not there
        assert not (t.isinf() & (occupied.sum(1) > 1)).any()
        assert (t.isfinite() == expected.isfinite()).double().mean() > 0.98
        thick = both & (occupied.sum(1) > 20)
        gap = (expected - t)[thick]
        assert gap.min() > -1e-5
        assert gap.max() < tolerance


@pytest.mark.parametrize("kind", range(4))
def test_normals_are_perpendicular_to_the_surface_and_point_out(kind):
    p, d, size = random_rays(kind, 400)
    intersect, normal = solids.SOLIDS[kind]
    t = intersect(p, d, size)
    q = p + t * d
    n = normal(q, size)
    kept = t.isfinite()
    assert torch.allclose(n.norm(dim=0)[kept], torch.ones(1, dtype=torch.float64))
    assert ((n * d).sum(0)[kept] < 1e-9).all()
    smooth = torch.ones_like(kept)
    for axis in range(3):  # neighbouring rays meet the tangent plane, save at edges
        shifted = p.clone()
        shifted[axis] += 1e-6
        step = shifted + intersect(shifted, d, size) * d - q
        smooth &= (step * n).sum(0).abs() <= 1e-3 * step.norm(dim=0) + 1e-12
    assert smooth[kept].double().mean() > 0.97


# --- the caster: closed forms ---------------------------------------------------------------------------------------


def test_a_sphere_has_its_analytic_outline_and_depth(world):
    radius, distance = 0.2, 1.1
    world([ball((0, 0, 0.25), radius, "red")])
    columns = pose(3, elevation=torch.tensor([0.2, 0.7, 1.2]), distance=distance)
    _, masks, depth = render(*columns, image_size=64, rays=1)
    at = ((torch.arange(64, dtype=torch.float64) + 0.5) / 32 - 1) * raycaster.HALF_VIEW
    cosine = 1 / (1 + at[:, None] ** 2 + at**2).sqrt()
    sine = (1 - cosine**2).sqrt()
    expected = distance * cosine - (radius**2 - distance**2 * sine**2).clamp_min(0).sqrt()
    clear = (sine - radius / distance).abs() > 1e-4
    for mask, distances in zip(masks, depth):
        assert torch.equal(mask[clear], (sine < radius / distance)[clear])
        assert torch.allclose(distances[mask & clear].double(), expected[mask & clear], atol=2e-5)


def test_the_empty_room_has_the_depth_of_its_planes(world):
    world([])
    elevation = 0.4
    _, masks, depth = render(*pose(1, elevation=elevation), rays=1)
    assert not masks.any()
    at = ((torch.arange(32, dtype=torch.float64) + 0.5) / 16 - 1) * raycaster.HALF_VIEW
    angle = torch.atan(-at) - elevation  # of each row's middle, above the horizon
    floor = (0.25 + math.sin(elevation)) / -angle.sin()
    wall = (raycaster.WALL + math.cos(elevation)) / angle.cos()
    nearest = torch.where((angle < 0) & (floor < wall), floor, wall)
    assert 5 < (nearest == floor).sum() < 27  # both planes are in the picture
    slant = (1 + at**2 / (1 + at[:, None] ** 2)).sqrt()
    assert torch.allclose(depth[0].double(), nearest[:, None] * slant, rtol=2e-5)


def test_the_object_turns_counter_clockwise(world):
    world([ball((0.15, 0, 0.25), 0.05, "red")])
    _, masks, _ = render(*pose(4, azimuth=torch.arange(4) * math.pi / 2, elevation=1.3))
    right, up = torch.arange(32) - 15.5, 15.5 - torch.arange(32)
    count = masks.sum((1, 2))
    x, y = (masks.sum(1) * right).sum(1) / count, (masks.sum(2) * up).sum(1) / count
    centres = [(round(a), round(b)) for a, b in zip((x / 7).tolist(), (y / 7).tolist())]
    assert centres == [(1, 0), (0, 1), (-1, 0), (0, -1)]


def test_the_light_stays_when_the_object_turns(world):
    world([ball((0, 0, 0.25), 0.2, "white")])
    from_the_left = list(SESSIONS).index("beach")
    images, _, _ = render(*pose(6, session=from_the_left, azimuth=torch.arange(6.0)), rays=1)
    assert (images.int() - images[:1].int()).abs().max() <= 1
    assert images[0, 0, 16, 10] > 1.2 * images[0, 0, 16, 21]


def test_mask_and_depth_say_where_the_image_differs_from_the_empty_room(world):
    columns = views(60)
    full = render(*columns, rays=1)
    world([], height=None)
    empty = render(*columns, rays=1)
    differs = (full.images != empty.images).any(1)
    assert not (differs & ~full.masks).any()
    assert differs[full.masks].float().mean() > 0.97
    assert torch.equal(full.masks, full.depth < empty.depth)


def test_a_mask_is_the_majority_of_a_pixels_rays(world):
    columns = views(20)
    _, masks, depth = render(*columns)
    share = render(*columns, image_size=128, rays=1).masks.view(20, 32, 4, 32, 4).float().mean((2, 4))
    sure = (share < 0.2) | (share > 0.8)
    assert torch.equal(masks[sure], share[sure] > 0.5)
    world([], height=None)
    empty = render(*columns)
    assert (depth == empty.depth)[share == 0].float().mean() > 0.995
    # where the mask is False, depth is that of the room, whatever part of the object shows
    assert (depth - empty.depth).abs()[~masks].max() < 0.05
    assert (empty.depth - depth)[masks].min() > -0.02  # the object's rays may lie above the pixel's middle
    assert (empty.depth - depth)[masks].mean() > 0.1


def test_what_is_in_front_hides_what_is_behind(world):
    world([ball((0.1, 0, 0.25), 0.08, "red"), ball((-0.1, 0, 0.25), 0.08, "blue")])
    quarter = math.pi / 2
    images, _, _ = render(*pose(2, session=6, azimuth=torch.tensor([-quarter, quarter]), elevation=0.1))
    red, _, blue = images[:, :, 16, 16].int().T
    assert (red > blue).tolist() == [True, False]


def test_a_pixel_is_the_mean_of_what_it_covers():
    columns = views(30)
    fine = render(*columns, image_size=256, rays=1).images.float()
    fine = torch.nn.functional.avg_pool2d(fine, 8)
    errors = [(render(*columns, rays=rays).images - fine).abs().mean().item() for rays in (1, 4, 16)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


# --- the caster: laws -----------------------------------------------------------------------------------------------


def assert_same(a: turntable.Rendering, b: turntable.Rendering) -> None:
    assert (a.images.int() - b.images.int()).abs().max() <= 1
    assert torch.equal(a.masks, b.masks)
    assert torch.allclose(a.depth, b.depth, atol=1e-5)


def test_an_image_is_the_same_alone_in_a_batch_and_in_small_chunks(monkeypatch):
    columns = views(40)
    together = render(*columns)
    for i in range(0, 40, 4):
        alone = render(*(column[i : i + 1] for column in columns))
        assert_same(alone, turntable.Rendering(*(tensor[i : i + 1] for tensor in together)))
    assert all(torch.equal(a, b) for a, b in zip(together, render(*columns)))
    monkeypatch.setattr(raycaster, "RAYS_AT_ONCE", (3 * 4096, 3 * 4096))
    assert_same(render(*columns), together)


def test_rendering_gives_the_threads_back(monkeypatch):
    before = torch.get_num_threads()
    render(*views(70))
    assert torch.get_num_threads() == before

    def fail(*_):
        raise RuntimeError("planted")

    monkeypatch.setattr(raycaster, "_look", fail)
    with pytest.raises(RuntimeError, match="planted"):
        render(*views(70))
    assert torch.get_num_threads() == before


def test_reduced_precision_around_it_does_not_reach_the_images():
    columns = views(8)
    expected = render(*columns)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(render(*columns), expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_small_turn_is_a_small_change_and_a_full_turn_none():
    object, session, azimuth, elevation, distance = views(100)
    images = lambda turn: render(object, session, azimuth + turn, elevation, distance).images.float()  # noqa: E731
    start = images(0.0)
    half, one, two = ((images(math.radians(turn)) - start).abs() for turn in (0.5, 1.0, 2.0))
    assert half.mean() < 0.5
    assert half.mean((1, 2, 3)).max() < 1.5
    assert (half > 32).float().mean() < 0.004  # outlines
    for small, large in ((half, one), (one, two)):
        assert 1.6 < large.mean() / small.mean() < 2.2
    whole = (images(2 * math.pi) - start).abs()
    assert (whole > 1).float().mean() < 1e-3


def test_the_background_does_not_tell_the_azimuth():
    object = torch.arange(len(OBJECTS))
    sessions = object % len(SESSIONS)
    one, two = (render(*pose(50, object, sessions, azimuth=turn, elevation=0.3), rays=1) for turn in (0.4, 2.9))
    outside = ~(one.masks | two.masks)
    difference = (one.images.int() - two.images.int()).abs().amax(1)
    assert difference[outside].max() == 0
    assert (one.depth - two.depth)[outside].abs().max() == 0
    assert difference[~outside].float().mean() > 20


@pytest.mark.parametrize("degrees", [10, 40, 70])
def test_every_object_shows_its_azimuth(degrees):
    turns, n = 12, len(OBJECTS)
    object = torch.arange(n).repeat_interleave(turns)
    azimuth = (torch.arange(turns) * 2 * math.pi / turns).repeat(n)
    images, masks, _ = render(*pose(n * turns, object, 6, azimuth, math.radians(degrees)))
    images, masks = images.float().view(n, turns, 3, 32, 32), masks.view(n, turns, 32, 32)
    for shift in range(1, turns // 2 + 1):
        seen = (masks | masks.roll(shift, 1))[:, :, None]
        change = ((images - images.roll(shift, 1)).abs() * seen).sum((2, 3, 4)) / seen.sum((2, 3, 4)) / 3
        least, which = change.amin(1).min(0)
        assert least > 4, f"{OBJECTS[which]} looks the same after {360 * shift // turns} degrees"


def test_objects_fill_the_frame_and_stay_in_it():
    n = len(OBJECTS)
    for turn in (0.5, 2.0):
        middle = render(*pose(n, torch.arange(n), azimuth=turn)).masks.float().mean((1, 2))
        assert middle.min() > 0.08
        assert middle.max() < 0.45
        near = render(*pose(n, torch.arange(n), azimuth=turn, distance=0.8)).masks
        border = torch.cat([near[:, 0], near[:, -1], near[:, :, 0], near[:, :, -1]], 1)
        assert border.float().mean(1).max() < 0.3


def test_objects_and_sessions_all_look_different():
    n = len(OBJECTS)
    objects = render(*pose(n, torch.arange(n), azimuth=0.7)).images.float().flatten(1)
    assert (torch.cdist(objects, objects, p=1) / objects.shape[1] + 100 * torch.eye(n)).min() > 2
    n = len(SESSIONS)
    sessions = render(*pose(n, session=torch.arange(n))).images.float().flatten(1)
    assert (torch.cdist(sessions, sessions, p=1) / sessions.shape[1] + 100 * torch.eye(n)).min() > 8


def test_shapes_types_and_refusals():
    images, masks, depth = render(*views(2), image_size=17, rays=3)
    assert (images.dtype, masks.dtype, depth.dtype) == (torch.uint8, torch.bool, torch.float32)
    assert (images.shape, masks.shape, depth.shape) == ((2, 3, 17, 17), (2, 17, 17), (2, 17, 17))
    assert len(render(*views(0)).images) == 0
    with pytest.raises(ValueError, match=r"same length.*azimuth \[3\]"):
        render(*pose(2, azimuth=torch.zeros(3)))
    for name, wrong in {"object": 50, "session": -1, "elevation": 30.0, "distance": 0.0, "azimuth": math.nan}.items():
        with pytest.raises(ValueError, match=name):
            render(*pose(2, **{name: wrong}))
    with pytest.raises(ValueError, match="rays"):
        render(*views(1), rays=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: compares its images with the CPU's")
def test_cpu_and_gpu_agree():
    columns = views(200)
    cpu, gpu = render(*columns), render(*(column.cuda() for column in columns))
    difference = (cpu.images.int() - gpu.images.cpu().int()).abs()
    assert (difference <= 1).float().mean() > 0.999
    assert (cpu.masks == gpu.masks.cpu()).float().mean() > 0.999


# --- the image sets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["turntable", "turntable_sessions"])
def test_factors_are_true_balanced_and_named(name, tmp_path):
    ids, sessions = [], []
    for split in ("train", "test"):
        images = load_images(name, split, size=120, root=tmp_path)
        factors = images.factors
        assert images.name == f"{name}-32"
        assert {factors[k].dtype for k in ("category", "object", "session")} == {torch.int64}
        assert {factors[k].dtype for k in ("azimuth", "elevation", "distance")} == {torch.float32}
        again = render(*(factors[k] for k in turntable.RENDERED))
        assert torch.equal(again.images, images.images)
        assert torch.equal(again.masks, images.masks)
        assert set(factors["object"].bincount().tolist()) == {2, 3}
        for category, object in zip(factors["category"], factors["object"]):
            assert images.labels["object"][object].startswith(images.labels["category"][category] + " ")
        assert len(images.labels["session"]) == len(SESSIONS)
        assert torch.equal(images.groups, images.ids)
        ids += images.ids.tolist()
        sessions.append(set(turntable._factors(turntable.DRAWN[name][split], 2000)["session"].tolist()))
    assert len(set(ids)) == 240
    everything = set(range(len(SESSIONS)))
    assert sessions == ([everything] * 2 if name == "turntable" else [{0, 1}, everything - {0, 1}])


def test_the_draws_cover_their_ranges_and_splits_differ():
    train, test = (turntable._factors(turntable.DRAWN["turntable"][split], 5000) for split in ("train", "test"))
    for name, low, high in (
        ("azimuth", 0, 2 * math.pi),
        ("elevation", math.radians(10), math.radians(70)),
        ("distance", 0.8, 1.3),
    ):
        unit = (train[name].double() - low) / (high - low)
        assert unit.min() > -1e-6
        assert unit.max() < 1 + 1e-6
        assert abs(unit.mean() - 0.5) < 0.02
        assert abs(unit.var() - 1 / 12) < 0.005
        assert not torch.equal(train[name][:100], test[name][:100])
    pairs = torch.stack([train[name].double() for name in turntable.RENDERED])
    assert (torch.corrcoef(pairs) - torch.eye(5)).abs().max() < 0.06
    assert train["session"].bincount().min() > 0.8 * 5000 / 11


def test_the_first_images_are_the_same_whatever_the_size(tmp_path):
    small = load_images("turntable", "test", size=7, root=tmp_path / "a")
    large = load_images("turntable", "test", size=61, root=tmp_path / "b")
    start = large.subset(slice(7))
    assert (small.images.int() - start.images.int()).abs().max() <= 1
    assert all(torch.equal(small.factors[name], start.factors[name]) for name in small.factors)
    assert small.digest() == start.digest()
    assert [turntable.DRAWN["turntable"][split].size for split in ("train", "test")] == [5000, 2500]


# --- families -------------------------------------------------------------------------------------------------------


def colours_and_area(images) -> torch.Tensor:
    """Mean and histogram of each colour, and the share of the pixels on the object."""
    pixels = images.images.float().flatten(2) / 256
    bins = [((pixels >= k / 8) & (pixels < (k + 1) / 8)).float().mean(2) for k in range(8)]
    return torch.cat([pixels.mean(2), *bins, images.masks.float().mean((1, 2))[:, None]], 1)


def told_by_colour(train, test) -> float:
    """Accuracy of a linear probe of the category on colours and silhouette area."""
    parts = [
        Features(colours_and_area(part), part.factors, part.ids, part.groups, part.labels, part.name, part.split)
        for part in (train, test)
    ]
    return fit_linear_probe(*parts, "category", resamples=0).value


def test_a_drawn_object_is_the_same_on_every_machine_and_each_is_another():
    drawn = families.things()
    assert len(drawn) == len(families.NAMES) == 600
    content = hashlib.sha256()
    for thing in drawn:
        for part in thing.parts:
            numbers = [round(float(x), 5) + 0.0 for x in (*part.centre, *part.size)]
            content.update(f"{part.kind} {numbers} {part.colour}".encode())
    assert content.hexdigest()[:16] == "bae11a38f8c5bcb4"
    assert len({str([part.size for part in thing.parts]) for thing in drawn}) == 600


def test_no_object_is_on_both_sides_and_both_have_every_category(tmp_path):
    train, new = (load_images("turntable_families", split, size=800, root=tmp_path) for split in ("train", "test"))
    seen = load_images("turntable_families_seen", "test", size=400, root=tmp_path)
    assert not set(train.factors["object"].tolist()) & set(new.factors["object"].tolist())
    assert set(seen.factors["object"].tolist()) == set(train.factors["object"].tolist())
    for part in (train, new, seen):
        assert part.factors["category"].unique().tolist() == list(range(len(CATEGORIES)))
        for category, object in zip(part.factors["category"], part.factors["object"]):
            assert part.labels["object"][object].startswith(part.labels["category"][category] + " ")
    places = load_images("turntable_families_places", "test", size=400, root=tmp_path)
    assert not set(places.factors["session"].tolist()) & set(train.factors["session"].tolist())
    assert load_images("turntable_families_places", "train", size=800, root=tmp_path).digest() == train.digest()
    again = new.rerender(azimuth=new.factors["azimuth"] + 2 * math.pi)
    assert (again.images.int() - new.images.int()).abs().float().mean() < 0.1


def test_every_drawn_object_can_be_seen_and_shows_its_azimuth():
    n = len(families.NAMES)
    far = render(*pose(n, torch.arange(n), azimuth=0.3, distance=1.3), world="families").masks.float().mean((1, 2))
    assert far.min() > 0.02
    turns = torch.arange(n).repeat_interleave(4)
    azimuth = (torch.arange(4) * math.pi / 2).repeat(n)
    images, masks, _ = render(*pose(4 * n, turns, 6, azimuth, math.radians(30)), world="families")
    images, masks = images.float().view(n, 4, 3, 32, 32), masks.view(n, 4, 32, 32)
    for shift in (1, 2):
        either = (masks | masks.roll(shift, 1))[:, :, None]
        change = ((images - images.roll(shift, 1)).abs() * either).sum((2, 3, 4)) / either.sum((2, 3, 4)) / 3
        least, which = change.amin(1).min(0)
        assert least > 3, f"{families.NAMES[which]} looks the same after {90 * shift} degrees"


@pytest.mark.slow
def test_colour_and_size_do_not_give_the_category_away(tmp_path):
    train, new = (load_images("turntable_families", split, size=4000, root=tmp_path) for split in ("train", "test"))
    assert told_by_colour(train, new) <= 0.15  # chance is 0.10


@pytest.mark.slow
def test_a_family_whose_colour_leaks_is_seen_by_the_probe_on_colours(tmp_path, monkeypatch):
    def painted() -> tuple:
        paint = lambda thing: thing._replace(parts=[part._replace(colour="lime") for part in thing.parts])  # noqa: E731
        things = families.things()
        return tuple(paint(thing) if i // families.EACH == 3 else thing for i, thing in enumerate(things))

    monkeypatch.setitem(scene.WORLDS, "families", painted)
    load_scene.cache_clear()
    try:
        train, new = (load_images("turntable_families", split, size=2000, root=tmp_path) for split in ("train", "test"))
        assert told_by_colour(train, new) > 0.18
    finally:
        load_scene.cache_clear()


def test_an_object_that_shows_nothing_is_drawn_again_or_refused():
    flat = ((1e-12, 1e-9),)
    ball_of = families.Family(lambda r: [ball((0, 0, 1), r, "red")], flat, lambda has, r: [], 0, 0.2)
    with pytest.raises(ValueError, match="10 draws of speck 0 show nothing"):
        families.draw_thing("speck", 0, {"speck": ball_of})
    drawn = []

    def build(r):
        drawn.append(r)
        return [ball((0, 0, 1), r, "red")]

    some = ball_of._replace(build=build, ranges=((-0.5, 0.5),))
    sizes = [families.draw_thing("speck", number, {"speck": some}).parts[0].size[0] for number in range(30)]
    assert min(sizes) > 0.03
    assert len(drawn) > 30  # some were drawn again
    for name, number in (("boat", 0), ("mug", -1)):
        with pytest.raises(ValueError, match=f"no object {name} {number}"):
            families.draw_thing(name, number)
    with pytest.raises(ValueError, match="object must be from 0 to 599"):
        render(*pose(1, object=600), world="families")
    with pytest.raises(ValueError, match="no world 'moon'"):
        render(*pose(1), world="moon")


# --- the cache ------------------------------------------------------------------------------------------------------


def load(root: Path, size: int = 12, **options) -> torch.Tensor:
    return load_images("turntable", "train", size=size, root=root, **options).images


@pytest.fixture
def renders(monkeypatch) -> list[int]:
    """How many images were rendered, call by call."""
    calls = []
    real = turntable.render
    monkeypatch.setattr(turntable, "render", lambda *a, **k: calls.append(len(a[0])) or real(*a, **k))
    return calls


def test_images_are_rendered_once_and_serve_smaller_sizes(tmp_path, renders):
    first = load_images("turntable", "train", size=12, root=tmp_path)
    again = load_images("turntable", "train", size=12, root=tmp_path)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    assert torch.equal(load(tmp_path, 5), first.images[:5])
    assert renders == [12]
    load(tmp_path, 13)
    load(tmp_path, image_size=16)
    load_images("turntable", "test", size=12, root=tmp_path)
    load_images("turntable_sessions", "train", size=12, root=tmp_path)
    assert renders == [12, 13, 12, 12, 12]


def test_another_version_of_the_renderer_does_not_use_old_images(tmp_path, renders, monkeypatch):
    load(tmp_path)
    monkeypatch.setitem(turntable.VERSIONS, "turntable", turntable.VERSION + 1)
    load(tmp_path)
    assert renders == [12, 12]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def take_another(path: Path) -> None:
    load(path.parents[1], image_size=16)
    path.write_bytes(next(path.parent.glob("turntable-16-*")).read_bytes())


@pytest.mark.parametrize("damage", [flip, cut, take_another, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_rendered_again(tmp_path, renders, damage):
    first = load(tmp_path)
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    damage(path)
    renders.clear()
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(load(tmp_path), first)
    assert torch.equal(load(tmp_path), first)  # repaired: no warning
    assert renders == [12]


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be kept.*CIPER_DATA"):
        assert len(load(tmp_path)) == 12


def test_a_file_appears_at_once_and_whole(tmp_path, monkeypatch):
    moves, real = [], os.replace

    def replace(source, target):
        moves.append((source.stat().st_size, target.exists()))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    load(tmp_path)
    (path,) = (tmp_path / "cache").iterdir()
    assert moves == [(path.stat().st_size, False)]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(load(tmp_path)) == 12
    assert list((tmp_path / "cache").iterdir()) == []


def test_orbits_turn_objects_and_nothing_else():
    images = turntable.orbits(torch.tensor([3, 40]), 8, session=2)
    assert len(images) == 16
    assert images.factors["object"].tolist() == [3] * 8 + [40] * 8
    assert torch.equal(images.groups, images.factors["object"])
    torch.testing.assert_close(images.factors["azimuth"][8:].diff(), torch.full((7,), math.tau / 8))
    for name in ("session", "elevation", "distance"):
        assert len(images.factors[name].unique()) == 1
    again = render(*(images.factors[k] for k in turntable.RENDERED))
    assert torch.equal(images.images, again.images)
    assert torch.equal(images.masks, again.masks)
