"""CIPER's kin: other ways to make a contrastive encoder keep what was done to the image.

Each is its paper's idea in this workbook's setting: the same encoder, the same views, temperature and projector as
CIPER's, one hidden layer where a head predicts parameters, and alpha for the weight of what is predicted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.learn import losses
from ciperlib.learn.augment import CROP_SCALE
from ciperlib.learn.encoders import make_predictor, make_projector, seeded
from ciperlib.learn.objectives import Batch, Losses, Objective, SimCLR, represent
from ciperlib.learn.parallel import gather, own_rows
from ciperlib.learn.parameters import absolute, relative

EQUIMOD_TEMPERATURE = 0.2  # of the paper's equivariance loss
SIE_WEIGHTS = {
    "invariance": 10.0,
    "equivariance": 10.0,
    "variance": 10.0,
    "prediction_variance": 10.0,
    "covariance": 1.0,
}


class ESSL(SimCLR):
    """E-SSL (arXiv 2111.00899): contrast, and which of four rotations a third view of half the side was turned by.

    total = contrastive + alpha * cross-entropy over the four rotations, each of which every third view takes. The small
    views have a pass of their own before the others', so nearly half of BatchNorm's running statistics are theirs.
    """

    crops = 3 * (CROP_SCALE,)
    compute = 3  # two views, and four quarters of one

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


class AugSelf(SimCLR):
    """AugSelf (arXiv 2111.09613): contrast, and from [h1, h2] what the two views' parameters differ by.

    One head a step of augmentation, asked in both orders, and the losses added: for crop and jitter a squared error
    behind a tanh, for flip the cross-entropy of "are both turned the same way?". Grey views are not predicted, as
    there. The pose, which is not in the paper, is standardised over the batch, without the tanh.
    """

    def build_heads(self, inputs, config, specs):
        super().build_heads(inputs, config, specs)
        self.specs, zeros = tuple(specs), torch.zeros(1, len(specs))
        sizes = {step: value.shape[1] for step, value in relative(specs, zeros, zeros).items() if step in PREDICTED}
        if not sizes:
            raise ValueError(f"augself predicts {', '.join(PREDICTED)}, and the views have none of them")
        self.difference_predictors = nn.ModuleDict()
        for step, size in sizes.items():
            with seeded(config.seed, f"{step}_predictor"):
                self.difference_predictors[step] = make_predictor(2 * inputs, config.predictor_width, size)

    def forward(self, batch: Batch) -> Losses:
        h1, h2 = self.represent_views(batch)
        first, second = (gather(view.parameters) for view in batch.views)
        # both orders
        forth, back = relative(self.specs, first, second), relative(self.specs, second, first)
        pairs = torch.cat((torch.cat((h1, h2), 1), torch.cat((h2, h1), 1)))
        terms = {"contrastive": self.contrastive((h1, h2))}
        for step, predictor in self.difference_predictors.items():
            guess = torch.cat([gather(half) for half in predictor(pairs).chunk(2)])
            terms[step] = difference_loss(step, guess.float(), torch.cat((forth[step], back[step])))
        predictive = torch.stack([terms[step] for step in self.difference_predictors]).sum()
        return Losses(terms["contrastive"] + self.config.alpha * predictive, terms)


PREDICTED = ("pose", "crop", "flip", "jitter")


def difference_loss(step: str, guess: Tensor, target: Tensor) -> Tensor:
    """AugSelf's loss of one step: guess and target [R, k] -> scalar."""
    if step == "flip":
        return F.binary_cross_entropy_with_logits(guess, target)
    if step == "pose":
        return losses.parameter_loss(guess, losses.standardise(target))
    return losses.parameter_loss(guess.tanh(), target)


class EquiMod(SimCLR):
    """EquiMod (arXiv 2211.01244): contrast, and a view's embedding predicted from the anchor's and the parameters.

    The predicted embedding has to find the true one among those of all images and views, by the same contrastive loss
    at temperature 0.2: total = contrastive + alpha * nt_xent(embedding, predicted embedding).
    """

    compute = 3

    def build_heads(self, inputs, config, specs):
        super().build_heads(inputs, config, specs)
        self.specs, width = tuple(specs), config.projector_width
        k = absolute(specs, torch.zeros(1, len(specs))).shape[1]
        with seeded(config.seed, "equivariant_projector"):
            self.equivariant_projector = make_projector(inputs, width, config.norm)
        with seeded(config.seed, "parameter_projector"):
            self.parameter_projector = nn.Linear(k, width)
        with seeded(config.seed, "embedding_predictor"):
            self.embedding_predictor = nn.Linear(2 * width, width)

    def forward(self, batch: Batch) -> Losses:
        h0, h = self.represent_all(batch)
        y0, *y = self.equivariant_projector(torch.cat((h0, *h))).chunk(1 + len(h))
        code = absolute(self.specs, torch.cat([gather(view.parameters) for view in batch.views]))
        parameters = self.parameter_projector(torch.cat([own_rows(part) for part in code.chunk(len(h))]))
        guess = self.embedding_predictor(torch.cat((y0.repeat(len(h), 1), parameters), 1))
        contrastive = self.contrastive(h)
        predictive = losses.nt_xent(gather(torch.cat(y)), gather(guess), EQUIMOD_TEMPERATURE)
        total = contrastive + self.config.alpha * predictive
        return Losses(total, {"contrastive": contrastive, "predictive": predictive})


class SIE(Objective):
    """SIE (arXiv 2302.10283): one part of h is asked to be invariant, the other to move as the parameters say.

    Each part has its own expander. The invariant embeddings of both views shall be equal; a linear map made from what
    leads from one view to the other (a hypernetwork) shall take one equivariant embedding to the other. VICReg's
    variance and covariance terms, on both parts together and on the predicted embedding, keep either from collapsing.
    What differs is standardised over the batch, and the hypernetwork starts at the identity for the batch's mean
    difference.
    """

    def build_heads(self, inputs, config, specs):
        self.specs, self.split = tuple(specs), config.split
        zeros = torch.zeros(1, len(specs))
        k = sum(value.shape[1] for value in relative(specs, zeros, zeros).values())
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
        steps = relative(self.specs, *(gather(view.parameters) for view in batch.views))
        change, mine = losses.standardise(torch.cat(list(steps.values()), 1)), own_rows(b1)
        maps = self.hypernetwork(own_rows(change)).float().view(len(mine), -1, b1.shape[1])
        guess = gather((maps * mine[:, None]).sum(2))
        z1, z2 = torch.cat((a1, b1), 1), torch.cat((a2, b2), 1)
        terms = {
            "invariance": F.mse_loss(a1, a2),
            "equivariance": F.mse_loss(guess, b2),
            "variance": (losses.variance_hinge(z1) + losses.variance_hinge(z2)) / 2,
            "prediction_variance": losses.variance_hinge(guess),
            "covariance": losses.covariance_penalty(z1) + losses.covariance_penalty(z2),
        }
        weights = SIE_WEIGHTS | {"equivariance": self.config.alpha * SIE_WEIGHTS["equivariance"]}
        return Losses(sum(weights[name] * term for name, term in terms.items()), terms)


def make_expander(inputs: int, width: int, norm: str) -> nn.Sequential:
    """[B, inputs] -> [B, inputs]: Linear, norm, ReLU, Linear; nothing after it, since its spread is what is trained."""
    between = nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width)
    return nn.Sequential(nn.Linear(inputs, width, bias=False), between, nn.ReLU(inplace=True), nn.Linear(width, inputs))


def half_size(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H // 2, W // 2], each pixel the mean of four."""
    return F.avg_pool2d(images, 2)
