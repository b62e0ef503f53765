"""A thing is added in one file, outside the package: it trains, is named, probed, labelled and drawn, and its record
says which file that was."""

import json
import pickle
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, make_noise_images
from test_registry import Spy

from ciperlib import plugin
from ciperlib.__main__ import main
from ciperlib.analyse.compare import compare, find_cases
from ciperlib.analyse.probing.tables import probe_run, to_table
from ciperlib.analyse.report import EvaluationImages, ReportError, load_report, measure_of, read_or_make, report_run
from ciperlib.batch.sweep import make_tasks, sweep
from ciperlib.config import Config, ConfigError, profile_parameters
from ciperlib.data import load_images
from ciperlib.files import project_root
from ciperlib.labels import colour_of, label
from ciperlib.learn.augment import Augmentation, make_augmentation
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.methods import make_objective
from ciperlib.learn.methods.targets import pair_targets
from ciperlib.learn.runs import RunError, find_runs, load_run
from ciperlib.learn.training import Trainer, TrainingError, fit
from ciperlib.learn.zoo import find_run, zoo_root
from ciperlib.plugin import PluginError, load_plugin
from ciperlib.present.controls import AugmentationPreview, TrainYourOwn
from ciperlib.present.explorer import _frame, describe, plot_report
from ciperlib.present.plotting import plot_history, plot_scores
from ciperlib.registry import REGISTRIES, Option, RegistryError, architectures, measures, methods, steps

EXAMPLES = Path(__file__).parent / "examples"
SMALL = {name: value for name, value in TINY.items() if name != "train_size"}


@pytest.fixture(autouse=True)
def _as_it_was():
    """What a test registers is forgotten after it."""
    before = [registry.entries() for registry in REGISTRIES]
    loaded = dict(plugin._LOADED)
    yield
    for registry, entries in zip(REGISTRIES, before):
        registry.restore(entries)
    plugin._LOADED.clear()
    plugin._LOADED.update(loaded)


@pytest.fixture
def load(tmp_path):
    """Copies an example into a folder with a space in its name, loads it, and gives its place."""

    def copy_and_load(name: str) -> Path:
        folder = tmp_path / "my own"
        folder.mkdir(exist_ok=True)
        path = Path(shutil.copy(EXAMPLES / f"{name}.py", folder))
        load_plugin(path)
        return path

    return copy_and_load


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def train(root, **choices) -> None:
    """From a config to a probed run with a figure."""
    run = fit(Config(**{**SMALL, "train_size": 100, "epochs": 2, **choices}), root, progress="none")
    images = [load_images("turntable", split, size=100, image_size=16) for split in ("train", "test")]
    found = probe_run(run, *images, ("category",))
    assert 0 <= found["category"].value <= 1
    assert len(plot_history({run.config.method: run.history}).data)
    assert find_run(run.config, root).status["plugins"] == run.config.plugins
    return run


# --- six examples, each one file --------------------------------------------------------------------------------------


def test_vicreg(load, tmp_path):
    load("vicreg")
    run = train(tmp_path, method="vicreg", options="vicreg_invariance=10")
    assert run.config.name != Config(**{**run.config.to_dict(), "options": ""}).name
    assert label(run.config).startswith("VICReg, image aug., vicreg invariance 10.0, train size 100,")
    assert colour_of("vicreg") == "#117733"


def test_vicreg_s_loss_is_the_paper_s():
    vicreg_loss = runpy.run_path(str(EXAMPLES / "vicreg.py"))["vicreg_loss"]
    generator = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64).mul(0.7)
    wanted = 25 * float(((z1 - z2) ** 2).mean())
    for z in (z1, z2):
        n, d = z.shape
        mean = [sum(float(z[i, j]) for i in range(n)) / n for j in range(d)]
        covariance = [
            [sum(float((z[i, j] - mean[j]) * (z[i, k] - mean[k])) for i in range(n)) / (n - 1) for k in range(d)]
            for j in range(d)
        ]
        wanted += 25 / 2 * sum(max(0.0, 1 - (covariance[j][j] + 1e-4) ** 0.5) for j in range(d)) / d
        wanted += sum(covariance[j][k] ** 2 for j in range(d) for k in range(d) if j != k) / d
    assert float(vicreg_loss(z1, z2)) == pytest.approx(wanted, rel=1e-12)
    lightly = pytest.importorskip("lightly.loss", reason="lightly, which has this loss too, is not installed")
    torch.testing.assert_close(vicreg_loss(z1, z2), lightly.VICRegLoss()(z1, z2))


