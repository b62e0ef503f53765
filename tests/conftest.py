"""What the tests share: a config that trains in a second, and images without a renderer."""

from __future__ import annotations

import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: for small tensors more threads only wait for each other

import pytest
import torch

from ciperlib.config import Config
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.encoders.base import Encoder

TINY = dict(
    train_size=48, image_size=16, batch_size=16, epochs=3, width=8, projector_width=16, predictor_width=16,
    precision="bf16",  # given, so that the name is the same on a CPU that is slow at it
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _runs_of_the_tests(tmp_path_factory):
    """Tests train their own runs: one that lies in the checkout would hide a loop that no longer works."""
    os.environ["CIPER_RUNS"] = str(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def tiny() -> Config:
    return Config(**TINY)


@pytest.fixture
def noise_images() -> ImageSet:
    """48 images of noise with the factors of a turntable: 4 objects, 3 sessions."""
    return make_noise_images()


def wait_until(condition, seconds: float = 60) -> None:
    """Returns when the condition holds; an error where it does not within `seconds`, so that no test waits for ever."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"it did not come to pass within {seconds} s"
        time.sleep(0.02)


def make_noise_images(n: int = 48, size: int = 16, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(n)
    angles = {name: torch.rand(n, generator=generator) for name in ("azimuth", "elevation", "distance")}
    return ImageSet(
        name="noise",
        split="train",
        images=torch.randint(256, (n, 3, size, size), generator=generator, dtype=torch.uint8),
        factors={"category": index % 2, "object": index % 4, "session": index // 4 % 3, **angles},
        ids=index,
        groups=index,
        labels={"session": ("a", "b", "c")},
    )


def real_data(*parts: str) -> Path:
    """A path below CIPER_DATA; skips the test where it is not there."""
    root = os.environ.get("CIPER_DATA")
    if not root or not Path(root, *parts).exists():
        pytest.skip(f"needs real files: set CIPER_DATA to a folder that has {'/'.join(parts)}")
    return Path(root)


class QuarterColours(Encoder):
    """h is the mean colour of the four quarters of an image: a quarter turn permutes them."""

    representation_size = 12

    def __init__(self):
        super().__init__(coordinates=False)

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
