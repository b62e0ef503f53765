"""EquiMod: contrast, and a view's embedding predicted from the anchor's."""

from __future__ import annotations

import torch
from torch import nn

from ciperlib.learn.methods import losses
from ciperlib.learn.methods.base import Batch, Losses
from ciperlib.learn.methods.heads import make_projector
from ciperlib.learn.methods.simclr import SimCLR
from ciperlib.learn.methods.targets import anchor_targets
from ciperlib.learn.parallel import gather, own_rows
from ciperlib.learn.seeds import seeded
from ciperlib.registry import CONTRAST, methods

TEMPERATURE = 0.2  # of the paper's equivariance loss


@methods.register(
    "equimod", label="EquiMod", colour="#332288", alpha=1.0, place=70,
    reads=(*CONTRAST, "anchor_forward", "anchor_gradient"),
)  # fmt: skip
class EquiMod(SimCLR):
    """EquiMod (arXiv 2211.01244): contrast, and a view's embedding predicted from the anchor's and the parameters.

    The predicted embedding has to find the true one among those of all images and views, by the same contrastive loss
    at temperature 0.2: total = contrastive + alpha * nt_xent(embedding, predicted embedding).

    Departures from the public code: there the parameters are standardised by constants of the data set (here over the
    batch) and say also whether and in which order colours were changed; and the image and its views share one pass, and
    so BatchNorm's statistics (`anchor_forward="joint"`).
    """

    passes_per_image = 3

    def build_heads(self, inputs, config, specs):
        super().build_heads(inputs, config, specs)
        self.specs, width = tuple(specs), config.projector_width
        k = anchor_targets(specs, torch.zeros(1, len(specs))).shape[1]
        with seeded(config.seed, "equivariant_projector"):
            self.equivariant_projector = make_projector(inputs, width, config.norm)
        with seeded(config.seed, "parameter_projector"):
            self.parameter_projector = nn.Linear(k, width)
        with seeded(config.seed, "embedding_predictor"):
            self.embedding_predictor = nn.Linear(2 * width, width)

    def forward(self, batch: Batch) -> Losses:
        h0, h = self.represent_all(batch)
        y0, *y = self.equivariant_projector(torch.cat((h0, *h))).chunk(1 + len(h))
        code = anchor_targets(self.specs, torch.cat([gather(view.parameters) for view in batch.views]))
        parameters = self.parameter_projector(torch.cat([own_rows(part) for part in code.chunk(len(h))]))
        guess = self.embedding_predictor(torch.cat((y0.repeat(len(h), 1), parameters), 1))
        contrastive = self.contrastive(h)
        predictive = losses.nt_xent(gather(torch.cat(y)), gather(guess), TEMPERATURE)
        total = contrastive + self.config.alpha * predictive
        return Losses(total, {"contrastive": contrastive, "predictive": predictive})
