"""What a linear probe reads of each factor that every report asks about."""

from __future__ import annotations

import math

from ciperlib.registry import measures


def _register(place: int, factor: str, label: str) -> None:
    @measures.register(factor, label=label, needs=(factor,) if factor != "pose" else (), scale="share", place=place)
    def probe(encoder, images) -> float | tuple[float, float, float]:
        """Accuracy, or for the pose the mean R2 of its parts, with its 95% bootstrap interval over images."""
        found = images.probes(encoder)[factor]
        return found.value if math.isnan(found.low) else (found.value, found.low, found.high)


for place, factor in enumerate(("category", "object", "session", "pose")):
    _register(place, factor, "pose (R²)" if factor == "pose" else factor)
