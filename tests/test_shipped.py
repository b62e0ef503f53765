"""Tables that come with the workbook are of their images, and refused for others."""

import pandas as pd
import pytest

from ciperlib.analyse.shipped import IMAGES, ShippedError, image_key, read_shipped, ship_table
from ciperlib.data import load_images
from ciperlib.files import project_root

SHIPPED = {"equivariance.csv": 2000, "objects.csv": 2500, "parameters.csv": 2000, "ablations.csv": 2500}


@pytest.fixture
def table(tmp_path, noise_images):
    path = tmp_path / "table.csv"
    path.write_text("a\n1\n")
    ship_table(path, noise_images)
    return path


def test_a_table_is_read_for_its_own_images_only(table, noise_images):
    assert read_shipped(table, noise_images).equals(pd.DataFrame({"a": [1]}))
    with pytest.raises(ShippedError, match="measured on 48 of noise, not on these 10"):
        read_shipped(table, noise_images.subset(slice(10)))


def test_a_table_of_an_older_measure_is_refused(table, noise_images):
    def measure():
        pass

    for measure.recipe in (1, 2):
        ship_table(table, noise_images, recipe=measure.recipe)
        assert len(read_shipped(table, noise_images, measure)) == len(read_shipped(table, noise_images)) == 1
    measure.recipe = 3
    with pytest.raises(ShippedError, match="older measure"):
        read_shipped(table, noise_images, measure)


def test_a_table_that_was_changed_or_that_nobody_noted_is_refused(table, noise_images, tmp_path):
    table.write_text("a\n2\n")
    with pytest.raises(ShippedError, match="is not the table"):
        read_shipped(table, noise_images)
    (tmp_path / "other.csv").write_text("a\n1\n")
    with pytest.raises(ShippedError, match="is not the table"):
        read_shipped(tmp_path / "other.csv", noise_images)
    (tmp_path / IMAGES).unlink()
    with pytest.raises(ShippedError, match="cannot be trusted"):
        read_shipped(table, noise_images)


@pytest.mark.parametrize(("name", "size"), SHIPPED.items())
def test_the_shipped_tables_are_of_the_images_that_their_notebooks_load(name, size):
    images = load_images("turntable", "test", size=size)
    assert len(read_shipped(project_root() / "data" / "sweeps" / name, images))
    with pytest.raises(ShippedError, match="measured on"):
        read_shipped(project_root() / "data" / "sweeps" / name, images.subset(slice(size - 1)))


def test_another_renderer_s_images_are_others(noise_images, monkeypatch):
    before = image_key(noise_images)
    monkeypatch.setattr("ciperlib.analyse.shipped.VERSION", 99)
    assert image_key(noise_images) != before
