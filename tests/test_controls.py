"""Controls without a browser: what they do is called directly, and must show what the plain call shows."""

import base64
import json
import re
import shutil
import threading
from dataclasses import replace

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from conftest import wait_until

from ciperlib.analyse.report import REPORT, ReportError, file_of, reported
from ciperlib.config import Config, ConfigError
from ciperlib.data import load_images
from ciperlib.labels import GREY, colour_of
from ciperlib.learn.runs import PACKED, read_state, runs_root
from ciperlib.learn.training import fit
from ciperlib.learn.zoo import find_run, zoo_root
from ciperlib.markup import as_html
from ciperlib.present import explorer as plain
from ciperlib.present import page
from ciperlib.present.controls import AlphaExplorer, AugmentationPreview, TrainYourOwn
from ciperlib.present.controls.elements import Control, LiveFigure
from ciperlib.present.controls.training import Training
from ciperlib.present.plotting import BOOKKEEPING
from ciperlib.present.preview import changeable, make_preview_augmentation, plot_preview
from ciperlib.registry import methods

SHORT = dict(train_size=256, batch_size=64, epochs=2, precision="bf16")


def as_plain(figure):
    """A figure's content with arrays as lists, without the identities that widgets add."""

    def clean(value):
        if isinstance(value, dict):
            return {name: clean(part) for name, part in value.items() if name != "uid" and part is not None}
        if isinstance(value, np.ndarray):
            return value.tolist()
        return [clean(part) for part in value] if isinstance(value, (list, tuple)) else value

    return clean(figure.to_plotly_json()["data"]), clean(figure.to_plotly_json()["layout"].get("images", []))


# --- the explorer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("static", [False, True])
def test_one_choice_moves_all_and_shows_what_the_plain_call_shows(static, monkeypatch):
    monkeypatch.setattr(
        "ciperlib.present.notebook.to_png", lambda figure, scale: None
    )  # another test asks what is drawn
    control = AlphaExplorer(static=static)
    control.alpha.index = 1
    control.seed.index = 2
    control.image.value, control.colouring.value = 4, "session"
    expected = plain.plot_report(plain.find_report(alpha=0.1, seed=2), 4, "session")
    assert as_plain(control.view.figure) == as_plain(expected)
    control.views.value = "pose"
    control.method.value = "predictive"
    choice = dict(method="predictive", augmentations="pose", seed=2)
    expected = plain.plot_report(plain.find_report(**choice), 4, "session")
    assert as_plain(control.view.figure) == as_plain(expected)
    assert control.alpha.disabled
    assert control.typed.disabled
    assert control.about.value == as_html(plain.describe(plain.find_report(**choice)))
    assert control.error is None


def test_alpha_0_is_simclr_and_alpha_counts_for_ciper_alone():
    assert plain.find_encoder(alpha=0) == Config(method="simclr")
    assert plain.find_encoder(alpha=7, method="predictive") == Config(method="predictive")
    assert plain.find_encoder(alpha=10).learning_rate == 0.003


@pytest.mark.parametrize(("choice", "error", "says"), [
    (dict(alpha=0.7), ReportError, "0, 0.1, 1 and 10, not 0.7"),
    (dict(alpha=-1), ConfigError, "out of range"),
    (dict(seed=9), ReportError, "0, 1 and 2"),
    (dict(augmentations="crop,flip"), ReportError, r"crop\+flip"),
    (dict(augmentations="pose", method="simclr_clean_pass"), ReportError, "the zoo has only"),
    (dict(augmentations="crop,flip,jitter", alpha=0.1), ReportError, "only alpha 1, not 0.1"),
    (dict(method="ciperr"), ConfigError, "did you mean"),
])  # fmt: skip
def test_what_the_zoo_does_not_hold_is_said(choice, error, says):
    with pytest.raises(error, match=says):
        plain.find_encoder(**choice)


def test_a_wrong_choice_leaves_the_figure_and_the_next_choice_works():
    control = AlphaExplorer()
    before = as_plain(control.view.figure)
    for typed in (0.7, -3.0):
        control.typed.value = typed
        assert 'role="alert"' in control.message.value
        assert as_plain(control.view.figure) == before
    control.alpha.index = 0
    assert control.message.value == ""
    assert control.typed.value == 0
    assert as_plain(control.view.figure) != before
    control.typed.value = 10
    assert control.alpha.index == 3


