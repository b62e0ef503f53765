"""All methods by name: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Sequence

from ciperlib.config import Config
from ciperlib.learn.augment import ParameterSpec
from ciperlib.learn.distillation import CLeVER
from ciperlib.learn.kin import ESSL, SIE, AugSelf, EquiMod
from ciperlib.learn.objectives import (
    CIPER,
    Objective,
    Predictive,
    Random,
    SimCLR,
    SimCLRCleanPass,
    TransformationPrediction,
)

OBJECTIVES = {
    "simclr": SimCLR,
    "simclr_clean_pass": SimCLRCleanPass,
    "predictive": Predictive,
    "ciper": CIPER,
    "essl": ESSL,
    "augself": AugSelf,
    "equimod": EquiMod,
    "sie": SIE,
    "clever": CLeVER,
    "transformation_prediction": TransformationPrediction,
    "random": Random,
}


def make_objective(config: Config, specs: Sequence[ParameterSpec], categories: int = 0) -> Objective:
    """The config's objective with fresh weights, for an augmentation with these parameter specs and images of so many
    categories (0: not known)."""
    return OBJECTIVES[config.method](config, specs, categories)
