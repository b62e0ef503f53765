"""An encoder as it was born."""

from __future__ import annotations

from ciperlib.learn.methods.base import Objective
from ciperlib.registry import methods


@methods.register("random", label="random encoder", colour="#777777", trained=False, needs_views=False, place=900)
class Random(Objective):
    """The floor: an encoder as it was born. It is never trained."""

    compute = 0

    def build_heads(self, inputs, config, specs):
        pass