@pytest.mark.parametrize("harm", ["missing", "damaged", "no report"])
def test_a_harmed_zoo_is_said_and_the_rest_stays_usable(harm, tmp_path, monkeypatch):
    shutil.copytree(zoo_root(), tmp_path / "zoo")
    monkeypatch.setenv("CIPER_ZOO", str(tmp_path / "zoo"))
    folder = tmp_path / "zoo" / plain.find_encoder(alpha=10).name
    if harm == "missing":
        shutil.rmtree(folder)
    elif harm == "damaged":
        (folder / PACKED).write_bytes(b"half a file")
    else:
        file_of(folder, REPORT).unlink()
    control = AlphaExplorer()
    control.alpha.index = 3
    assert folder.name in control.message.value
    control.alpha.index = 1
    assert control.message.value == ""
    assert "CIPER 0.1" in control.about.value


def test_an_encoder_of_one_s_own_is_portrayed_and_says_so(monkeypatch):
    run = fit(Config(alpha=0.3, **SHORT))
    control, said = AlphaExplorer(), []
    control.message.observe(lambda change: said.append(change["new"]), "value")
    control.own.value = str(run.folder)
    assert any("Computed now" in text for text in said)
    assert "CIPER 0.3" in control.about.value
    assert control.alpha.disabled
    assert control.error is None
    control.own.value = ""
    assert "CIPER, image aug." in control.about.value
    assert not control.alpha.disabled
    (run.folder / "history.csv").write_text("not what it was")
    control.refresh()
    assert run.name in control.message.value
    assert len(control.own.options) >= 1
    shutil.rmtree(run.folder)


def test_a_callback_that_raises_becomes_a_sentence(monkeypatch, capsys):
    control = AlphaExplorer()
    before = as_plain(control.view.figure)
    monkeypatch.setattr("ciperlib.present.explorer.encoder_parts", lambda report: 1 / 0)
    control.alpha.index = 1
    assert "ZeroDivisionError" in control.message.value
    assert "still shown" in control.message.value
    assert isinstance(control.error, ZeroDivisionError)
    assert "Traceback" in capsys.readouterr().err
    assert as_plain(control.view.figure) == before
    monkeypatch.undo()
    control.alpha.index = 0
    assert control.error is None
    assert "SimCLR" in control.about.value


def test_what_a_control_says_cannot_become_markup(monkeypatch):
    control = Control()
    control.say("<b>no</b>")
    assert "&lt;b&gt;" in control.message.value
    own = plain.find_report()
    monkeypatch.setattr(plain, "load_report", lambda config: replace(own, synergy=own.synergy | {"verdict": "<b>x"}))
    explorer = AlphaExplorer()
    assert "&lt;b&gt;x" in explorer.about.value
    assert "<b>" not in explorer.about.value
    (verdict,) = explorer.view.figure.select_traces({"name": "verdict"})
    assert verdict.text[0].startswith("&lt;b&gt;x<br>")


def test_what_is_said_stands_above_the_figure():
    """Below it, it was below the screen."""
    explorer = AlphaExplorer()
    places = explorer.children
    assert places.index(explorer.message) < places.index(explorer.view)


def test_an_alpha_that_is_typed_for_views_that_lack_it_is_said():
    """The slider's move, which the typing makes, has its say; the typing's own silence must not wipe it out."""
    explorer = AlphaExplorer(augmentations="flip,jitter,grayscale")
    before = as_plain(explorer.view.figure)
    explorer.typed.value = 10
    assert "only alpha 1, not 10" in explorer.message.value
    assert isinstance(explorer.error, ReportError)
    assert as_plain(explorer.view.figure) == before


def test_a_static_figure_is_drawn_in_an_output(monkeypatch):
    drawn = []
    show_figure = "ciperlib.present.controls.elements.show_figure"
    monkeypatch.setattr(show_figure, lambda figure: drawn.append(figure))
    control = AlphaExplorer(static=True)
    control.alpha.index = 0
    assert isinstance(control.view.children[0], widgets.Output)
    assert isinstance(control.alpha, widgets.Dropdown)
    assert len(drawn) == 2
    assert drawn[-1] is control.view.figure


