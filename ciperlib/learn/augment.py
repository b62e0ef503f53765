"""Batched augmentations that return the parameters they used, and can be replayed from them.

The image steps are SimCLR's without blur (Chen et al. 2020, arXiv:2002.05709): what torchvision's RandomResizedCrop,
hflip, ColorJitter and grayscale do to float tensors, with the distributions of their `get_params`, but for the whole
batch at once. The dataset steps take another image of the anchor's object as the view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ciperlib.data.imageset import ImageSet

IMAGE_STEPS = ("crop", "flip", "jitter", "grayscale")
DATASET_STEPS = ("pose", "session")
STEPS = DATASET_STEPS + IMAGE_STEPS

CROP_RATIO = (3 / 4, 4 / 3)  # width / height
CROP_ATTEMPTS = 10  # of torchvision, before it takes the centre
GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights; they add up to 0.9999
BLENDS = ("brightness", "contrast", "saturation")
ORDERS = tuple(permutations(range(4)))  # of the three blends and hue, numbered as in torchvision
CHUNK = 512 * 32 * 32  # pixels at a time on a CPU: bounds the memory that comes on top of the result


@dataclass(frozen=True)
class ParameterSpec:
    """One column of a view's parameters.

    Attributes:
        name: of the column.
        kind: "continuous", "binary" (0 or 1) or "categorical" (0, 1, ..., high).
        low, high: the smallest and the largest value it can take.
        predicted: whether a predictor shall learn it; otherwise it is there for the replay.
    """

    name: str
    kind: str
    low: float
    high: float
    predicted: bool = True


class View(NamedTuple):
    """Augmented images, and how they were made.

    Attributes:
        images: float32 [B, 3, H, W] in 0..1.
        parameters: float32 [B, D], one column for each of the augmentation's `specs`.
        source: int64 [B], index in the image set of the image that the image steps were applied to.
    """

    images: Tensor
    parameters: Tensor
    source: Tensor


class Augmentation:
    """Makes views of the images of an image set, with an independent draw for each.

    Args:
        steps: any of `STEPS`, always applied in that order; none at all gives the images themselves. `pose` takes
            another image of the anchor's object, `session` one from another session; both together, the latter.
        sessions: number of classes of the factor `session`, for the step `session`.
        crop_scale: area of the crop as a fraction of the image's.
        flip_probability: of a flip from left to right.
        jitter_strength: s; brightness, contrast and saturation are from 1 - s to 1 + s, hue from -s/4 to s/4 turns.
        jitter_probability: of jitter; where it does not happen its parameters are (1, 1, 1, 0).
        grayscale_probability: of a conversion to grey.

    Attributes:
        steps: in the order in which they are applied.
        specs: the columns of the parameters. Pose is the view's minus the anchor's, session the view's; the crop's
            x (left), y (top), height and width are fractions of the side; `jitter_order` counts
            `itertools.permutations` of brightness, contrast, saturation, hue, and is not to be predicted.

    Raises:
        ValueError: an unknown or repeated step, or a number out of its range.
    """

    def __init__(
        self,
        steps: Sequence[str],
        *,
        sessions: int = 0,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        flip_probability: float = 0.5,
        jitter_strength: float = 0.4,
        jitter_probability: float = 0.8,
        grayscale_probability: float = 0.2,
    ) -> None:
        self.steps = tuple(step for step in STEPS if step in steps)
        if sorted(self.steps) != sorted(steps):
            raise ValueError(f"steps must be from {', '.join(STEPS)}, each at most once, not {tuple(steps)}")
        for name, value, low, high in (
            ("crop_scale[0]", crop_scale[0], 1e-6, crop_scale[1]),
            ("crop_scale[1]", crop_scale[1], crop_scale[0], 1),
            ("flip_probability", flip_probability, 0, 1),
            ("jitter_strength", jitter_strength, 0, 2),
            ("jitter_probability", jitter_probability, 0, 1),
            ("grayscale_probability", grayscale_probability, 0, 1),
            ("sessions (for the step 'session')", sessions, 2 if "session" in steps else 0, math.inf),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {value}")
        self.sessions = sessions
        self.crop_scale = crop_scale
        self.flip_probability = flip_probability
        self.jitter_strength = jitter_strength
        self.jitter_probability = jitter_probability
        self.grayscale_probability = grayscale_probability
        self.specs = self._make_specs()

    def _make_specs(self) -> tuple[ParameterSpec, ...]:
        low, high = max(0.0, 1 - self.jitter_strength), 1 + self.jitter_strength
        hue = self.jitter_strength / 4
        columns = {
            "pose": [
                ("sin_azimuth", "continuous", -1, 1),
                ("cos_azimuth", "continuous", -1, 1),
                ("elevation", "continuous", -math.pi, math.pi),
                ("distance", "continuous", -math.inf, math.inf),
            ],
            "session": [("session", "categorical", 0, self.sessions - 1)],
            "crop": [(f"crop_{side}", "continuous", 0, 1) for side in ("x", "y", "height", "width")],
            "flip": [("flip", "binary", 0, 1)],
            "jitter": [*((name, "continuous", low, high) for name in BLENDS), ("hue", "continuous", -hue, hue)],
            "grayscale": [("grayscale", "binary", 0, 1)],
        }
        specs = [ParameterSpec(*column) for step in self.steps for column in columns[step]]
        if "jitter" in self.steps:
            specs.append(ParameterSpec("jitter_order", "categorical", 0, len(ORDERS) - 1, predicted=False))
        return tuple(specs)

    def __repr__(self) -> str:
        return f"Augmentation({self.steps})"

    def column(self, name: str) -> int:
        """Which column of the parameters has this name; ValueError if none has."""
        names = [spec.name for spec in self.specs]
        if name not in names:
            raise ValueError(f"{self} has no parameter {name!r}, but {', '.join(names) or 'none at all'}")
        return names.index(name)

    @torch.no_grad()
    def __call__(self, image_set: ImageSet, index: Tensor, generator: torch.Generator) -> View:
        """One view of each of the images at `index`.

        Args:
            image_set: the images, and for dataset steps their partners.
            index: int64 [B], the anchors.
            generator: of all random numbers. One on the CPU gives images on any device the same parameters; one on
                the images' device saves the transfer.

        Raises:
            ValueError: dataset steps on images without the factors they need, or with an object without a partner.
        """
        source = index = index.to(image_set.device)

        def draw(rows: int) -> Tensor:
            return torch.rand(rows, len(index), generator=generator, device=generator.device).to(index.device)

        columns: list[Tensor] = []
        if set(self.steps) & set(DATASET_STEPS):
            source = _partners(image_set, self)(index, draw(1)[0])
            columns += self._compare(image_set.factors, index, source)
        columns += self._draw(draw, *image_set.images.shape[-2:])
        parameters = torch.stack(columns, 1) if columns else torch.empty(len(index), 0, device=index.device)
        return View(self._apply(image_set.images, source, parameters), parameters, source)

    @torch.no_grad()
    def replay(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Applies the image steps again: to the images at `view.source`, it gives the very pixels of `view.images`.

        Args:
            images: [B, 3, H, W], uint8 or float in 0..1; after dataset steps the partners, not the anchors.
            parameters: float32 [B, D], with the columns of `specs`.

        Returns:
            float32 [B, 3, H, W] in 0..1.

        Raises:
            ValueError: parameters of another shape.
        """
        shape = (len(images), len(self.specs))
        if parameters.shape != shape:
            raise ValueError(f"parameters must be {list(shape)} for {self}, not {list(parameters.shape)}")
        return self._apply(images, torch.arange(len(images), device=images.device), parameters.to(images.device))

    def _compare(self, factors: dict[str, Tensor], anchor: Tensor, view: Tensor) -> list[Tensor]:
        columns = []
        if "pose" in self.steps:
            change = [factors[name][view] - factors[name][anchor] for name in ("azimuth", "elevation", "distance")]
            columns += [change[0].sin(), change[0].cos(), change[1], change[2]]
        if "session" in self.steps:
            columns.append(factors["session"][view])
        return [column.float() for column in columns]

    def _draw(self, draw, height: int, width: int) -> list[Tensor]:
        """The columns of the image steps, from `draw(rows)`: random numbers in 0..1, [rows, B]."""
        columns: list[Tensor] = []
        if "crop" in self.steps:
            columns += _crops(draw(2 * CROP_ATTEMPTS + 2), height, width, self.crop_scale)
        if "flip" in self.steps:
            columns += (draw(1) < self.flip_probability).float()
        if "jitter" in self.steps:
            *factors, applied, order = draw(6)
            ranges = [(spec.low, spec.high) for spec in self.specs if spec.name in (*BLENDS, "hue")]
            for (low, high), neutral, factor in zip(ranges, (1, 1, 1, 0), factors):
                columns.append(torch.where(applied < self.jitter_probability, low + (high - low) * factor, neutral))
        if "grayscale" in self.steps:
            columns += (draw(1) < self.grayscale_probability).float()
        if "jitter" in self.steps:
            columns.append((order * len(ORDERS)).floor())
        return columns

    def _apply(self, images: Tensor, index: Tensor, parameters: Tensor) -> Tensor:
        """The image steps on images[index]; `parameters` [B, D] belong to the entries of `index`."""
        if not set(self.steps) & set(IMAGE_STEPS):
            return _floats(images, index)
        out = torch.empty(len(index), *images.shape[1:], device=images.device)
        size = max(CHUNK // images[0, 0].numel(), 1) if images.device.type == "cpu" else max(len(index), 1)
        with torch.autocast(images.device.type, enabled=False):  # products in bfloat16 would be off by 1/255
            for part in zip(index.split(size), parameters.split(size), out.split(size)):
                self._apply_at_once(images, *part)
        return out

    def _apply_at_once(self, images: Tensor, index: Tensor, parameters: Tensor, out: Tensor) -> None:
        names = [spec.name for spec in self.specs]
        named = dict(zip(names, parameters.t()))
        if "jitter" in self.steps:
            order, bounds = _sort_by_hue(named)
            index, named = index[order], dict(zip(names, parameters.t()[:, order]))
        planes = self._place(_floats(images, index), named)
        if "jitter" in self.steps:
            _jitter(planes.flatten(2), named, bounds)
        if "grayscale" in self.steps:
            gray = named["grayscale"].nonzero()[:, 0]
            planes.index_copy_(1, gray, _grayscale(planes.index_select(1, gray)).expand(3, -1, -1, -1))
        if "jitter" in self.steps:
            torch.index_select(planes.transpose(0, 1), 0, order.argsort(), out=out)
        else:
            out.copy_(planes.transpose(0, 1))

    def _place(self, images: Tensor, named: dict[str, Tensor]) -> Tensor:
        """Crop and flip: [B, 3, H, W] to planes [3, B, H, W], in which each channel is in one piece."""
        count, _, height, width = images.shape
        if "crop" not in self.steps:
            if "flip" in self.steps:
                images = torch.where(named["flip"].bool()[:, None, None, None], images.flip(-1), images)
            return images.transpose(0, 1).contiguous()
        columns = _centres(named["crop_x"], named["crop_width"], width)
        if "flip" in self.steps:
            columns = torch.where(named["flip"].bool()[:, None], columns.flip(1), columns)
        weights = (torch.arange(width, device=images.device) - columns[:, :, None]).abs_().neg_().add_(1).clamp_(min=0)
        images = torch.bmm(images.flatten(1, 2), weights.transpose(1, 2)).reshape(count, 3, height, width)
        return _mix_rows(images, _centres(named["crop_y"], named["crop_height"], height))


def _floats(images: Tensor, index: Tensor) -> Tensor:
    images = images.index_select(0, index)  # four times as fast as images[index]
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def _crops(random: Tensor, height: int, width: int, scale: tuple[float, float]) -> list[Tensor]:
    """Columns x, y, height, width [B] as torchvision draws them, from numbers in 0..1, [2 * CROP_ATTEMPTS + 2, B]."""
    areas, ratios, (left, top) = random.split([CROP_ATTEMPTS, CROP_ATTEMPTS, 2])
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * areas)
    ratios = (low + (high - low) * ratios).exp()
    w, h = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(0, keepdim=True)
    found = fits.gather(0, first)[0]
    # where none fits, the largest crop in the centre that has an allowed ratio
    centre_w, centre_h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
    w = torch.where(found, w.gather(0, first)[0], centre_w)
    h = torch.where(found, h.gather(0, first)[0], centre_h)
    x = torch.where(found, (left * (width - w + 1)).floor(), (width - centre_w) // 2)
    y = torch.where(found, (top * (height - h + 1)).floor(), (height - centre_h) // 2)
    return [x / width, y / height, h / height, w / width]


def _centres(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where the `size` pixels of a side come from when a crop of it, in fractions [B], is stretched: [B, size].

    Linear interpolation there is what torchvision does: a crop is never larger than the image, so that antialiasing
    has nothing to do, and beyond its outermost pixels it repeats them, whatever lies there.
    """
    start, length = (start * size).round()[:, None], (length * size).round()[:, None]
    pixel = torch.arange(size, device=start.device, dtype=torch.float32)
    return ((pixel + 0.5) * (length / size) - 0.5).clamp_(min=0).minimum(length - 1).add_(start)


def _mix_rows(images: Tensor, centres: Tensor) -> Tensor:
    """Linear interpolation between the rows of [B, 3, H, W] at [B, H], to planes [3, B, H, W]."""
    count, channels, height, width = images.shape
    above = centres.floor()
    first = torch.arange(count * channels, device=images.device).view(count, channels).t() * height
    rows = first[:, :, None, None] + torch.stack([above, centres.ceil()], -1).long()  # [3, B, H, 2]
    weights = torch.stack([1 - (centres - above), centres - above], -1).expand(rows.shape)
    # a bag of two rows is a weighted sum that reads no others: faster than a product with a matrix
    bags = {"input": rows.flatten(0, 2), "per_sample_weights": weights.flatten(0, 2), "mode": "sum"}
    return embedding_bag(weight=images.view(-1, width), **bags).view(channels, count, height, width)


def _grayscale(planes: Tensor) -> Tensor:
    """[3, ...] to [...]."""
    return planes[0].mul(GRAY[0]).add_(planes[1], alpha=GRAY[1]).add_(planes[2], alpha=GRAY[2])


def _sort_by_hue(named: dict[str, Tensor]) -> tuple[Tensor, list[int]]:
    """The order [B] that puts together what has hue in the same place: first to last, then what is not jittered.

    Also where each of these five begins: reading that is one of the two moments when the host waits for a GPU.
    """
    places = torch.tensor([order.index(3) for order in ORDERS], device=named["hue"].device)
    jittered = sum(named[name] != 1 for name in BLENDS) + (named["hue"] != 0) > 0
    place = torch.where(jittered, places[named["jitter_order"].round().long()], 4)
    return place.argsort(stable=True), [0, *torch.bincount(place, minlength=5).cumsum(0)[:4].tolist()]


def _jitter(planes: Tensor, named: dict[str, Tensor], bounds: list[int]) -> None:
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
        rest = _grayscale(planes)
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


@dataclass(frozen=True, eq=False)
class _Partners:
    """Which images can stand for an image: those of its object, without one run of images that holds it.

    Attributes:
        images: int64 [N], the images sorted by object, then by what is left out.
        table: int64 [4, N], for each image: where its object begins, after how many images its own run begins, how
            long the run is, and how many images are left to choose from.
    """

    images: Tensor
    table: Tensor

    def __call__(self, index: Tensor, random: Tensor) -> Tensor:
        start, skip, length, left = self.table[:, index]
        chosen = (random.double() * left).long()
        return self.images[start + chosen + length * (chosen >= skip)]


_TABLES: WeakKeyDictionary[ImageSet, dict[tuple, _Partners]] = WeakKeyDictionary()  # made once for an image set


def _partners(image_set: ImageSet, augmentation: Augmentation) -> _Partners:
    key = (*augmentation.steps[:2], augmentation.sessions)
    tables = _TABLES.setdefault(image_set, {})
    if key not in tables:
        _check_factors(image_set, augmentation)
        tables[key] = _make_partners(image_set, "session" in augmentation.steps)
    return tables[key]


def _check_factors(image_set: ImageSet, augmentation: Augmentation) -> None:
    needed = {"pose": ("object", "azimuth", "elevation", "distance"), "session": ("object", "session")}
    for step in set(augmentation.steps) & set(DATASET_STEPS):
        for factor in needed[step]:
            if factor not in image_set.factors:
                raise ValueError(f"the step {step!r} needs the factor {factor!r}, which {image_set.name!r} has not")
    if "session" in augmentation.steps:
        known, count = image_set.factors["session"].unique().tolist(), augmentation.sessions
        if not set(known) <= set(range(count)):
            raise ValueError(f"sessions={count} means 0 to {count - 1}, but {image_set.name!r} has sessions {known}")


def _make_partners(image_set: ImageSet, other_session: bool) -> _Partners:
    images = torch.arange(len(image_set), device=image_set.device)
    objects = image_set.factors["object"].unique(return_inverse=True)[1]
    # the run to leave out: the anchor's session, or the anchor alone
    own = image_set.factors["session"].unique(return_inverse=True)[1] if other_session else images
    key = objects * len(image_set) + own
    order = key.argsort()
    (start, total), (skip, length) = _runs(objects[order]), _runs(key[order])
    table = torch.stack([start, skip - start, length, total - length])[:, order.argsort()]
    alone = image_set.factors["object"][table[3] == 0].tolist()
    if alone:
        label = dict(enumerate(image_set.labels.get("object", ()))).get(alone[0], "no label")
        raise ValueError(
            f"object {alone[0]} ({label}) of {image_set.name!r} has no other image"
            f"{' from another session' if other_session else ''} to be its view: "
            "leave it out with image_set.subset(...), or load more images"
        )
    return _Partners(order, table)


def _runs(values: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the sorted values [N], where the run of those equal to it begins, and how long that is."""
    _, run, count = values.unique_consecutive(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - count)[run], count[run]
