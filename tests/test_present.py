"""Figures, the notebook's calls, exercises, and running a notebook in a batch."""

import ast
import base64
import io
import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import make_noise_images
from lab import find_browser
from nbconvert import HTMLExporter
from PIL import Image
from plotly.colors import unlabel_rgb
from scipy.stats import t as student_t

from ciperlib.analyse.features import Features
from ciperlib.analyse.layout.layouts import Layout
from ciperlib.analyse.results import one_row_table
from ciperlib.batch import runner
from ciperlib.config import Config, ConfigError, profile_parameters
from ciperlib.labels import colour_of, label, labels
from ciperlib.learn.methods.losses import nt_xent
from ciperlib.learn.zoo import configs_of, zoo_grid
from ciperlib.present import controls, drawing, exercises, notebook, pictures, plotting, verdicts

PACKAGE = Path(exercises.__file__).parents[1]

# --- figures ---------------------------------------------------------------------------------------------------------


def scores(seeds=2):
    rows = [
        {"encoder": e, "method": m, "factor": f, "metric": k, "seed": s, "value": v, "low": v - 0.1, "high": v + 0.1}
        for e, m, v in (("random encoder", "random", 0.2), ("CIPER, pose aug.", "ciper", 0.7))
        for f, k in (("object", "accuracy"), ("pose", "R2"))
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_scores_show_every_seed_its_mean_and_the_baselines():
    table = scores()
    table.loc[(table["encoder"] == "CIPER, pose aug.") & (table["seed"] == 1), "value"] = 0.9
    figure = plotting.plot_scores(table, ["object", "pose"], baselines={"object": {"pixels": 0.33}})
    means = [trace for trace in figure.data if trace.marker.symbol == "diamond"]
    assert [round(trace.x[0], 3) for trace in means] == [0.2, 0.8, 0.2, 0.8]
    assert means[1].error_x.array[0] == pytest.approx(0.1)  # from the lowest to the highest seed
    assert sorted(x for trace in figure.data if trace not in means for x in trace.x)[-2:] == [0.9, 0.9]
    assert figure.layout.shapes[0].x0 == 0.33
    assert figure.layout.annotations[1].text == "pose<br>R²"


def test_a_single_seed_shows_its_bootstrap_interval():
    figure = plotting.plot_scores(scores(1), ["object", "pose"])
    assert len(figure.data) == 4
    assert figure.data[0].error_x.array[0] == pytest.approx(0.1)


def test_one_colour_a_method_everywhere():
    colour = colour_of("ciper")
    assert plotting.plot_scores(scores(1), ["pose"]).data[1].marker.color == colour
    assert plotting.plot_factors(scores(1), x_title="R²").data[1].marker.color == colour
    history = pd.DataFrame({"epoch": [1, 2], "contrastive": [3.0, 2.0], "predictive": [1.0, 0.5]})
    assert {trace.line.color for trace in plotting.plot_history({"ciper": history}).data} == {colour}


def test_history_has_a_panel_a_term():
    simclr = pd.DataFrame({"epoch": [1, 2], "contrastive": [3.0, 2.0]})
    ciper = simclr.assign(predictive=[1.0, 0.5])
    figure = plotting.plot_history({"simclr": simclr, "ciper": ciper})
    assert len(figure.data) == 3
    assert len(plotting.plot_history({"simclr": simclr}).data) == 1


def test_images_are_shown_pixel_for_pixel():
    images = make_noise_images(3).images
    figure = pictures.plot_images(images, ["a", "b", "c"], columns=2, scale=2)
    shown = [base64.b64decode(image.source.split(",")[1]) for image in figure.layout.images]
    assert len(shown) == 3
    pixels = np.asarray(Image.open(io.BytesIO(shown[1])))
    assert np.array_equal(pixels[::2, ::2], images[1].permute(1, 2, 0).numpy())
    assert [a.text for a in figure.layout.annotations] == ["a", "b", "c"]


def test_views_write_every_parameter_below_its_view():
    images = make_noise_images(3)
    parameters = torch.tensor([[0.0, 1.0], [0.5, 1.0], [1.0, 1.0]])
    figure = pictures.plot_views({"x0": images.images, "x1": images.floats()}, parameters, ["crop_x", "flip"])
    heat = figure.data[0]
    assert [list(row) for row in heat.text] == [["0.00", "0.50", "1.00"], ["1.00"] * 3]
    assert list(figure.layout.yaxis2.ticktext) == ["crop x", "flip"]
    assert np.isfinite(np.array(heat.z, float)).all()  # the column that never varies too
    assert len(figure.layout.images) == 6
    assert heat.textfont.color == "#222222"  # plotly's own choice takes the page for white
    assert all(colour.startswith("#") for _, colour in heat.colorscale)  # and so would a cell one can see through


def test_lines():
    frame = pd.DataFrame({"t": [0, 1], "a": [1.0, 2.0], "b": [2.0, 1.0]})
    figure = plotting.plot_lines(frame, "t", {"a": "A", "b": "B"}, x_title="t", y_title="y")
    assert [(trace.name, list(trace.y)) for trace in figure.data] == [("A", [1.0, 2.0]), ("B", [2.0, 1.0])]


def test_maps_are_drawn_each_on_its_own_scale_with_the_outline():
    images = make_noise_images(2, size=8)
    maps = torch.zeros(2, 1, 8, 8)
    maps[0, 0, 3, 3], maps[1, 0, 3, 3] = 1, 1000
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    figure = pictures.plot_maps(images.images, {"A": maps, "B": 0 * maps}, masks, ["one", "two"])
    pixels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(i.source.split(",")[1])))) for i in figure.layout.images
    ]
    assert len(pixels) == 6
    assert np.array_equal(pixels[2], pixels[3])
    assert pixels[2][14, 14].sum() > 400 > pixels[2][0, 0].sum()
    assert (pixels[2][8, 8:24] == 255).all()  # the upper edge of the object, 4 pixels for one
    assert (pixels[2][7, 8:24] < 255).any()
    assert [a.text for a in figure.layout.annotations] == ["image", "A", "B", "one", "two"]