@pytest.mark.parametrize("augmentations", ["crop,flip,jitter,grayscale", "pose"])
def test_a_method_that_predicts_from_both_representations(load, tmp_path, augmentations):
    load("pair_prediction")
    run = train(tmp_path, method="pair_prediction", augmentations=augmentations)
    assert set(run.history) == {"epoch", "total", "predictive", "learning_rate", "seconds"}


def test_cifar_100_s_official_files(load, tmp_path):
    load("cifar100")
    generator = np.random.default_rng(0)
    (tmp_path / "cifar-100-python").mkdir()
    for split, count in (("train", 60), ("test", 40)):
        content = {
            "data": generator.integers(256, size=(count, 3072), dtype=np.uint8),
            "fine_labels": [i % 5 for i in range(count)], "coarse_labels": [i % 2 for i in range(count)],
        }  # fmt: skip
        (tmp_path / "cifar-100-python" / split).write_bytes(pickle.dumps(content))
    config = Config(**{**SMALL, "dataset": "cifar100", "image_size": 32, "train_size": 60, "epochs": 1})
    run = fit(config, tmp_path / "runs", data_root=tmp_path, progress="none")
    assert run.config.content  # no checksum fixes these files: what was read is in the name
    images = [load_images("cifar100", split, root=tmp_path) for split in ("train", "test")]
    results = probe_run(run, *images)
    assert set(results) == {"category", "superclass"}
    table = to_table(results, encoder=label(run.config), method=run.config.method, seed=0)
    assert len(plot_scores(table, ["category", "superclass"]).data)
    with pytest.raises(ConfigError, match="pose needs images with the factors object and azimuth"):
        Config(dataset="cifar100", augmentations="pose")
    with pytest.raises(ConfigError, match="'cifar100', whose azimuth is not known"):
        Config(dataset="cifar100", method="transformation_prediction", transformation="azimuth")


@pytest.mark.parametrize("method", ["ciper", "clever"])
def test_a_network_of_timm_s(load, tmp_path, method):
    load("convnext")
    choices = {"method": method, "architecture": "convnext", "options": "convnext_depth=2", "image_size": 64}
    config = Config(**{**SMALL, "train_size": 100, "epochs": 1, **choices})
    run = fit(config, tmp_path, progress="none")
    assert len(plot_history({method: run.history}).data)
    encoder = run.load_encoder()
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, 64)
    with pytest.raises(ConfigError, match="does not go with architecture='convnext'"):
        Config(**config.to_dict() | {"image_size": 16})
    assert label(config).startswith(f"{methods[method].label}, image aug., ConvNeXt, convnext depth 2")


@pytest.mark.parametrize("method", ["ciper", "augself", "equimod", "sie"])
def test_a_blur_whose_width_is_predicted(load, tmp_path, method):
    load("blur")
    images = load_images("turntable", "train", size=100, image_size=16)
    config = Config(**{**SMALL, "train_size": 100, "epochs": 1, "method": method, "augmentations": "crop,blur"})
    augmentation = make_augmentation(config, images)
    assert [spec.name for spec in augmentation.specs][-1] == "sigma"
    view = augmentation(images, torch.arange(100), torch.Generator().manual_seed(0))
    assert torch.equal(augmentation.replay(images.images, view.parameters), view.images)
    assert view.parameters[:, -1].min() >= 0.1
    assert view.parameters[:, -1].max() <= 1.5
    # the method takes it up: other widths, another loss
    objective = make_objective(config, augmentation.specs)
    batch = next(Trainer(config, images, torch.device("cpu"))._batches(0))
    widths = batch.views[1].parameters.clone()
    widths[:, -1] = widths[:, -1].flip(0)
    changed = batch._replace(views=(batch.views[0], batch.views[1]._replace(parameters=widths)))
    states = [
        torch.random.manual_seed(0),
        objective(batch).total,
        torch.random.manual_seed(0),
        objective(changed).total,
    ]
    assert states[1] != states[3]
    run = train(tmp_path, method=method, augmentations="crop,blur", options="blur_sigma=1.2")
    assert "blur sigma 1.2" in label(run.config)


