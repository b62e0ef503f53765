"""Where an encoder looks: FullGrad (Srinivas and Fleuret 2019, arXiv 1905.00780), exact, in captum's form.

A network of convolutions, linear layers, BatchNorm in eval mode, ReLUs and poolings is piecewise linear. Its output is
then exactly the sum of gradient * input and, for everything that adds a constant somewhere, gradient * constant. Of
others (LayerNorm, GELU, attention) the same terms are an approximation, and how far they miss the output is part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ciperlib.learn.encoders.base import Encoder

try:
    from captum.attr import GradientAttribution
except ImportError:  # a machine that only measures: the same calls, without what captum builds on them

    class GradientAttribution:
        def __init__(self, forward_func: nn.Module) -> None:
            self.forward_func = forward_func


# Layers that add no constant and are linear wherever they are differentiable; what is in neither list is not exact.
HOMOGENEOUS = (
    nn.ReLU, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LeakyReLU, nn.PReLU, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, nn.Upsample, nn.PixelShuffle, nn.Unflatten,
)  # fmt: skip
AFFINE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
SATURATING = (nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid, nn.modules.padding._ConstantPadNd)
CURVED = (
    nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.ELU, nn.Softplus, nn.Mish, nn.Hardswish, nn.LayerNorm,
    nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.MultiheadAttention,
)  # fmt: skip
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # empty ones, too
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
    """FullGrad maps of any network of convolutions, linear layers, BatchNorm, ReLUs and poolings, shortcuts included;
    of others an approximation.

    Args:
        model: float [B, C, H, W] -> [B, K]; in eval mode.
        approximate: accept layers that are not piecewise linear (LayerNorm, GELU, attention). The terms then do not add
            up to the output; `decompose(...).gap()` says by how much. None: where nothing else is possible.

    Attributes:
        approximate: whether it is accepted.

    Raises:
        SaliencyError: train mode, or a layer that cannot be treated exactly.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
        >>> terms = FullGrad(network).decompose(torch.rand(1, 3, 8, 8), target=1)
        >>> sorted(terms.constants), bool(terms.gap() < 1e-5)
        (['0', '3'], True)
    """

    def __init__(self, model: nn.Module, approximate: bool | None = False) -> None:
        super().__init__(model)
        self.model, self.approximate = model, bool(approximate)
        self._check_mode()
        inexact = self._find_inexact_layer()
        if inexact is not None and approximate is False:
            raise SaliencyError(inexact)
        if approximate is None:
            self.approximate = inexact is not None

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
        self._check_mode()
        self._check_inputs(inputs)
        leaf, constants = inputs.detach().clone().requires_grad_(), {}
        with torch.enable_grad(), _watched(self.model, constants):
            output = self._forward(leaf)
            value = _select(output, target)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        terms = {name: _by_image(sum(parts), len(leaf)) for name, parts in constants.items()}
        result = FullGradients(value.detach(), gradient * leaf.detach(), terms)
        if not self.approximate and bool((result.gap() > TOLERANCE[inputs.dtype]).any()):
            raise SaliencyError(
                f"the terms miss the output by {float(result.gap().max()):.2g} of their size: some function inside the "
                "network's forward is not piecewise linear, or adds a constant of its own. With approximate=True the "
                "map is drawn all the same, and the gap is part of the result"
            )
        return result

    def _forward(self, inputs: Tensor) -> Tensor:
        try:
            return self.model(inputs)
        except RuntimeError as error:
            shape, kind = list(inputs.shape), str(inputs.dtype).removeprefix("torch.")
            raise SaliencyError(f"the network does not take {kind} inputs {shape}: {error}") from error

    def _check_mode(self) -> None:
        for name, module in self.model.named_modules():
            if module.training:
                raise SaliencyError(f"{name or 'the network'} is in train mode; call model.eval() first")

    def _find_inexact_layer(self) -> str | None:
        """The first layer of which FullGrad is not exact, and why, in a sentence; None if there is none."""
        for name, module in self.model.named_modules():
            container = isinstance(module, CONTAINERS) or any(True for _ in module.children())
            if (reason := _why_inexact(module, container)) is not None:
                return (
                    f"{name} ({type(module).__name__}) {reason}, so FullGrad is not exact for it; "
                    "choose a part of the network without it, or approximate=True"
                )
        return None

    def _check_inputs(self, inputs: Tensor) -> None:
        if inputs.ndim != 4 or inputs.dtype not in TOLERANCE:
            raise SaliencyError(
                f"inputs must be float32 or float64 [B, C, H, W], not {inputs.dtype} {list(inputs.shape)}"
            )
        if not inputs.isfinite().all():
            raise SaliencyError("inputs hold values that are not finite")


def _why_inexact(module: nn.Module, container: bool) -> str | None:
    """Why FullGrad would not be exact for a layer; None if it is."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return "keeps no statistics, and divides each batch by its own"
    if isinstance(module, HOMOGENEOUS + AFFINE):
        return None
    if isinstance(module, SATURATING):
        return "is piecewise linear, but adds constants that cannot be followed"
    if isinstance(module, CURVED):
        return "is not piecewise linear"
    return None if container else "is none of the layers that are known to be piecewise linear"