def test_only_what_differs_is_sent(monkeypatch):
    control, sent = AlphaExplorer(), []
    for message in ("_send_update_msg", "_send_restyle_msg", "_send_relayout_msg"):
        monkeypatch.setattr(control.view.figure, message, lambda *parts, **named: sent.append(str((parts, named))))
    control.image.value = 3
    control.seed.index = 1
    picture, seed = sent
    assert "'z'" in picture
    assert "'x'" in seed
    assert "symbol" not in seed  # the baselines' marks stay
    assert "sizex" not in picture  # nor do the places of pictures


# --- the studio ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return load_images("turntable", "test", size=300)


def test_the_studio_replays_exactly_and_changes_one_parameter(images):
    augmentation = make_preview_augmentation(images)
    pictures = lambda figure: [image.source for image in figure.layout.images]  # noqa: E731
    same = pictures(plot_preview(images, augmentation))
    assert same[6:12] == same[18:24]  # x1 and its replay
    grey = pictures(plot_preview(images, augmentation, change=("grayscale", 1.0)))
    assert grey[:18] == same[:18]
    assert grey[18:] != same[18:]
    view = augmentation(images, torch.arange(6), torch.Generator().manual_seed(0))
    parameters = view.parameters.clone()
    parameters[:, augmentation.column("grayscale")] = 1
    expected = augmentation.replay(images.images[view.source], parameters)
    assert (expected.amax(1) - expected.amin(1)).max() < 1e-5


def test_a_crop_changed_by_hand_stays_in_the_image(images):
    augmentation = make_preview_augmentation(images, ["crop"])
    from ciperlib.present.preview import _changed

    view = augmentation(images, torch.arange(50), torch.Generator().manual_seed(0))
    for name in ("crop_x", "crop_y", "crop_height", "crop_width"):
        for value in (0.0, 0.5, 1.0):
            changed = _changed(augmentation, view.parameters, (name, value))
            for place, size in (("crop_x", "crop_width"), ("crop_y", "crop_height")):
                end = changed[:, augmentation.column(place)] + changed[:, augmentation.column(size)]
                assert end.max() <= 1 + 1e-6
                assert changed[:, augmentation.column(size)].min() > 0


def test_a_pose_is_drawn_not_changed_by_hand(images):
    augmentation = make_preview_augmentation(images, ["pose", "flip"])
    assert [spec.name for spec in changeable(augmentation)] == ["flip"]
    with pytest.raises(ValueError, match="cannot be changed by hand"):
        plot_preview(images, augmentation, change=("elevation", 0.0))


def test_every_control_of_the_studio(images):
    studio = AugmentationPreview(images, "crop,flip,jitter,grayscale", seed=3)
    assert as_plain(studio.view.figure) == as_plain(plot_preview(images, make_preview_augmentation(images), seed=3))
    for part in (studio.steps["flip"], studio.steps["pose"]):
        before = as_plain(studio.view.figure)
        part.value = not part.value
        assert as_plain(studio.view.figure) != before
    before = as_plain(studio.view.figure)
    studio.draw_again()
    assert as_plain(studio.view.figure) != before
    studio.strengths["jitter_strength"].index = 5
    studio.change.value = "saturation"
    assert studio.value.options[0] == "0"
    assert studio.value.options[-1] == "2"
    studio.value.index = 20
    augmentation = make_preview_augmentation(images, ["crop", "jitter", "grayscale", "pose"], jitter_strength=1.0)
    expected = plot_preview(images, augmentation, seed=4, change=("saturation", 2.0))
    assert as_plain(studio.view.figure) == as_plain(expected)
    studio.steps["grayscale"].value = False  # what was changed by hand stays changed
    assert (studio.change.value, studio.value.index) == ("saturation", 20)
    studio.steps["jitter"].value = False  # it is gone
    assert studio.change.value == "nothing"
    for box in studio.steps.values():
        box.value = False
    assert studio.error is None