def test_a_blur_is_torchvision_s(load):
    from torchvision.transforms import functional as tv

    load("blur")
    images = make_noise_images(6, 32).floats()
    sigma = torch.tensor([0.1, 0.3, 0.5, 0.9, 1.2, 1.5])
    made = steps["blur"].build().apply(images, {"sigma": sigma})
    for image, width, blurred in zip(images, sigma.tolist(), made):
        torch.testing.assert_close(blurred, tv.gaussian_blur(image, [9, 9], [width, width]), rtol=0, atol=1e-5)


def test_a_measure_shows_in_a_report(load, tmp_path):
    load("neighbours")
    run = fit(Config(**{**TINY, "image_size": 32, "epochs": 1}), tmp_path, progress="none")
    report = read_or_make(run, EvaluationImages(train_size=200, test_size=120))
    share = report.measures["same_neighbour"]
    assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    expected = f"Same neighbour: {share['value']:.2f} [{share['low']:.2f}, {share['high']:.2f}]."
    assert expected in describe(report)
    assert "Effective dimensions (RankMe): " in describe(report)
    _frame.cache_clear()
    shown = plot_report(report)
    drawn = next(shown.select_traces({"name": "encoder"}))
    assert dict(zip(drawn.y, drawn.x))["same neighbour"] == share["value"]
    assert "probes, and other shares of 1" in {note.text for note in shown.layout.annotations}
    older = next(plot_report(load_report(Config())).select_traces({"name": "encoder"}))
    assert dict(zip(older.y, older.x))["same neighbour"] is None
    cases, images = find_cases([{}], (0,)), EvaluationImages(train_size=200, test_size=120)
    table = compare(cases, measure_of("same_neighbour", images), keep=False)
    assert 0 <= table["low"][0] <= table["value"][0] <= table["high"][0] <= 1
    with pytest.raises(ReportError, match="no measure 'same_neighbor'; did you mean 'same_neighbour'"):
        measure_of("same_neighbor", images)
    _frame.cache_clear()
    measures.register("same_neighbour_twice", label="x")(lambda encoder, images: (1.0, 2.0))
    with pytest.raises(RegistryError, match="no choices"):
        measures.register("chosen", label="x", options={"chosen_x": Option(1, "x")})(len)
    with pytest.raises(ReportError, match="must give a finite number"):
        report_run(run, EvaluationImages(train_size=200, test_size=120))


def test_a_plugin_s_method_and_step_can_be_chosen_in_the_controls(load):
    load("vicreg")
    load("blur")
    control = TrainYourOwn(method="vicreg", train_size=100, batch_size=16, epochs=1, width=8, image_size=16)
    assert control.config().method == "vicreg"
    control.steps["blur"].value = True
    assert control.config().augmentations == ("crop", "flip", "jitter", "grayscale", "blur")
    control.start()
    control.wait()
    assert control.message.value == "" or "Done" in control.message.value, control.message.value
    preview = AugmentationPreview(load_images("turntable", "train", size=60))
    preview.steps["blur"].value = True
    assert "sigma" in preview.change.options


@pytest.mark.slow
def test_a_notebook_and_a_sweep_take_a_plugin(tmp_path):
    (tmp_path / "my own").mkdir()
    path = Path(shutil.copy(EXAMPLES / "vicreg.py", tmp_path / "my own"))
    notebook = project_root() / "notebooks" / "one_encoder.ipynb"
    grid = {"plugin": [str(path)], "method": ["vicreg"], "options": ["vicreg_invariance=10"], "seed": [0, 1]}
    tasks = make_tasks(notebook, grid, profile="smoke", output=tmp_path / "out")
    records = sweep(tasks, workers=2, report=lambda line: None)
    assert [record.status for record in records] == ["done", "done"], [record.last_lines for record in records]
    assert all(0 <= record.metrics["category"] <= 1 for record in records)
    assert all(record.metrics["run"].startswith("vicreg-image") for record in records)
    path.write_text(path.read_text() + "# changed\n")  # what was done with the other is not taken for this one's
    assert {task.folder for task in make_tasks(notebook, grid, profile="smoke", output=tmp_path / "out")}.isdisjoint(
        task.folder for task in tasks
    )


