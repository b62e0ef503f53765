"""One question to many encoders: cases, a measure of one of them, and one table that says whose each row is."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import torch

from ciperlib import __version__
from ciperlib.analyse.fingerprints import fingerprint
from ciperlib.analyse.keys import NoKeyError, key_of
from ciperlib.analyse.statistics import adjust, over_seeds, p_value_over_seeds
from ciperlib.config import Config
from ciperlib.data.imageset import TrainedOn, data_root
from ciperlib.files import SealError, read_sealed, write_sealed
from ciperlib.labels import labels
from ciperlib.learn.encoders.base import Encoder
from ciperlib.learn.external import load_external
from ciperlib.learn.runs import ENCODER, PACKED, Run
from ciperlib.learn.training import fit
from ciperlib.learn.zoo import configs_of, find_run

EXTERNAL = "external"  # how tables call an encoder from elsewhere
WHO = ("encoder", "method", "seed")  # the columns that say whose a row is
ERROR = "error"  # the column of what could not be measured, and why
DIFFERENCE = ("difference", "low", "high", "p_value", "seeds", "adjusted")
SECONDS_BETWEEN_LINES = 10.0
Rows: TypeAlias = Any  # a result with `to_row`, a mapping, a table, or a list of these


class CompareError(ValueError):
    """Cases that cannot be compared, or a measure that measured none of them; the message names what is wrong."""


@dataclass(frozen=True, eq=False)
class Case:
    """An encoder in a comparison. Nothing of it is read or trained before it is asked for.

    Attributes:
        name: what tables and figures call it; cases of one name differ in their seed alone.
        method, seed: of its training.
        config: of its run; None for an encoder from elsewhere.
        external: which one that is, see `load_external`.
        device, progress: as for `fit`, where it has to be trained first.
    """

    name: str
    method: str
    seed: int = 0
    config: Config | None = None
    external: str = ""
    device: str | torch.device = "cpu"
    progress: str = "lines"

    @property
    def who(self) -> dict[str, Any]:
        """The columns that say whose a row is."""
        return dict(zip(WHO, (self.name, self.method, self.seed)))

    @cached_property
    def run(self) -> Run:
        """Its run: the zoo's, one of `runs/`, or one that is trained now.

        Raises:
            CompareError: it is an encoder from elsewhere.
        """
        if self.config is None:
            raise CompareError(f"{self.name} ({self.external}) comes from elsewhere: there is no run of it")
        return find_run(self.config) or fit(self.config, progress=self.progress, device=str(self.device))

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder, read anew each time."""
        return self.run.load_encoder(self.device) if self.config else self._external.encoder

    @property
    def trained_on(self) -> TrainedOn | None:
        """The images that it was trained on; None where nobody knows."""
        return self.run.trained_on if self.config else self._external.trained_on

    @cached_property
    def _external(self):
        return load_external(self.external, device=self.device)

    @cached_property
    def key(self) -> str:
        """Which encoder this is: the digest of its run's file of weights, or of the weights themselves."""
        if self.config is None:
            return f"{self._external.name} {fingerprint(self._external.encoder)}"
        files = self.run.status["files"]
        return f"{self.config.name} {files.get(PACKED) or files[ENCODER]} {self.config.plugins}"


def find_cases(
    kinds: Sequence[Mapping[str, Any]], seeds: Sequence[int] | None = None, *, external: str = "",
    device: str | torch.device = "cpu", progress: str = "lines", **choices: Any,
) -> list[Case]:  # fmt: skip
    """Every kind with every seed, and an encoder from elsewhere; the same one twice is one case.

    Args:
        kinds: choices of a config, as in the zoo's grid.
        seeds: of every kind; None for as many as the grid says of each ("seeds"), or 0, 1, 2.
        external: one more encoder, see `load_external`; none if empty.
        device, progress: as for `fit`.
        choices: of all configs, where a kind does not say otherwise.

    Raises:
        ConfigError: a choice that no config may have.

    Example:
        >>> cases = find_cases([{"method": "simclr"}, {"alpha": 0.1}], seeds=(0, 1), train_size=5000)
        >>> [(case.name, case.seed) for case in cases][:3]
        [('SimCLR, image aug.', 0), ('SimCLR, image aug.', 1), ('CIPER 0.1, image aug.', 0)]
    """
    cases = cases_of(configs_of(kinds, seeds, **choices), device=device, progress=progress)
    return [*cases, Case(EXTERNAL, EXTERNAL, external=external, device=device)] if external else cases


def cases_of(configs: Sequence[Config], **options: Any) -> list[Case]:
    """A case for each config, named by what tells them apart; `options` are those of a `Case`."""
    names = labels(configs)
    return [Case(name, config.method, config.seed, config, **options) for name, config in zip(names, configs)]


