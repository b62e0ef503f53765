"""A portrait: what can be seen of one encoder at once. Its probes, where it looks, how it lays images out, and what the
class adds to the azimuth; of the same images for every encoder, small enough to be kept beside it.

A portrait says which images it is of, and is refused for others: by their names, ids and rendering, which are the same
on every machine; and by their pixels, which may differ by 1/255 between machines, where it was made here. The zoo's
were made before portraits said so: they are of `SHIPPED_IMAGES`, and a table beside them vouches for their files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ciperlib.analyse.embedding import Embedding, fit_embedding
from ciperlib.analyse.evidence import draw_maps
from ciperlib.analyse.features import as_features, extract_features
from ciperlib.analyse.information import explaining_away
from ciperlib.analyse.orbits import extract_orbits, pixel_orbits
from ciperlib.analyse.saliency import as_bytes
from ciperlib.analyse.shipped import image_key
from ciperlib.analyse.tables import probe_encoder, probe_floors, random_encoder, to_metrics
from ciperlib.config import Config
from ciperlib.data import load_images
from ciperlib.data.imageset import ImageSet, TrainedOn
from ciperlib.files import SealError, read_sealed, sha256, write_atomically
from ciperlib.learn.augment.transformations import Transformation, make_transformation
from ciperlib.learn.devices import find_device
from ciperlib.learn.runs import Run, load_run, shipped_digest, zoo_grid, zoo_root

PORTRAIT, FLOORS = "portrait.safetensors", "floors.json"
ASKED, TARGET, TURNED, NULLS = "azimuth", "category", 500, 19  # as in notebook 05
PORTRAYED = ("probing", "alpha", "removed", "explorer", "kin")  # parts of the zoo's grid
PROBED = ("category", "object", "session", "pose")
FLOOR_NAMES = ("pixels", "random encoder", "shuffled labels")
SYNERGY = ("value", "low", "high", "level_entropy", "levels")  # of it, what is drawn and said
FACTS = ("name", "scores", "synergy", "images", "pixels")  # of a portrait, what is kept as text
SHIPPED_IMAGES = "439b6177d0cb2d9b 5000 2500"  # `Sitting.images` of portraits that do not say so
Report = Callable[[str], None]


class PortraitError(Exception):
    """A portrait that is missing or damaged; the message says what to do."""


class Sitting:
    """The images that every portrait is of: turntable images which its encoders were not trained on.

    Args:
        device: where encoders work: "auto", "cpu", "cuda", "cuda:1".
        train_size, test_size: images that probes are fitted on and scored on.
    """

    def __init__(self, device: str = "cpu", train_size: int = 5000, test_size: int = 2500) -> None:
        self._device, self._train_size, self._test_size = device, train_size, test_size

    @cached_property
    def train(self) -> ImageSet:
        return load_images("turntable", "train", size=self._train_size, device=find_device(self._device))

    @cached_property
    def _unseen(self) -> ImageSet:
        return load_images("turntable", "test", device=find_device(self._device))

    @cached_property
    def test(self) -> ImageSet:
        return self._unseen.subset(slice(self._test_size))

    @cached_property
    def images(self) -> str:
        """Which images these are, the same on every machine: `shown`, and how many are fitted on and scored on."""
        return f"{self.shown} {self._train_size} {self._test_size}"

    @cached_property
    def shown(self) -> str:
        """Which test images there are to be shown, whatever the sizes, see `image_key`."""
        return image_key(self._unseen)

    @cached_property
    def pixels(self) -> str:
        """The pixels of the test images as they were rendered here: 16 hexadecimal digits."""
        return hashlib.sha256(self._unseen.images.cpu().contiguous().numpy()).hexdigest()[:16]

    @cached_property
    def laid_out(self) -> ImageSet:
        """Of all test images, those of the first object of each category: 500, whatever `test_size` is."""
        objects, categories = (len(self._unseen.labels[name]) for name in ("object", "category"))
        return self._unseen.subset(self._unseen.factors["object"] % (objects // categories) == 0)

    @cached_property
    def looked_at(self) -> ImageSet:
        """One of the laid out images for each category, in order of category."""
        category = self.laid_out.factors["category"]
        return self.laid_out.subset(torch.stack([(category == value).nonzero()[0, 0] for value in category.unique()]))

    @cached_property
    def turned(self) -> tuple[Transformation, tuple[ImageSet, ...]]:
        """The transformation that is asked about, and the test images at each of its levels."""
        asked = make_transformation(ASKED)
        return asked, asked.orbit(self.test.subset(slice(TURNED)))


@dataclass(frozen=True, eq=False)
class Portrait:
    """What is kept of one encoder.

    Attributes:
        name, config: of its run; an encoder from elsewhere has no config.
        scores: `to_metrics` of its probes.
        synergy: `ExplainingAway`'s fields by name, about the azimuth and the category.
        points: float32 [N, 2], PaCMAP of `Sitting.laid_out`.
        maps: uint8 [10, H, W], FullGrad of the object probe's true answers for `Sitting.looked_at`; each from 0 to 255.
        images, pixels: of the `Sitting`; no pixels where it was made elsewhere, or before portraits said so.
    """

    name: str
    config: Config | None
    scores: dict[str, float]
    synergy: dict[str, Any]
    points: Tensor
    maps: Tensor
    images: str
    pixels: str = ""

    def is_of(self, sitting: Sitting) -> bool:
        """Whether it shows these images; pixels count where they are known."""
        return self.images == sitting.images and self.pixels in ("", sitting.pixels)


def make_portrait(run: Run, sitting: Sitting, report: Report = lambda step: None) -> Portrait:
    """A portrait of a run's encoder; about ten seconds on two cores. `report` as for `portray`."""
    encoder = run.load_encoder(sitting.test.device)
    return portray(encoder, run.name, sitting, report, config=run.config, trained_on=run.trained_on)


