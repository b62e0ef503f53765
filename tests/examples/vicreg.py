"""VICReg (arXiv 2105.04906): two views' embeddings shall be equal, spread out, and uncorrelated."""

import torch.nn.functional as F

from ciperlib.learn.methods.base import Losses, Objective
from ciperlib.learn.methods.heads import make_projector
from ciperlib.learn.methods.losses import covariance_penalty, variance_hinge
from ciperlib.learn.seeds import seeded
from ciperlib.registry import Option, methods


def vicreg_loss(z1, z2, invariance: float = 25.0, variance: float = 25.0):
    """Eq. 6, for embeddings [N, D]: the weights are the paper's; the covariances weigh 1."""
    spread = (variance_hinge(z1) + variance_hinge(z2)) / 2
    return invariance * F.mse_loss(z1, z2) + variance * spread + covariance_penalty(z1) + covariance_penalty(z2)


@methods.register(
    "vicreg", label="VICReg", colour="#117733", alpha=None, reads=("projector_width",),
    options={"vicreg_invariance": Option(25.0, "weight of the two embeddings' distance", low=0.0, high=1000.0)},
)  # fmt: skip
class VICReg(Objective):
    """Variance, invariance and covariance of the embeddings of two views."""

    def build_heads(self, inputs, config, specs):
        self.invariance = config.option("vicreg_invariance")
        with seeded(config.seed, "projector"):
            self.projector = make_projector(inputs, config.projector_width, config.norm)[:-1]  # without its last norm

    def forward(self, batch):
        z1, z2 = (self.projector(h).float() for h in self.represent_views(batch))
        loss = vicreg_loss(z1, z2, self.invariance)
        return Losses(loss, {"vicreg": loss})
