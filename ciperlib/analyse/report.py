"""A report: what can be seen of one encoder at once. Its probes, where it looks, how it lays images out, and what the
class adds to the azimuth; of the same images for every encoder, small enough to be kept beside it.

A report says which images it is of, and is refused for others: by their names, ids and rendering, which are the same
on every machine; and by their pixels, which may differ by 1/255 between machines, where it was made here. Those that
were made before reports said so are of `SHIPPED_IMAGES`; of the zoo's a table beside them vouches for their files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ciperlib.analyse.attribution.fullgrad import as_bytes
from ciperlib.analyse.attribution.saliency_tests import draw_maps_with_gap
from ciperlib.analyse.compare import Case
from ciperlib.analyse.features import as_features, extract_features
from ciperlib.analyse.fingerprints import fingerprint
from ciperlib.analyse.information.explaining_away import ExplainingAway, explaining_away
from ciperlib.analyse.layout.layouts import Layout, fit_layout
from ciperlib.analyse.orbits import extract_orbits, pixel_orbits
from ciperlib.analyse.probing.tables import probe_baselines, probe_encoder, random_encoder, to_metrics
from ciperlib.analyse.results import ProbeResult
from ciperlib.analyse.shipped import image_key
from ciperlib.config import Config
from ciperlib.data import load_images
from ciperlib.data.imageset import ImageSet, TrainedOn
from ciperlib.errors import nearest
from ciperlib.files import SealError, read_sealed, sha256, write_atomically
from ciperlib.learn.augment.transformations import Transformation, make_transformation
from ciperlib.learn.devices import find_device
from ciperlib.learn.runs import Run, load_run, shipped_digest
from ciperlib.learn.zoo import SEEDS, configs_of, zoo_grid, zoo_root
from ciperlib.registry import measures

REPORT, BASELINES_FILE = "report.safetensors", "baselines.json"
ONCE_CALLED = {REPORT: "portrait.safetensors", BASELINES_FILE: "floors.json"}  # so they were shipped
# of notebook 05's question to 10,000 images what a report can afford: half of its forty seconds
ASKED, TARGET, TURNED, NULL_SAMPLES = "azimuth", "category", 2000, 19
REPORTED = ("probing", "alpha", "removed", "explorer", "methods")  # parts of the zoo's grid
PROBED = ("category", "object", "session", "pose")
BASELINES = ("pixels", "random encoder", "shuffled labels")
SYNERGY = ("value", "low", "high", "level_entropy", "levels")  # of it, what is drawn and said
FACTS = ("name", "scores", "synergy", "images", "pixels", "measures", "gap")  # of a report, what is kept as text
SHIPPED_IMAGES = "439b6177d0cb2d9b 5000 2500"  # `EvaluationImages.images` of reports that do not say so
Tell = Callable[[str], None]


class ReportError(Exception):
    """A report that is missing or damaged; the message says what to do."""


class EvaluationImages:
    """The images that every report is of: turntable images which its encoders were not trained on.

    Args:
        device: where encoders work: "auto", "cpu", "cuda", "cuda:1".
        train_size, test_size: images that probes are fitted on and scored on.
    """

    def __init__(self, device: str = "cpu", train_size: int = 5000, test_size: int = 2500) -> None:
        self._device, self._train_size, self._test_size = device, train_size, test_size
        self._found: dict[str, Any] = {}  # of the encoder that was asked about last

    @cached_property
    def train(self) -> ImageSet:
        """The images that probes are fitted on."""
        return load_images("turntable", "train", size=self._train_size, device=find_device(self._device))

    @cached_property
    def _unseen(self) -> ImageSet:
        return load_images("turntable", "test", device=find_device(self._device))

    @cached_property
    def test(self) -> ImageSet:
        """Those that they are scored on: the first of the unseen ones."""
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
    def key(self) -> str:
        """Which images these are, here: by name, sizes and pixels."""
        return f"{self.images} {self.pixels}"

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

    def probes(self, encoder: nn.Module, **known: Any) -> dict[str, ProbeResult]:
        """`probe_encoder` of these images; made once for the measures of an encoder. `known` as for it."""
        return self._once(encoder, "probes", lambda: probe_encoder(encoder, self.train, self.test, **known))

    def explaining_away(self, encoder: nn.Module, **known: Any) -> ExplainingAway:
        """What the category adds to knowing the azimuth; made once for the measures of an encoder."""

        def find() -> ExplainingAway:
            asked, levels = self.turned
            return explaining_away(extract_orbits(encoder, levels, asked, **known), TARGET, null_samples=NULL_SAMPLES)

        return self._once(encoder, "explaining-away", find)

    def _once(self, encoder: nn.Module, what: str, find: Callable[[], Any]) -> Any:
        weights = fingerprint(encoder)  # which alone would not do: what has no weights may differ in its code
        if self._found.get("encoder") is not encoder or self._found["weights"] != weights:
            self._found = {"encoder": encoder, "weights": weights}
        if what not in self._found:
            self._found[what] = find()
        return self._found[what]


@dataclass(frozen=True, eq=False)
class Report:
    """What is kept of one encoder.

    Attributes:
        name, config: of its run; an encoder from elsewhere has no config.
        scores: `to_metrics` of its probes.
        synergy: `ExplainingAway`'s fields by name, about the azimuth and the category.
        points: float32 [N, 2], PaCMAP of `EvaluationImages.laid_out`.
        maps: uint8 [10, H, W], FullGrad of the object probe's true answers for `EvaluationImages.looked_at`; each from
            0 to 255.
        images, pixels: of the `EvaluationImages`; no pixels where it was made elsewhere, or before reports said so.
        measures: name of a registered measure -> its value, and low and high where it has an interval; those that
            there were when the report was made.
        gap: by how much the maps' terms miss the output at most, as a share of their size: 0 where FullGrad is exact.
    """

    name: str
    config: Config | None
    scores: dict[str, float]
    synergy: dict[str, Any]
    points: Tensor
    maps: Tensor
    images: str
    pixels: str = ""
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    gap: float = 0.0

    def is_of(self, images: EvaluationImages) -> bool:
        """Whether it shows these images; pixels count where they are known."""
        return self.images == images.images and self.pixels in ("", images.pixels)


def report_run(run: Run, images: EvaluationImages, tell: Tell = lambda step: None) -> Report:
    """A report of a run's encoder; about forty seconds on one core. `tell` as for `make_report`."""
    encoder = run.load_encoder(images.test.device)
    return make_report(encoder, run.name, images, tell, config=run.config, trained_on=run.trained_on)


