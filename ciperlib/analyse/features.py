"""Representations of a frozen encoder: extracted once, cached, with proof that the encoder did not move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ciperlib.analyse.fingerprints import digest, fingerprint, load_matrix, save_matrix
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.solvers.principal import fit_principal, project
from ciperlib.data.imageset import ImageSet, TrainedOn, source_of
from ciperlib.learn.augment import Augmentation
from ciperlib.learn.seeds import derived_seed


class FeaturesError(ValueError):
    """Features that cannot be extracted or split as asked; the message says why and what to do."""


class FrozenEncoderError(FeaturesError):
    """The encoder changed while it was only to be looked at, or its output depends on more than the image."""


@dataclass(frozen=True, eq=False)
class Features:
    """Representations of an image set, on the CPU, with everything that is known about each image.

    Attributes:
        matrix: float32 [N, d].
        factors: ground truth by name, each [N]: int64 for categories, float32 for quantities (angles in radians).
        ids: int64 [N].
        groups: int64 [N]; images of one group must not be divided between fitting and testing.
        labels: for categorical factors, the names of the values.
        name: the image set's name.
        split: the image set's split.
        encoder_fingerprint: which encoder made them, see `fingerprints`.
        unseen: "yes" if the encoder was trained on none of these images, "no" if on any, or "unknown".
    """

    matrix: Tensor
    factors: dict[str, Tensor]
    ids: Tensor
    groups: Tensor
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    name: str = ""
    split: str = ""
    encoder_fingerprint: str = ""
    unseen: str = "unknown"

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.dtype != torch.float32:
            raise FeaturesError(f"features must be float32 [N, d], not {self.matrix.dtype} {list(self.matrix.shape)}")
        for name, column in {**self.factors, "ids": self.ids, "groups": self.groups}.items():
            if len(column) != len(self.matrix):
                raise FeaturesError(f"{name} has {len(column)} rows for {len(self.matrix)} images")
        if self.unseen not in ("yes", "no", "unknown"):
            raise FeaturesError(f"unseen must be 'yes', 'no' or 'unknown', not {self.unseen!r}")

    def __len__(self) -> int:
        return len(self.matrix)

    def subset(self, index: Tensor | slice) -> Features:
        """The rows at `index` (positions, mask or slice); `unseen` is that of the whole."""
        factors = {name: column[index] for name, column in self.factors.items()}
        changed = {"matrix": self.matrix[index], "ids": self.ids[index], "groups": self.groups[index]}
        return replace(self, **changed, factors=factors)

    def to_frame(self) -> pd.DataFrame:
        """One row an image: columns h0 ... h{d-1}, id, group and the factors (categories as their integer codes)."""
        frame = pd.DataFrame(self.matrix.numpy(), columns=[f"h{i}" for i in range(self.matrix.shape[1])])
        columns = {"id": self.ids, "group": self.groups, **self.factors}
        return pd.concat([frame, pd.DataFrame({name: column.numpy() for name, column in columns.items()})], axis=1)


@recipe(1)
def extract_features(
    encoder: nn.Module,
    images: ImageSet,
    *,
    batch_size: int = 512,
    trained_on: TrainedOn | None = None,
    cache: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Features:
    """Sends every image once through the frozen encoder: eval mode, no gradient, float32.

    Args:
        encoder: takes float32 [B, 3, H, W] in 0..1, returns [B, d]. Its modes are as before when this returns.
        images: what to encode.
        batch_size: images at a time.
        trained_on: what the encoder has seen, if it is known.
        cache: folder in which features are kept, one file for an encoder, an image set and its pixels: views have the
            ids of their images. A damaged file is encoded again.
        device: where to compute; without it, where the encoder is.

    Raises:
        FrozenEncoderError: the encoder's weights or buffers changed, or a feature depends on the rest of its batch.
        FeaturesError: no images, or an output that is not finite [B, d].

    Example:
        >>> from ciperlib.config import Config
        >>> from ciperlib.data import load_images
        >>> from ciperlib.learn.zoo import find_run
        >>> run = find_run(Config(method="simclr"))
        >>> test = load_images("turntable", "test", size=200)
        >>> features = extract_features(run.load_encoder(), test, trained_on=run.trained_on)
        >>> features.matrix.shape, features.unseen
        (torch.Size([200, 128]), 'yes')
    """
    if not len(images):
        raise FeaturesError(f"{images.name} ({images.split}) holds no images to encode")
    before = fingerprint(encoder)
    pixels = digest(images.images) if cache is not None else ""
    path = Path(cache) / f"{before}-{images.digest()}-{pixels[:8]}.safetensors" if cache is not None else None
    matrix = load_matrix(path, pixels, len(images)) if path is not None else None
    if matrix is None:
        with _frozen(encoder, device) as place:
            matrix = _encode(encoder, images, batch_size, place)
        if fingerprint(encoder) != before:
            raise FrozenEncoderError(
                "the encoder changed while features were extracted from it. It was put in eval mode, so some layer "
                "updates itself all the same: usually a BatchNorm that calls itself in training mode and moves its "
                "running statistics. Make every layer follow self.training, and load the encoder again: it is spoilt"
            )
        if path is not None:
            save_matrix(path, pixels, matrix)
    return as_features(matrix, images, before, trained_on)


@recipe(1)
def pixel_features(train: ImageSet, test: ImageSet, components: int = 256) -> tuple[Features, Features]:
    """The floor that needs no encoder: raw pixels, float32 [N, at most components].

    More pixels than `components` are projected, train and test alike, on the leading principal components of `train`:
    exact, and only those along which its images differ, so that n of them have at most n - 1. Otherwise pixels are
    returned as they are, in 0..1.

    Raises:
        FeaturesError: train and test images differ in size.
    """
    seen = TrainedOn.of(train)
    matrices = [images.floats().flatten(1).cpu() for images in (train, test)]
    if matrices[0].shape[1] != matrices[1].shape[1]:
        raise FeaturesError(f"train and test images differ in size: {train.images.shape[1:]}, {test.images.shape[1:]}")
    if components < matrices[0].shape[1]:
        mean, directions = fit_principal(matrices[0], components)
        matrices = [project(matrix, mean, directions) for matrix in matrices]
    source = f"pixels-{components}-{train.digest()}"
    first, second = (as_features(m, images, source, seen) for m, images in zip(matrices, (train, test)))
    return first, second


def extract_pairs(
    encoder: nn.Module, images: ImageSet, augmentation: Augmentation, *, seed: int = 0, **options: Any
) -> tuple[Features, Features]:
    """h0 of each image and h1 of one view of it, each float32 [N, d].

    The factors are the view's parameters, each float32 [N], those that a method would predict; quantities and flags
    alike, so that a regression probe can read all of them. `options` are for `extract_features`.
    """
    generator = torch.Generator(images.device).manual_seed(derived_seed(seed, images.split))
    view = augmentation(images, torch.arange(len(images), device=images.device), generator)
    pixels = view.images.mul(255).round().byte()
    anchors = extract_features(encoder, images, **options)
    views = extract_features(encoder, replace(images, images=pixels), **options)
    columns = {spec.name: i for i, spec in enumerate(augmentation.specs) if spec.predicted}
    about = {"factors": {name: view.parameters[:, i].cpu() for name, i in columns.items()}, "labels": {}}
    return replace(anchors, **about), replace(views, **about)


@recipe(1)
def extract_differences(encoder: nn.Module, images: ImageSet, augmentation: Augmentation, **options: Any) -> Features:
    """What CIPER's predictor is given: h0 - h1, float32 [N, d]; arguments and factors are those of `extract_pairs`."""
    anchors, views = extract_pairs(encoder, images, augmentation, **options)
    return replace(anchors, matrix=anchors.matrix - views.matrix)


