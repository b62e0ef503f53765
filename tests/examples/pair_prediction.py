"""Both views' parameters predicted from both representations, [h1, h2]."""

import torch

from ciperlib.learn.methods.base import Losses, Objective
from ciperlib.learn.methods.heads import make_predictor
from ciperlib.learn.methods.losses import parameter_loss
from ciperlib.learn.methods.targets import anchor_targets
from ciperlib.learn.seeds import seeded
from ciperlib.registry import methods


@methods.register("pair_prediction", label="pair prediction", colour="#661100", alpha=None, reads=("predictor_width",))
class PairPrediction(Objective):
    """What was done to the first view and to the second, from [h1, h2]; nothing else is asked."""

    def build_heads(self, inputs, config, specs):
        self.specs = tuple(specs)
        columns = anchor_targets(specs, torch.zeros(1, len(specs))).shape[1]
        with seeded(config.seed, "pair_predictor"):
            self.pair_predictor = make_predictor(2 * inputs, config.predictor_width, 2 * columns)

    def forward(self, batch):
        guess = self.pair_predictor(torch.cat(self.represent_views(batch), 1))
        target = torch.cat([anchor_targets(self.specs, view.parameters) for view in batch.views], 1)
        loss = parameter_loss(guess, target)
        return Losses(loss, {"predictive": loss})
