"""How many dimensions of h are used."""

from __future__ import annotations

from ciperlib.analyse.features import extract_features
from ciperlib.analyse.layout.metrics import rankme
from ciperlib.registry import measures


@measures.register("effective_dimensions", label="effective dimensions (RankMe)", digits=1)
def effective_dimensions(encoder, images) -> float | None:
    """RankMe (arXiv 2210.02885) of the test images' representations; None for fewer images than dimensions."""
    matrix = extract_features(encoder, images.test).matrix
    return rankme(matrix) if len(matrix) > matrix.shape[1] else None