def split_features(
    features: Features,
    *,
    test_share: float = 0.3,
    hold_out: str | None = None,
    values: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[Features, Features]:
    """Divides features into (train, test), groups kept together.

    Args:
        features: what to divide.
        test_share: share of the groups (or of the held-out factor's values) in the test part, in 0..1.
        hold_out: a categorical factor; the test part then has only values of it that the train part has not.
        values: which values of `hold_out` to test on; without it they are drawn by `seed`.
        seed: of the draw.

    Raises:
        FeaturesError: an unknown or continuous factor, an empty part, or a group that has both kinds of values.
    """
    if not 0 < test_share < 1:
        raise FeaturesError(f"test_share must be between 0 and 1, not {test_share}")
    if hold_out is None:
        if values is not None:
            raise FeaturesError("values says what to hold out: name the factor as well, with hold_out=")
        key = features.groups
    elif hold_out not in features.factors or features.factors[hold_out].is_floating_point():
        known = [name for name, column in features.factors.items() if not column.is_floating_point()]
        raise FeaturesError(f"hold_out must be a categorical factor ({', '.join(known)}), not {hold_out!r}")
    else:
        key = features.factors[hold_out]
    chosen = _draw(key, test_share, seed) if values is None else torch.as_tensor(list(values), dtype=torch.int64)
    test = torch.isin(key, chosen)
    if test.all() or not test.any():
        raise FeaturesError(f"no two parts: {int(test.sum())} of {len(test)} rows would be tested on; choose otherwise")
    straddling = np.intersect1d(features.groups[test].numpy(), features.groups[~test].numpy())
    if len(straddling):
        raise FeaturesError(
            f"{len(straddling)} groups (the first is {straddling[0]}) have both held-out and other values of "
            f"{hold_out}: hold out a factor that is constant within groups, or drop one side of these groups first"
        )
    return features.subset(~test), features.subset(test)


def _draw(key: Tensor, share: float, seed: int) -> Tensor:
    """`share` of the distinct values of `key`, at least one and not all."""
    distinct = torch.unique(key)
    count = min(max(1, round(share * len(distinct))), max(1, len(distinct) - 1))
    return distinct[torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))[:count]]