def portray(
    encoder: nn.Module, name: str, sitting: Sitting, report: Report = lambda step: None, *,
    config: Config | None = None, trained_on: TrainedOn | None = None,
) -> Portrait:  # fmt: skip
    """A portrait of any frozen encoder, trained here or elsewhere.

    Args:
        report: is told each step's name before it begins.

    Raises:
        SaliencyError: a network that FullGrad cannot take apart exactly.
    """
    known = {"trained_on": trained_on}
    report("probes")
    results = probe_encoder(encoder, sitting.train, sitting.test, **known)
    report("saliency maps")
    maps = as_bytes(draw_maps(encoder, results["object"], sitting.looked_at)[:, 0]).cpu()
    report("PaCMAP")
    layout = fit_embedding(extract_features(encoder, sitting.laid_out, **known))
    report("explaining-away")
    asked, levels = sitting.turned
    synergy = explaining_away(extract_orbits(encoder, levels, asked, **known), TARGET, nulls=NULLS)
    seen = {"images": sitting.images, "pixels": sitting.pixels}
    return Portrait(name, config, to_metrics(results), asdict(synergy), layout.points, maps, **seen)


def measure_floors(sitting: Sitting, seed: int = 0) -> dict[str, dict[str, float]]:
    """What the numbers of a portrait are without training: name of the floor -> score or `synergy` -> value."""
    config = Config(method="random", seed=seed)
    floors: dict[str, dict[str, float]] = {}
    for factor, scores in probe_floors(sitting.train, sitting.test, config=config).items():
        for name, value in scores.items():
            floors.setdefault(name, {})[factor] = value
    asked, levels = sitting.turned
    known = {
        "pixels": pixel_orbits(sitting.train, levels, asked),
        "random encoder": extract_orbits(random_encoder(config, sitting.train), levels, asked),
    }
    for name, orbits in known.items():
        floors[name]["synergy"] = explaining_away(orbits, TARGET, nulls=0).value
    return floors


def write_portrait(folder: Path, portrait: Portrait) -> None:
    """Keeps a portrait in its run's folder, as one file with a checksum over all of it."""
    tensors = {"points": portrait.points, "maps": portrait.maps}
    text = json.dumps({name: getattr(portrait, name) for name in FACTS})
    write_atomically(folder / PORTRAIT, save(tensors, {"portrait": text, "sha256": _digest(tensors, text)}))


