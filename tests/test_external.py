"""Encoders from elsewhere: the same outputs as their library gives, and nothing read that is not weights."""

import pickle

import pytest
import torch
from conftest import make_noise_images
from safetensors.torch import save_file
from torchvision import models

from ciperlib.analyse.features import extract_features
from ciperlib.learn.external import ForeignEncoder, ForeignError, load_external, load_network
from ciperlib.learn.runs import RunError
from ciperlib.learn.training import fit
from ciperlib.present import exercises

MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.resnet18(weights=None).eval()


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "checkpoint with a prefix"])
@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_weights_of_a_file_give_the_outputs_of_their_library(network, tmp_path, kind, source):
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pth")
    state = network.state_dict()
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "state dict":
        torch.save(state, path)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    encoder = load_network(f"{source}/resnet18", path, image_size=64)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    trunk = torch.nn.Sequential(*list(network.children())[:-1], torch.nn.Flatten())
    with torch.no_grad():
        assert torch.allclose(encoder(images), trunk((images - MEAN) / STD), atol=1e-4)
    assert encoder.representation_size == 512


def test_images_of_another_size_are_brought_to_the_network_s():
    encoder = load_network("timm/resnet10t", image_size=48)
    images = make_noise_images(8)
    features = extract_features(encoder, images)
    larger = torch.nn.functional.interpolate(images.floats(), (48, 48), mode="bilinear")
    assert torch.allclose(features.matrix, encoder(larger), atol=1e-4)
    again = load_network("timm/resnet10t", image_size=48)
    assert torch.equal(extract_features(again, images).matrix, features.matrix)  # the same seed
    assert not torch.equal(
        load_network("timm/resnet10t", seed=1).network.conv1[0].weight, again.network.conv1[0].weight
    )


def test_a_vision_transformer_of_the_right_size():
    encoder = load_network("timm/vit_tiny_patch16_224", image_size=32)
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, 192)
    with pytest.raises(ForeignError, match="12 pixels"):
        load_network("timm/vit_tiny_patch16_224", image_size=12)


class Program:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_what_is_not_weights_is_refused(network, tmp_path, capsys):
    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps(Program()))
    with pytest.raises(ForeignError, match="weights alone"):
        load_network("torchvision/resnet18", path)
    assert "this must never run" not in capsys.readouterr().out
    torch.save(network, path)  # a whole module
    with pytest.raises(ForeignError, match="weights alone"):
        load_network("torchvision/resnet18", path)
    (tmp_path / "net.safetensors").write_bytes(b"half a file")
    with pytest.raises(ForeignError, match="weights alone"):
        load_network("torchvision/resnet18", tmp_path / "net.safetensors")


def test_another_network_s_weights_are_named(network, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(network.state_dict(), path)
    with pytest.raises(ForeignError, match=r"another network's: .* missing"):
        load_network("torchvision/resnet34", path)
    state = network.state_dict() | {"conv1.weight": torch.zeros(64, 3, 3, 3)}
    save_file(state, path)
    with pytest.raises(ForeignError, match=r"conv1\.weight is \[64, 3, 3, 3\], not \[64, 3, 7, 7\]"):
        load_network("torchvision/resnet18", path)
    with pytest.raises(ForeignError, match="there is no checkpoint"):
        load_network("torchvision/resnet18", tmp_path / "nowhere.pth")


@pytest.mark.parametrize(("name", "says"), [
    ("resnet18", "timm/NAME"), ("timm/resnet_18x", "has no network"), ("torchvision/nothing", "has no network"),
    ("keras/resnet18", "timm/NAME"),
])  # fmt: skip
def test_unknown_networks(name, says):
    with pytest.raises(ForeignError, match=says):
        load_network(name)


def test_a_run_s_folder_names_its_encoder(tiny, tmp_path):
    run = fit(tiny, tmp_path, progress="none", device="cpu")
    named = load_external(f"{run.folder}/")
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(named.encoder(images), run.load_encoder()(images))
    assert (named.trained_on, named.name) == (run.trained_on, run.name)
    (run.folder / "encoder.safetensors").write_bytes(b"half a file")
    with pytest.raises(RunError, match="damaged"):
        load_external(str(run.folder))
    (run.folder / "status.json").unlink()
    with pytest.raises(ForeignError, match="the folder of a finished run"):
        load_external(str(run.folder))


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_a_network_is_named_with_its_checkpoint_or_without(network, tmp_path, source):
    path = tmp_path / "mine@home.safetensors"
    save_file(network.state_dict(), path)
    images = torch.rand(2, 3, 32, 32)
    named = load_external(f"{source}/resnet18@{path}")
    assert torch.equal(named.encoder(images), load_network(f"{source}/resnet18", path)(images))
    assert (named.trained_on, named.name) == (None, "resnet18, weights of mine@home.safetensors")
    drawn = load_external(f"{source}/resnet18", image_size=32, seed=3)
    assert torch.equal(drawn.encoder(images), load_network(f"{source}/resnet18", image_size=32, seed=3)(images))
    assert drawn.name == "resnet18, never trained"


@pytest.mark.parametrize(("name", "says"), [
    ("timm/resnet18@nowhere.pth", "there is no checkpoint nowhere.pth"), ("timm/resnet18@", "there is no checkpoint"),
    ("timm/resnet_18x", "timm has no network"), ("runs/nothing", "looked for in /.*runs/nothing"),
    ("resnet18", "timm/NAME or torchvision/NAME"), ("", "the folder of a finished run"),
    ("keras/resnet18@net.pth", "timm/NAME or torchvision/NAME"),
])  # fmt: skip
def test_what_names_no_encoder_says_what_would(name, says):
    with pytest.raises(ForeignError, match=says):
        load_external(name)


def test_an_output_that_is_no_row_is_refused():
    with pytest.raises(ForeignError, match="pooled output"):
        ForeignEncoder(torch.nn.Conv2d(3, 4, 3), 16, (0, 0, 0), (1, 1, 1))


def test_the_encoder_checker_names_the_mistake():
    assert "6 dimensions" in exercises.check_encoder(lambda x: torch.cat((x.mean((2, 3)), x.std((2, 3))), 1))
    for wrong, says in (
        (lambda x: x.mean(), "one row an image"),
        (lambda x: x, "one row an image"),
        (lambda x: x.flatten(1).mean(0, keepdim=True).expand(len(x), -1), "all images give the same row"),
        (lambda x: x.flatten(1) - x.flatten(1).mean(0), "use no other image"),
        (lambda x: 3.0, "a tensor, not float"),
    ):
        with pytest.raises(AssertionError, match=says):
            exercises.check_encoder(wrong)
