"""The camera: objects, sessions and poses in, images with mask and depth out; on the CPU and on a GPU alike.

The unit of length is that of `distance`: every object fits into a sphere of radius 0.25 that rests, at the object's own
middle height, on the turning axis; the camera looks at its centre from `distance` away. z is up. The camera keeps its
azimuth and the *object* turns: the background never tells the azimuth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ciperlib.data.turntable.catalogue import SESSIONS
from ciperlib.data.turntable.scene import Scene, load_scene
from ciperlib.data.turntable.solids import SOLIDS, dot, unit

RAYS_AT_ONCE = (2**17, 2**21)  # on a CPU: little memory, good use of the caches; on a GPU: enough to fill it
HALF_VIEW = 0.285  # tangent of half the field of view
WALL = 0.6  # the wall is the plane y = WALL, the camera is at y < 0


class Rendering(NamedTuple):
    """What the camera sees.

    Attributes:
        images: uint8 [B, 3, H, W].
        masks: bool [B, H, W], True where at least half of a pixel's rays meet the object.
        depth: float32 [B, H, W], length of the ray from the camera in units of `distance`: the mean over the pixel's
            rays to the object where the mask is True, and over those to the floor or wall where it is False.
    """

    images: Tensor
    masks: Tensor
    depth: Tensor


class _View(NamedTuple):
    """Per image: which object and session, and the camera; `rotation` takes the camera's frame to the object's."""

    object: Tensor
    session: Tensor
    elevation: Tensor
    camera: Tensor  # [B, 3] in the world
    rotation: Tensor  # [B, 3, 3]
    origin: Tensor  # [B, 3] the camera, in the object's frame
    light: Tensor  # [B, 3] in the object's frame


def render(
    object: Tensor,
    session: Tensor,
    azimuth: Tensor,
    elevation: Tensor,
    distance: Tensor,
    *,
    image_size: int = 32,
    rays: int = 4,
    world: str = "turntable",
) -> Rendering:
    """Renders any views of the known world, on the device of `object`.

    Args:
        object: int64 [B], 0 to 49; category = object // 5. Of the families 0 to 599, category = object // 60.
        session: int64 [B], 0 to 10.
        azimuth: [B] in radians, the object's turn, counter-clockwise seen from above.
        elevation: [B] in radians above the horizon, 0 to pi/2 (the image sets use 10 to 70 degrees).
        distance: [B] from the camera to the middle of the object, at least 0.5 (the image sets use 0.8 to 1.3).
        image_size: side in pixels.
        rays: rays a pixel.
        world: whose objects: of the "turntable", or the "families".

    Raises:
        ValueError: columns of different shapes, or values out of range.
    """
    pose = [column.to(object.device, torch.float32) for column in (azimuth, elevation, distance)]
    session = session.to(object.device)
    scene = load_scene(object.device, world)
    _check(len(scene.height), object, session, *pose, image_size, rays)
    step = max(1, RAYS_AT_ONCE[object.device.type == "cuda"] // (image_size * image_size * rays))
    chunks = zip(*(column.split(step) for column in (object, session, *pose)))
    cast = partial(_cast, scene=scene, image_size=image_size, rays=rays)
    alone = object.device.type == "cuda" or len(object) <= step
    parts = [cast(chunk) for chunk in chunks] if alone else _each_on_one_thread(cast, chunks)
    return Rendering(*(torch.cat(part) for part in zip(*parts)))


def _each_on_one_thread(cast: Callable, chunks: Iterable) -> list[Rendering]:
    """Divides the threads among the chunks: ten times faster than threads that wait for each other on a busy CPU."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(cast, chunks))
    finally:
        torch.set_num_threads(threads)  # for the process; the workers' own setting ends with them


def _check(objects: int, object, session, azimuth, elevation, distance, image_size, rays) -> None:
    columns = {"object": object, "session": session, "azimuth": azimuth, "elevation": elevation, "distance": distance}
    if object.ndim != 1 or len({column.shape for column in columns.values()}) > 1:
        shapes = ", ".join(f"{name} {list(column.shape)}" for name, column in columns.items())
        raise ValueError(f"render needs five columns of the same length, not {shapes}")
    if image_size < 1 or rays < 1:
        raise ValueError(f"image_size and rays must be at least 1, not {image_size} and {rays}")
    limits = {"object": (0, objects - 1), "session": (0, len(SESSIONS) - 1), "azimuth": (-1e4, 1e4),
              "elevation": (0, math.pi / 2), "distance": (0.5, 100)}  # fmt: skip
    for name, (low, high) in limits.items():
        column = columns[name]
        if not ((column >= low) & (column <= high)).all():
            raise ValueError(f"{name} must be from {low} to {high:.6g}, not {column.min():.6g} to {column.max():.6g}")


