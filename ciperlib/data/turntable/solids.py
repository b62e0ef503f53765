"""The four solids of which everything is made: where a ray meets each, and its normal there, in closed form.

A ray is p + t d, where p is the point of the ray nearest to the solid's centre; all tensors are [3, n].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of vectors [..., 3]."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def nonzero(x: Tensor) -> Tensor:
    """A number of the same sign that can be divided by."""
    return torch.where(x.abs() < 1e-9, 1e-9, x)


def _entry(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The root of a t^2 + 2 b t + c at which it falls, whatever the sign of a; inf where there is none."""
    inside = b * b - a * c
    return ((-b - inside.clamp_min(0).sqrt()) / a).masked_fill(inside < 0, math.inf)


def _ellipsoid(p: Tensor, d: Tensor, size: Tensor) -> Tensor:
    p, d = p / size, d / size
    return _entry(dot(d, d), dot(p, d), dot(p, p) - 1)


def _cuboid(p: Tensor, d: Tensor, size: Tensor) -> Tensor:
    d = nonzero(d)
    middle, reach = -p / d, (size / d).abs()
    enter, leave = (middle - reach).amax(0), (middle + reach).amin(0)
    return enter.masked_fill(enter > leave, math.inf)


def _frustum(p: Tensor, d: Tensor, size: Tensor) -> Tensor:
    low, high, half = size
    slope = (high - low) / (2 * half)
    radius, growth = (low + high) / 2 + slope * p[2], slope * d[2]
    a = nonzero(d[0] * d[0] + d[1] * d[1] - growth * growth)
    side = _entry(a, p[0] * d[0] + p[1] * d[1] - growth * radius, p[0] * p[0] + p[1] * p[1] - radius * radius)
    dz = nonzero(d[2])
    cap = (-half * dz.sign() - p[2]) / dz
    x, y, rim = p[0] + cap * d[0], p[1] + cap * d[1], torch.where(dz < 0, high, low)
    cap = cap.masked_fill(x * x + y * y > rim * rim, math.inf)
    return torch.where((p[2] + side * d[2]).abs() <= half, torch.minimum(cap, side), cap)


def _capsule(p: Tensor, d: Tensor, size: Tensor) -> Tensor:
    radius, half, _ = size
    flat = p[0] * d[0] + p[1] * d[1]
    rest = p[0] * p[0] + p[1] * p[1] - radius * radius
    side = _entry(nonzero(d[0] * d[0] + d[1] * d[1]), flat, rest)
    z = p[2] + side * d[2]
    offset = p[2] - torch.minimum(torch.maximum(z, -half), half)
    ends = _entry(dot(d, d), flat + offset * d[2], rest + offset * offset)
    return torch.where((z.abs() <= half) | side.isinf(), side, ends)


def unit(n: Tensor) -> Tensor:
    """A vector [..., 3] of length 1."""
    return n / dot(n, n).clamp_min(1e-20).sqrt()


def _ellipsoid_normal(q: Tensor, size: Tensor) -> Tensor:
    return unit(q / (size * size))


def _cuboid_normal(q: Tensor, size: Tensor) -> Tensor:
    depth = q.abs() - size
    return unit(q.sign() * (depth == depth.amax(0)))


def _frustum_normal(q: Tensor, size: Tensor) -> Tensor:
    low, high, half = size
    slope = (high - low) / (2 * half)
    rho = (q[0] * q[0] + q[1] * q[1]).sqrt()
    side = unit(torch.stack([q[0], q[1], -slope * rho]))
    cap = torch.stack([torch.zeros_like(rho), torch.zeros_like(rho), q[2].sign()])
    return torch.where(half - q[2].abs() < ((low + high) / 2 + slope * q[2] - rho).abs(), cap, side)


def _capsule_normal(q: Tensor, size: Tensor) -> Tensor:
    return unit(torch.stack([q[0], q[1], q[2] - torch.minimum(torch.maximum(q[2], -size[1]), size[1])]))


SOLIDS = (
    (_ellipsoid, _ellipsoid_normal),
    (_cuboid, _cuboid_normal),
    (_frustum, _frustum_normal),
    (_capsule, _capsule_normal),
)