def make_report(
    encoder: nn.Module, name: str, images: EvaluationImages, tell: Tell = lambda step: None, *,
    config: Config | None = None, trained_on: TrainedOn | None = None,
) -> Report:  # fmt: skip
    """A report of any frozen encoder, trained here or elsewhere.

    Args:
        tell: is told each step's name before it begins.
    """
    known = {"trained_on": trained_on}
    tell("probes")
    results = images.probes(encoder, **known)
    tell("saliency maps")
    maps, gap = draw_maps_with_gap(encoder, results["object"], images.looked_at)
    tell("PaCMAP")
    layout = fit_layout(extract_features(encoder, images.laid_out, **known))
    tell("explaining-away")
    synergy = images.explaining_away(encoder, **known)
    further = {}
    for measure in measures.values():
        if set(measure.needs) <= images.test.factors.keys():
            if measure.name not in (*PROBED, "synergy"):  # those are known by now
                tell(measure.label)
            if (found := measure(encoder, images)) is not None:
                further[measure.name] = _as_numbers(found)
    seen = {"images": images.images, "pixels": images.pixels, "measures": further, "gap": gap}
    told = asdict(synergy) | {"series": [list(step) for step in synergy.series]}  # as it is read again
    return Report(name, config, to_metrics(results), told, layout.points, as_bytes(maps[:, 0]).cpu(), **seen)


def measure_of(name: str, images: EvaluationImages) -> Callable[[Case], dict[str, float]]:
    """A registered measure as a question for `compare`: value, and low and high where it has an interval.

    Raises:
        ReportError: no such measure, or the images lack a factor that it needs.
    """
    if name not in measures:
        raise ReportError(f"there is no measure {name!r}{nearest(name, measures)}")
    measure = measures[name]
    if missing := [factor for factor in measure.needs if factor not in images.test.factors]:
        raise ReportError(f"measure {name!r} needs {missing[0]!r}, which {images.test.name} has not")

    def ask(case: Case) -> dict[str, float]:
        found = measure(case.encoder, images)
        return {} if found is None else _as_numbers(found)

    ask.__name__ = measure.label
    return ask


def _as_numbers(found: float | Sequence[float]) -> dict[str, float]:
    """What a measure gives, with its interval's ends where it has one.

    Raises:
        ReportError: anything but a finite number, or three.
    """
    values = [float(value) for value in (found if isinstance(found, Sequence) else (found,))]
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise ReportError(f"a measure must give a finite number, or (value, low, high), not {found!r}")
    return dict(zip(("value", "low", "high"), values))


def measure_baselines(images: EvaluationImages, seed: int = 0) -> dict[str, dict[str, float]]:
    """What the numbers of a report are without training: name of the baseline -> score or `synergy` -> value."""
    config = Config(method="random", seed=seed)
    baselines: dict[str, dict[str, float]] = {}
    for factor, scores in probe_baselines(images.train, images.test, config=config).items():
        for name, value in scores.items():
            baselines.setdefault(name, {})[factor] = value
    asked, levels = images.turned
    known = {
        "pixels": pixel_orbits(images.train, levels, asked),
        "random encoder": extract_orbits(random_encoder(config, images.train), levels, asked),
    }
    for name, orbits in known.items():
        baselines[name]["synergy"] = explaining_away(orbits, TARGET, null_samples=0).value
    return baselines


