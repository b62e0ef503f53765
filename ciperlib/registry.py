"""Who there is: whatever can be chosen by name says what it is where it is defined, and nothing else lists it."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from ciperlib.errors import nearest

CHOICES: dict[str, bool] = {}  # of a config, and whether it is owned; `config` says so
CONTRAST = ("projector_width", "temperature", "contrastive")  # what the contrastive head reads of a config
PREDICTION = ("predictor_width", "standardisation", "anchor_forward", "anchor_gradient", "prediction_sign")


class RegistryError(ValueError):
    """A thing that cannot be registered as it says, or a name that is taken; the message names both."""


@dataclass(frozen=True)
class Option:
    """A choice of one entry's own, given in `Config.options` as name=value; in a run's name where it is no default.

    Attributes:
        default: a float, an int, a bool or a text, and so is every value.
        description: in a few words.
        low, high: of a number.
        among: of a text, all there is to choose from.

    Raises:
        RegistryError: a default that is out of its own range.
    """

    default: float | int | bool | str
    description: str
    low: float | None = None
    high: float | None = None
    among: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if wrong := self.wrong_with(self.default):
            raise RegistryError(f"the default {self.default!r} ({self.description}) {wrong}")

    def parse(self, text: str) -> float | int | bool | str:
        """The value that a text says; ValueError, with what is wrong, if it says none."""
        value: float | int | bool | str = text
        if isinstance(self.default, bool):
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif isinstance(self.default, (int, float)):
            with suppress(ValueError):
                value = type(self.default)(text) + 0  # 0 and -0 are one choice
        if type(value) is not type(self.default):
            raise ValueError(f"is no {type(self.default).__name__}")
        if wrong := self.wrong_with(value):
            raise ValueError(wrong)
        return value

    def wrong_with(self, value: Any) -> str | None:
        """What is wrong with a value of the right type; None if nothing is."""
        if self.among and value not in self.among:
            return f"is none of {', '.join(self.among)}"
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        if isinstance(value, (int, float)) and not (low <= value <= high and math.isfinite(value)):
            return f"is not from {low:g} to {high:g}"
        return None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is common to all that can be chosen by name.

    Attributes:
        name: by which it is chosen.
        build: the class or function.
        label: in tables and figures.
        reads: of the choices of a config that are `owned` those that it reads: only then are they in a run's name. All
            others count in every name, whoever reads them.
        place: where it stands in lists; after that by name.
        options: choices of its own by name, read as `config.option(name)`.
        recipe: raised when its behaviour changes for the same choices; in a run's name where it is above 1.
        package: that it needs and that nothing else does; who lacks it is told when the entry is used.
        file: that defines it, where that is none of the library's: a plugin, or a notebook's cell.
        digest: of that file as it was read; it is in the record of each run that the entry had a part in.
    """

    name: str
    build: Callable[..., Any]
    label: str
    reads: tuple[str, ...] = ()
    place: int = 100
    options: Mapping[str, Option] = field(default_factory=dict)
    recipe: int = 1
    package: str = ""
    file: str = ""
    digest: str = ""

    def __call__(self, *arguments: Any, **choices: Any) -> Any:
        """What it builds.

        Raises:
            RegistryError: its package is not installed.
        """
        if self.package and find_spec(self.package) is None:
            raise RegistryError(f"{self.name!r} needs the package {self.package}: pip install {self.package}")
        return self.build(*arguments, **choices)


