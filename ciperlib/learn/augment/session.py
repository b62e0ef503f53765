"""The object in another place."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from ciperlib.learn.augment.base import DatasetStep, ParameterSpec, check_range
from ciperlib.learn.augment.positives import PositivesError
from ciperlib.registry import steps


def codes_apart(specs, first, second) -> list[Tensor]:
    """One-hot of the second's minus one-hot of the first's."""
    classes = int(specs[0].high) + 1
    codes = [F.one_hot(view["session"].long(), classes).float() for view in (first, second)]
    return list((codes[1] - codes[0]).t())


@steps.register(
    "session",
    label="session",
    place=20,
    dataset=True,
    needs=("object", "session"),
    difference=codes_apart,
    answer=None,
)
class Session(DatasetStep):
    """An image of the anchor's object from another session; the parameter is the view's.

    Args:
        sessions: number of classes of the factor `session`.
    """

    needs = ("object", "session")
    other = "session"

    def __init__(self, sessions: int = 0) -> None:
        check_range("sessions (for the step 'session')", sessions, 2, math.inf)
        self.sessions = sessions
        self.specs = (ParameterSpec("session", "categorical", 0, sessions - 1),)

    def check(self, images):
        known = images.factors["session"].unique().tolist()
        if not set(known) <= set(range(self.sessions)):
            raise PositivesError(
                f"sessions={self.sessions} means 0 to {self.sessions - 1}, but {images.name!r} has sessions {known}"
            )

    def compare(self, factors, anchor, view):
        return [factors["session"][view]]