def write_report(folder: Path, report: Report) -> None:
    """Keeps a report in its run's folder, as one file with a checksum over all of it."""
    tensors = {"points": report.points, "maps": report.maps}
    text = json.dumps({name: getattr(report, name) for name in FACTS})
    write_atomically(folder / REPORT, save(tensors, {"report": text, "sha256": _digest(tensors, text)}))


def read_report(folder: Path, config: Config) -> Report:
    """The report in a run's folder.

    Raises:
        ReportError: there is none, or it is damaged or another run's.
    """
    path = file_of(folder, REPORT)
    if not path.exists():
        raise ReportError(f"{config.name} has no report in {folder}; `make zoo` makes those of the zoo")
    try:
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in ("points", "maps")}, file.metadata()
        text = metadata["report" if "report" in metadata else "portrait"]
        facts = {"images": SHIPPED_IMAGES, **json.loads(text)}
        facts["measures"] = {**_measures_in(facts), **facts.get("measures", {})}
        own = metadata.get("sha256") == _digest(tensors, text)
        whole = own or (_is_vouched_for(path) and facts["digest"] == _digest(tensors)[:16])
        whole &= facts["name"] == config.name and _is_sound(tensors, facts)
        known = {name: facts[name] for name in FACTS if name in facts}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ReportError(f"{path} is damaged; delete it, and `make zoo` makes it again if it is the zoo's")
    return Report(config=config, **tensors, **known)


def _measures_in(facts: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The measures that a report of an older version holds under other names."""
    ends = ("value", "low", "high")
    probes = {
        name: {end: facts["scores"][name + suffix] for end, suffix in zip(ends, ("", "_low", "_high"))}
        for name in PROBED
    }
    return {**probes, "synergy": {end: facts["synergy"][end] for end in ends}}


def file_of(folder: str | Path, name: str) -> Path:
    """A report's or the baselines' file in a folder, under the name that it has or once had."""
    old = Path(folder) / ONCE_CALLED[name]
    return old if old.exists() and not (Path(folder) / name).exists() else Path(folder) / name


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
        and all(isinstance(number, float) for found in facts.get("measures", {}).values() for number in found.values())
        and isinstance(facts.get("gap", 0.0), float)
    )


def load_report(config: Config) -> Report:
    """The report of an encoder of the zoo.

    Raises:
        RunError: the encoder is missing or damaged.
        ReportError: its report is.

    Example:
        >>> report = load_report(Config(method="ciper"))
        >>> sorted(report.scores)[:3], report.points.shape
        (['category', 'category_high', 'category_low'], torch.Size([500, 2]))
    """
    run = load_run(zoo_root() / config.name)
    return read_report(run.folder, run.config)


def read_or_make(run: Run, images: EvaluationImages, tell: Tell = lambda step: None) -> Report:
    """The report in a run's folder; where there is none, or one of other images, it is made and kept. `tell` as for
    `make_report`.

    Raises:
        ReportError: the zoo's report is of other images; what is shipped is not replaced.
    """
    shipped = run.folder.parent.resolve() == zoo_root().resolve()
    if file_of(run.folder, REPORT).exists():
        report = read_report(run.folder, run.config)
        report = replace(report, pixels="") if shipped else report
        if report.is_of(images):
            return report
        if shipped:
            raise _of_other_images(report)
    made = report_run(run, images, tell)
    write_report(run.folder, replace(made, pixels="") if shipped else made)  # it is read on machines of all kinds
    return read_report(run.folder, run.config)


def read_baselines() -> dict[str, dict[str, float]]:
    """The zoo's `measure_baselines`.

    Raises:
        ReportError: there are none, or the file is damaged.
    """
    path = file_of(zoo_root(), BASELINES_FILE)
    try:
        baselines, sealed = read_sealed(path)
        numbers = [baselines[name][factor] for name in BASELINES for factor in PROBED]
        whole = all(isinstance(number, (int, float)) for number in numbers) and (sealed or _is_vouched_for(path))
    except (OSError, SealError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ReportError(f"{path} is missing or damaged; delete it, and `make zoo` makes it again")
    return baselines


def reported() -> list[Config]:
    """The zoo's encoders that have reports: all that differ in method, alpha or augmentation, with the seeds that every
    kind has."""
    return configs_of([kind for part in REPORTED for kind in zoo_grid(part)], SEEDS)


def as_layout(report: Report, images: EvaluationImages) -> Layout:
    """The report's points with what is known of their images; h itself is not kept.

    Raises:
        ReportError: a report of other images.
    """
    if report.images.split()[0] != images.shown or len(report.points) != len(images.laid_out):
        raise _of_other_images(report)
    return Layout(report.points, as_features(report.points, images.laid_out, report.name), "pacmap", 0)


def _of_other_images(report: Report) -> ReportError:
    return ReportError(f"the report of {report.name} is of other images; delete it, and make it again")


def _digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of named tensors and a text; of the tensors alone in reports that were made before texts counted."""
    content = b"".join(tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(content + text.encode()).hexdigest()