def saliency_map(
    terms: FullGradients, *, per_channel: bool = False, rescale: bool = True, align_corners: bool = False
) -> Tensor:
    """FullGrad's picture, [B, 1, H, W]: psi(gradient * input) + sum over spatial layers and channels of psi(terms).

    psi is |.|, rescaled to 0..1 (jointly over a layer's channels, as in the authors' code, or `per_channel`), and
    enlarged bilinearly. For shares inside a mask use rescale=False: rescaling makes every layer count as much; without
    it, each layer counts with the sum of its terms' absolute values, whatever its resolution. The authors' code
    enlarges with `align_corners=True`, which stretches a layer's outermost pixels to the image's edge.
    """
    parts = [term for term in (terms.input, *terms.constants.values()) if term.ndim == 4]
    return sum(_psi(part, terms.input.shape[2:], per_channel, rescale, align_corners) for part in parts)


def _psi(part: Tensor, size: torch.Size, per_channel: bool, rescale: bool, align_corners: bool) -> Tensor:
    """The channels are summed before they are enlarged: both are linear, and there are up to hundreds of channels."""
    part = part.abs()
    if not rescale:
        flat = part.sum(1, keepdim=True) * (part.shape[2] * part.shape[3] / (size[0] * size[1]))
    elif per_channel:
        low, span = _range(part.flatten(2))
        flat = ((part - low[..., None]) / span[..., None]).sum(1, keepdim=True)
    else:
        low, span = (x.view(-1, 1, 1, 1) for x in _range(part.flatten(1)))
        flat = (part - low).sum(1, keepdim=True) / span  # in this order a constant layer is exactly 0
    return F.interpolate(flat, size, mode="bilinear", align_corners=align_corners)