@lru_cache(maxsize=8)
def _camera_rays(image_size: int, rays: int, device: torch.device) -> Tensor:
    """Unit vectors (right, up, forward), [3, rays * image_size^2]: a pixel's rays are spread like a die's five."""
    i = torch.arange(rays, dtype=torch.float64)
    across = (i + 0.5) / rays - 0.5
    down = (i * (math.sqrt(5) - 1) / 2) % 1
    down -= down.mean()
    pixel = torch.arange(image_size, dtype=torch.float64) + 0.5
    x = (pixel + across[:, None])[:, None, :].expand(-1, image_size, -1)
    y = (pixel + down[:, None])[:, :, None].expand(-1, -1, image_size)
    right, up = ((2 * x / image_size - 1) * HALF_VIEW).flatten(), ((1 - 2 * y / image_size) * HALF_VIEW).flatten()
    directions = torch.stack([right, up, torch.ones_like(up)])
    return (directions / directions.norm(dim=0)).to(device, torch.float32)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    # not a matmul: its precision is a global setting that a training run may lower
    return (matrix * vector[..., None, :]).sum(-1)


def _look(scene: Scene, object, session, azimuth, elevation, distance) -> _View:
    ca, sa, ce, se, no = azimuth.cos(), azimuth.sin(), elevation.cos(), elevation.sin(), torch.zeros_like(azimuth)
    turn = torch.stack([ca, sa, no, -sa, ca, no, no, no, no + 1], -1).view(-1, 3, 3)  # world to object
    axes = torch.stack([no + 1, no, no, no, se, ce, no, ce, -se], -1).view(-1, 3, 3)  # rows right, up, forward
    camera = torch.stack([no, -distance * ce, distance * se + scene.height[object]], -1)
    rotation = _apply(turn[:, None], axes).transpose(1, 2)
    return _View(object, session, elevation, camera, rotation, _apply(turn, camera), _apply(turn, scene.light[session]))


