"""What is published: the zoo is whole, and the sentences and tables say what figures/ measured."""

import itertools
import json
import re

import pytest

from ciperlib.config import Config
from ciperlib.data.imageset import home
from ciperlib.learn.runs import find_run, zoo_grid

FACTORS = ("category", "object", "session", "pose")


@pytest.fixture(scope="module")
def metrics():
    """The metrics of notebook 02 as `make run` published them."""
    return json.loads((home() / "figures" / "02_linear_probing.json").read_text())["metrics"]


def test_the_zoo_holds_its_whole_grid_with_metrics():
    kinds, seeds = zoo_grid()
    for kind, seed in itertools.product(kinds, seeds):
        run = find_run(Config(**kind, seed=seed), home() / "data" / "zoo")
        assert run is not None, f"{kind} with seed {seed} is missing: make zoo"
        assert set(FACTORS) <= run.metrics.keys()


def test_published_numbers_are_of_the_whole_zoo_in_the_teaching_setting(metrics):
    published = json.loads((home() / "figures" / "02_linear_probing.json").read_text())
    kinds, seeds = zoo_grid("probing")
    assert published["profile"] == "teaching"
    assert published["parameters"] == {}
    assert metrics["encoders"] == (len(kinds) + 1) * len(seeds)


def test_the_sentences_of_notebook_02_are_true_of_its_figure(metrics):
    """Section 3, "What to see", sentence by sentence."""

    def score(factor, name):
        return metrics[f"{factor}: {name}"]

    for method in ("SimCLR", "CIPER"):
        assert score("object", f"{method}, pose aug.") > 0.9
        assert score("session", f"{method}, pose aug.") < score("session", "random encoder")
    assert score("pose", "SimCLR, pose aug.") < score("pose", "random encoder") + 0.02
    assert score("pose", "CIPER, pose aug.") > score("pose", "SimCLR, pose aug.") + 0.25
    assert score("pose", "predictive, pose aug.") > score("pose", "random encoder") + 0.1
    assert score("object", "predictive, pose aug.") < 0.6
    for factor in FACTORS:
        assert score(factor, "CIPER, image aug.") > score(factor, "SimCLR, image aug.")
    assert score("object", "SimCLR, image aug.") < score("object", "pixels")
    for factor, chance in (("category", 1 / 10), ("object", 1 / 50), ("session", 1 / 11)):
        assert abs(score(factor, "shuffled labels") - chance) < 0.03


def test_the_readme_s_table_is_what_was_published(metrics):
    rows = re.findall(
        r"^\| ([^|]+?) \| ([-\d.]+) \| ([-\d.]+) \| ([-\d.]+) \| ([-\d.]+) \|$",
        (home() / "README.md").read_text(),
        re.M,
    )
    assert len(rows) == 10
    for name, *cells in rows:
        for factor, cell in zip(FACTORS, cells):
            assert float(cell) == pytest.approx(metrics[f"{factor}: {name}"], abs=0.015), (name, factor)


def test_the_readme_has_no_gaps():
    text = (home() / "README.md").read_text()
    assert not re.search(r"\b(TIME\d+|RESULTS|SPEED)\b", text)
