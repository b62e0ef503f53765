"""What a saliency map explains: an output on top of a frozen encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.analyse.attribution.fullgrad import SaliencyError
from ciperlib.analyse.fingerprints import fingerprint
from ciperlib.analyse.results import ProbeResult


def read_out(encoder: nn.Module, head: ProbeResult | Tensor | nn.Module) -> nn.Sequential:
    """What is to be explained, on top of a frozen encoder: images [B, 3, H, W] -> [B, K], in eval mode.

    Args:
        encoder: to representations [B, d].
        head: a probe's result: its logits (or, for a regression, its columns), see `target_of`. A tensor [K, d]: the
            dot products of h with K fixed vectors. Any module [B, d] -> [B, K], for instance `Cosine`.

    Raises:
        SaliencyError: a probe that was fitted on another encoder's features, or that has no linear map (knn).
    """
    if isinstance(head, ProbeResult):
        if head.model is None:
            raise SaliencyError(f"a {head.protocol} probe has no weights to explain; fit a linear one")
        if head.encoder_fingerprint != fingerprint(encoder):
            raise SaliencyError(
                f"the probe of {head.factor} was fitted on another encoder ({head.encoder_fingerprint or 'unknown'}, "
                f"not {fingerprint(encoder)}): its weights mean nothing here; fit one on this encoder's features"
            )
        head = _linear(head.model.weight, head.model.bias)
    elif isinstance(head, Tensor):
        head = _linear(head)
    place = next((tensor.device for tensor in encoder.state_dict().values()), torch.device("cpu"))
    return nn.Sequential(encoder, head.to(place)).eval()


def target_of(probe: ProbeResult, what: str | Tensor) -> int | Tensor:
    """Which output of `read_out(encoder, probe)` is meant by a column's name or by categories int64 [B].

    Raises:
        SaliencyError: a column or a category that the probe does not have.
    """
    if isinstance(what, str):
        columns = probe.details.get("columns", ())
        if what not in columns:
            raise SaliencyError(f"the probe of {probe.factor} has no column {what!r}; it has: {', '.join(columns)}")
        return columns.index(what)
    values = probe.details.get("values")
    what = what.cpu()
    if values is None or not torch.isin(what, values).all():
        raise SaliencyError(f"{what.unique().tolist()} are not all categories of the probe of {probe.factor}")
    return torch.searchsorted(values, what)


class Cosine(nn.Module):
    """Cosine of h [B, d] to K fixed vectors [K, d]: [B, K]. Only approximate: scaling h leaves it as it is, so by
    Euler's identity its terms sum to 0 instead of to it."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", F.normalize(vectors, dim=1))

    def forward(self, h: Tensor) -> Tensor:
        return F.normalize(h, dim=1) @ self.vectors.T


class PredictedChange(nn.Module):
    """What CIPER's predictor says of anchors' h0 [B, d] next to fixed views' h1 [B, d] (paper, section 3.2): [B, D].
    Only approximate: the predictor has a LayerNorm."""

    def __init__(self, predictor: nn.Module, views: Tensor) -> None:
        super().__init__()
        self.predictor = predictor
        self.register_buffer("views", views)

    def forward(self, h: Tensor) -> Tensor:
        return self.predictor(h - self.views)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight.detach().float()
    if bias is not None:
        layer.bias.data = bias.detach().float()
    return layer.requires_grad_(False)