def test_no_profile_and_no_grid_loads_a_plugin(tmp_path, monkeypatch):
    path = write(tmp_path / "evil.py", f"open({str(tmp_path / 'was run')!r}, 'w')")
    folder = tmp_path / "notebooks" / "profiles"
    folder.mkdir(parents=True)
    (folder / "mine.yml").write_text(f"one_encoder: {{plugin: {json.dumps(str(path))}}}")
    monkeypatch.setattr("ciperlib.config.project_root", lambda: tmp_path)
    with pytest.raises(ConfigError, match="must not name a plugin"):
        profile_parameters("mine", "one_encoder")
    with pytest.raises(ConfigError, match="there is no parameter named 'plugin'"):
        Config.from_parameters(plugin=str(path))  # of a grid, or of a stored run
    assert not (tmp_path / "was run").exists()


# --- laws -------------------------------------------------------------------------------------------------------------


def test_plugins_rename_no_shipped_run(load):
    configs = [json.loads(path.read_text()) for path in sorted(zoo_root().glob("*/config.json"))]
    before = [Config.from_parameters(**config).name for config in configs]
    for example in sorted(EXAMPLES.glob("*.py")):
        load(example.stem)
    assert [Config.from_parameters(**config).name for config in configs] == before
    assert all(not Config.from_parameters(**config).plugins for config in configs)


def test_what_a_step_or_a_network_reads_is_in_the_name(load):
    for example in ("blur", "convnext"):
        load(example)
    for choices, read in (
        ({"augmentations": "crop,blur"}, set()), ({"architecture": "convnext", "image_size": 32}, set()),
        ({"augmentations": "flip,blur"}, {"flip_probability"}), ({"augmentations": "jitter,blur"}, {"jitter_strength"}),
        *(({"architecture": name, "coordinates": False, "image_size": 32}, set()) for name in architectures),
    ):  # fmt: skip
        spy = Spy(Config(**{**TINY, "epochs": 1, "method": "predictive", **choices}))
        make_augmentation(spy, make_noise_images())
        make_encoder(spy)
        assert spy.read <= spy.config.read_choices() | {"alpha", "recipe"}
        assert read <= spy.read
    name = Config(augmentations="crop,blur").name
    assert name != Config(augmentations="crop,blur", options="blur_sigma=1.2").name
    assert name == Config(augmentations="crop,blur", options="blur_sigma=1.5,convnext_depth=3").name
    assert Config().name == Config(options="blur_sigma=1.2").name  # it is another step's


def test_steps_stand_by_place_then_by_name_however_they_were_read(load, tmp_path):
    text = (EXAMPLES / "blur.py").read_text().replace("blur_sigma", "{0}_sigma").replace('"blur"', '"{0}"', 1)
    for name in ("zoom", "aged"):
        load_plugin(write(tmp_path / f"{name}.py", text.replace("{0}", name).replace('"sigma"', f'"{name}"')))
    load("blur")
    assert list(steps) == ["pose", "session", "crop", "flip", "jitter", "grayscale", "aged", "blur", "zoom"]
    assert Augmentation(("zoom", "blur", "aged", "crop")).steps == ("crop", "aged", "blur", "zoom")
    reversed_order = Augmentation(("blur", "crop"), order="reversed")
    plain, images = Augmentation(("blur", "crop")), make_noise_images()
    views = [a(images, torch.arange(8), torch.Generator().manual_seed(0)) for a in (plain, reversed_order)]
    assert torch.equal(views[0].parameters, views[1].parameters)
    assert not torch.equal(views[0].images, views[1].images)


def test_the_difference_of_an_own_step_changes_its_sign(load):
    load("blur")
    augmentation, images = Augmentation(("blur", "flip"), blur_sigma=1.1), make_noise_images()
    generator = torch.Generator().manual_seed(0)
    first, second = (augmentation(images, torch.arange(20), generator).parameters for _ in range(2))
    forth = pair_targets(augmentation.specs, first, second)
    assert torch.equal(forth["blur"], -pair_targets(augmentation.specs, second, first)["blur"])
    torch.testing.assert_close(forth["blur"][:, 0], second[:, 1] - first[:, 1])  # the range is 1 wide