def test_synergy_is_drawn_below_its_bound_and_close_points_share_a_label():
    place = dict(method="ciper", low=0.0, high=0.1)
    far = [dict(name="far", group="known", entropy=0.7, value=0.7, **place)]
    near = [dict(name=f"near {i}", group="asked", entropy=0.01 * i, value=0.0, **place) for i in range(4)]
    figure = plotting.plot_synergy(pd.DataFrame(far + near))
    assert list(figure.data[0].x[:2]) == list(figure.data[0].y[:2])  # the line is the diagonal
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert "far" in texts
    assert "near 0 · near 1<br>near 2 · near 3" in texts
    assert figure.data[1].marker.color == (colour_of("ciper"),)


def test_labels_say_what_a_config_is():
    assert label(Config(alpha=0.1)) == "CIPER 0.1, image aug."
    assert label(Config(augmentations="flip,jitter,grayscale")) == "CIPER, no crop"
    lesson = Config(method="transformation_prediction", augmentations="", class_information="added")
    assert label(lesson) == "rotation, class added"
    lesson = Config(method="transformation_prediction", transformation="vertical_flip")
    assert label(lesson) == "vertical flip + image aug."
    clever = Config(method="clever", optimiser="adamw", learning_rate=0.001)
    assert label(clever) == "CLeVER, image aug., learning rate 0.001, optimiser adamw"
    assert label(Config(coordinates=False, epochs=3)) == "CIPER, image aug., without coordinates, 3 epochs"
    assert label(Config(method="random", epochs=3, seed=4)) == "random encoder"  # which is not trained


def test_labels_are_alike_only_where_all_is_the_same_but_the_seed():
    turning = {"architecture": "c4_resnet10", "coordinates": False}
    kinds = [{}, {"width": 8}, {"width": 8, "epochs": 2}, {"alpha": 0.5}, {"architecture": "vit_tiny"}, turning]
    kinds += [{"coordinates": False}, {"dataset": "cifar10"}]
    configs = [Config(**kind, seed=seed) for kind in kinds for seed in (0, 1)]
    names = labels(configs)
    assert names[0::2] == names[1::2]
    assert len(set(names)) == len(kinds)
    assert names[0] == "CIPER, image aug."
    assert names[10] == "CIPER, image aug., turning network"  # which has no coordinates anyway
    assert names[12] == "CIPER, image aug., without coordinates"
    assert set(labels([Config(width=8, epochs=2, seed=seed) for seed in range(2)])) == {"CIPER, image aug."}
    kinds = [kind for part in ("probing", "alpha", "explorer", "methods") for kind in zoo_grid(part)]
    zoo = configs_of(kinds, (0, 1))
    assert len(set(labels(zoo))) == len(zoo) / 2
    assert "CLeVER, image aug." in labels(zoo)


def test_scores_that_are_no_shares_have_their_own_axis():
    table = pd.DataFrame([dict(encoder="a", method="ciper", factor="nats", metric="", seed=0, value=v, low=v, high=v)
                          for v in (-0.1, 1.2)])  # fmt: skip
    low, high = plotting.plot_scores(table, ["nats"], ends={"nats": 1.5}).layout.xaxis.range
    assert low < -0.1
    assert high > 1.5
    assert plotting.plot_scores(table, ["nats"], ends={"nats": 0.3}).layout.xaxis.range[1] > 0.55  # the mean is seen


def test_measures_show_every_seed_and_the_mean():
    rows = [
        dict(encoder=e, method=e, seed=s, measure=m, value=s + 1.0)
        for e in ("simclr", "ciper")
        for s in (0, 1)
        for m in "ab"
    ]
    figure = plotting.plot_measures(
        pd.DataFrame(rows), {"a": "first", "b": "second"}, x_title="x", line=0.5, line_name="even"
    )
    assert list(figure.data[0].x) == [1.5, 1.5]
    assert sorted(figure.data[1].x) == [1, 1, 2, 2]
    assert list(figure.layout.yaxis.ticktext) == ["first", "second"]
    assert figure.layout.shapes[0].x0 == 0.5


