"""Where an encoder looks: FullGrad (Srinivas and Fleuret 2019, arXiv 1905.00780), exact, in captum's form.

A network of convolutions, linear layers, BatchNorm in eval mode, ReLUs and poolings is piecewise linear. Its output is
then exactly the sum of gradient * input and, for everything that adds a constant somewhere, gradient * constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import GradientAttribution
from torch import Tensor, nn

from ciperlib.learn.encoders import Encoder

# Layers that add no constant and are linear wherever they are differentiable; what is in neither list is not exact.
HOMOGENEOUS = (
    nn.ReLU, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LeakyReLU, nn.ZeroPad2d,
)  # fmt: skip
AFFINE = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


class SaliencyError(ValueError):
    """A network, an input or a target of which FullGrad would not be exact; the message says which and what to do."""


@dataclass(frozen=True)
class FullGradients:
    """An output f(x) taken apart: it is the sum of all entries of all terms.

    Attributes:
        value: f(x), [B].
        input: gradient * input, [B, C, H, W], signed.
        constants: name of a layer -> gradient * constant, [B, C, h, w] (or [B, C] after pooling), signed. For this
            project's encoders "normalisation" is the shift by the pixel mean and "coordinates" the two channels.
    """

    value: Tensor
    input: Tensor
    constants: dict[str, Tensor]

    def gap(self) -> Tensor:
        """|sum of terms - f(x)| as a share of the terms' summed absolute values, [B]."""
        terms = [self.input, *self.constants.values()]
        total = sum(term.flatten(1).sum(1) for term in terms)
        size = sum(term.flatten(1).abs().sum(1) for term in terms)
        return (total - self.value).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)


class FullGrad(GradientAttribution):
    """FullGrad maps of any network of convolutions, linear layers, BatchNorm, ReLUs and poolings, shortcuts included.

    Args:
        model: float [B, C, H, W] -> [B, K]; in eval mode.
        approximate: accept layers that are not piecewise linear (LayerNorm, GELU, attention). The terms then do not add
            up to the output; `decompose(...).gap()` says by how much.

    Raises:
        SaliencyError: train mode, or a layer that cannot be treated exactly.
    """

    def __init__(self, model: nn.Module, approximate: bool = False) -> None:
        super().__init__(model)
        self.model, self.approximate = model, approximate
        self._check_model()

    def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
        """The map that FullGrad draws, [B, 1, H, W], not negative: see `saliency_map`.

        Args:
            inputs: float [B, C, H, W].
            target: which output: an int, or one for each image (list or int64 [B]); None for a single output.

        Raises:
            SaliencyError: images or a target that do not fit, or terms that do not add up to the output.
        """
        return saliency_map(self.decompose(inputs, target))

    def decompose(self, inputs: Tensor, target: Any = None) -> FullGradients:
        """The signed terms, before any post-processing. Arguments and errors as `attribute`."""
        self._check_inputs(inputs)
        leaf, constants = inputs.detach().clone().requires_grad_(), {}
        with torch.enable_grad(), _watched(self.model, constants):
            output = self.model(leaf)
            value = _select(output, target)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        terms = {name: sum(parts) for name, parts in constants.items()}
        result = FullGradients(value.detach(), gradient * leaf.detach(), terms)
        if not self.approximate and bool((result.gap() > TOLERANCE[inputs.dtype]).any()):
            raise SaliencyError(
                f"the terms miss the output by {float(result.gap().max()):.2g} of their size: some function inside the "
                "network's forward is not piecewise linear, or adds a constant of its own. With approximate=True the "
                "map is drawn all the same, and the gap is part of the result"
            )
        return result

    def _check_model(self) -> None:
        for name, module in self.model.named_modules():
            if module.training:
                raise SaliencyError(f"{name or 'the network'} is in train mode; call model.eval() first")
            leaf = not any(True for _ in module.children())
            if leaf and not isinstance(module, HOMOGENEOUS + AFFINE) and not self.approximate:
                raise SaliencyError(
                    f"{name} ({type(module).__name__}) is not piecewise linear, so FullGrad is not exact for it; "
                    "choose a part of the network without it, or approximate=True"
                )

    def _check_inputs(self, inputs: Tensor) -> None:
        if inputs.ndim != 4 or inputs.dtype not in TOLERANCE:
            raise SaliencyError(
                f"inputs must be float32 or float64 [B, C, H, W], not {inputs.dtype} {list(inputs.shape)}"
            )
        if not inputs.isfinite().all():
            raise SaliencyError("inputs hold values that are not finite")