def _range(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and range over the last axis, kept; a range of nothing is a tiny one, so that it can be divided by."""
    low, high = flat.aminmax(dim=-1, keepdim=True)
    return low, (high - low).clamp_min(torch.finfo(flat.dtype).tiny)


@contextmanager
def _watched(model: nn.Module, constants: dict[str, list[Tensor]]) -> Iterator[None]:
    """Inside, whatever adds a constant puts gradient * constant into `constants` on the way back."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, Encoder):
                stack.enter_context(_prepared(module, constants))
        stack.enter_context(_Watch(model, constants))
        yield


class _Watch(TorchFunctionMode):
    """Sees every convolution, linear map and BatchNorm as it is computed, whichever module or function asks for it.

    Watching functions rather than modules is exact for modules that are used twice or never, for layers that do more
    than their type says (timm's BatchNorm with a ReLU inside), and leaves no hook behind. The gradient is taken by a
    hook on the result, set before an in-place ReLU can change it.
    """

    def __init__(self, model: nn.Module, constants: dict[str, list[Tensor]]) -> None:
        super().__init__()
        self.constants = constants
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self.names = {id(tensor): name.rpartition(".")[0] for name, tensor in tensors}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in CONSTANTS:
            find, axis = CONSTANTS[function]
            layer, constant = find(*args, **(kwargs or {}))
            if constant is not None and result.requires_grad:
                shape = [1] * result.ndim
                shape[axis] = -1
                constant = constant.detach()
                constant = constant.view(shape) if constant.ndim == 1 else constant
                self._record(self.names.get(id(layer), function.__name__), constant, result, axis)
        elif function in ADDITIONS and isinstance(result, Tensor) and result.requires_grad:
            added = next((x for x in args[:2] if id(x) in self.names), None)
            if added is not None and not kwargs:
                axis = -1 if result.ndim == 3 or added.ndim == 1 else 1
                self._record(f"{self.names[id(added)]}+".lstrip("."), added.detach(), result, axis)
        return result

    def _record(self, name: str, constant: Tensor, result: Tensor, axis: int) -> None:
        def keep(gradient: Tensor) -> None:
            for end, term in _as_planes((gradient * constant).detach(), axis).items():
                self.constants.setdefault(name + end, []).append(term)

        result.register_hook(keep)


def _by_image(term: Tensor, images: int) -> Tensor:
    """A term whose rows are windows of images, as Swin's are, with a row an image again, [B, n]; others as they are."""
    return term if len(term) == images else term.reshape(images, -1)


def _as_planes(term: Tensor, axis: int) -> dict[str, Tensor]:
    """A term with its channels where a convolution has them, so that it can be drawn: end of its name -> [B, C, h, w],
    or another shape where there is no picture in it.

    Tokens [B, N, C] are a picture where N is a square, or one more than a square (a class token comes first).
    """
    if term.ndim == 5:  # the planes of a field (learn.encoders.c4) are channels like others
        return {"": term.flatten(1, 2)}
    if axis == -1 and term.ndim == 4:
        return {"": term.permute(0, 3, 1, 2)}
    if axis == -1 and term.ndim == 3:
        term = term.transpose(1, 2)
        for tokens in (0, 1):
            side = math.isqrt(term.shape[2] - tokens)
            if side > 1 and side**2 == term.shape[2] - tokens:
                planes = {"": term[..., tokens:].unflatten(2, (side, side))}
                return planes | ({" (class token)": term[..., 0]} if tokens else {})
    return {"": term}


def _bias(input: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, **__: Any):
    """The constant of a convolution or a linear layer, and the tensor that tells which layer it is."""
    return weight, bias


def _shift(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """BatchNorm's constant, beta - gamma * mean / sqrt(variance + eps), and the tensor that tells which layer it is;
    without statistics it is beta alone."""
    if running_mean is None:
        return weight, bias
    scale = torch.rsqrt(running_var + eps)
    shift = -running_mean * (scale if weight is None else scale * weight)
    return running_mean, shift if bias is None else shift + bias


def _beta(input: Tensor, _shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any, **__: Any):
    """The constant that LayerNorm and GroupNorm add; what they do before it is not linear."""
    return weight, bias


# function -> what finds its constant, and the axis along which that lies
CONSTANTS = {
    F.conv1d: (_bias, 1), F.conv2d: (_bias, 1), F.conv3d: (_bias, 1), F.conv_transpose2d: (_bias, 1),
    F.linear: (_bias, -1), F.batch_norm: (_shift, 1), F.layer_norm: (_beta, -1), F.group_norm: (_beta, 1),
}  # fmt: skip
# of a parameter, such as a transformer's positions
ADDITIONS = {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.add_,
    torch.Tensor.__iadd__,
}


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


def as_bytes(maps: Tensor) -> Tensor:
    """Maps [N, ...] as uint8 of the same shape, each from 0 at its lowest to 255 at its highest value."""
    shape = (-1, *[1] * (maps.ndim - 1))
    low, high = maps.flatten(1).amin(1).view(shape), maps.flatten(1).amax(1).view(shape)
    return ((maps - low) / (high - low).clamp_min(1e-12) * 255).round().byte()