# --- what is refused --------------------------------------------------------------------------------------------------

STEP = """
from ciperlib.learn.augment.base import ImageStep, shares
from ciperlib.registry import Option, steps
@steps.register("mine", label="x", {facts})
class Mine(ImageStep):
    def __init__(self{arguments}): pass
"""


@pytest.mark.parametrize(("text", "words"), [
    ("1 / 0", "line 1: ZeroDivisionError"), ("def", "SyntaxError"), ("import nothing_there", "No module named"),
    ('from ciperlib.registry import methods\n'
     'methods.register("ciper", label="x", colour="#000000", alpha=None)(object)',
     "there is a method 'ciper' already, of ciperlib"),
    ('from ciperlib.registry import methods\n'
     'for build in (dict, list):\n    methods.register("mine", label="x", colour="#000000", alpha=None)(build)',
     "there is a method 'mine' already"),
    (STEP.format(facts="", arguments=""), "step 'mine': .*difference"),
    (STEP.format(facts='difference=shares, options={"mine_x": Option(1.0, "x")}', arguments=""),
     "is not made with 'mine_x'"),
    (STEP.format(facts="difference=shares", arguments=", size"), "'size' has no default"),
    (STEP.format(facts='difference=shares, answer="loud"', arguments=""), "answer must be"),
    (STEP.format(facts='difference=shares, options={"mine_x": Option(9.0, "x", high=1)}', arguments=", mine_x=9.0"),
     r"the default 9.0 \(x\) is not from -inf to 1"),
    ('from ciperlib.registry import datasets\ndatasets.register("mine", label="x")(dict)', "dataset 'mine': .*factors"),
])  # fmt: skip
def test_a_plugin_that_cannot_be_leaves_nothing_behind(text, words, tmp_path):
    before = [registry.entries() for registry in REGISTRIES]
    ahead = 'from ciperlib.registry import architectures\narchitectures.register("early", label="x")(len)\n'
    path = write(tmp_path / "bad.py", text if "line 1" in words else ahead + text)
    with pytest.raises(PluginError, match=words):
        load_plugin(path)
    assert [registry.entries() for registry in REGISTRIES] == before


def test_files_of_one_name_do_not_replace_each_other(load, tmp_path):
    load("vicreg")
    other = Path(shutil.copy(EXAMPLES / "vicreg.py", tmp_path / "vicreg.py"))
    with pytest.raises(PluginError, match=r"there is a method 'vicreg' already|has an option 'vicreg_invariance'"):
        load_plugin(other)


def test_a_missing_plugin_is_refused(tmp_path, capsys):
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(PluginError, match="there is no such file"):
            load_plugin(path)
    assert main(["fit", "--plugin", str(tmp_path / "none.py")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_nothing_is_loaded_where_none_is_asked_for():
    before = [registry.entries() for registry in REGISTRIES]
    load_plugin("")
    load_plugin(" ")
    assert [registry.entries() for registry in REGISTRIES] == before


def test_a_run_of_another_version_is_refused_by_name(load, tmp_path):
    path = load("vicreg")
    run = train(tmp_path, method="vicreg")
    assert load_run(run.folder).config == run.config
    path.write_text(path.read_text() + "# changed\n")
    load_plugin(path)
    with pytest.raises(RunError, match=f"{run.name} was made with another version of your method vicreg"):
        fit(run.config, tmp_path, progress="none")
    assert find_runs(tmp_path) == []
    for registry in REGISTRIES:
        registry.forget(str(path))
    with pytest.raises(RunError, match=r"made with your own method vicreg: load its file \(plugin=...\) first"):
        load_run(run.folder)
    assert find_runs(tmp_path) == []  # and nothing else fails


def test_a_stopped_run_is_not_carried_on_by_another_version(load, tmp_path):
    path = load("vicreg")
    config = Config(**{**SMALL, "train_size": 100, "epochs": 3, "method": "vicreg"})

    class Stop(Exception):
        pass

    def stop(progress):
        raise Stop

    with pytest.raises(Stop):
        fit(config, tmp_path, stop, progress="none", save_every=0)
    path.write_text(path.read_text() + "# changed\n")
    load_plugin(path)
    with pytest.raises(TrainingError, match="begun with another version of your method vicreg"):
        fit(config, tmp_path, progress="none")
