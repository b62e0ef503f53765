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


def published(stem):
    return json.loads((home() / "figures" / f"{stem}.json").read_text())


def test_the_sentences_of_notebook_03_are_true_of_its_figures():
    record = published("03_saliency")
    assert record["profile"] == "teaching"
    assert record["parameters"] == {}
    m = record["metrics"]

    def interval(measure, pair="CIPER - SimCLR"):
        return [m[f"{measure}, {pair} ({side})"] for side in ("low", "difference", "high")]

    bare = "the same without coordinates"
    # section 4
    for part, verdict in (("object", "object"), ("background", "surroundings")):
        assert m[f"verdict, reads the {part} alone"] == verdict
        for control in ("labels", "weights"):
            assert m[f"verdict, reads the {part} alone, random {control}"] == "nothing"
    assert m["similarity to edges"] > 0.2 > m["similarity to random weights"]
    assert m["deletion, FullGrad"] < m["deletion, edges"] < m["deletion, random weights"]
    assert m["insertion, FullGrad"] > m["insertion, edges"] > m["insertion, random weights"]
    # section 5
    for name in ("CIPER", "SimCLR", "predictive", "random encoder"):
        assert m[f"kept, object hidden: {name}"] < 0.1
    for kept in ("kept, background plain", "kept, background exchanged"):
        assert m[f"{kept}: CIPER"] < m[f"{kept}: SimCLR"]
    occlusion = {
        name: m[f"occlusion on the object: {name}"] for name in ("SimCLR", "CIPER", "random encoder", "predictive")
    }
    assert occlusion["SimCLR"] > occlusion["CIPER"] > occlusion["SimCLR"] - 0.05
    assert occlusion["CIPER"] > max(occlusion["random encoder"], occlusion["predictive"]) + 0.1
    # section 6
    assert 0.01 < m["coordinates of the map: CIPER"] < 0.04
    # section 7
    for name in ("CIPER", "CIPER, without coordinates", "SimCLR", "SimCLR, without coordinates"):
        assert m[f"verdicts: {name}"] == "object, object, object"
    for pair, about in (("CIPER - SimCLR", -0.04), (bare, -0.06)):
        assert interval("map on the object", pair)[2] < 0
        assert interval("map on the object", pair)[1] == pytest.approx(about, abs=0.005)
        assert interval("accuracy", pair)[0] < 0 < interval("accuracy", pair)[2]
    cases = itertools.product(("kept, background plain", "kept, background exchanged"), ("CIPER - SimCLR", bare))
    excluding = [case for case in cases if interval(*case)[2] < 0]
    assert excluding == [("kept, background plain", "CIPER - SimCLR")]
    session = {name: m[f"session accuracy, all held-out images: {name}"] for name in ("CIPER", "SimCLR")}
    assert session["CIPER"] > 0.98
    assert session["SimCLR"] < 0.75


def test_the_sentences_of_notebook_04_are_true_of_its_figures():
    record = published("04_embeddings")
    assert record["profile"] == "teaching"
    assert record["parameters"] == {}
    m = record["metrics"]
    strewn = 15 / (m["images"] - 1)
    for name in ("SimCLR", "CIPER"):
        assert m[f"kept, PCA: {name}"] < m[f"kept, PaCMAP: {name}"] < 0.5
        assert m[f"agreement of seeds: {name}"] == pytest.approx(0.6, abs=0.03)
        assert m[f"kept, PaCMAP, shuffled: {name}"] == pytest.approx(10 * strewn, rel=0.1)
        assert m[f"trustworthiness, PaCMAP, shuffled: {name}"] == pytest.approx(0.73, abs=0.03)
        assert m[f"order in h: {name}"] > 0.94
    for measure in ("order in h", "order in the picture", "share of variance within objects"):
        assert m[f"{measure}: CIPER"] > m[f"{measure}: SimCLR"]
