"""Image sets: their form, their fingerprints, and what loading refuses."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import make_noise_images

from ciperlib.data import DataError, ImageSet, load_images
from ciperlib.data.imageset import source_of


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


def changed(images: ImageSet, what: str) -> ImageSet:
    if what == "name":
        return replace(images, name="other")
    if what == "factor's name":
        return replace(images, factors={f"{name}2": column for name, column in images.factors.items()})
    column = getattr(images, what, None)
    column = (images.factors[what] if column is None else column).clone()
    column.view(-1)[7] += 1
    return replace(
        images, **{what: column} if what in ("images", "ids") else {"factors": {**images.factors, what: column}}
    )


@pytest.mark.parametrize("what", ["name", "ids", "images", "category", "azimuth", "factor's name"])
def test_the_content_tells_any_pixel_and_any_truth(noise_images, what):
    content = noise_images.content()
    assert content == make_noise_images().content()
    assert len(content) == 8
    assert int(content, 16) >= 0
    assert changed(noise_images, what).content() != content


def test_the_content_is_of_what_is_there_not_of_how_it_lies(noise_images):
    lying = replace(noise_images, images=noise_images.images.to(memory_format=torch.channels_last))
    assert lying.content() == noise_images.content()
    order = torch.arange(48).flip(0)
    assert noise_images.subset(order).content() != noise_images.content()
    assert noise_images.subset(order).subset(order).content() == noise_images.content()
    assert noise_images.subset(slice(0, 0)).content() != noise_images.content()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("turntable-32", "turntable"),
        ("turntable_sessions-64", "turntable_sessions"),
        ("cifar10", "cifar10"),
        ("digits-mnist-32", "digits-mnist"),
        ("digits-small-28", "digits-small"),
        ("folder:a-32-0123abcd", "folder"),
        ("folder:my-2-cats-32-01234567", "folder"),
    ],
)
def test_where_images_come_from(name, source):
    assert source_of(name) == source


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
        ({"name": 3}, "no image set named 3"),
        ({"name": "turntable:x"}, "choose 'turntable'; only folder:NAME"),
        ({"name": "cifar10:foo"}, "choose 'cifar10'; only folder:NAME"),
        ({"name": "turntable:"}, "choose 'turntable'"),
        *(({"size": size}, "size must be a whole number of at least 1") for size in (0, -1, 2.0, True, "5", math.nan)),
        *(
            ({"image_size": size}, "image_size must be a whole number from 1 to 1024")
            for size in (0, -32, 1025, 10**9, 32.0, True, "32", None)
        ),
    ],
)
def test_loading_refuses(arguments, words):
    with pytest.raises(DataError, match=words):
        load_images(**arguments)


def test_rendered_images_are_rendered_anew_and_others_are_refused(noise_images):
    images = load_images("turntable", "test", size=6, image_size=16)
    same = images.rerender()
    assert torch.equal(same.images, images.images)
    assert torch.equal(same.masks, images.masks)
    turned = images.subset(slice(2, 5)).rerender(azimuth=images.factors["azimuth"][2:5] + 1)
    assert not torch.equal(turned.images, images.images[2:5])
    assert torch.equal(turned.factors["azimuth"], images.factors["azimuth"][2:5] + 1)
    assert torch.equal(turned.rerender().images, turned.images)  # as they are turned now
    back = turned.rerender(azimuth=images.factors["azimuth"][2:5], image_size=32)
    assert torch.equal(back.images, load_images("turntable", "test", size=6, image_size=32).images[2:5])
    assert torch.equal(turned.factors["object"], images.factors["object"][2:5])
    with pytest.raises(DataError, match="has no factor 'azimut'"):
        images.rerender(azimut=images.factors["azimuth"])
    with pytest.raises(DataError, match="noise cannot be rendered anew"):
        noise_images.rerender()
