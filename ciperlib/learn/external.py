"""Encoders from elsewhere: any network of timm's or torchvision's, with weights from a file that cannot run code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ciperlib.data.imageset import TrainedOn
from ciperlib.learn.encoders.base import Encoder
from ciperlib.learn.runs import STATUS, load_run
from ciperlib.learn.seeds import seeded

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of the pixels
SOURCES = ("timm", "torchvision")


class ForeignError(ValueError):
    """A network or a checkpoint that cannot be used; the message says which and what to do."""


class ForeignEncoder(Encoder):
    """A network as an encoder: images in 0..1 of any size, brought to the network's own and normalised as it expects.

    Args:
        network: float [B, 3, size, size] -> [B, d].
        size: of the images that the network is given; bilinear.
        mean, std: of its pixels.

    Raises:
        ForeignError: an output that is not [B, d], or an image size that the network cannot take.
    """

    def __init__(self, network: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__(coordinates=False)
        self.network, self.size = network, size
        self.pixel_mean.copy_(torch.tensor(mean).view(3, 1, 1))
        self.pixel_std.copy_(torch.tensor(std).view(3, 1, 1))
        self.eval().requires_grad_(False)
        try:
            shape = self(torch.zeros(2, 3, size, size)).shape
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ForeignError(f"the network does not take images of {size} pixels: {error}") from error
        if len(shape) != 2:
            raise ForeignError(f"the network gives {list(shape)} for two images, not [2, d]: take its pooled output")
        self.representation_size = shape[1]

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)
        return self.network(self.prepare(images))


def load_network(
    name: str, checkpoint: str | Path | None = None, *, image_size: int = 64, seed: int = 0
) -> ForeignEncoder:
    """A network by name, without its classifier, with the weights of a file.

    Args:
        name: "timm/NAME" or "torchvision/NAME".
        checkpoint: a .safetensors file, or a state dict that torch.load reads with weights_only=True; a classifier in
            it is left out, and so is a prefix ("module.", "model.", "encoder.") that all names share. Without one the
            network is untrained.
        image_size: of the images that the network is given.
        seed: of the weights of an untrained network.

    Raises:
        ForeignError: an unknown network, or a file that is missing, damaged, not weights alone, or another network's.
    """
    source, _, network_name = name.partition("/")
    if source not in SOURCES or not network_name:
        raise ForeignError(f"the network must be called timm/NAME or torchvision/NAME, not {name!r}")
    with seeded(seed, "foreign"):
        network, (mean, std) = _timm(network_name, image_size) if source == "timm" else _torchvision(network_name)
    if checkpoint:
        _load_weights(network, Path(checkpoint))
    return ForeignEncoder(network, image_size, mean, std)


class External(NamedTuple):
    """An encoder, the images it was trained on (None: unknown), and a short name of it."""

    encoder: Encoder
    trained_on: TrainedOn | None
    name: str


def load_external(name: str, *, image_size: int = 64, seed: int = 0, device: str | torch.device = "cpu") -> External:
    """An encoder by one string, as a notebook's parameter: a finished run, or a network from elsewhere.

    Args:
        name: a run's folder; or "timm/NAME" or "torchvision/NAME", untrained as it is drawn, or with the weights of a
            file: "timm/NAME@CHECKPOINT".
        image_size, seed: of a network from elsewhere, as for `load_network`.
        device: where the encoder shall be.

    Raises:
        ForeignError: neither of these, or what `load_network` refuses.
        RunError: a finished run that is damaged.
    """
    network, at, checkpoint = name.partition("@")
    source, _, short = network.partition("/")
    if source in SOURCES:
        path = Path(checkpoint).expanduser() if at else None  # nothing after the @ is a missing file, not "untrained"
        encoder = load_network(network, path, image_size=image_size, seed=seed).to(device)
        return External(encoder, None, f"{short}, weights of {path.name}" if path else f"{short}, never trained")
    folder = Path(name).expanduser()
    if not (folder / STATUS).is_file():
        raise ForeignError(
            f"there is no encoder {name!r}: write timm/NAME or torchvision/NAME, with @ and a checkpoint for its "
            f"weights, or the folder of a finished run (looked for in {folder.absolute()})"
        )
    run = load_run(folder)
    return External(run.load_encoder(device), run.trained_on, run.name)


def _timm(name: str, image_size: int) -> tuple[nn.Module, tuple]:
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ForeignError(f"timm has no network {name!r}; near it: {', '.join(close) or 'nothing'}")
    sized: dict[str, Any] = {"img_size": image_size} if "vit" in name else {}
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0, **sized)
    except AssertionError as error:
        raise ForeignError(f"{name} cannot tile images of {image_size} pixels: {error}") from error
    return network, (network.pretrained_cfg["mean"], network.pretrained_cfg["std"])


def _torchvision(name: str) -> tuple[nn.Module, tuple]:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ForeignError(f"torchvision has no network {name!r}; see torchvision.models.list_models()")
    network = models.get_model(name, weights=None)
    for classifier in ("fc", "classifier", "heads", "head"):
        if hasattr(network, classifier):
            setattr(network, classifier, nn.Identity())
    return network, IMAGENET


def _load_weights(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ForeignError(f"there is no checkpoint {path}")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _load_state_dict(path)
        found = _tensors(found)
    except Exception as error:  # a damaged file ends in any error of pickle's, zipfile's or safetensors' own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ForeignError(
            f"{path} cannot be read as weights alone ({reason}); save its state dict as safetensors"
        ) from error
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ForeignError(f"{path} is another network's: {len(missing)} weights are missing, such as {missing[0]}")
    wrong = [name for name, tensor in wanted.items() if tensor.shape != found[name].shape]
    if wrong:
        shapes = list(found[wrong[0]].shape), list(wanted[wrong[0]].shape)
        raise ForeignError(f"{path} is another network's: {wrong[0]} is {shapes[0]}, not {shapes[1]}")
    more = [name for name in found if name not in wanted and _stem(name) in {_stem(other) for other in wanted}]
    if more:  # a deeper network has all the weights of a shallower one
        raise ForeignError(f"{path} is another network's: it has {len(more)} weights more, such as {more[0]}")
    network.load_state_dict({name: found[name] for name in wanted})


def _stem(name: str) -> str:
    return name.partition(".")[0]


def _tensors(found: Any) -> dict[str, Tensor]:
    """The state dict in what a file held, without what all its names share."""
    found = found.get("state_dict", found.get("model", found)) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found:
        raise TypeError("it holds no table of weights")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()):
        raise TypeError("it holds more than names and tensors")
    return _without_prefix(found)


def _load_state_dict(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pickle that torch is about to refuse
        return torch.load(path, "cpu", weights_only=True)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("module.", "model.", "encoder."):
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefix({name[len(prefix) :]: tensor for name, tensor in tensors.items()})
    return tensors