def test_figures_change_in_place_where_they_can(images):
    view = LiveFigure(plot_preview(images, make_preview_augmentation(images)))
    widget = view.figure
    other = plot_preview(images, make_preview_augmentation(images, ["crop", "flip"]), seed=1)
    view.show(other)
    assert view.figure is widget
    assert as_plain(view.figure) == as_plain(other)
    more = plot_preview(images, make_preview_augmentation(images), anchors=3)
    view.show(more)
    assert view.figure is not widget
    assert as_plain(view.figure) == as_plain(more)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_training_outlives_its_test():
    yield
    if Training.running is not None:
        Training.running.stopping.set()
        Training.running.thread.join(60)


def test_training_stops_goes_on_and_ends_as_if_never_stopped():
    choices = dict(train_size=256, batch_size=64, width=8, projector_width=16, predictor_width=16, seed=5)
    choices |= {"precision": "bf16"}
    expected = fit(Config(alpha=0.5, epochs=12, **choices), runs_root() / "uninterrupted").load_encoder().state_dict()
    control = TrainYourOwn(epochs=12, alpha=0.5, **choices)
    control.start()
    wait_until(lambda: control.bar.value > 0)
    control.halt()
    control.halt()  # pressed twice
    control.wait()
    assert "Stopped after epoch" in control.message.value
    assert not control.train.disabled
    epochs = len(control.view.figure.data[0].x)
    assert 1 <= epochs < 12
    assert find_run(control.config()) is None
    assert len(read_state(runs_root() / control.config().name)[1]["history"]) == epochs  # none is lost
    again = TrainYourOwn(epochs=12, alpha=0.5, **choices)  # as after a restart of the kernel
    again.start()
    again.wait()
    assert "Done" in again.message.value
    assert list(again.view.figure.data[0].x) == list(range(1, 13))
    found = find_run(again.config()).load_encoder().state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_two_trainings_and_stopping_none():
    threads = threading.active_count()
    first = TrainYourOwn(width=8, alpha=2.0, **SHORT | {"epochs": 500})
    second = TrainYourOwn(width=8, alpha=3.0, **SHORT)
    first.start()
    second.attempt(second.start)
    assert "another training runs" in second.message.value
    second.attempt(second.halt)  # any control can stop it, for the first may no longer be on the page
    first.wait()
    assert "Stopped" in first.message.value
    first.attempt(first.halt)
    assert "no training runs" in first.message.value
    assert threading.active_count() <= threads


def test_a_cell_that_is_run_again_takes_the_running_training_over():
    """Else nothing on the page could stop it."""
    choices = dict(width=8, alpha=2.5, **SHORT | {"epochs": 500})
    first = TrainYourOwn(**choices)
    first.start()
    wait_until(lambda: first.bar.value > 0)
    second = TrainYourOwn(**choices)
    assert second.training is first.training
    assert (second.train.disabled, second.stop.disabled) == (True, False)
    assert (first.train.disabled, first.stop.disabled) == (False, True)
    assert "made after this one" in first.message.value
    assert second.bar.value > 0
    curve = lambda control: list(control.view.figure.data[0].x)  # noqa: E731
    wait_until(lambda: len(curve(second)) > len(curve(first)) > 0)
    second.halt()
    second.wait()
    assert "Stopped after epoch" in second.message.value
    assert not second.train.disabled
    assert Training.running is None


@pytest.mark.parametrize("method", [name for name, method in methods.items() if method.trained])
def test_every_method_can_be_trained_and_is_drawn_term_by_term(method):
    rates = {"sie": {"learning_rate": 0.001}, "clever": {"learning_rate": 0.001}}.get(method, {})
    control = TrainYourOwn(method=method, **dict(train_size=64, batch_size=32, epochs=2, width=8, **rates))
    control.start()
    control.wait()
    assert control.error is None
    assert "Done" in control.message.value
    terms = [name for name in control.run.history if name not in BOOKKEEPING]
    assert len(terms) == len(control.view.figure.data)
    for term, trace in zip(terms, control.view.figure.data):
        assert list(trace.y) == pytest.approx(list(control.run.history[term]))


