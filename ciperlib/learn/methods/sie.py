"""SIE: one part of h invariant, the other moved by what was done to the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ciperlib.learn.methods import losses
from ciperlib.learn.methods.base import Batch, Losses, Objective
from ciperlib.learn.methods.targets import pair_targets
from ciperlib.learn.parallel import gather, own_rows
from ciperlib.learn.seeds import seeded
from ciperlib.registry import methods

WEIGHTS = {
    "invariance": 10.0,
    "equivariance": 10.0,
    "variance": 10.0,
    "prediction_variance": 10.0,
    "covariance": 1.0,
}


@methods.register(
    "sie", label="SIE", colour="#999933", alpha=0.45, invariant_share=0.5, place=80,
    reads=("projector_width", "invariant_share"), recipe=2,
)  # fmt: skip
class SIE(Objective):
    """SIE (arXiv 2302.10283): one part of h is asked to be invariant, the other to move as the parameters say.

    Each part has its own expander. The invariant embeddings of both views shall be equal; a linear map made from what
    leads from one view to the other (a hypernetwork) shall take one equivariant embedding to the other. VICReg's
    variance and covariance terms, on both parts together and on the predicted embedding, keep either from collapsing.
    What differs is standardised over the batch, and the hypernetwork starts at the identity for the batch's mean
    difference. Recipe 1 did not halve the variance of the prediction, as the public code does.
    """

    def build_heads(self, inputs, config, specs):
        self.specs, self.split = tuple(specs), config.split
        zeros = torch.zeros(1, len(specs))
        k = sum(value.shape[1] for value in pair_targets(specs, zeros, zeros).values())
        if not k:
            raise ValueError("sie predicts what leads from one view to the other, and the views have no parameters")
        size = inputs - self.split
        with seeded(config.seed, "invariant_expander"):
            self.invariant_expander = make_expander(self.split, config.projector_width, config.norm)
        with seeded(config.seed, "equivariant_expander"):
            self.equivariant_expander = make_expander(size, config.projector_width, config.norm)
        with seeded(config.seed, "hypernetwork"):
            self.hypernetwork = nn.Linear(k, size * size)
            nn.init.normal_(self.hypernetwork.weight, std=0.1 / size**0.5)
        with torch.no_grad():
            self.hypernetwork.bias.copy_(torch.eye(size).flatten())

    def forward(self, batch: Batch) -> Losses:
        h = torch.cat(self.represent_views(batch))
        a1, a2 = (gather(z) for z in self.invariant_expander(h[:, : self.split]).float().chunk(2))
        b1, b2 = (gather(z) for z in self.equivariant_expander(h[:, self.split :]).float().chunk(2))
        steps = pair_targets(self.specs, *(gather(view.parameters) for view in batch.views))
        change, mine = losses.standardise(torch.cat(list(steps.values()), 1)), own_rows(b1)
        maps = self.hypernetwork(own_rows(change)).float().view(len(mine), -1, b1.shape[1])
        guess = gather((maps * mine[:, None]).sum(2))
        z1, z2 = torch.cat((a1, b1), 1), torch.cat((a2, b2), 1)
        terms = {
            "invariance": F.mse_loss(a1, a2),
            "equivariance": F.mse_loss(guess, b2),
            "variance": (losses.variance_hinge(z1) + losses.variance_hinge(z2)) / 2,
            "prediction_variance": losses.variance_hinge(guess) / 2,
            "covariance": losses.covariance_penalty(z1) + losses.covariance_penalty(z2),
        }
        weights = WEIGHTS | {"equivariance": self.config.alpha * WEIGHTS["equivariance"]}
        return Losses(sum(weights[name] * term for name, term in terms.items()), terms)


def make_expander(inputs: int, width: int, norm: str) -> nn.Sequential:
    """[B, inputs] -> [B, inputs]: Linear, norm, ReLU, Linear; nothing after it, since its spread is what is trained."""
    between = nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width)
    return nn.Sequential(nn.Linear(inputs, width, bias=False), between, nn.ReLU(inplace=True), nn.Linear(width, inputs))