def saliency_map(terms: FullGradients, *, per_channel: bool = False, rescale: bool = True) -> Tensor:
    """FullGrad's picture, [B, 1, H, W]: psi(gradient * input) + sum over spatial layers and channels of psi(terms).

    psi is |.|, rescaled to 0..1 (jointly over a layer's channels, as in the authors' code, or `per_channel`), and
    enlarged bilinearly. For shares inside a mask use rescale=False: rescaling makes every layer count as much.
    """
    size = terms.input.shape[2:]
    parts = [term for term in (terms.input, *terms.constants.values()) if term.ndim == 4]
    total = 0
    for part in parts:
        part = part.abs()
        if rescale:
            axes = (2, 3) if per_channel else (1, 2, 3)
            low, high = part.amin(axes, keepdim=True), part.amax(axes, keepdim=True)
            part = (part - low) / (high - low).clamp_min(torch.finfo(part.dtype).tiny)
        total = total + F.interpolate(part, size, mode="bilinear", align_corners=False).sum(1, keepdim=True)
    return total


@contextmanager
def _watched(model: nn.Module, constants: dict[str, list[Tensor]]) -> Iterator[None]:
    """Inside, every call of a layer that adds a constant puts gradient * constant into `constants` on the way back.

    The hooks are on tensors, set before an in-place ReLU can change them, one a call: a module that is used twice
    counts twice. All of them are gone afterwards.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, Encoder):
                stack.enter_context(_prepared(module, constants))
            elif (constant := _constant(module)) is not None:
                handle = module.register_forward_hook(_recorder(constants, name, constant))
                stack.callback(handle.remove)
        yield


def _recorder(constants: dict[str, list[Tensor]], name: str, constant: Tensor):
    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        axis = 1 if output.ndim == 4 else output.ndim - 1
        added = constant.view([-1 if i == axis else 1 for i in range(output.ndim)])

        def keep(gradient: Tensor) -> None:
            constants.setdefault(name, []).append((gradient * added).detach())

        output.register_hook(keep)

    return record


def _constant(module: nn.Module) -> Tensor | None:
    """What a layer adds: its bias; for BatchNorm beta - gamma * mean / sqrt(variance + eps); None if nothing."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        scale = torch.rsqrt(module.running_var + module.eps)
        scale = scale if module.weight is None else scale * module.weight.detach()
        shift = -module.running_mean * scale
        return shift if module.bias is None else shift + module.bias.detach()
    bias = getattr(module, "bias", None)
    return bias.detach() if isinstance(module, AFFINE) and bias is not None else None


@contextmanager
def _prepared(encoder: Encoder, constants: dict[str, list[Tensor]]) -> Iterator[None]:
    """The constants of an encoder's `prepare`: the shift of the normalisation, and the coordinate channels."""
    prepare = encoder.prepare

    def watched(images: Tensor) -> Tensor:
        x = prepare(images)
        shift = (-encoder.pixel_mean / encoder.pixel_std).expand_as(x[:, :3])

        def record(gradient: Tensor) -> None:
            constants.setdefault("normalisation", []).append(gradient[:, :3] * shift)
            if x.shape[1] > 3:
                constants.setdefault("coordinates", []).append((gradient[:, 3:] * x[:, 3:]).detach())

        x.register_hook(record)
        return x

    encoder.prepare = watched
    try:
        yield
    finally:
        del encoder.prepare  # the class's own method shows again


def _select(output: Tensor, target: Any) -> Tensor:
    """The chosen output of each image, [B]."""
    if output.ndim != 2:
        raise SaliencyError(f"the network must return [B, K], not {list(output.shape)}")
    if target is None:
        if output.shape[1] != 1:
            raise SaliencyError(f"say which of the {output.shape[1]} outputs, with target=")
        target = 0
    index = torch.as_tensor(target, device=output.device)
    if index.is_floating_point() or index.ndim > 1 or (index.ndim == 1 and len(index) not in (1, len(output))):
        raise SaliencyError(f"target must be an int or one int for each of the {len(output)} images, not {target!r}")
    if bool((index < 0).any()) or bool((index >= output.shape[1]).any()):
        raise SaliencyError(f"target {target!r} does not exist: outputs are numbered 0 to {output.shape[1] - 1}")
    return output.gather(1, index.long().reshape(-1, 1).expand(len(output), 1))[:, 0]