def read_portrait(folder: Path, config: Config) -> Portrait:
    """The portrait in a run's folder.

    Raises:
        PortraitError: there is none, or it is damaged or another run's.
    """
    path = Path(folder) / PORTRAIT
    if not path.exists():
        raise PortraitError(f"{config.name} has no portrait in {folder}; `make zoo` makes those of the zoo")
    try:
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in ("points", "maps")}, file.metadata()
        text = metadata["portrait"]
        facts = {"images": SHIPPED_IMAGES, **json.loads(text)}
        own = metadata.get("sha256") == _digest(tensors, text)
        whole = own or (_is_vouched_for(path) and facts["digest"] == _digest(tensors)[:16])
        whole &= facts["name"] == config.name and _is_sound(tensors, facts)
        known = {name: facts[name] for name in FACTS if name in facts}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise PortraitError(f"{path} is damaged; delete it, and `make zoo` makes it again if it is the zoo's")
    return Portrait(config=config, **tensors, **known)


def _is_vouched_for(path: Path) -> bool:
    """Whether a file without a checksum of its own is the one that was shipped; of files that no table names nobody
    knows."""
    try:
        return shipped_digest(path) in (None, sha256(path))
    except SealError:
        return False


def _is_sound(tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> bool:
    """Whether everything is there that is drawn or said, and is of its kind."""
    points, maps, scores, synergy = tensors["points"], tensors["maps"], facts["scores"], facts["synergy"]
    numbers = [scores[name + end] for name in PROBED for end in ("", "_low", "_high")] + [synergy[n] for n in SYNERGY]
    return (
        (points.dtype, points.ndim, maps.dtype, maps.ndim) == (torch.float32, 2, torch.uint8, 3)
        and points.shape[1] == 2
        and all(isinstance(number, (int, float)) for number in numbers)
        and isinstance(synergy["verdict"], str)
    )


def load_portrait(config: Config) -> Portrait:
    """The portrait of an encoder of the zoo.

    Raises:
        RunError: the encoder is missing or damaged.
        PortraitError: its portrait is.
    """
    run = load_run(zoo_root() / config.name)
    return read_portrait(run.folder, run.config)


def read_or_make(run: Run, sitting: Sitting, report: Report = lambda step: None) -> Portrait:
    """The portrait in a run's folder; where there is none, or one of other images, it is made and kept. `report` as for
    `portray`.

    Raises:
        PortraitError: the zoo's portrait is of other images; what is shipped is not replaced.
    """
    if (run.folder / PORTRAIT).exists():
        portrait = read_portrait(run.folder, run.config)
        shipped = run.folder.parent.resolve() == zoo_root().resolve()
        portrait = replace(portrait, pixels="") if shipped else portrait
        if portrait.is_of(sitting):
            return portrait
        if shipped:
            raise _of_other_images(portrait)
    write_portrait(run.folder, make_portrait(run, sitting, report=report))
    return read_portrait(run.folder, run.config)


def read_floors() -> dict[str, dict[str, float]]:
    """The zoo's `measure_floors`.

    Raises:
        PortraitError: there are none, or the file is damaged.
    """
    path = zoo_root() / FLOORS
    try:
        floors, sealed = read_sealed(path)
        numbers = [floors[name][factor] for name in FLOOR_NAMES for factor in PROBED]
        whole = all(isinstance(number, (int, float)) for number in numbers) and (sealed or _is_vouched_for(path))
    except (OSError, SealError, KeyError, TypeError):
        whole = False
    if not whole:
        raise PortraitError(f"{path} is missing or damaged; delete it, and `make zoo` makes it again")
    return floors


def portrayed() -> list[Config]:
    """The zoo's encoders that have portraits: all that differ in method, alpha or augmentation, with every seed."""
    seeds = zoo_grid()[1]
    return [Config(**kind, seed=seed) for part in PORTRAYED for kind in zoo_grid(part)[0] for seed in seeds]


def as_embedding(portrait: Portrait, sitting: Sitting) -> Embedding:
    """The portrait's points with what is known of their images; h itself is not kept.

    Raises:
        PortraitError: a portrait of other images.
    """
    if portrait.images.split()[0] != sitting.shown or len(portrait.points) != len(sitting.laid_out):
        raise _of_other_images(portrait)
    return Embedding(portrait.points, as_features(portrait.points, sitting.laid_out, portrait.name), "pacmap", 0)


def _of_other_images(portrait: Portrait) -> PortraitError:
    return PortraitError(f"the portrait of {portrait.name} is of other images; delete it, and make it again")


def _digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of named tensors and a text; of the tensors alone in portraits that were made before texts counted."""
    content = b"".join(tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(content + text.encode()).hexdigest()
