"""How often the nearest other image shows the same object."""

import torch

from ciperlib.analyse.features import extract_features
from ciperlib.analyse.statistics import bootstrap_interval
from ciperlib.registry import measures


@measures.register("same_neighbour", label="same neighbour", needs=("object",), scale="share")
def same_neighbour(encoder, images):
    """The share of test images, with its interval over groups."""
    features = extract_features(encoder, images.test)
    distances = torch.cdist(features.matrix, features.matrix).fill_diagonal_(torch.inf)
    objects = features.factors["object"]
    same = (objects[distances.argmin(1)] == objects).double()
    terms = torch.stack([same, torch.ones_like(same)], 1)
    interval = bootstrap_interval(features.groups, terms, lambda sums: sums[:, 0] / sums[:, 1])
    return float(same.mean()), *interval