def test_curves_are_means_over_images():
    curves = {"map": {"deletion": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "insertion": torch.tensor([[0.0, 1.0]])}}
    figure = plotting.plot_curves(curves, x_title="x", y_title="y")
    assert [list(trace.y) for trace in figure.data] == [[0.5, 0], [0, 1]]
    assert list(figure.data[0].x) == [0, 1]


def some_embedding(n=24):
    index = torch.arange(n)
    azimuth = 2 * torch.pi * index / n
    factors = {"object": index % 2, "session": index % 3, "azimuth": azimuth, "elevation": azimuth / 7}
    labels = {"object": ("mug", "car"), "session": ("a", "b", "c")}
    features = Features(torch.randn(n, 3), factors, index, index, labels, name="made", encoder_fingerprint="x")
    points = torch.stack([azimuth.cos() / 9 + index % 2, azimuth.sin() / 9], 1).float()
    return Layout(points, features, "pacmap", 0)


def test_embeddings_have_a_panel_for_each_encoder_and_factor():
    embedding = some_embedding()
    figure = pictures.plot_layouts({"A": embedding, "B": embedding}, ["object", "azimuth", "elevation"])
    assert len(figure.data) == 6
    assert len(set(figure.data[0].marker.color)) == 2
    assert len(set(figure.data[1].marker.color)) == 24
    texts = [a.text for a in figure.layout.annotations]
    assert texts.count("mug") == texts.count("car") == 2  # compact clusters have their names
    turn = pictures.factor_colours(embedding.features, "azimuth")
    first, second, half = (np.array(unlabel_rgb(turn[i])) for i in (0, 1, 12))
    assert np.abs(first - second).sum() < np.abs(first - half).sum()  # a circle: the last is next to the first
    assert np.abs(first - np.array(unlabel_rgb(turn[-1]))).sum() < np.abs(first - half).sum()


def test_the_explorer_shows_images_and_joins_orbits():
    """What the mouse does, called without one."""
    embedding = some_embedding()
    images = replace(make_noise_images(24), factors=embedding.features.factors, labels=embedding.features.labels)
    explorer = controls.LayoutExplorer(embedding, images)
    explorer.show([5])
    assert explorer.picture.value == pictures.as_png(images.images[5], 6)
    assert "object: car" in explorer.text.value
    assert "azimuth: 75°" in explorer.text.value
    explorer.join([5])
    assert len(explorer.figure.data) == 3
    trail = np.stack([explorer.figure.data[1].x, explorer.figure.data[1].y], 1)
    assert np.allclose(trail, torch.cat([embedding.points[1::2], embedding.points[1:2]]))
    explorer.join([4])
    assert len(explorer.figure.data) == 3  # instead of the trail before
    assert np.allclose(explorer.figure.data[1].x[0], embedding.points[0, 0])
    before = explorer.text.value
    explorer.show([])
    explorer.join([])
    assert explorer.text.value == before


# --- the notebook's calls --------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setenv(notebook.OUTPUT_VARIABLE, str(tmp_path))
    notebook.setup(interactive=False)
    return tmp_path