def compare(
    cases: Sequence[Case], measure: Callable[[Case], Rows], *, known: pd.DataFrame | None = None, keep: bool = True
) -> pd.DataFrame:
    """Asks every case the same: a table with the columns encoder, method, seed, and what `measure` found.

    What was found is kept beside the cached images, under a key of the encoder, the measure's own code and all that it
    reads (see `keys`), and found again. A case that fails has one row, which says why in the column `error`.

    Args:
        measure: from a case to its rows: a result with `to_row`, a mapping, a table, or a list of these.
        known: a table of an earlier comparison with a column `run`, as `read_shipped` gives it: who is in it is not
            asked again.
        keep: False to ask them all, and to keep nothing.

    Raises:
        CompareError: no cases; two of one name that differ in more than their seed; or none could be measured.
    """
    check_cases(cases)
    found = {case: _rows_of(case, known) for case in cases}
    asked = [case for case, rows in found.items() if rows is None]
    key = _key_of_measure(measure) if keep and asked else None
    for case in _in_turn(asked, getattr(measure, "__name__", "measure")):
        try:
            rows = _measured(case, measure, key)
        except Exception as error:  # whatever one encoder does, the others are measured
            rows = [{ERROR: f"{type(error).__name__}: {error}"}]
        found[case] = pd.DataFrame(rows).assign(**case.who)
    table = pd.concat(found.values(), ignore_index=True)
    _say_what_is_missing(table)
    return table[[*WHO, *(name for name in table if name not in WHO)]]


def _rows_of(case: Case, known: pd.DataFrame | None) -> pd.DataFrame | None:
    """The rows of a case's run in an earlier table; None if there are none, or if it is from elsewhere."""
    if known is None or case.config is None:
        return None
    rows = known[known["run"] == case.config.name].drop(columns="run")
    return rows.assign(**case.who) if len(rows) else None


def check_cases(cases: Sequence[Case]) -> None:
    """Raises a CompareError for no cases, for one that is there twice, and for two that one row would hide."""
    if not cases:
        raise CompareError("there are no cases to compare")
    kinds = defaultdict(set)
    for case in cases:
        kind = case.external if case.config is None else replace(case.config, seed=0).name
        kinds[case.name].add(kind)
        if len(kinds[case.name]) > 1:
            raise CompareError(
                f"two cases are called {case.name!r} and differ in more than their seed: {', '.join(kinds[case.name])}"
            )
    names = [(case.name, case.seed) for case in cases]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CompareError(f"{twice[0][0]!r}, seed {twice[0][1]}, is there twice")


def _key_of_measure(measure: Callable[[Case], Rows]) -> str | None:
    """None where nobody could say whether it is still the same; it is said."""
    try:
        return key_of(measure, __version__, torch.__version__)
    except NoKeyError as error:
        print(f"{getattr(measure, '__name__', 'the measure')} reads {error}: what it finds is not kept")
        return None


def _measured(case: Case, measure: Callable[[Case], Rows], key: str | None) -> list[dict[str, Any]]:
    path = None if key is None else data_root() / "cache" / "measured" / f"{key_of(key, case, case.device)}.json"
    if path is not None and (rows := _recall(path)) is not None:
        return rows
    rows = [row for row in as_rows(measure(case)) if row]
    if not rows:
        raise CompareError("the measure found nothing")
    if path is not None:
        try:
            write_sealed(path, {"rows": [list(row.items()) for row in rows]})  # in this order
        except OSError as error:
            print(f"what was found of {case.name} cannot be kept in {path.parent}: {error.strerror}")
    return rows


def _recall(path: Path) -> list[dict[str, Any]] | None:
    try:
        kept, sealed = read_sealed(path)
        return [dict(row) for row in kept["rows"]] if sealed else None
    except (SealError, KeyError, TypeError, ValueError):
        return None


def as_rows(found: Rows) -> list[dict[str, Any]]:
    """What a measure found, as rows of numbers and texts.

    Raises:
        CompareError: something that is neither a result nor a table, or a value that is neither a number nor a text.
    """
    if found is None:
        return []
    if isinstance(found, pd.DataFrame):
        return as_rows(found.to_dict("records"))
    if hasattr(found, "to_row"):
        found = found.to_row()
    if isinstance(found, Mapping):
        return [{str(name): _as_cell(str(name), value) for name, value in found.items()}]
    if isinstance(found, (list, tuple)):
        return [row for part in found for row in as_rows(part)]
    raise CompareError(f"a measure must give a row, a table or a list of rows, not a {type(found).__name__}")


def _as_cell(name: str, value: Any) -> Any:
    if hasattr(value, "item"):
        with suppress(ValueError, RuntimeError):  # of a tensor or array of one
            value = value.item()
    if not isinstance(value, (int, float, str, bool, type(None))):
        raise CompareError(f"{name} is a {type(value).__name__}: a row holds numbers and texts")
    return value