def as_features(matrix: Tensor, images: ImageSet, source: str, trained_on: TrainedOn | None = None) -> Features:
    """A matrix float32 [N, d] as the features of `images`, in their order; `source` says who made it."""
    unseen = "unknown"
    if trained_on is not None:
        if trained_on.name == images.name:
            unseen = "no" if bool(trained_on.seen(images.ids).any()) else "yes"
        elif source_of(trained_on.name) != source_of(images.name):  # else perhaps the same scenes at another size
            unseen = "yes"
    factors = {name: column.cpu() for name, column in images.factors.items()}
    columns = {"factors": factors, "ids": images.ids.cpu(), "groups": images.groups.cpu(), "labels": images.labels}
    return Features(
        matrix=matrix, name=images.name, split=images.split, encoder_fingerprint=source, unseen=unseen, **columns
    )


@contextmanager
def _frozen(encoder: nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
    """The encoder in eval mode on `device` (its own by default); yields the device, then puts all back."""
    modes = {module: module.training for module in encoder.modules()}
    tensor = next((t for tensors in (encoder.parameters(), encoder.buffers()) for t in tensors), torch.empty(0))
    home, place = tensor.device, torch.device(device) if device is not None else tensor.device
    try:
        if place != home:
            encoder.to(place)
        encoder.eval()
        with torch.no_grad(), torch.autocast(place.type, enabled=False):
            yield place
    finally:
        if place != home:
            encoder.to(home)
        for module, mode in modes.items():
            module.training = mode


def _encode(encoder: nn.Module, images: ImageSet, batch_size: int, device: torch.device) -> Tensor:
    """float32 [N, d] on the CPU."""
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images.floats(slice(start, start + batch_size))
        batch = batch.to(device=device, memory_format=torch.channels_last)
        output = encoder(batch)
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(batch):
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise FeaturesError(
                f"the encoder must return [{len(batch)}, d] for {len(batch)} images, not {got}: "
                "pool the spatial axes away, or pass the part of the model that ends in the representation"
            )
        if not output.isfinite().all():
            raise FeaturesError(
                f"the encoder returned values that are not finite for images {start} to {start + len(batch) - 1}: "
                "its training probably diverged; look at its history"
            )
        if start == 0:
            _check_alone(encoder, batch, output)
        parts.append(output.float().cpu())
    return torch.cat(parts)


def _check_alone(encoder: nn.Module, batch: Tensor, output: Tensor) -> None:
    """A feature may depend on its image alone; batch statistics or dropout break that without moving a weight."""
    few = min(8, len(batch) // 2)
    if few >= 2:
        gap = (encoder(batch[:few]) - output[:few]).abs().max()
        if gap > 1e-2 * output[:few].abs().max() + 1e-6:
            raise FrozenEncoderError(
                f"in eval mode, the features of the first {few} images differ by {float(gap):.3g} when they are "
                "encoded without the rest of the batch: some layer still uses batch statistics or chance. Give "
                "BatchNorm running statistics (track_running_stats=True) and let dropout follow self.training"
            )