def test_metrics_are_kept_and_added_to(output):
    notebook.record_metrics(a=1, b=0.5)
    notebook.record_metrics(b=0.25, c="x")
    assert json.loads((output / "metrics.json").read_text()) == {"a": 1, "b": 0.25, "c": "x"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused(output, value):
    with pytest.raises(ValueError, match=r"metric a=.* is not finite"):
        notebook.record_metrics(a=value)


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: bundles of a mime type and its content, or display objects."""
    items = []
    monkeypatch.setattr(notebook, "display", lambda item, **how: items.append(item))
    return items


def a_png(scale=1.0):
    buffer = io.BytesIO()
    Image.new("RGBA", (round(300 * scale), round(200 * scale)), "red").save(buffer, "PNG")
    return buffer.getvalue()


def size_of(bundle):
    return Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size


def test_a_reader_gets_one_bundle_that_needs_no_kernel(monkeypatch, shown):
    """Plotly's own mimetype, the PNG beside it in the figure's size, and words; no widget, no plotly.js."""
    monkeypatch.setattr(notebook, "to_png", lambda figure, scale: a_png(scale))
    monkeypatch.setattr(notebook.drawing, "begin", lambda seconds: None)
    notebook.setup(interactive=True)
    figure = go.Figure(go.Scatter(y=[1, 2]))
    notebook.save_figure(figure, "curves", "What to see.")
    bundle, caption = shown
    assert bundle.keys() == {notebook.PLOTLY, "image/png", "text/plain"}
    assert go.Figure(bundle[notebook.PLOTLY]) == figure
    assert size_of(bundle) == (300, 200)
    assert "What to see." in bundle["text/plain"]
    assert caption["text/markdown"] == "*What to see.*"
    assert len(json.dumps(bundle)) < 20_000


def test_a_figure_is_kept_as_a_picture_with_its_caption(output, monkeypatch, shown):
    monkeypatch.setattr(notebook, "to_png", lambda figure, scale: a_png(scale))
    notebook.save_figure(go.Figure(), "curves", 'What "to" see.')
    assert (output / "figures" / "curves.png").read_bytes() == a_png(notebook.PNG_SCALE)
    assert json.loads((output / "captions.json").read_text()) == {"curves": 'What "to" see.'}
    assert size_of(shown[0]) == (300, 200)  # JupyterLab shows it as large as it is
    assert re.match(
        '<img alt="What &quot;to&quot; see." width="300" src="data:image/png;base64,', shown[0]["text/html"]
    )


def test_without_a_browser_the_page_has_plotly_s_own_figures_and_plotly_js_once(output, monkeypatch, shown):
    monkeypatch.setattr(notebook, "to_png", lambda figure, scale: None)
    for name in ("first", "second"):
        notebook.save_figure(go.Figure(go.Scatter(y=[1, 2])), name, name)
    first, _, second, _ = shown
    assert first.keys() == second.keys() == {notebook.PLOTLY, "text/html", "text/plain"}
    assert [len(bundle["text/html"]) > 1_000_000 for bundle in (first, second)] == [True, False]
    assert all("plotly-graph-div" in bundle["text/html"] for bundle in (first, second))
    assert not (output / "figures").exists()
    assert set(json.loads((output / "captions.json").read_text())) == {"first", "second"}


@pytest.fixture
def no_browser_yet(monkeypatch):
    """As a process that has not drawn anything."""
    monkeypatch.setattr(drawing, "_session", drawing._Session())
    yield
    if drawing._session.painter is not None:
        drawing._session.painter.close()


@pytest.mark.parametrize("command", ["exit 1", "exec /bin/sleep 600", None])
def test_a_browser_that_does_not_start_is_given_up_and_that_is_said_once(
    command, tmp_path, monkeypatch, capsys, no_browser_yet
):
    browser = tmp_path / "chromium"
    if command:
        browser.write_text(f"#!/bin/sh\n{command}\n")
        browser.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    monkeypatch.setenv("PATH", str(tmp_path))
    drawing.begin(3)
    start = time.monotonic()
    assert [drawing.to_png(go.Figure()) for _ in range(3)] == [None] * 3
    assert time.monotonic() - start < 20
    assert capsys.readouterr().out.count("install Chrome or Chromium") == 1
    assert drawing.begin() is None


needs_a_browser = pytest.mark.skipif(find_browser() is None, reason="needs a Chrome or Chromium to draw PNG pictures")


@needs_a_browser
def test_a_browser_that_is_killed_is_replaced(no_browser_yet, capsys):
    first = drawing.to_png(go.Figure())
    drawing._session.painter._browser.subprocess.kill()
    drawing._session.painter._browser.subprocess.wait()
    assert drawing.to_png(go.Figure()) == first
    assert capsys.readouterr().out == ""


@needs_a_browser
def test_a_browser_that_hangs_after_a_picture_is_replaced(no_browser_yet, monkeypatch, capsys):
    first = drawing.to_png(go.Figure())
    with monkeypatch.context() as context:

        def hang(*_):
            context.undo()
            raise TimeoutError

        context.setattr(drawing.Future, "result", hang)
        assert drawing.to_png(go.Figure()) == first
    assert drawing._session.tries == 2
    assert capsys.readouterr().out == ""


@needs_a_browser
def test_a_cell_that_is_interrupted_leaves_its_picture_to_no_other(no_browser_yet, monkeypatch):
    """Kaleido's own server hands the next caller what the one before did not wait for."""
    small, large = go.Figure(layout=dict(width=100, height=100)), go.Figure(layout=dict(width=200, height=100))
    drawing.to_png(small)
    with monkeypatch.context() as context:
        context.setattr(drawing.Future, "result", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            drawing.to_png(small)
    assert Image.open(io.BytesIO(drawing.to_png(large))).width == 200


@needs_a_browser
def test_a_real_picture_is_of_the_figure_s_own_size(output):
    figure = plotting.plot_lines(pd.DataFrame({"x": [0, 1]}), "x", {"x": "x"}, x_title="", y_title="")
    assert Image.open(io.BytesIO(notebook.to_png(figure))).size == (plotting.WIDTH, 420)


# --- texts that come from elsewhere ----------------------------------------------------------------------------------

NASTY = '<img src=x onerror="boom()">, $x$, %{nasty}, &amp; **b**, [a](javascript:boom())'


def texts(figure):
    """All texts of a figure that plotly reads as a little HTML."""
    found = []

    def collect(value, name=""):
        if isinstance(value, dict):
            for key, part in value.items():
                collect(part, key)
        elif isinstance(value, (list, tuple, np.ndarray)):
            for part in value:
                collect(part, name)
        elif isinstance(value, str) and name not in ("legendgroup", "source"):
            found.append(value)

    plain = figure.to_plotly_json()
    collect({"data": plain["data"], "layout": {k: v for k, v in plain["layout"].items() if k != "template"}})
    return found


def nasty_embedding():
    embedding = some_embedding()
    labels = embedding.features.labels | {"object": (NASTY, "car")}
    return replace(embedding, features=replace(embedding.features, labels=labels))


NASTY_SCORES = dict(encoder=NASTY, method="external", factor=NASTY, metric=NASTY, seed=0, value=0.5, low=0.4, high=0.6)
NASTY_VERDICT = dict(encoder=NASTY, seed=0, transformation=NASTY, verdict="lost", invariance_error=0.1, decodable=0.2,
                     r2=0.1, r2_gain=0.1, mrr=0.1)  # fmt: skip


@pytest.mark.parametrize("draw", [
    lambda: plotting.plot_scores(pd.DataFrame([NASTY_SCORES] * 2), [NASTY], baselines={NASTY: {NASTY: 0.3}}),
    lambda: plotting.plot_factors(pd.DataFrame([NASTY_SCORES]), x_title=""),
    lambda: plotting.plot_measures(pd.DataFrame([NASTY_SCORES | {"measure": "m"}]), {"m": "m"}, x_title=""),
    lambda: plotting.plot_history({NASTY: pd.DataFrame({"epoch": [1], NASTY: [1.0]})},
                                  before={NASTY + "0": pd.DataFrame({"epoch": [1], "total": [1.0]})}),
    lambda: plotting.plot_curves({NASTY: {"panel": torch.ones(1, 2)}}, x_title="", y_title=""),
    lambda: plotting.plot_lines(pd.DataFrame({"x": [1], "y": [1]}), "x", {"y": NASTY}, x_title="", y_title=""),
    lambda: plotting.plot_synergy(pd.DataFrame([dict(name=NASTY, method="ciper", group=NASTY, entropy=0.5, value=0.1,
                                                     low=0.0, high=0.2)])),
    lambda: pictures.plot_images(make_noise_images(1).images, [NASTY]),
    lambda: pictures.plot_views({NASTY: make_noise_images(1).images}, torch.ones(1, 1), [NASTY]),
    lambda: pictures.plot_maps(make_noise_images(1).images, {NASTY: torch.ones(1, 1, 16, 16)}, captions=[NASTY]),
    lambda: pictures.plot_layouts({NASTY: nasty_embedding()}, ["object"]),
    lambda: pictures.add_trail(go.Figure(), torch.ones(2, 2), NASTY),
    lambda: verdicts.plot_verdicts(pd.DataFrame([NASTY_VERDICT])),
    lambda: verdicts.plot_decodability(pd.DataFrame([dict(encoder=NASTY, seed=0, parameter=NASTY, scaled=0.5)])),
])  # fmt: skip
def test_names_in_a_figure_are_shown_as_they_are(draw):
    """Plotly takes links and a little HTML in every text, $mathematics$ and templates in some."""
    found = texts(draw())
    assert any("boom" in text for text in found)
    for text in found:
        assert not re.search(r"<img|\$|%{nasty}|&amp;\s", text.replace("&amp;amp;", "")), text


def test_captions_and_tables_are_shown_as_they_are(output, monkeypatch, shown):
    monkeypatch.setattr(notebook, "to_png", lambda figure, scale: None)
    notebook.save_figure(go.Figure(), "x", NASTY)
    assert "<img" not in shown[1]["text/markdown"] + shown[1]["text/html"]
    for form in ("text/html", "text/markdown"):
        page = as_executed([{form: shown[1][form]}])
        page = BeautifulSoup(HTMLExporter().from_notebook_node(page)[0], "html.parser")
        assert page.find("em").text == NASTY
        assert not page.find_all(["img", "strong"]) + page.find_all(href=re.compile("boom"))
    table = one_row_table({NASTY: NASTY})
    assert "<img" not in table
    assert table.count("&lt;img") == 2


def as_executed(shown):
    """A notebook with these displayed in its only cell."""
    outputs = [nbformat.v4.new_output("display_data", bundle) for bundle in shown]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])