def test_a_picture_that_fails_does_not_end_the_training(monkeypatch, capsys):
    monkeypatch.setattr("ciperlib.present.controls.training.plot_history", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TrainYourOwn()
    monkeypatch.undo()
    control = TrainYourOwn(width=8, alpha=2.75, **SHORT)
    monkeypatch.setattr("ciperlib.present.controls.training.plot_history", lambda *_, **__: 1 / 0)
    control.start()
    control.wait()
    assert find_run(control.config()) is not None
    assert "ZeroDivisionError" in control.message.value + capsys.readouterr().err
    assert not control.train.disabled


def test_the_curve_before_stays_dimmed_and_going_on_is_no_other_training():
    control = TrainYourOwn(width=8, alpha=0.125, **SHORT)
    control.start()
    control.wait()
    control.alpha.value = 0.375
    control.start()
    control.wait()
    names = {trace.name: trace for trace in control.view.figure.data}
    assert list(names) == ["before: CIPER 0.125, image aug.", "CIPER"]
    assert names["before: CIPER 0.125, image aug."].line.color == GREY
    assert names["CIPER"].line.color == colour_of("ciper")
    control.start()  # the same again
    control.wait()
    assert [trace.name for trace in control.view.figure.data] == ["before: CIPER 0.125, image aug."] * 2 + ["CIPER"] * 2


def test_wrong_values_and_missing_images_are_said(monkeypatch, tmp_path):
    control = TrainYourOwn(**SHORT)
    for name, value, says in (("alpha", -1.0, "out of range"), ("epochs", 0, "out of range")):
        part = getattr(control, name)
        before, part.value = part.value, value
        control.attempt(control.start)
        assert says in control.message.value
        assert Training.running is None
        part.value = before
    for box in control.steps.values():
        box.value = False
    control.attempt(control.start)
    assert "there are no views to compare" in control.message.value
    control.steps["pose"].value = True
    control.dataset.value = "cifar10"
    control.attempt(control.start)
    assert "does not go with dataset" in control.message.value
    monkeypatch.setenv("CIPER_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", no_network)
    control.steps["pose"].value, control.steps["crop"].value = False, True
    control.start()
    control.wait()
    assert "CIFAR-10 was looked for" in control.message.value
    assert not control.train.disabled


def no_network(*_args, **_options):
    raise OSError("no network")


def test_a_new_encoder_appears_in_the_explorer():
    explorer = AlphaExplorer()
    control = TrainYourOwn(explorer, alpha=0.25, **SHORT)
    control.start()
    control.wait()
    assert "The explorer shows it" in control.message.value
    assert explorer.own.value == str(control.run.folder)
    assert "CIPER 0.25" in explorer.about.value


# --- the page --------------------------------------------------------------------------------------------------------


def decoded(value):
    kind = {"u1": np.uint8, "f4": np.float32, "f8": np.float64}[value["dtype"]]
    shape = tuple(int(side) for side in value["shape"].split(","))
    return np.frombuffer(base64.b64decode(value["bdata"]), kind).reshape(shape)


def test_the_page_holds_every_report_and_nothing_from_elsewhere(tmp_path):
    path = page.write_page(tmp_path / "explorer.html")
    text = path.read_text()
    assert len(text) < 8e6
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", text.split("<script>")[0])
    assert "<!--" not in text.split("<script>")[0] + text.split("</script>")[-1]
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S).group(1))
    assert len(data["encoders"]) == len(reported())
    for config in reported():
        method = "ciper" if config.method == "simclr" else config.method
        found = data["encoders"][f"{method} {config.alpha:g} {','.join(config.augmentations)} {config.seed}"]
        choice = dict(alpha=config.alpha, augmentations=config.augmentations, method=method, seed=config.seed)
        own = plain.find_report(**choice)
        assert own.name == config.name
        scores = [own.scores[name] for name in ("category", "object", "session", "pose")]
        assert found["parts"]["encoder"]["x"] == scores
        assert found["parts"]["synergy"]["x"] == [own.synergy["value"]]
        assert np.array_equal(decoded(found["parts"]["layout"]["x"]), own.points[:, 0].numpy())
        for image, part in enumerate(found["maps"]):
            assert np.array_equal(decoded(part["map"]["z"]), own.maps[image].numpy())
        assert found["about"] == plain.describe(own)
    assert data["images"][3]["source"] == plain.picture(3)
