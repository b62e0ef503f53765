"""What crop, flip and colour operations do to pixels: torchvision's float operations, for a whole batch at once."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights; they add up to 0.9999
BLENDS = ("brightness", "contrast", "saturation")
ORDERS = tuple(permutations(range(4)))  # of the three blends and hue, numbered as in torchvision


def as_floats(images: Tensor, index: Tensor) -> Tensor:
    """images[index] as float32 in 0..1, from uint8 or float [N, 3, H, W]."""
    images = images.index_select(0, index)  # four times as fast as images[index]
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def centres(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where the `size` pixels of a side come from when a crop of it, in fractions [B], is stretched: [B, size].

    Linear interpolation there is what torchvision does: a crop is never larger than the image, so that antialiasing
    has nothing to do, and beyond its outermost pixels it repeats them, whatever lies there.
    """
    start, length = (start * size).round()[:, None], (length * size).round()[:, None]
    pixel = torch.arange(size, device=start.device, dtype=torch.float32)
    return ((pixel + 0.5) * (length / size) - 0.5).clamp_(min=0).minimum(length - 1).add_(start)


def mix_rows(images: Tensor, centres: Tensor) -> Tensor:
    """Linear interpolation between the rows of [B, 3, H, W] at [B, H], to planes [3, B, H, W]."""
    count, channels, height, width = images.shape
    above = centres.floor()
    first = torch.arange(count * channels, device=images.device).view(count, channels).t() * height
    rows = first[:, :, None, None] + torch.stack([above, centres.ceil()], -1).long()  # [3, B, H, 2]
    weights = torch.stack([1 - (centres - above), centres - above], -1).expand(rows.shape)
    # a bag of two rows is a weighted sum that reads no others: faster than a product with a matrix
    bags = {"input": rows.flatten(0, 2), "per_sample_weights": weights.flatten(0, 2), "mode": "sum"}
    return embedding_bag(weight=images.view(-1, width), **bags).view(channels, count, height, width)


def grayscale(planes: Tensor) -> Tensor:
    """[3, ...] to [...]."""
    return planes[0].mul(GRAY[0]).add_(planes[1], alpha=GRAY[1]).add_(planes[2], alpha=GRAY[2])


def sort_by_hue(named: dict[str, Tensor]) -> tuple[Tensor, list[int]]:
    """The order [B] that puts together what has hue in the same place: first to last, then what is not jittered.

    Also where each of these five begins: reading that is one of the two moments when the host waits for a GPU.
    """
    places = torch.tensor([order.index(3) for order in ORDERS], device=named["hue"].device)
    jittered = sum(named[name] != 1 for name in BLENDS) + (named["hue"] != 0) > 0
    place = torch.where(jittered, places[named["jitter_order"].round().long()], 4)
    return place.argsort(stable=True), [0, *torch.bincount(place, minlength=5).cumsum(0)[:4].tolist()]


def jitter(planes: Tensor, named: dict[str, Tensor], bounds: list[int]) -> None:
    """Each image's four operations in its own order, in place; planes [3, B, H * W] are sorted by hue.

    So hue is one call for all, and the blends before it, like those after it, are slices.
    """
    end = bounds[4]
    orders = torch.tensor([[step for step in order if step != 3] for order in ORDERS], device=planes.device)
    steps = orders[named["jitter_order"][:end].round().long()]
    own = torch.stack([named[name][:end] for name in BLENDS], 1).gather(1, steps)
    blends = torch.stack([own, (1 - own) * (steps == 2), (1 - own) * (steps == 1)]).unbind(2)
    for begin, blend in zip(bounds[1:], blends):
        _blend(planes[:, begin:end], *blend[:, begin:])
    _shift_hue(planes[:, :end], named["hue"][:end])
    for stop, blend in zip(bounds[1:], blends):
        _blend(planes[:, :stop], *blend[:, :stop])


def _blend(planes: Tensor, own: Tensor, gray: Tensor, mean: Tensor) -> None:
    """Brightness, contrast or saturation of [3, B, H * W] in place: own * image + gray * its gray + mean * its mean."""
    if planes.shape[1]:
        rest = grayscale(planes)
        level = rest.mean(1, keepdim=True).mul_(mean[:, None])
        torch.addcmul(rest.mul_(gray[:, None]).add_(level), planes, own[:, None], out=planes).clamp_(0, 1)


def _shift_hue(planes: Tensor, turns: Tensor) -> None:
    """Adds `turns` [B] to the hue of planes [3, B, H * W], in place.

    The largest and the smallest channel keep their values, so that no detour through HSV is needed. In sixths of a
    turn from red, hue is +-(1 + g + b - r), positive where g > b, if the channels are first scaled to 0..1.
    """
    r, g, b = planes
    high, low = torch.maximum(r, g).maximum(b), torch.minimum(r, g).minimum(b)
    chroma = high.sub_(low)
    hue = (g + b).sub_(r).sub_(low).div_(chroma.clamp(min=1e-20)).add_(1).copysign_(g - b).add_(6 * turns[:, None])
    hue.sub_((hue / 6).round_(), alpha=6)  # -3..3: from cyan by blue, magenta, red, yellow, green to cyan
    torch.addcmul(low, chroma, hue.abs().sub_(2).neg_().clamp_(0, 1), out=r)
    torch.addcmul(low, chroma, hue.add(1).abs_().sub_(1).clamp_(0, 1), out=g)
    torch.addcmul(low, chroma, hue.sub_(1).abs_().sub_(1).clamp_(0, 1), out=b)
