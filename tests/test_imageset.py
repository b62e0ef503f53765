"""Image sets: their form, their fingerprints, and what loading refuses."""

import pytest
import torch
from conftest import make_noise_images

from ciperlib.data import DataError, ImageSet, load_images


def test_subset_takes_everything_along(noise_images):
    index = torch.tensor([5, 3])
    part = noise_images.subset(index)
    assert torch.equal(part.images, noise_images.images[index])
    assert part.ids.tolist() == [5, 3]
    assert torch.equal(part.factors["azimuth"], noise_images.factors["azimuth"][index])
    assert part.labels == noise_images.labels


def test_floats_are_in_0_to_1(noise_images):
    floats = noise_images.floats()
    assert floats.dtype == torch.float32
    assert torch.equal((floats * 255).round().byte(), noise_images.images)


def test_the_digest_tells_which_images_and_in_which_order(noise_images):
    assert noise_images.digest() == make_noise_images().digest()
    assert noise_images.subset(slice(0, 47)).digest() != noise_images.digest()
    assert noise_images.subset(torch.arange(48).flip(0)).digest() != noise_images.digest()


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 3, dtype=torch.uint8)])
def test_refuses_images_of_another_form(images):
    with pytest.raises(DataError, match="uint8"):
        ImageSet("x", "train", images, {}, torch.arange(2), torch.arange(2))


def test_refuses_columns_of_another_length():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(DataError, match="category has 3 rows for 2"):
        ImageSet("x", "train", images, {"category": torch.arange(3)}, torch.arange(2), torch.arange(2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "imagenet"}, "no image set named 'imagenet'"),
        ({"split": "validation"}, "'train' or 'test'"),
        ({"size": 0}, "at least 1"),
    ],
)
def test_loading_refuses(arguments, words):
    with pytest.raises(DataError, match=words):
        load_images(**arguments)
