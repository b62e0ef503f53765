"""How many dimensions of h are used."""

from __future__ import annotations

from ciperlib.analyse.features import extract_features
from ciperlib.analyse.layout.metrics import rankme
from ciperlib.registry import measures


@measures.register("effective_dimensions", label="effective dimensions (RankMe)", digits=1)
def effective_dimensions(encoder, images) -> float:
    """RankMe (arXiv 2210.02885) of the test images' representations."""
    return rankme(extract_features(encoder, images.test).matrix)
