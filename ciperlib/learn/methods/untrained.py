"""An encoder as it was born."""

from __future__ import annotations

from ciperlib.learn.methods.base import Objective
from ciperlib.registry import methods


@methods.register(
    "random", label="random encoder", colour="#777777", alpha=None, trained=False, needs_views=False, place=900
)
class Random(Objective):
    """The baseline: an encoder as it was born. It is never trained."""

    passes_per_image = 0

    def build_heads(self, inputs, config, specs):
        pass