def test_html_is_made_in_few_places_and_escaped_in_one():
    """Who writes `HTML(...)` or escapes by hand elsewhere has to look at this test, and at ciperlib/markup.py."""
    makers = {"HTML": {"present/controls/elements.py"}, "Markdown": set(), "escape": set()}
    for path in sorted([*(PACKAGE / "present").rglob("*.py"), *(PACKAGE / "analyse").rglob("*.py")]):
        place, tree = path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert place in makers.get(name, {place}), f"{place}, line {node.lineno}: {name}(...)"


# --- exercises -------------------------------------------------------------------------------------------------------


def no_mask(z1, z2, temperature):
    z = torch.nn.functional.normalize(torch.cat((z1, z2)), dim=1)
    return torch.nn.functional.cross_entropy(z @ z.T / temperature, torch.arange(len(z)).roll(len(z1)))


def cross_view_only(z1, z2, temperature):
    a, b = (torch.nn.functional.normalize(z, dim=1) for z in (z1, z2))
    return torch.nn.functional.cross_entropy(a @ b.T / temperature, torch.arange(len(z1)))


def not_normalised(z1, z2, temperature):
    z = torch.cat((z1, z2))
    s = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return torch.nn.functional.cross_entropy(s, torch.arange(len(z)).roll(len(z1)))


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda z1, z2, t: None, "returns nothing"),
        (no_mask, "the row itself still competes"),
        (cross_view_only, "negatives of the same view are missing"),
        (not_normalised, "normalise each row"),
        (lambda z1, z2, t: nt_xent(z1, z2, 0.5), "divide the cosines"),
        (lambda z1, z2, t: nt_xent(z1, z2, t).repeat(3), "one number"),
    ],
)
def test_the_loss_exercise_names_the_mistake(attempt, words):
    with pytest.raises(AssertionError, match=words):
        exercises.check_nt_xent(attempt)


