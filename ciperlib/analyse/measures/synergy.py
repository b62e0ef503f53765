"""Whether knowing the category helps to know the azimuth."""

from __future__ import annotations

from ciperlib.registry import measures


@measures.register("synergy", label="I(A;C|Z) in nats", digits=3, needs=("category",), scale="nats", place=10)
def synergy(encoder, images) -> tuple[float, float, float]:
    """I(A;C|Z) of azimuth A and category C, with its 95% bootstrap interval over images (arXiv 2411.06508)."""
    found = images.explaining_away(encoder)
    return found.value, found.low, found.high