def _in_turn(cases: Sequence[Case], what: str) -> Iterator[Case]:
    """Each case, with a bar for a reader, or in a batch a line now and then: how many are done, and the time left."""
    if cases and cases[0].progress == "bar":
        from tqdm.auto import tqdm

        yield from tqdm(cases, desc=what, unit="encoder", file=sys.stdout)
        return
    start = last = time.monotonic()
    for done, case in enumerate(cases):
        now = time.monotonic()
        if done and now - last >= SECONDS_BETWEEN_LINES and case.progress != "none":
            last, left = now, (now - start) / done * (len(cases) - done)
            print(f"{what}: {done} of {len(cases)} encoders, about {left:.0f} s left", flush=True)
        yield case


def _say_what_is_missing(table: pd.DataFrame) -> None:
    """Of whom nothing is known, or less than of the others.

    Raises:
        CompareError: nothing is known of anybody.
    """
    if ERROR not in table:
        return
    failed = table[table[ERROR].notna()]
    if len(failed) == len(table):
        raise CompareError(f"none of {len(table)} encoders could be measured; {failed[ERROR].iloc[0]}")
    for row in failed.itertuples():
        print(f"not measured: {row.encoder}, seed {row.seed} ({row.error})")


def average(
    table: pd.DataFrame, columns: Mapping[str, str], by: Sequence[str] = ("encoder",), interval: bool = True,
    digits: int | Mapping[str, int] = 2,
) -> pd.DataFrame:  # fmt: skip
    """Columns over seeds, as text: the mean with its 95% t-interval, where there are seeds for one, or all the texts.

    Args:
        table: of `compare`.
        columns: name in the table -> how it is called; those that the table lacks are left out.
        by: what a row is of, in the table's order.
        digits: behind the point, of all or by column.
    """
    groups = table.groupby(list(by), sort=False)
    shown = {}
    for name in (name for name in columns if name in table):
        places = digits.get(name, 2) if isinstance(digits, Mapping) else digits
        shown[columns[name]] = groups[name].agg(partial(_cell, interval=interval, places=places))
    return pd.DataFrame(shown)


def _cell(values: pd.Series, interval: bool, places: int) -> str:
    if not pd.api.types.is_numeric_dtype(values):
        texts = values.dropna().astype(str)
        return texts.iloc[0] if texts.nunique() == 1 else ", ".join(texts)
    mean, low, high = over_seeds(values)
    if math.isnan(mean):
        return ""
    ends = f" [{low:.{places}f}, {high:.{places}f}]" if interval and math.isfinite(low) else ""
    missing = f" ({values.count()} of {len(values)})" if values.isna().any() else ""
    return f"{mean:.{places}f}{ends}{missing}"


def differences(
    table: pd.DataFrame,
    columns: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    by: str = "",
    correction: str = "holm",
) -> pd.DataFrame:
    """First minus second encoder of each pair, paired by seed: a row for each pair, value of `by`, and column.

    Args:
        table: of `compare`.
        columns: of numbers.
        pairs: names of encoders; those that the table lacks are left out.
        by: a column whose values are looked at one by one; empty: none.
        correction: of the p-values of all rows together, "holm", "benjamini-hochberg" or "none".

    Returns:
        pair, `by`, measure, difference and the ends low and high of its 95% t-interval, p_value, adjusted, and seeds,
        which both have. For fewer than two seeds there is neither interval nor p-value.
    """
    rows = []
    parts = table.groupby(by, sort=False) if by else [("", table)]
    for value, part in parts:
        for (first, second), name in itertools.product(pairs, columns):
            scores = part.pivot(index="seed", columns="encoder", values=name)
            if {first, second} <= set(scores):
                gaps = (scores[first] - scores[second]).dropna()
                mean, low, high = over_seeds(gaps)
                about = {"pair": f"{first} minus {second}", **({by: value} if by else {}), "measure": name}
                found = {"difference": mean, "low": low, "high": high, "p_value": p_value_over_seeds(gaps)}
                rows.append({**about, **found, "seeds": len(gaps)})
    if not rows:
        return pd.DataFrame(columns=["pair", *([by] if by else []), "measure", *DIFFERENCE])
    found = pd.DataFrame(rows)
    return found.assign(adjusted=adjust(found["p_value"], correction))


def as_metrics(table: pd.DataFrame, columns: Sequence[str], by: Sequence[str] = ("encoder",)) -> dict[str, Any]:
    """Means over seeds (or the seeds' texts) by "column: encoder, ...", for `record_metrics`; without what is NaN."""
    metrics: dict[str, Any] = {}
    for key, part in table.groupby(list(by), sort=False):
        for name in (name for name in columns if name in part):
            values, called = part[name].dropna(), f"{name}: {', '.join(map(str, key))}"
            if pd.api.types.is_numeric_dtype(values) and len(values):
                metrics[called] = float(values.mean())
            elif len(values):
                metrics[called] = ", ".join(map(str, values))
    return metrics