def test_the_loss_exercise_accepts_the_loss():
    assert "Right" in exercises.check_nt_xent(nt_xent)


def some_features(n=60):
    index = torch.arange(n)
    factors = {"object": index % 4, "session": index // 4 % 3}
    return Features(torch.randn(n, 3), factors, index, index, name="made", encoder_fingerprint="x")


def test_the_split_exercise():
    features = some_features()
    session = features.factors["session"]
    whole = features.subset(session < 2), features.subset(session == 2)
    assert "Right" in exercises.check_held_out(*whole, "session")
    with pytest.raises(AssertionError, match="images are in both"):
        exercises.check_held_out(features, features, "session")
    with pytest.raises(AssertionError, match=r"session \[0, 1, 2\] is in both"):
        exercises.check_held_out(features.subset(slice(0, 30)), features.subset(slice(30, 60)), "session")
    with pytest.raises(AssertionError, match="empty"):
        exercises.check_held_out(features, features.subset(slice(0, 0)), "session")
    few = features.subset((session < 2) & (features.factors["object"] < 3))
    with pytest.raises(AssertionError, match=r"objects \[3\] are tested"):
        exercises.check_held_out(few, whole[1], "session")


def test_the_share_exercise():
    assert "Right" in exercises.check_share(lambda maps, masks: (maps[:, 0] * masks).sum((1, 2)) / maps.sum((1, 2, 3)))
    wrong = {
        "mask's area": lambda maps, masks: masks.float().mean((1, 2)),
        "one share for each": lambda maps, masks: (maps[:, 0] * masks).sum() / maps.sum(),
        "these are": lambda maps, masks: (maps[:, 0] * masks).sum((1, 2)),
        "divide by its sum": lambda maps, masks: (maps[:, 0] * masks).sum((1, 2)) / 32,
        "returns nothing": lambda maps, masks: None,
    }
    for words, attempt in wrong.items():
        with pytest.raises(AssertionError, match=words):
            exercises.check_share(attempt)


def test_the_synergy_exercise():
    assert "Right" in exercises.check_synergy(lambda *four: min(four))
    for attempt, words in (
        (lambda i_a, i_c, h_a, h_c: i_a, "knows both variables"),
        (lambda i_a, i_c, h_a, h_c: min(i_a, i_c), "more is claimed than H"),
        (lambda i_a, i_c, h_a, h_c: min(i_a, i_c, h_a), "more is claimed than H.C"),
        (lambda *four: max(0.0, min(four)), "shown as it is"),
        (lambda *four: None, "returns nothing"),
    ):
        with pytest.raises(AssertionError, match=words):
            exercises.check_synergy(attempt)


def t_interval(values, root=True, sample=True, quantile=None):
    n, mean = len(values), sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / (n - 1 if sample else n)) ** 0.5
    half = (student_t.ppf(0.975, n - 1) if quantile is None else quantile) * spread / (n**0.5 if root else 1)
    return mean - half, mean + half


def test_the_interval_checker_names_the_mistake():
    assert "Right" in exercises.check_interval(t_interval)
    for wrong, says in (
        (lambda values: (min(values), max(values)), "half the width"),
        (lambda values: (0.0, 1.0), "the middle must be the mean"),
        (lambda values: t_interval(values, root=False), "the root of their number"),
        (lambda values: t_interval(values, sample=False), "n - 1, not by n"),
        (lambda values: t_interval(values, quantile=1.96), "Student's t"),
        (lambda values: t_interval(values, quantile=1), "one standard error"),
    ):
        with pytest.raises(AssertionError, match=says):
            exercises.check_interval(wrong)


def test_the_neighbours_exercise():
    def kept(a, b, k, alone=True):
        distances = [torch.cdist(x, x).fill_diagonal_(torch.inf if alone else 0) for x in (a, b)]
        first, second = (d.topk(k, largest=False).indices for d in distances)
        return (first[:, :, None] == second[:, None]).any(2).float().mean()

    assert "Right" in exercises.check_preservation(kept)
    wrong = {
        "own neighbour": lambda a, b, k: kept(a, b, k, alone=False),
        "count anew": lambda a, b, k: 1.0,
        "one number": lambda a, b, k: torch.zeros(3),
        "returns nothing": lambda a, b, k: None,
        "keep all neighbours": lambda a, b, k: kept(a, b, k) / 2,
    }
    for words, attempt in wrong.items():
        with pytest.raises(AssertionError, match=words):
            exercises.check_preservation(attempt)