@dataclass(frozen=True, kw_only=True)
class Architecture(Entry):
    """A network: a function of a config that gives its `Encoder` with fresh weights.

    Attributes:
        check: raises ConfigError for a config that cannot work with it.
    """

    check: Callable[[Any], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset(Entry):
    """Images: a function `load(name, split, *, size, image_size, root)` that gives an `ImageSet`.

    Attributes:
        factors: the ground truth that comes with them; None where it is known only once they are read.
        enough: step -> the training images from which on each object has another one to be its view; 1 where not said.
        fixed: whether a checksum fixes its images; else what is read names the run, too.
        named: whether a name of the user's own follows, as in folder:NAME.
        rendered: whether any object can be shown again in any pose.
        smallest_side: in pixels.
    """

    factors: tuple[str, ...] | None
    enough: Mapping[str, int] = field(default_factory=dict)
    fixed: bool = False
    named: bool = False
    rendered: bool = False
    smallest_side: int = 1

    def has(self, *factors: str) -> bool:
        """Whether its images have these factors, or may have them."""
        return self.factors is None or set(factors) <= set(self.factors)


@dataclass(frozen=True, kw_only=True)
class Step(Entry):
    """A step of the augmentation: an `ImageStep` or a `DatasetStep`, called with what it reads and its options.

    Attributes:
        difference: what leads from one view to the other (a `Difference`, `shares` or `changes`, say), for the methods
            that compare two views.
        answer: of a head that is asked for the difference: "bounded" to -1..1, "flag", or "free"; None where none is.
        dataset: whether it takes another image of the anchor's object, instead of changing it.
        needs: the factors that images must have for it.
    """

    difference: Callable[..., Any]
    answer: str | None = "bounded"
    dataset: bool = False
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        accepted = inspect.signature(self.build).parameters
        if missing := [choice for choice in (*self.reads, *self.options) if choice not in accepted]:
            raise RegistryError(f"step {self.name!r} is not made with {missing[0]!r}, which it reads")
        if demanded := [name for name, known in accepted.items() if known.default is known.empty]:
            raise RegistryError(f"step {self.name!r}: {demanded[0]!r} has no default")
        if self.answer not in ("bounded", "flag", "free", None):
            raise RegistryError(f"step {self.name!r}: answer must be 'bounded', 'flag', 'free' or None")


@dataclass(frozen=True, kw_only=True)
class Pretext(Entry):
    """A transformation whose level can be predicted: a function that gives its `Transformation`.

    Attributes:
        needs: the factors that training images must have for it.
        rendered: whether its levels are parts of what is rendered.
        hidden_by: the steps of the augmentation after which nobody could tell the level.
    """

    needs: tuple[str, ...] = ()
    rendered: bool = False
    hidden_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Method(Entry):
    """A way to train an encoder: an `Objective`, called with (config, specs, categories).

    Attributes:
        colour: in figures, "#RRGGBB".
        alpha: its own weight of what is predicted; None where nothing is weighed. To be said in any case: if it were
            forgotten, what is predicted would be weighed by 0.
        at_zero: the method that it is with alpha 0; None where that would be nobody's.
        invariant_share: of h, where it divides h into an invariant and an equivariant part; else 0.
        check: raises ConfigError for a config that cannot work with it.
        trained: False for an encoder that stays as it is drawn.
        needs_views: whether it can do nothing without augmentation.
        halves: whether it also looks at images of half the side.
        title: the beginning of a run's name, in parts; None: the method's name, and its alpha.
    """

    colour: str
    alpha: float | None
    at_zero: str | None = None
    invariant_share: float = 0.0
    check: Callable[[Any], None] | None = None
    trained: bool = True
    needs_views: bool = True
    halves: bool = False
    title: Callable[[Any], list[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Measure(Entry):
    """A number of one encoder that its report holds: a function of (encoder, images), a frozen module and an
    `EvaluationImages`, that gives the number, or (value, low, high) with its 95% interval; None where it says nothing.

    Attributes:
        needs: the factors that the images must have; without them it is left out.
        digits: behind the point, where it is shown.
        scale: "share" where it is drawn beside the probes, from 0 to 1; "nats" where explaining-away's meter is; else
            it is said below the figure.
    """

    needs: tuple[str, ...] = ()
    digits: int = 2
    scale: str = ""

    def __post_init__(self) -> None:
        if self.reads or self.options:
            raise RegistryError(f"measure {self.name!r}: a measure is given an encoder and images, and no choices")
        if self.scale not in ("", "share", "nats"):
            raise RegistryError(f"measure {self.name!r}: scale must be 'share', 'nats' or ''")


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E], Generic[E]):
    """Entries of one kind by name, in the order of their places.

    The files of the package are read when somebody first looks; each registers what it defines.

    Args:
        kind: what its entries are, in messages.
        entry: their class.
        package: whose modules hold those that ship.
    """

    def __init__(self, kind: str, entry: type[E], package: str) -> None:
        self.kind, self._entry, self._package = kind, entry, package
        self._entries: dict[str, E] = {}

    def register(self, name: str, **facts: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A decorator: what it stands above is known by this name, with these facts.

        Raises:
            RegistryError: a fact that such an entry has not, or lacks; or a name that is another's. A notebook's cell
                that is run again replaces what it registered.
        """

        def decorate(build: Callable[..., Any]) -> Callable[..., Any]:
            try:
                entry = self._entry(**{**facts, "name": name, "build": build, **_origin(build)})
            except TypeError as error:
                wrong = str(error).partition(") ")[2] or str(error)
                raise RegistryError(f"{self.kind} {name!r}: {wrong}") from None
            self._check_choices(entry)
            self._check_options(entry)
            known = (self._loaded() if entry.digest else self._entries).get(name)
            if known is not None and _source(known.build) != _source(build):
                raise RegistryError(f"there is a {self.kind} {name!r} already, of {_source(known.build)[0]}")
            self._entries[name] = entry
            return build

        return decorate

    def _check_choices(self, entry: E) -> None:
        for choice in entry.reads:
            if CHOICES.get(choice) is False:
                raise RegistryError(
                    f"{self.kind} {entry.name!r} reads {choice!r}, which counts in every name: leave it out of `reads`"
                )
            if choice not in CHOICES:
                owned = [name for name, is_owned in CHOICES.items() if is_owned]
                raise RegistryError(
                    f"{self.kind} {entry.name!r} reads {choice!r}, no choice of a config{nearest(choice, owned)}"
                )

    def _check_options(self, entry: E) -> None:
        for registry in REGISTRIES:
            for other in registry._entries.values():
                taken = other.options.keys() & entry.options.keys()
                if taken and _source(other.build) != _source(entry.build):
                    raise RegistryError(
                        f"{self.kind} {entry.name!r} has an option {min(taken)!r}, the "
                        f"{registry.kind} {other.name!r}'s: choose another name"
                    )

    def __getitem__(self, name: str) -> E:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._loaded(), key=lambda name: (self._entries[name].place, name)))

    def __len__(self) -> int:
        return len(self._loaded())

    def entries(self) -> dict[str, E]:
        """All there are, in no order."""
        return dict(self._loaded())

    def restore(self, entries: Mapping[str, E]) -> None:
        """Makes these all there are."""
        self._entries.clear()
        self._entries.update(entries)

    def forget(self, file: str) -> None:
        """Takes out what a file of the user's registered."""
        self.restore({name: entry for name, entry in self.entries().items() if entry.file != file})

    def _loaded(self) -> dict[str, E]:
        import_module(self._package)
        return self._entries


def _origin(build: Callable[..., Any]) -> dict[str, str]:
    """The file that defines what is none of the library's, and its digest; for a notebook's cell, of the cell."""
    if getattr(build, "__module__", "").partition(".")[0] == "ciperlib":
        return {}
    functions = (build, *vars(build).values()) if isinstance(build, type) else (build,)
    codes = (getattr(inspect.unwrap(f), "__code__", None) for f in functions if callable(f))
    file = next((code.co_filename for code in codes if code is not None), "")
    text = "".join(linecache.getlines(file)) or repr(_source(build))
    return {"file": file, "digest": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _source(build: Callable[..., Any]) -> tuple[str, str]:
    return getattr(build, "__module__", "?"), getattr(build, "__qualname__", "?")


datasets: Registry[Dataset] = Registry("dataset", Dataset, "ciperlib.data")
architectures: Registry[Architecture] = Registry("architecture", Architecture, "ciperlib.learn.encoders")
methods: Registry[Method] = Registry("method", Method, "ciperlib.learn.methods")
steps: Registry[Step] = Registry("step", Step, "ciperlib.learn.augment")
transformations: Registry[Pretext] = Registry("transformation", Pretext, "ciperlib.learn.augment")
measures: Registry[Measure] = Registry("measure", Measure, "ciperlib.analyse.measures")
REGISTRIES = (datasets, architectures, methods, steps, transformations, measures)


def options() -> dict[str, Option]:
    """Every option that there is, by name."""
    entries = (entry for registry in REGISTRIES for entry in registry.values())
    return {name: option for entry in entries for name, option in entry.options.items()}


def dataset_of(name: str) -> Dataset:
    """The dataset of a config's or an image set's choice: "turntable", "folder:NAME"."""
    return datasets[name.partition(":")[0]]
