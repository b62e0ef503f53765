"""What an analysis found, as numbers that also show themselves in a notebook."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ciperlib.analyse.solvers.linear import Linear
from ciperlib.markup import NO_FORMULAS, as_html


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """What a probe found on the test part, which it looked at once.

    Attributes:
        factor: what was predicted.
        metric: "accuracy" (share of the test images, 0..1) or "R2" (1 at best, 0 for the test part's mean).
        value, low, high: the metric and its 95% bootstrap interval over test groups (the fitted probe held fixed);
            the bounds are NaN where there is one group only.
        n: test images.
        classes: number of categories, None for R2.
        chance: 1 / classes, or 0 for R2.
        baselines: the same metric where nothing or little can be known: a random encoder, pixels, shuffled labels.
        ceiling: the best possible value.
        unseen: whether the encoder was trained on none of the test images: "yes", "no" or "unknown".
        protocol: "lbfgs", "sgd", "knn" or "ridge".
        strength: of the regularisation, as chosen inside the training part; None where there is none to choose.
        details: more numbers, by name.
        scores: float32 [n], 1 where right and 0 where wrong; None for R2.
        prediction: int64 [n] categories, or float64 [n, columns] for R2 (columns: details["columns"]).
        model: the linear map from raw features to logits (rows: details["values"]) or to columns; None for knn.
        encoder_fingerprint: of the encoder that made the features.
    """

    factor: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    classes: int | None
    chance: float
    unseen: str
    protocol: str
    strength: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    ceiling: float = 1.0
    details: dict[str, Any] = field(default_factory=dict)
    scores: Tensor | None = field(default=None, repr=False)
    prediction: Tensor | None = field(default=None, repr=False)
    model: Linear | None = field(default=None, repr=False)
    encoder_fingerprint: str = ""

    def to_row(self) -> dict[str, Any]:
        """One flat row for a table; baselines are columns named "baseline: ..."."""
        names = ("factor", "metric", "value", "low", "high", "n", "classes", "chance", "ceiling", "unseen")
        row = {name: getattr(self, name) for name in (*names, "protocol", "strength")}
        row |= {f"baseline: {name}": value for name, value in self.baselines.items()}
        return row | {name: value for name, value in self.details.items() if isinstance(value, (int, float, str))}

    def _repr_html_(self) -> str:
        interval = f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
        baselines = ", ".join(f"{name} {value:.3f}" for name, value in self.baselines.items()) or "none measured"
        cells = {
            "factor": self.factor,
            "protocol": self.protocol,
            self.metric: interval if math.isfinite(self.low) else f"{self.value:.3f} (one group: no interval)",
            "baselines": f"chance {self.chance:.3f}; {baselines}" if self.classes else baselines,
            "ceiling": f"{self.ceiling:g}",
            "test images": str(self.n),
            "unseen by the encoder": self.unseen,
        }
        return one_row_table(cells)


def one_row_table(cells: Mapping[str, str]) -> str:
    """Names above values, as HTML."""
    head = "".join(f"<th>{as_html(name)}</th>" for name in cells)
    body = "".join(f"<td>{as_html(text)}</td>" for text in cells.values())
    return f"<table {NO_FORMULAS}><thead><tr>{head}</tr></thead><tbody><tr>{body}</tr></tbody></table>"
