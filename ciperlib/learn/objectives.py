"""The methods: which views each one wants, its forward passes and its loss terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.config import Config, ConfigError
from ciperlib.learn import losses
from ciperlib.learn.augment import CROP_SCALE, ParameterSpec, View
from ciperlib.learn.encoders import make_encoder, make_predictor, make_projector, seeded
from ciperlib.learn.parallel import gather


class Batch(NamedTuple):
    """What an objective is given: `index` [B] into the image set, `anchor` float [B, 3, H, W], the views, and each
    image's category, int64 [B], where it is known (only a control that asks for class information reads it)."""

    index: Tensor
    anchor: Tensor
    views: tuple[View, ...]
    category: Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """`total` is what is minimised; `terms` are its parts, unweighted.

    `adversary` is what a head that is trained against the rest minimises. The trainer takes a step for each in turn;
    neither may reach the other's parameters. One SGD is as good as two: its momentum is each parameter's own.
    """

    total: Tensor
    terms: dict[str, Tensor]
    adversary: Tensor | None = None


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

    Quantities and flags are predicted from h0 - h1 by least squares (paper, section 3.2); the session, a category,
    from [h0, h1] by cross-entropy, because a difference loses it whenever both images share it.
    """

    def __init__(self, inputs: int, config: Config, specs: Sequence[ParameterSpec]):
        super().__init__()
        predicted = [(i, spec) for i, spec in enumerate(specs) if spec.predicted]
        self.columns = [i for i, spec in predicted if spec.kind != "categorical"]
        self.session_column, sessions = next(
            ((i, int(spec.high) + 1) for i, spec in predicted if spec.kind == "categorical"), (None, 0)
        )
        self.fixed = config.standardisation == "fixed"
        self.sign = {"plus": 1, "minus": -1}[config.prediction_sign]
        self.register_buffer("parameter_mean", torch.zeros(len(self.columns)))
        self.register_buffer("parameter_std", torch.ones(len(self.columns)))
        if self.columns:
            with seeded(config.seed, "predictor"):
                self.predictor = make_predictor(inputs, config.predictor_width, len(self.columns))
        if sessions:
            with seeded(config.seed, "session_predictor"):
                self.session_predictor = make_predictor(2 * inputs, config.predictor_width, sessions)

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
            predicted = gather(self.predictor(torch.cat([h0 - hv for hv in h])))
            constants = (self.parameter_mean, self.parameter_std) if self.fixed else ()
            loss = loss + losses.parameter_loss(predicted, losses.standardise(target[:, self.columns], *constants))
        if self.session_column is not None:
            logits = gather(self.session_predictor(torch.cat([torch.cat((h0, hv), 1) for hv in h])))
            loss = loss + F.cross_entropy(logits.float(), target[:, self.session_column].long())
        return self.sign * loss


class Objective(nn.Module):
    """An encoder with what trains it.

    Attributes:
        encoder: all that remains after training.
        crops: for each view that `forward` wants, the area of its crop as a share of the image's (lowest, highest); a
            view that is not cropped ignores it.
        compute: passes through the encoder for each training image, the "n x" of the paper's Table 3. A pass of an
            image of half the side counts a quarter; one without a gradient (a teacher's) counts as any other.
    """

    crops = (CROP_SCALE, CROP_SCALE)
    compute = 2.0

    def __init__(self, config: Config, specs: Sequence[ParameterSpec], categories: int = 0):
        super().__init__()
        self.config = config
        self.categories = categories
        self.encoder = make_encoder(config)
        self.build_heads(self.encoder.representation_size, config, specs)

    def build_heads(self, inputs: int, config: Config, specs: Sequence[ParameterSpec]) -> None:
        raise TypeError(f"{type(self).__name__} must say which heads it has")

    def forward(self, batch: Batch) -> Losses:
        raise TypeError(f"{type(self).__name__} must say what its loss is")

    def after_step(self, done: float) -> None:
        """Called after each optimiser step with the share of the training that is done; a teacher moves here."""

    def represent_views(self, batch: Batch) -> tuple[Tensor, ...]:
        """h of each view, from one shared forward pass."""
        return represent(self.encoder, *[view.images for view in batch.views])

    def represent_all(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """h of the anchor and of each view; the anchor in a pass of its own unless the config says joint."""
        if self.config.anchor_forward == "joint":
            h0, *h = represent(self.encoder, batch.anchor, *[view.images for view in batch.views])
        else:
            h0, h = self.encoder(batch.anchor), self.represent_views(batch)
        return (h0 if self.config.anchor_gradient else h0.detach()), tuple(h)


def represent(encoder: nn.Module, *images: Tensor) -> tuple[Tensor, ...]:
    """h [B, d] of each of several batches of images of one size, from one forward pass."""
    return encoder(torch.cat(images)).chunk(len(images))


class SimCLR(Objective):
    """Contrast alone (arXiv 2002.05709). The anchor is not passed."""

    def build_heads(self, inputs, config, specs):
        self.contrastive = ContrastiveHead(inputs, config)

    def forward(self, batch: Batch) -> Losses:
        loss = self.contrastive(self.represent_views(batch))
        return Losses(loss, {"contrastive": loss})


class SimCLRCleanPass(SimCLR):
    """CIPER's control: SimCLR whose encoder also sees the anchor in train mode, without a loss.

    It isolates the BatchNorm statistics: its weights are SimCLR's, but its running statistics, like CIPER's, come from
    clean images too (with separate passes and torch's momentum of 0.1 they weigh 47%, since the anchor's update is
    followed by that of the views). CIPER's weights also learn from clean images, through h0; `anchor_gradient=False`
    is the control for that.
    """

    compute = 3

    def forward(self, batch: Batch) -> Losses:
        with torch.no_grad():
            self.encoder(batch.anchor)
        return super().forward(batch)


class Predictive(Objective):
    """Prediction of the parameters alone: the paper's "Predictive" row."""

    compute = 3

    def build_heads(self, inputs, config, specs):
        self.predictive = PredictiveHead(inputs, config, specs)

    def forward(self, batch: Batch) -> Losses:
        h0, h = self.represent_all(batch)
        loss = self.predictive(h0, h, [view.parameters for view in batch.views])
        return Losses(loss, {"predictive": loss})


class CIPER(Objective):
    """Both at once: contrastive + alpha * predictive (paper, Eq. 2)."""

    compute = 3

    def build_heads(self, inputs, config, specs):
        self.contrastive = ContrastiveHead(inputs, config)
        self.predictive = PredictiveHead(inputs, config, specs)

    def forward(self, batch: Batch) -> Losses:
        h0, h = self.represent_all(batch)
        contrastive = self.contrastive(h)
        predictive = self.predictive(h0, h, [view.parameters for view in batch.views])
        total = contrastive + self.config.alpha * predictive
        return Losses(total, {"contrastive": contrastive, "predictive": predictive})


class TransformationPrediction(Objective):
    """Which transformation was put on top of the view? Read from h alone (arXiv 2411.06508; Gidaris et al. 2018).

    `class_information` is that paper's verification, the class added to the task or taken out of h. "added": a second
    head predicts the category too. "removed": that head is an adversary; it learns to read the category from h, and the
    encoder learns to leave it at chance. The encoder's part is the cross-entropy between the adversary's answer and
    equal chances, which has a minimum; the paper's minus cross-entropy has none. Both heads are trained in turns.
    """

    crops = (CROP_SCALE,)
    compute = 1

    def build_heads(self, inputs, config, specs):
        level = specs[-1]
        with seeded(config.seed, "level_predictor"):
            self.level_predictor = make_predictor(inputs, config.predictor_width, int(level.high) + 1)
        self.class_predictor = None
        if config.class_information != "none":
            if not self.categories:
                raise ConfigError(f"class_information={config.class_information!r} needs images with a factor category")
            with seeded(config.seed, "class_predictor"):
                self.class_predictor = make_predictor(inputs, config.predictor_width, self.categories)

    def forward(self, batch: Batch) -> Losses:
        (h,) = self.represent_views(batch)
        level = gather(batch.views[0].parameters)[:, -1].long()
        loss = F.cross_entropy(gather(self.level_predictor(h)).float(), level)
        terms, category = {"transformation": loss}, batch.category
        if self.class_predictor is None:
            return Losses(loss, terms)
        if self.config.class_information == "added":
            terms["class"] = F.cross_entropy(gather(self.class_predictor(h)).float(), gather(category))
            return Losses(loss + terms["class"], terms)
        fixed = {name: parameter.detach() for name, parameter in self.class_predictor.named_parameters()}
        confusion = -torch.func.functional_call(self.class_predictor, fixed, (h,)).float().log_softmax(1).mean()
        terms["class"] = F.cross_entropy(self.class_predictor(h.detach()).float(), category)
        return Losses(loss + confusion, terms, adversary=terms["class"])


class Random(Objective):
    """The floor: an encoder as it was born. It is never trained."""

    compute = 0

    def build_heads(self, inputs, config, specs):
        pass
