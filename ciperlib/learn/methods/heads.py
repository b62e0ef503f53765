"""What the methods put on top of an encoder, and train with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.config import Config
from ciperlib.learn.augment import ParameterSpec
from ciperlib.learn.methods import losses
from ciperlib.learn.parallel import gather
from ciperlib.learn.seeds import seeded


class ContrastiveHead(nn.Module):
    """The projector and the contrastive loss: asks for h that tells images apart whatever was done to them."""

    def __init__(self, inputs: int, config: Config):
        super().__init__()
        self.temperature = config.temperature
        self.loss = losses.nt_xent if config.contrastive == "nt_xent" else losses.cross_view_nt_xent
        with seeded(config.seed, "projector"):
            self.projector = make_projector(inputs, config.projector_width, config.norm)

    def forward(self, h: Sequence[Tensor]) -> Tensor:
        """h of the two views, each [B, d] -> scalar."""
        z1, z2 = (gather(z) for z in self.projector(torch.cat(tuple(h))).chunk(2))
        return self.loss(z1, z2, self.temperature)


class PredictiveHead(nn.Module):
    """The predictor and its loss: asks for h in which one can read what was done to the image.

    Quantities and flags are predicted from h0 - h1 by least squares (paper, section 3.2), or from
    [h0, h1] if `concatenated`; a category, such as the session, from [h0, h1] by cross-entropy, because a difference
    loses it whenever both images share it.
    """

    def __init__(self, inputs: int, config: Config, specs: Sequence[ParameterSpec], concatenated: bool = False):
        super().__init__()
        predicted = [(i, spec) for i, spec in enumerate(specs) if spec.predicted]
        self.columns = [i for i, spec in predicted if spec.kind != "categorical"]
        self.category_columns = {f"{spec.name}_predictor": i for i, spec in predicted if spec.kind == "categorical"}
        self.fixed = config.standardisation == "fixed"
        self.concatenated = concatenated
        self.sign = {"plus": 1, "minus": -1}[config.prediction_sign]
        self.register_buffer("parameter_mean", torch.zeros(len(self.columns)))
        self.register_buffer("parameter_std", torch.ones(len(self.columns)))
        if self.columns:
            with seeded(config.seed, "predictor"):
                width = (1 + self.concatenated) * inputs
                self.predictor = make_predictor(width, config.predictor_width, len(self.columns))
        for name, column in self.category_columns.items():
            with seeded(config.seed, name):
                classes = int(specs[column].high) + 1
                self.add_module(name, make_predictor(2 * inputs, config.predictor_width, classes))

    def calibrate(self, parameters: Tensor) -> None:
        """Sets the fixed standardisation from many drawn parameters [R, D]; unused unless the config asks for it."""
        chosen = parameters[:, self.columns]
        self.parameter_mean.copy_(chosen.mean(0))
        self.parameter_std.copy_(torch.sqrt(chosen.var(0, unbiased=False) + losses.EPSILON))

    def forward(self, h0: Tensor, h: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
        """h of the anchor [B, d] and of each view, and each view's parameters [B, D] -> scalar."""
        target = gather(torch.cat(tuple(parameters)))
        loss = h0.new_zeros((), dtype=torch.float32)
        if self.columns:
            seen = [torch.cat((h0, hv), 1) if self.concatenated else h0 - hv for hv in h]
            predicted = gather(self.predictor(torch.cat(seen)))
            constants = (self.parameter_mean, self.parameter_std) if self.fixed else ()
            loss = loss + losses.parameter_loss(predicted, losses.standardise(target[:, self.columns], *constants))
        for name, column in self.category_columns.items():
            logits = gather(self.get_submodule(name)(torch.cat([torch.cat((h0, hv), 1) for hv in h])))
            loss = loss + F.cross_entropy(logits.float(), target[:, column].long())
        return self.sign * loss


def make_projector(inputs: int, width: int, norm: str = "batch") -> nn.Sequential:
    """h [B, inputs] -> z [B, width]: Linear, norm, ReLU, Linear, norm (E-SSL's head; paper, section 4.1).

    No biases before a norm, and none after the last one (its affine part would only rescale what is normalised).
    """
    if norm == "batch":
        norms = nn.BatchNorm1d(width), nn.BatchNorm1d(width, affine=False)
    else:
        norms = nn.LayerNorm(width), nn.LayerNorm(width, elementwise_affine=False)
    first, last = nn.Linear(inputs, width, bias=False), nn.Linear(width, width, bias=False)
    return nn.Sequential(first, norms[0], nn.ReLU(inplace=True), last, norms[1])


def make_predictor(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """[B, inputs] -> [B, outputs]: Linear, LayerNorm, ReLU, Linear (paper, section 4.1)."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU(inplace=True), nn.Linear(width, outputs)
    )