def test_a_wrong_answer_is_one_sentence_and_shows_no_further_hint():
    """In a notebook the traceback's own lines would show what the checker asks next."""
    with pytest.raises(exercises.ExerciseError) as error:
        exercises.check_synergy(lambda i_a, i_c, h_a, h_c: i_a)
    (line,) = error.value._render_traceback_()
    assert line.startswith("Not yet: the quadrants: who knows both variables")
    assert "below" not in line


def broken(i_a, i_c, h_a, h_c):
    return min(i_a, "x")


def test_an_answer_that_raises_is_said_with_its_own_line():
    with pytest.raises(
        exercises.ExerciseError, match=r"raise TypeError .* in line \d+ of its cell: .*return min"
    ) as error:
        exercises.check_synergy(broken)
    assert "exercises.py" not in str(error.value)


def lesson(path):
    """A notebook with an exercise, its solution and its check, and the outputs of a teacher's run."""
    cell = nbformat.v4.new_code_cell
    cells = [
        cell("x = 1", id="before"),
        cell("def answer(*four): ...", id="exercise"),
        cell("answer = min", id="solution", metadata={"tags": ["solution"]}),
        cell("print(check_synergy(answer))", id="check", metadata={"tags": ["kept"]}),
        nbformat.v4.new_markdown_cell("text", id="text"),
        cell("x", id="after"),
    ]
    for made in cells[:4]:
        made.update(execution_count=3, outputs=[nbformat.v4.new_output("stream", text="the teacher's")])
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {}}), path)
    return path


def test_student_copies_hold_no_solution_no_output_and_go_on_after_a_wrong_answer(tmp_path):
    source = lesson(tmp_path / "01_lesson.ipynb")
    before = source.read_bytes()
    (copy,), left = exercises.write_student_copies(tmp_path, tmp_path / "student")
    assert not left
    made = nbformat.read(copy, as_version=4)
    nbformat.validate(made)
    assert [cell.id for cell in made.cells] == ["before", "exercise", "check", "text", "after"]
    assert not any(cell.outputs or cell.execution_count for cell in made.cells if cell.cell_type == "code")
    tags = {cell.id: cell.metadata.get("tags", []) for cell in made.cells}
    assert tags == {"before": [], "exercise": [], "check": ["kept", "raises-exception"], "text": [],
                    "after": ["raises-exception"]}  # fmt: skip
    assert "widgets" not in made.metadata
    assert source.read_bytes() == before


def test_a_student_copy_that_was_edited_is_left_and_a_moved_one_made_again(tmp_path):
    source, folder = lesson(tmp_path / "01_lesson.ipynb"), tmp_path / "student"
    (copy,), _ = exercises.write_student_copies(tmp_path, folder)
    made = copy.read_bytes()
    assert exercises.write_student_copies(tmp_path, folder) == ([copy], [])
    copy.write_text(copy.read_text().replace("...", "return 7"))
    edited = copy.read_bytes()
    source.write_text(source.read_text().replace("x = 1", "x = 2"))  # a new version comes
    assert exercises.write_student_copies(tmp_path, folder) == ([], [copy])
    assert copy.read_bytes() == edited
    copy.rename(folder / "mine.ipynb")
    assert exercises.write_student_copies(tmp_path, folder) == ([copy], [])
    assert b"x = 2" in copy.read_bytes() != made
    source.write_text(source.read_text().replace("x = 2", "x = 3"))  # and again: what was not edited is replaced
    assert exercises.write_student_copies(tmp_path, folder) == ([copy], [])
    assert b"x = 3" in copy.read_bytes()
    assert (folder / "mine.ipynb").read_bytes() == edited


def test_a_stranger_s_file_is_no_student_copy_to_be_replaced(tmp_path):
    lesson(tmp_path / "01_lesson.ipynb")
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "01_lesson.ipynb").write_text("mine")
    assert exercises.write_student_copies(tmp_path, tmp_path / "student")[0] == []
    assert (tmp_path / "student" / "01_lesson.ipynb").read_text() == "mine"


# --- batches ---------------------------------------------------------------------------------------------------------

GOOD = """
from ciperlib.present.notebook import record_metrics, setup
setup(interactive)
record_metrics(answer=alpha * 2)
"""


def write_notebook(path, *sources, parameters="alpha = 1.0  # a weight\ninteractive = True  # live"):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_a_run_has_its_own_folder_page_metrics_and_status(tmp_path):
    source = write_notebook(tmp_path / "book.ipynb", GOOD)
    before = source.read_bytes()
    record = runner.run(source, {"alpha": 3.0}, output=tmp_path / "out")
    folder = tmp_path / "out"
    (run,) = folder.iterdir()
    assert record.metrics == {"answer": 6.0}
    names = {"book.ipynb", "book.html", "metrics.json", "environment.json", "status.json", "figures"}
    assert names == {path.name for path in run.iterdir()}
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "done"
    assert status["parameters"] == {"alpha": 3.0}
    assert status["versions"]["torch"] == torch.__version__
    assert source.read_bytes() == before
    assert notebook.OUTPUT_VARIABLE not in os.environ


