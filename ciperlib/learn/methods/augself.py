"""AugSelf: contrast, and what the parameters of two views differ by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.config import Config, ConfigError
from ciperlib.learn.methods import losses
from ciperlib.learn.methods.base import Batch, Losses
from ciperlib.learn.methods.heads import make_predictor
from ciperlib.learn.methods.simclr import SimCLR
from ciperlib.learn.methods.targets import pair_targets
from ciperlib.learn.parallel import gather
from ciperlib.learn.seeds import seeded
from ciperlib.registry import CONTRAST, methods, steps


def asked_steps(known) -> list[str]:
    """Those of the steps whose difference a head is asked for."""
    return [step for step in known if steps[step].answer is not None]


def check_steps(config: Config) -> None:
    """Raises ConfigError where the views have none of the steps that are predicted."""
    if not asked_steps(config.augmentations):
        raise ConfigError(
            f"augmentations={config.augmentations} does not go with method='augself', which predicts "
            f"{', '.join(asked_steps(steps))}: choose at least one of them"
        )


@methods.register(
    "augself", label="AugSelf", colour="#44AA99", alpha=1.0, reads=(*CONTRAST, "predictor_width"),
    check=check_steps, place=60,
)  # fmt: skip
class AugSelf(SimCLR):
    """AugSelf (arXiv 2111.09613): contrast, and from [h1, h2] what the two views' parameters differ by.

    One head a step of augmentation, asked in both orders, and the losses added: for crop and jitter a squared error
    behind a tanh, for flip the cross-entropy of "is one mirrored and the other not?" (the public code's label is the
    opposite one, which is the same loss). Grey views are not predicted, as there. The pose, which is not in the paper,
    is standardised over the batch, without the tanh.
    """

    def build_heads(self, inputs, config, specs):
        super().build_heads(inputs, config, specs)
        self.specs, zeros = tuple(specs), torch.zeros(1, len(specs))
        targets = pair_targets(specs, zeros, zeros)
        if not asked_steps(targets):
            raise ValueError(f"augself predicts {', '.join(asked_steps(steps))}, and the views have none of them")
        self.difference_predictors = nn.ModuleDict()
        for step in asked_steps(targets):
            size = targets[step].shape[1]
            with seeded(config.seed, f"{step}_predictor"):
                self.difference_predictors[step] = make_predictor(2 * inputs, config.predictor_width, size)

    def forward(self, batch: Batch) -> Losses:
        h1, h2 = self.represent_views(batch)
        first, second = (gather(view.parameters) for view in batch.views)
        # both orders
        forth, back = pair_targets(self.specs, first, second), pair_targets(self.specs, second, first)
        pairs = torch.cat((torch.cat((h1, h2), 1), torch.cat((h2, h1), 1)))
        terms = {"contrastive": self.contrastive((h1, h2))}
        for step, predictor in self.difference_predictors.items():
            guess = torch.cat([gather(half) for half in predictor(pairs).chunk(2)])
            terms[step] = difference_loss(step, guess.float(), torch.cat((forth[step], back[step])))
        predictive = torch.stack([terms[step] for step in self.difference_predictors]).sum()
        return Losses(terms["contrastive"] + self.config.alpha * predictive, terms)


def difference_loss(step: str, guess: Tensor, target: Tensor) -> Tensor:
    """AugSelf's loss of one step: guess and target [R, k] -> scalar."""
    answer = steps[step].answer
    if answer == "flag":
        return F.binary_cross_entropy_with_logits(guess, target)
    if answer == "free":
        return losses.parameter_loss(guess, losses.standardise(target))
    return losses.parameter_loss(guess.tanh(), target)
