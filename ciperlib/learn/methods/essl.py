"""E-SSL: contrast, and which way a small view was turned."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ciperlib.learn.augment import CROP_SCALE
from ciperlib.learn.methods.base import Batch, Losses, half_size, represent
from ciperlib.learn.methods.heads import make_predictor
from ciperlib.learn.methods.simclr import SimCLR
from ciperlib.learn.parallel import gather
from ciperlib.learn.seeds import seeded
from ciperlib.registry import CONTRAST, methods


@methods.register(
    "essl", label="E-SSL", colour="#882255", alpha=0.4, reads=(*CONTRAST, "predictor_width"), halves=True, place=50
)
class ESSL(SimCLR):
    """E-SSL (arXiv 2111.00899): contrast, and which of four rotations a third view of half the side was turned by.

    total = contrastive + alpha * cross-entropy over the four rotations, each of which every third view takes. The small
    views have a pass of their own before the others', so nearly half of BatchNorm's running statistics are theirs.

    Departures from the public code: there each of the two views has a pass of its own, too, and is contrasted with the
    other views alone (`contrastive="cross_view"`).
    """

    crops = 3 * (CROP_SCALE,)
    passes_per_image = 3  # two views, and four quarters of one

    def build_heads(self, inputs, config, specs):
        super().build_heads(inputs, config, specs)
        with seeded(config.seed, "rotation_predictor"):
            self.rotation_predictor = make_predictor(inputs, config.predictor_width, 4)

    def forward(self, batch: Batch) -> Losses:
        first, second, third = (view.images for view in batch.views)
        small = half_size(third)
        h = self.encoder(torch.cat([small.rot90(turns, (2, 3)) for turns in range(4)]))
        turns = torch.arange(4, device=h.device).repeat_interleave(len(small))
        contrastive = self.contrastive(represent(self.encoder, first, second))
        predictive = F.cross_entropy(gather(self.rotation_predictor(h)).float(), gather(turns))
        total = contrastive + self.config.alpha * predictive
        return Losses(total, {"contrastive": contrastive, "predictive": predictive})
