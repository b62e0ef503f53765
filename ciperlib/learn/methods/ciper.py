"""CIPER: contrast and prediction."""

from __future__ import annotations

from ciperlib.learn.methods.base import Batch, Losses, Objective
from ciperlib.learn.methods.heads import ContrastiveHead, PredictiveHead
from ciperlib.registry import CONTRAST, PREDICTION, Option, methods

SEEN = ("difference", "concatenation")  # h0 - h1, as the paper says, or [h0, h1]


@methods.register(
    "ciper", label="CIPER", colour="#D55E00", reads=CONTRAST + PREDICTION, alpha=1.0, at_zero="simclr", place=10,
    options={"predicts_from": Option("difference", "what the predictor sees of two images", among=SEEN)},
)  # fmt: skip
class CIPER(Objective):
    """Both at once: contrastive + alpha * predictive (paper, Eq. 2)."""

    passes_per_image = 3

    def build_heads(self, inputs, config, specs):
        self.contrastive = ContrastiveHead(inputs, config)
        both = config.option("predicts_from") == "concatenation"
        self.predictive = PredictiveHead(inputs, config, specs, concatenated=both)

    def forward(self, batch: Batch) -> Losses:
        h0, h = self.represent_all(batch)
        contrastive = self.contrastive(h)
        predictive = self.predictive(h0, h, [view.parameters for view in batch.views])
        total = contrastive + self.config.alpha * predictive
        return Losses(total, {"contrastive": contrastive, "predictive": predictive})
