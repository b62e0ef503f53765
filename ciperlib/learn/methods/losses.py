"""The losses, as pure functions of tensors, in float32 at least (float64 stays float64).

Under bfloat16 autocast the product of all pairs in a contrastive loss is one of the operations that autocast computes
in bfloat16; the softmax over it is in float32 again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # BatchNorm's, for the standardisation of targets


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """The normalised-temperature cross-entropy of SimCLR (arXiv 2002.05709, Eq. 1).

    Each of the 2N embeddings has to find its partner among the 2N - 1 others, by cosine similarity.

    Args:
        z1, z2: embeddings of the two views, [N, D]; row i of both comes from the same image.
        temperature: divides the cosines.

    Returns:
        The mean over 2N rows, a scalar. Equal embeddings everywhere give log(2N - 1).

    Example:
        >>> same = torch.ones(4, 8)
        >>> f"{nt_xent(same, same):.4f}"  # log(2 * 4 - 1)
        '1.9459'
    """
    n = len(z1)
    z = F.normalize(torch.cat((_float(z1), _float(z2))), dim=1)  # (2N, D)
    similarity = z @ z.T / temperature
    similarity.fill_diagonal_(-torch.inf)  # nobody is a candidate for itself
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similarity, partner)


def cross_view_nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """E-SSL's contrastive loss (arXiv 2111.00899): candidates are the N embeddings of the *other* view only.

    Shapes and temperature as in `nt_xent`; the mean of both directions. Equal embeddings give log(N).
    """
    z1, z2 = F.normalize(_float(z1), dim=1), F.normalize(_float(z2), dim=1)
    similarity = z1 @ z2.T / temperature  # (N, N)
    partner = torch.arange(len(z1), device=z1.device)
    return (F.cross_entropy(similarity, partner) + F.cross_entropy(similarity.T, partner)) / 2


def standardise(parameters: Tensor, mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
    """Prediction targets with mean 0 and spread 1 in each column (CIPER, section 3.2).

    Args:
        parameters: [R, M], all rows of the global batch.
        mean, std: fixed constants [M]; without them the batch's own mean and biased standard deviation.

    Returns:
        [R, M], without gradient. A column that never varies becomes 0.
    """
    parameters = _float(parameters.detach())
    if mean is None or std is None:
        mean, std = parameters.mean(0), torch.sqrt(parameters.var(0, unbiased=False) + EPSILON)
    return (parameters - mean) / std


def parameter_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """CIPER's predictive loss (Eq. 1): mean squared error over all rows and columns.

    The paper prints a minus sign, which would reward wrong predictions without bound; it is taken as a misprint.

    Args:
        predicted: [R, M], the predictor's output for each view.
        target: [R, M], standardised parameters.
    """
    return F.mse_loss(_float(predicted), target)


def variance_hinge(z: Tensor) -> Tensor:
    """How far the spread of each column falls short of 1 (VICReg, arXiv 2105.04906, Eq. 1): the mean over columns of
    max(0, 1 - sqrt(var + 1e-4)), var unbiased. z [B, D] -> scalar."""
    return F.relu(1 - torch.sqrt(_float(z).var(0) + 1e-4)).mean()


def covariance_penalty(z: Tensor) -> Tensor:
    """The squared covariances between different columns, summed and divided by D (VICReg, Eq. 4), of z [B, D]."""
    z = _float(z)
    z = z - z.mean(0)
    with torch.autocast(z.device.type, enabled=False):
        covariance = z.T @ z / (len(z) - 1)
    return (covariance - covariance.diag().diag()).square().sum() / z.shape[1]


def distillation(teacher: Tensor, student: Tensor, temperature: float = 0.1) -> Tensor:
    """DINO's loss (arXiv 2104.14294, Eq. 1): cross-entropy of the student's softmax under the teacher's probabilities.

    Args:
        teacher: probabilities [B, K], already centred and sharpened.
        student: logits [B, K], divided by `temperature`.
    """
    return -(_float(teacher) * (_float(student) / temperature).log_softmax(1)).sum(1).mean()


def orthogonality(teacher: Tensor, student: Tensor, per_sample: bool = False) -> Tensor:
    """CLeVER's orthogonality loss: |cosine| between the equivariant parts' probabilities of two views.

    Args:
        teacher, student: probabilities [B, K].
        per_sample: the mean of absolute values, instead of the public code's absolute value of the mean.
    """
    cosine = F.cosine_similarity(_float(teacher), _float(student), dim=1)
    return cosine.abs().mean() if per_sample else cosine.mean().abs()


def _float(x: Tensor) -> Tensor:
    """At least float32: cosines and squared errors in bfloat16 have two digits."""
    return x if x.dtype == torch.float64 else x.float()
