"""Prediction of the parameters alone."""

from __future__ import annotations

from ciperlib.learn.methods.base import Batch, Losses, Objective
from ciperlib.learn.methods.heads import PredictiveHead
from ciperlib.registry import PREDICTION, methods


@methods.register("predictive", label="predictive", colour="#E69F00", alpha=None, reads=PREDICTION, place=30)
class Predictive(Objective):
    """Prediction of the parameters alone: the paper's "Predictive" row."""

    passes_per_image = 3

    def build_heads(self, inputs, config, specs):
        self.predictive = PredictiveHead(inputs, config, specs)

    def forward(self, batch: Batch) -> Losses:
        h0, h = self.represent_all(batch)
        loss = self.predictive(h0, h, [view.parameters for view in batch.views])
        return Losses(loss, {"predictive": loss})
