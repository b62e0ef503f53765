"""SimCLR, and SimCLR whose encoder also sees the clean image."""

from __future__ import annotations

import torch

from ciperlib.learn.methods.base import Batch, Losses, Objective
from ciperlib.learn.methods.heads import ContrastiveHead
from ciperlib.registry import CONTRAST, methods


@methods.register("simclr", label="SimCLR", colour="#0072B2", alpha=None, reads=CONTRAST, place=20)
class SimCLR(Objective):
    """Contrast alone (arXiv 2002.05709). The anchor is not passed."""

    def build_heads(self, inputs, config, specs):
        self.contrastive = ContrastiveHead(inputs, config)

    def forward(self, batch: Batch) -> Losses:
        loss = self.contrastive(self.represent_views(batch))
        return Losses(loss, {"contrastive": loss})


@methods.register(
    "simclr_clean_pass", label="SimCLR + clean pass", colour="#56B4E9", alpha=None, reads=CONTRAST, place=40
)
class SimCLRCleanPass(SimCLR):
    """CIPER's control: SimCLR whose encoder also sees the anchor in train mode, without a loss.

    It isolates the BatchNorm statistics: its weights are SimCLR's, but its running statistics, like CIPER's, come from
    clean images too (with separate passes and torch's momentum of 0.1 they weigh 47%, since the anchor's update is
    followed by that of the views). CIPER's weights also learn from clean images, through h0; `anchor_gradient=False`
    is the control for that.
    """

    passes_per_image = 3

    def forward(self, batch: Batch) -> Losses:
        with torch.no_grad():
            self.encoder(batch.anchor)
        return super().forward(batch)
