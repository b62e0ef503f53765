"""What can be read of a view's parameters: planted encoders that show them, and where an R2 lies."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from conftest import make_noise_images

from ciperlib.analyse.equivariance.decodability import decode_parameters, rescale
from ciperlib.analyse.features import extract_differences
from ciperlib.analyse.probing.checks import ProbeError
from ciperlib.analyse.probing.probes import fit_regression_probe
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment import Augmentation
from ciperlib.learn.encoders.base import Encoder
from ciperlib.present.verdicts import plot_decodability

CROP = ("crop_x", "crop_y", "crop_height", "crop_width")


class Planted(Encoder):
    """h is the mean and the spread of the red and of the green along their ramps, as many as are asked for."""

    def __init__(self, columns=4):
        super().__init__(coordinates=False)
        self.representation_size = columns

    def forward(self, images):
        red, green = images[:, 0].mean(1), images[:, 1].mean(2)  # [N, W], [N, H]
        ends = [(ramp.mean(1), ramp[:, -1] - ramp[:, 0]) for ramp in (red, green)]
        return torch.stack([value for pair in ends for value in pair], 1)[:, : self.representation_size]


def ramps(start, n, size=32):
    """Images whose red says how far to the right a pixel is, and whose green how far down."""
    line = torch.linspace(0, 255, size).round().byte()
    image = torch.stack((line.expand(size, size), line[:, None].expand(size, size), torch.zeros(size, size).byte()))
    ids = torch.arange(start, start + n)
    return ImageSet("ramps", "train", image.repeat(n, 1, 1, 1), {"category": ids % 2}, ids, ids)


def test_a_crop_that_an_image_shows_is_read_from_its_view():
    found = decode_parameters(Planted(), ramps(0, 300), ramps(300, 200), Augmentation(("crop",)), resamples=50)
    view = found[found["reader"] == "view"].set_index("parameter")["value"]
    assert set(view.index) == set(CROP)
    assert view.min() > 0.98
    assert (found["n"] == 200).all()
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()
    x_alone = decode_parameters(Planted(2), ramps(0, 300), ramps(300, 200), Augmentation(("crop",)), readers=("view",))
    view = x_alone.set_index("parameter")["value"]
    assert view["crop_x"] > 0.98
    assert view["crop_y"] < 0.5  # what the width lets guess: a small crop can lie further down


def test_the_readers_are_what_they_say():
    train, test = make_noise_images(200), make_noise_images(300, seed=1).subset(slice(200, 300))
    augmentation = Augmentation(("flip", "jitter", "grayscale"))
    found = decode_parameters(Planted(), train, test, augmentation, seed=3, resamples=20)
    pairs = [extract_differences(Planted(), part, augmentation, seed=3) for part in (train, test)]
    for name in ("brightness", "flip"):
        expected = fit_regression_probe(*pairs, name, seed=3, resamples=20)
        row = found[(found["parameter"] == name) & (found["reader"] == "difference")].iloc[0]
        assert (row["value"], row["low"], row["high"]) == (expected.value, expected.low, expected.high)
    assert list(dict.fromkeys(found["reader"])) == ["view", "difference", "pair"]
    values = found[found["parameter"] == "brightness"].set_index("reader")["value"]
    assert values.nunique() == 3
    assert values["pair"] > values["view"]


def test_what_a_grey_view_hides_is_also_read_from_the_others():
    train, test = make_noise_images(200), make_noise_images(300, seed=1).subset(slice(200, 300))
    found = decode_parameters(
        Planted(), train, test, Augmentation(("jitter", "grayscale")), readers=("view",), resamples=0
    )
    coloured = found[found["views"] == "coloured"]
    assert set(coloured["parameter"]) == {"saturation", "hue"}
    assert (coloured["n"] < 100).all()
    assert (found[found["views"] == "all"]["n"] == 100).all()
    without = decode_parameters(Planted(), train, test, Augmentation(("jitter",)), readers=("view",), resamples=0)
    assert set(without["views"]) == {"all"}


def test_a_parameter_that_never_changes_is_refused():
    train, test = make_noise_images(60), make_noise_images(90, seed=1).subset(slice(60, 90))
    with pytest.raises(ProbeError, match="flip"):
        decode_parameters(Planted(), train, test, Augmentation(("flip",), flip_probability=0.0))


def test_what_cannot_be_read_is_said():
    train, test = make_noise_images(60), make_noise_images(90, seed=1).subset(slice(60, 90))
    with pytest.raises(ProbeError, match="did you mean 'difference'"):
        decode_parameters(Planted(), train, test, Augmentation(("flip",)), readers=("diference",))
    for steps, options in (((), {}), (("session",), {"sessions": 3})):
        with pytest.raises(ProbeError, match="no quantity or flag"):
            decode_parameters(Planted(), train, test, Augmentation(steps, **options))


def rows(**values):
    return pd.DataFrame([{"parameter": n, "reader": "view", "views": "all", "value": v, "low": v - 0.1, "high": v + 0.1}
                         for n, v in values.items()])  # fmt: skip


def test_rescaling_puts_the_baseline_at_0_and_the_upper_bound_at_1():
    floor, ceiling = rows(hue=0.2, flip=0.0), rows(flip=0.01, hue=0.6)
    found = rescale(rows(hue=0.5, flip=0.005), floor, ceiling).set_index("parameter")
    assert found["scaled"]["hue"] == pytest.approx(0.75)
    assert (found["scaled_low"]["hue"], found["scaled_high"]["hue"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert math.isnan(found["scaled"]["flip"])  # nobody can tell it, so nobody lies between
    assert rescale(floor, floor, ceiling)["scaled"][0] == 0
    with pytest.raises(ValueError, match="the baseline has several rows"):
        rescale(floor, pd.concat([floor, floor]), ceiling)
    assert rescale(ceiling, floor, ceiling).set_index("parameter")["scaled"]["hue"] == 1


def test_the_figure_shows_the_mean_of_the_seeds_and_where_nothing_can_be_placed():
    floor, ceiling = rows(hue=0.2, flip=0.0), rows(flip=0.01, hue=0.6)
    drawn = [("one", 0, 0.3), ("one", 1, 0.5), ("two", 0, 0.6)]
    found = [
        rescale(rows(hue=hue, flip=0.0), floor, ceiling).assign(encoder=name, seed=seed) for name, seed, hue in drawn
    ]
    heatmap = plot_decodability(pd.concat(found)).data[0]
    assert (list(heatmap.y), list(heatmap.x)) == (["one", "two"], ["hue", "flip"])
    assert heatmap.z[0][0] == pytest.approx(0.5)  # 0.25 and 0.75
    assert heatmap.text[0][0].startswith("0.50<br>")
    assert [row[1] for row in heatmap.text] == ["-", "-"]
    assert heatmap.text[1][0] == "1.00"  # one seed has no interval
    with pytest.raises(ValueError, match="several rows"):
        plot_decodability(pd.concat([*found, found[0].assign(reader="pair")]))
    lacking = pd.concat([found[0], found[2][found[2]["parameter"] == "hue"]])
    assert plot_decodability(lacking).data[0].text[1][1] == ""
    half = pd.concat([found[0], found[1].assign(scaled=float("nan"))])
    assert plot_decodability(half).data[0].text[0][0] == "-"  # not the mean of what is left
