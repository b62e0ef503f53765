"""A small VMamba (Liu et al. 2024, arXiv 2401.10166): tokens of an image mixed by four selective scans across it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciperlib.config import Config
from ciperlib.learn.encoders.base import Encoder
from ciperlib.registry import architectures

DEPTHS = (2, 2, 2, 2)  # blocks of the four stages; VMamba-T has eight in the third
STATES, SHARE = 1, 16  # of h_t a channel; channels for each dimension that says how far a step goes (both VMamba's)
SHORTEST, LONGEST = 1e-3, 1e-1  # steps at the start, log-uniform as in the code of Mamba (arXiv 2312.00752)


class Recurrence(torch.autograd.Function):
    """h_t = a_t h_(t-1) + b_t along the last axis, h_(-1) = 0, of a and b of one shape [..., L].

    A parallel scan (Hillis & Steele 1986): after k rounds each place holds what the last 2^k steps add to it, so that
    log2 L rounds are enough. The gradient is the same recurrence backwards; only a and h are kept for it.
    """

    @staticmethod
    def forward(context: Any, a: Tensor, b: Tensor) -> Tensor:
        h = _scan(a, b)
        context.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, h = context.saved_tensors
        following = F.pad(a[..., 1:], (0, 1))  # a_(t+1) carries the gradient of h_(t+1) back to h_t
        carried = _scan(following.flip(-1), gradient.flip(-1)).flip(-1)
        return carried * F.pad(h[..., :-1], (1, 0)), carried


def _scan(a: Tensor, b: Tensor) -> Tensor:
    reach = 1
    while reach < b.shape[-1]:
        b = torch.cat((b[..., :reach], torch.addcmul(b[..., reach:], a[..., reach:], b[..., :-reach])), -1)
        reach *= 2
        if reach < b.shape[-1]:
            half = reach // 2
            a = torch.cat((a[..., :half], a[..., half:] * a[..., :-half]), -1)
    return b


def unfold(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 4, C, H W]: along the rows, down the columns, and both from the end."""
    ahead = torch.stack((x.flatten(2), x.transpose(2, 3).flatten(2)), 1)
    return torch.cat((ahead, ahead.flip(-1)), 1)


def fold(y: Tensor, height: int, width: int) -> Tensor:
    """The sum of the four, each put back to its place: [B, 4, C, H W] -> [B, C, H, W]."""
    rows, columns = (y[:, :2] + y[:, 2:].flip(-1)).unbind(1)
    return rows.unflatten(-1, (height, width)) + columns.unflatten(-1, (width, height)).transpose(2, 3)


class FourWayScan(nn.Module):
    """SS2D: each of four directions is a selective state space model of its own; [B, C, H, W] to the same.

    In each, with what is written from, read into and stepped over by the token u_t itself (arXiv 2312.00752, Alg. 2):
    h_t = exp(step_t A) h_(t-1) + step_t B_t u_t, y_t = C_t . h_t + D u_t, A negative.
    """

    def __init__(self, channels: int, states: int = STATES) -> None:
        super().__init__()
        self.sizes = (math.ceil(channels / SHARE), states, states)
        rank = self.sizes[0]
        self.select = nn.Parameter(torch.randn(4, sum(self.sizes), channels) / math.sqrt(channels))
        self.step = nn.Parameter(torch.empty(4, channels, rank).uniform_(-(rank**-0.5), rank**-0.5))
        first = torch.empty(4, channels).uniform_(math.log(SHORTEST), math.log(LONGEST)).exp()
        self.step_bias = nn.Parameter(first + torch.log(-torch.expm1(-first)))  # softplus of it is `first`
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(4, channels, 1))
        self.skip = nn.Parameter(torch.ones(4, channels))

    def forward(self, x: Tensor) -> Tensor:
        u = unfold(x)
        step, write, read = torch.einsum("bkcl,krc->bkrl", u, self.select).split(self.sizes, 2)
        step = F.softplus(torch.einsum("bkrl,kcr->bkcl", step, self.step) + self.step_bias[:, :, None])
        decay = torch.exp(step[:, :, :, None] * -self.log_decay.exp()[:, :, :, None])  # [B, 4, C, states, L]
        h = Recurrence.apply(decay, (step * u)[:, :, :, None] * write[:, :, None])
        y = (h * read[:, :, None]).sum(3) + self.skip[:, :, None] * u
        return fold(y, *x.shape[2:])


class ChannelNorm(nn.LayerNorm):
    """LayerNorm of the channels at each place of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """Two residual steps: tokens mixed by a depthwise convolution and the scans, then channels by an MLP."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        near = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        enter, leave = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))
        norms = [ChannelNorm(channels) for _ in range(3)]
        self.tokens = nn.Sequential(norms[0], enter, near, nn.SiLU(), FourWayScan(channels), norms[1], leave)
        wide, narrow = nn.Conv2d(channels, 4 * channels, 1), nn.Conv2d(4 * channels, channels, 1)
        self.channels = nn.Sequential(norms[2], wide, nn.GELU(), narrow)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(x)
        return x + self.channels(x)


class VMamba(Encoder):
    """Four stages, each of half the side and twice the channels, the first of half the image's side.

    float [B, 3, H, W] in 0..1 -> h [B, 8 * width], the mean over places after the last norm.
    """

    def __init__(self, width: int, coordinates: bool = True) -> None:
        super().__init__(coordinates)
        self.representation_size = 8 * width
        layers: list[nn.Module] = []
        inputs = self.in_channels
        for stage, depth in enumerate(DEPTHS):
            outputs = width * 2**stage
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), ChannelNorm(outputs)]
            layers += [Block(outputs) for _ in range(depth)]
            inputs = outputs
        self.network = nn.Sequential(*layers, ChannelNorm(inputs))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.prepare(images)).mean((2, 3))


@architectures.register("vmamba", label="VMamba", place=60)
def make_vmamba(config: Config) -> VMamba:
    """Four stages of four-way scans."""
    return VMamba(config.width, config.coordinates)
