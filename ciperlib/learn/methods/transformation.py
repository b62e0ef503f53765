"""Which transformation was put on top of the view?"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ciperlib.config import Config, ConfigError
from ciperlib.learn.augment import CROP_SCALE
from ciperlib.learn.augment.transformations import Transformed, make_transformation
from ciperlib.learn.methods.base import Batch, Losses, Objective
from ciperlib.learn.methods.heads import make_predictor
from ciperlib.learn.parallel import gather
from ciperlib.learn.seeds import seeded
from ciperlib.registry import dataset_of, methods, transformations


def name_parts(config: Config) -> list[str]:
    """The beginning of a run's name: what is predicted, and what becomes of the class."""
    class_information = config.class_information
    return ["predicts", config.transformation, *([class_information] if class_information != "none" else [])]


def check_images(config: Config) -> None:
    """Raises ConfigError where the images have not what is predicted, or the views hide it."""
    images, wanted = dataset_of(config.dataset), transformations[config.transformation]
    if config.class_information != "none" and not images.has("category"):
        raise ConfigError(
            f"class_information={config.class_information!r} does not go with dataset={config.dataset!r}, whose images "
            "have no category; choose class_information='none', or another dataset"
        )
    if wanted.rendered and not images.rendered:
        raise ConfigError(
            f"transformation={config.transformation!r} does not go with dataset={config.dataset!r}: its parts are "
            "those of the turntable's range; choose dataset='turntable', or another transformation"
        )
    if not images.has(*wanted.needs):
        raise ConfigError(
            f"transformation={config.transformation!r} does not go with dataset={config.dataset!r}, whose "
            f"{' and '.join(wanted.needs)} is not known; choose dataset='turntable', or another transformation"
        )
    if hides := set(config.augmentations) & set(wanted.hidden_by):
        raise ConfigError(
            f"transformation={config.transformation!r} does not go with the augmentation {min(hides)}, which hides it: "
            f"nobody could tell who did that to the image; leave {min(hides)} out"
        )


@methods.register(
    "transformation_prediction", label="transformation prediction", colour="#009E73", alpha=None, needs_views=False,
    reads=("transformation", "class_information", "predictor_width"), check=check_images, title=name_parts, place=800,
)  # fmt: skip
class TransformationPrediction(Objective):
    """Which transformation was put on top of the view? Read from h alone (arXiv 2411.06508; Gidaris et al. 2018).

    `class_information` is that paper's verification, the class added to the task or taken out of h. "added": a second
    head predicts the category too. "removed": that head is an adversary; it learns to read the category from h, and the
    encoder learns to leave it at chance. The encoder's part is the cross-entropy between the adversary's answer and
    equal chances, which has a minimum; the paper's minus cross-entropy has none. Both heads are trained in turns.
    """

    crops = (CROP_SCALE,)
    passes_per_image = 1

    @staticmethod
    def augment(augmentation, config):
        return Transformed(augmentation, make_transformation(config.transformation))

    def build_heads(self, inputs, config, specs):
        self.adversarial = config.class_information == "removed"
        level = specs[-1]
        with seeded(config.seed, "level_predictor"):
            self.level_predictor = make_predictor(inputs, config.predictor_width, int(level.high) + 1)
        self.class_predictor = None
        if config.class_information != "none":
            if "category" not in self.levels:
                raise ConfigError(f"class_information={config.class_information!r} needs images with a factor category")
            with seeded(config.seed, "class_predictor"):
                self.class_predictor = make_predictor(inputs, config.predictor_width, self.levels["category"])

    def forward(self, batch: Batch) -> Losses:
        (h,) = self.represent_views(batch)
        level = gather(batch.views[0].parameters)[:, -1].long()
        loss = F.cross_entropy(gather(self.level_predictor(h)).float(), level)
        terms = {"transformation": loss}
        if self.class_predictor is None:
            return Losses(loss, terms)
        category = batch.factors["category"]
        if self.config.class_information == "added":
            terms["class"] = F.cross_entropy(gather(self.class_predictor(h)).float(), gather(category))
            return Losses(loss + terms["class"], terms)
        fixed = {name: parameter.detach() for name, parameter in self.class_predictor.named_parameters()}
        confusion = -torch.func.functional_call(self.class_predictor, fixed, (h,)).float().log_softmax(1).mean()
        terms["class"] = F.cross_entropy(self.class_predictor(h.detach()).float(), category)
        return Losses(loss + confusion, terms, adversary=terms["class"])