def _background(scene: Scene, view: _View, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Floor and wall: colours [3, B, R] and depth [B, R]."""
    ce, se = view.elevation.cos()[:, None], view.elevation.sin()[:, None]
    dy, dz = ce * rays[2] + se * rays[1], ce * rays[1] - se * rays[2]
    floor = torch.where(dz < -1e-6, view.camera[:, 2:] / -dz, math.inf)
    wall = torch.where(dy > 1e-6, (WALL - view.camera[:, 1:2]) / dy, math.inf)
    on_floor = floor < wall
    depth = torch.minimum(floor, wall)
    x = depth * rays[0]
    v = torch.where(on_floor, view.camera[:, 1:2] + depth * dy, view.camera[:, 2:] + depth * dz)
    light, up = scene.light[view.session], scene.ambient[view.session]
    shades = []
    for surface, facing in zip(scene.surfaces, (light[:, 2], -light[:, 1])):
        lit = (up + (1 - up) * facing.clamp_min(0))[:, None] * scene.light_colour[view.session]
        row = surface[view.session]
        shades.append(torch.cat([row[:, :3] * lit, row[:, 3:6] * lit, row[:, 6:]], 1))
    pick = lambda i: torch.where(on_floor, shades[0][:, i : i + 1], shades[1][:, i : i + 1])  # noqa: E731
    first, second = (pick(6) * x + pick(7) * v).sin(), (pick(8) * x + pick(9) * v).sin()
    blend = (0.5 + 0.5 * first * (pick(10) + pick(11) * second)).clamp(0, 1)
    shade = 1 - on_floor * _shadow(scene, view, x, v, light)
    return torch.stack([shade * torch.lerp(pick(i), pick(i + 3), blend) for i in range(3)]), depth


def _shadow(scene: Scene, view: _View, x: Tensor, y: Tensor, light: Tensor) -> Tensor:
    """A soft round blob under the object, pushed away from the light: it must not tell the azimuth."""
    reach = 0.85 * scene.footprint[view.object][:, None]
    x, y = x + 0.3 * reach * light[:, :1], y + 0.3 * reach * light[:, 1:2]
    return 0.6 * (-((x * x + y * y) / (reach * reach)).square()).exp()


def _hits(kind: int, scene: Scene, view: _View, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays meet parts of one kind: index into the B * R rays, distance, and colour, [n], [n] and [3, n]."""
    table, (intersect, normal) = scene.tables[kind], SOLIDS[kind]
    image, slot = table.used[view.object].nonzero(as_tuple=True)
    row = view.object[image] * table.used.shape[1] + slot
    axes = table.axes[row]
    start = _apply(axes, view.origin[image] - table.centre[row])  # the camera in the part's frame
    rotation = _apply(axes[:, None], view.rotation[image].transpose(1, 2)).transpose(1, 2)
    towards = -_apply(rotation.transpose(1, 2), start)
    # a ray can meet the part only inside the cone around its bounding sphere
    edge = (towards.square().sum(1) - (1.01 * table.bound[row]).square()).clamp_min(0).sqrt()
    near = towards[:, :1] * rays[0] + towards[:, 1:2] * rays[1] + towards[:, 2:] * rays[2] >= edge[:, None]
    pair, ray = near.nonzero(as_tuple=True)
    matrix, direction = rotation.flatten(1).T.contiguous()[:, pair], rays[:, ray]
    d = torch.stack([dot(matrix[i : i + 3], direction) for i in (0, 3, 6)])
    size, p = table.size[row].T.contiguous()[:, pair], start.T.contiguous()[:, pair]
    nearest = -dot(p, d)
    p = p + nearest * d
    t = intersect(p, d, size)
    hit = (t < math.inf).nonzero().squeeze(1)
    pair, ray, t, d, size = pair[hit], ray[hit], t[hit], d[:, hit], size[:, hit]
    n = normal(p[:, hit] + t * d, size)
    columns = (_apply(axes, view.light[image]), axes[:, :, 2], table.colour[row])
    light, up, albedo = (column.T.contiguous()[:, pair] for column in columns)
    colour = _shade(scene, view, n, d, light, up, albedo, image[pair])
    return image[pair] * rays.shape[1] + ray, t + nearest[hit], colour


def _shade(scene: Scene, view: _View, n, d, light, up, albedo, image) -> Tensor:
    session = view.session[image]
    ambient, colour = scene.ambient[session], scene.light_colour[session].T
    diffuse = ambient * (0.7 + 0.3 * dot(n, up)) + (1.05 - ambient) * dot(n, light).clamp_min(0)
    shine = dot(n, unit(light - d)).clamp_min(0)
    for _ in range(4):
        shine = shine * shine
    return colour * (albedo * diffuse + scene.gloss[view.object][image] * shine)


@torch.no_grad()
def _cast(columns: tuple[Tensor, ...], scene: Scene, image_size: int, rays: int) -> Rendering:
    object = columns[0]
    directions = _camera_rays(image_size, rays, object.device)
    view = _look(scene, *columns)
    colour, depth = _background(scene, view, directions)
    colour, depth = colour.flatten(1), depth.flatten()
    hits = [_hits(kind, scene, view, directions) for kind in range(len(SOLIDS))]
    where, t, shade = (torch.cat(parts, -1) for parts in zip(*hits))
    # nearest hit of each ray in one reduction: positive floats sort like their bits, the index breaks ties
    key = t.view(torch.int32).long() << 32 | torch.arange(len(t), device=t.device)
    nothing = torch.iinfo(torch.int64).max
    best = torch.full_like(depth, nothing, dtype=torch.int64).scatter_reduce_(0, where, key, "amin")
    met = best != nothing
    ray = met.nonzero().squeeze(1)
    winner = best[ray] & 0xFFFFFFFF
    colour.index_copy_(1, ray, shade[:, winner])
    depth.index_copy_(0, ray, t[winner])
    return _resolve(colour, depth, met, (len(object), rays, image_size, image_size))


def _resolve(colour: Tensor, depth: Tensor, met: Tensor, shape: tuple[int, ...]) -> Rendering:
    """The rays of each pixel become one."""
    images = colour.view(3, *shape).mean(2).transpose(0, 1)
    depth, met = depth.view(shape), met.view(shape)
    masks = 2 * met.sum(1) >= shape[1]
    chosen = met == masks[:, None]
    depth = torch.where(chosen, depth, 0).sum(1) / chosen.sum(1)
    return Rendering((images * 255).round_().clamp_(0, 255).to(torch.uint8).contiguous(), masks, depth)