def test_an_unknown_parameter_is_refused_before_anything_starts(tmp_path):
    source = write_notebook(tmp_path / "book.ipynb", GOOD)
    with pytest.raises(runner.BatchError, match=r"no parameter named 'alpah'; did you mean 'alpha'"):
        runner.run(source, {"alpah": 1}, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failing_cell_is_recorded_with_its_last_lines(tmp_path):
    source = write_notebook(tmp_path / "book.ipynb", GOOD, "raise ValueError('the reason')")
    with pytest.raises(runner.BatchError, match="the reason"):
        runner.run(source, output=tmp_path / "out")
    status = json.loads(next((tmp_path / "out").glob("book*/status.json")).read_text())
    assert status["status"] == "failed"
    assert any("the reason" in line for line in status["last_lines"])
    assert status["metrics"] == {"answer": 2.0}
    assert list((tmp_path / "out").glob("book*/book.html"))


def test_a_dead_kernel_is_a_failed_run(tmp_path):
    source = write_notebook(tmp_path / "book.ipynb", "import os; os._exit(1)")
    with pytest.raises(runner.BatchError, match="failed"):
        runner.run(source, output=tmp_path / "out")
    assert json.loads(next((tmp_path / "out").glob("book*/status.json")).read_text())["status"] == "failed"


def test_a_cell_that_takes_too_long(tmp_path):
    source = write_notebook(tmp_path / "book.ipynb", "import time; time.sleep(60)")
    with pytest.raises(runner.BatchError, match=r"(?i)timed out|timeout"):
        runner.run(source, output=tmp_path / "out", timeout=2)


def test_what_cannot_be_run(tmp_path):
    with pytest.raises(runner.BatchError, match="there is no notebook"):
        runner.run(tmp_path / "nothing.ipynb")
    with pytest.raises(runner.BatchError, match="no cell tagged `parameters`"):
        runner.run(write_notebook(tmp_path / "bare.ipynb", "1", parameters=""))
    source = write_notebook(tmp_path / "book.ipynb", GOOD)
    with pytest.raises(ConfigError, match="did you mean 'smoke'"):
        runner.run(source, profile="smok")
    (tmp_path / "file").write_text("")
    with pytest.raises(runner.BatchError, match="cannot write in"):
        runner.run(source, output=tmp_path / "file")


def test_publishing_copies_pictures_numbers_and_captions(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "project_root", lambda: tmp_path)
    folder = tmp_path / "out" / "01_book"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "curves.png").write_bytes(b"png")
    (folder / "captions.json").write_text('{"curves": "What to see."}')
    record = runner.Record("01_book.ipynb", {}, "teaching", "done", str(folder), metrics={"a": 1})
    runner.publish([record])
    assert (tmp_path / "figures" / "01_book_curves.png").read_bytes() == b"png"
    facts = json.loads((tmp_path / "figures" / "01_book.json").read_text())
    assert facts["metrics"] == {"a": 1}
    assert "What to see." in (tmp_path / "figures" / "README.md").read_text()
    assert "01_book/01_book.html" in (tmp_path / "out" / "index.html").read_text()


def test_profiles():
    assert profile_parameters("paper", "config")["epochs"] == 800
    assert profile_parameters("teaching", "config") == {}
    assert profile_parameters("smoke", "no such notebook") == {}


def test_the_invariance_error_s_checker():
    def right(block):
        h, others = block[:, 0], ~torch.eye(len(block), dtype=torch.bool)
        return (block[:, 1:] - block[:, :1]).square().sum(2).mean() / torch.cdist(h, h).square()[others].mean()

    wrong = {
        "leave it out": lambda b: right(b) * (b.shape[1] - 1) / b.shape[1],
        "pairs i = j": lambda b: (
            (b[:, 1:] - b[:, :1]).square().sum(2).mean() / torch.cdist(b[:, 0], b[:, 0]).square().mean()
        ),
        "must be 0": lambda b: torch.ones(()),
        "take means": lambda b: (b[:, 1:] - b[:, :1]).square().sum(2),
        "squared distances": lambda b: (b[:, 1:] - b[:, :1]).norm(dim=2).mean(),
        "returns nothing": lambda b: None,
    }
    assert "Right" in exercises.check_invariance_error(right)
    for words, attempt in wrong.items():
        with pytest.raises(AssertionError, match=words):
            exercises.check_invariance_error(attempt)


def test_the_orthogonality_s_checker():
    cosine = torch.nn.functional.cosine_similarity
    wrong = {
        "opposite signs cancel": lambda a, b: cosine(a, b).mean().abs(),
        "divide by both lengths": lambda a, b: (a * b).sum(1).abs().mean(),
        "sign of a row": lambda a, b: cosine(a, b).mean() * 0.5 + cosine(a, b).abs().mean() * 0.5,
        "take the mean": lambda a, b: cosine(a, b).abs(),
    }
    assert "Right" in exercises.check_orthogonality(lambda a, b: cosine(a, b).abs().mean())
    for words, attempt in wrong.items():
        with pytest.raises(AssertionError, match=words):
            exercises.check_orthogonality(attempt)
