"""Reports: the same numbers as the analyses they come from, whole or refused."""

import dataclasses
import json
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from ciperlib.analyse import report
from ciperlib.analyse.report import (
    BASELINES_FILE,
    REPORT,
    EvaluationImages,
    ReportError,
    as_layout,
    file_of,
    load_report,
    make_report,
    read_baselines,
    read_or_make,
    read_report,
    report_run,
    reported,
    write_report,
)
from ciperlib.config import Config
from ciperlib.files import project_root, read_sealed, sha256, write_sealed
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.runs import DIGESTS, load_run
from ciperlib.learn.training import fit
from ciperlib.learn.zoo import find_run, zoo_root
from ciperlib.present.explorer import describe


@pytest.fixture(scope="module")
def small():
    """Few images, and a run and its report in it, with the steps it reported."""
    evaluation, steps = EvaluationImages(train_size=300, test_size=500), []
    run = fit(Config(method="random"))
    return evaluation, run, report_run(run, evaluation, tell=steps.append), steps


def test_the_grid_of_the_explorer_is_whole():
    """Alpha 0, 0.1, 1 and 10 for both kinds of views, and each image step left out, with three seeds."""
    found = {(c.alpha, c.augmentations, c.seed) for c in reported() if c.method in ("ciper", "simclr")}
    image = ("crop", "flip", "jitter", "grayscale")
    for seed in range(3):
        assert {(alpha, views, seed) for alpha in (0, 0.1, 1, 10) for views in (image, ("pose",))} <= found
        assert {(1, tuple(step for step in image if step != left), seed) for left in image} <= found
    for config in reported():
        own = load_report(config)
        assert own.points.shape == (500, 2)
        assert own.maps.shape == (10, 32, 32)


def test_reports_agree_with_what_was_measured_elsewhere():
    """Their probes with the run's metrics; their meter, of 2,000 images, with what notebook 05 shows of 10,000."""
    sweeps = project_root() / "data" / "sweeps"
    runs = read_sealed(sweeps / "images.json")[0]["synergy.csv"]["runs"]
    large = pd.read_csv(sweeps / "synergy.csv")
    large = large[(large["target"] == "category")].set_index(["encoder", "seed"])
    of_run = {run: (encoder, int(seed)) for encoder, seeds in runs.items() for seed, run in seeds.items()}
    compared = 0
    for config in reported():
        own, metrics = load_report(config), find_run(config, zoo_root()).metrics
        for factor in ("category", "object", "session", "pose"):
            assert own.scores[factor] == pytest.approx(metrics[factor], abs=0.01)
        if config.name in of_run:
            row, small = large.loc[of_run[config.name]], own.synergy
            assert small["n"] == 2000
            assert small["low"] <= row["high_nats"], config.name
            assert small["high"] >= row["low_nats"], config.name
            compared += 1
    assert compared == 27
    pixels = large.loc["pixels", 0]
    assert pixels["low_nats"] <= read_baselines()["pixels"]["synergy"] <= pixels["high_nats"]


def test_a_report_is_of_unseen_images_one_of_each_category(small):
    evaluation, _run, own, steps = small
    assert steps == ["probes", "saliency maps", "PaCMAP", "explaining-away", "effective dimensions (RankMe)"]
    assert evaluation.looked_at.factors["category"].tolist() == list(range(10))
    assert len(evaluation.laid_out.factors["object"].unique()) == 10
    assert len(own.points) == len(evaluation.laid_out)
    assert own.maps.amin((1, 2)).eq(0).all()
    assert own.maps.amax((1, 2)).eq(255).all()
    assert {"category", "object_low", "pose_high"} <= own.scores.keys()
    assert own.synergy["levels"] == 4
    assert torch.equal(as_layout(own, evaluation).features.ids, evaluation.laid_out.ids)


def test_it_is_written_and_read_to_the_bit(small, tmp_path):
    _sitting, run, own, _steps = small
    write_report(tmp_path, own)
    again = read_report(tmp_path, run.config)
    assert torch.equal(again.points, own.points)
    assert torch.equal(again.maps, own.maps)
    assert (again.scores, again.synergy) == (own.scores, own.synergy)
    assert (again.images, again.pixels) == (own.images, own.pixels)
    assert (again.measures, again.gap) == (own.measures, 0.0)
    assert own.measures["effective_dimensions"]["value"] > 1
    assert again.is_of(_sitting)


def test_what_was_found_of_one_encoder_is_not_another_s():
    """Though neither has weights to tell them apart."""

    class Made(torch.nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, images):
            mean = images.mean((2, 3))
            return mean if self.sign else torch.rand(mean.shape, generator=torch.Generator().manual_seed(0))

    images = EvaluationImages(train_size=200, test_size=120)
    colours, noise = Made(True), Made(False)
    told = [images.probes(encoder)["session"].value for encoder in (colours, noise)]
    assert told[0] > told[1] + 0.2
    assert images.probes(noise) is images.probes(noise)


@pytest.mark.parametrize(
    "harm",
    ["missing", "truncated", "changed", "another's", "not a report", "a folder", "text", "{}", "verdict", "score",
     "no score", "a list"],
)  # fmt: skip
def test_a_damaged_report_is_named(small, tmp_path, harm):
    _sitting, run, own, _steps = small
    path = tmp_path / REPORT
    write_report(tmp_path, own if harm != "another's" else dataclasses.replace(own, name="another"))
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "changed":
        content[-1] ^= 1
        path.write_bytes(content)
    elif harm == "not a report":
        save_file({"points": own.points, "maps": own.maps}, path)
    elif harm == "a folder":
        path.unlink()
        path.mkdir()
    elif harm in ("text", "{}"):
        path.write_text(harm)
    elif harm in ("verdict", "score"):  # one letter, one digit: its checksum is over them, too
        word = own.synergy["verdict"] if harm == "verdict" else str(own.scores["category"])[:5]
        path.write_bytes(bytes(content).replace(word.encode(), word[:-1].encode() + b"7"))
        assert path.read_bytes() != content
    elif harm == "no score":
        write_report(tmp_path, dataclasses.replace(own, scores={}))
    elif harm == "a list":
        write_report(tmp_path, dataclasses.replace(own, scores=[1], synergy=[]))
    with pytest.raises(ReportError, match="make zoo") as error:
        read_report(tmp_path, run.config)
    assert str(tmp_path) in str(error.value)


def test_a_report_of_other_images_is_refused(small):
    evaluation, _run, own, _steps = small
    for other in (dict(points=own.points[1:]), dict(images="0" * 16)):
        with pytest.raises(ReportError, match="other images"):
            as_layout(dataclasses.replace(own, **other), evaluation)


def test_which_images_does_not_depend_on_the_machine_and_pixels_do(small, monkeypatch):
    evaluation, _run, own, _steps = small
    again = EvaluationImages(train_size=300, test_size=500)
    again._unseen.images.add_(1)  # as another machine renders them
    assert own.is_of(evaluation)
    assert again.images == evaluation.images
    assert not own.is_of(again)
    assert dataclasses.replace(own, pixels="").is_of(again)
    assert EvaluationImages(train_size=400, test_size=500).images != evaluation.images
    monkeypatch.setattr("ciperlib.analyse.shipped.VERSION", 99)
    assert EvaluationImages(train_size=300, test_size=500).images != evaluation.images


def test_a_report_of_other_pixels_is_made_again_where_it_was_made_here(small, tmp_path, monkeypatch):
    evaluation, run, own, _steps = small
    monkeypatch.setattr(report, "report_run", lambda *_, **__: own)
    folder = tmp_path / run.name
    shutil.copytree(run.folder, folder)
    here = dataclasses.replace(run, folder=folder)
    write_report(folder, dataclasses.replace(own, pixels="0" * 16))
    assert read_or_make(here, evaluation).pixels == own.pixels
    # the zoo's may have been rendered elsewhere, and is never replaced
    monkeypatch.setenv("CIPER_ZOO", str(tmp_path))
    write_report(folder, dataclasses.replace(own, pixels="0" * 16))
    assert read_or_make(here, evaluation).points.equal(own.points)
    write_report(folder, dataclasses.replace(own, images="0" * 16))
    before = (folder / REPORT).read_bytes()
    with pytest.raises(ReportError, match="other images"):
        read_or_make(here, evaluation)
    assert (folder / REPORT).read_bytes() == before


def test_the_zoo_s_reports_are_of_the_images_that_this_version_renders():
    """Who changes them raises the turntable's VERSION, and makes reports anew."""
    assert EvaluationImages().images == report.SHIPPED_IMAGES
    assert load_report(reported()[0]).is_of(EvaluationImages())


def test_every_flipped_bit_of_a_report_s_text_is_found(small, tmp_path):
    _evaluation, run, own, _steps = small
    write_report(tmp_path, own)
    path = tmp_path / REPORT
    content = path.read_bytes()
    for place in range(content.index(b"scores"), content.index(b"sha256"), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ReportError, match="damaged"):
            read_report(tmp_path, run.config)


def test_a_report_of_an_older_version_is_read_and_vouched_for_by_a_table(tmp_path, monkeypatch):
    """Its own digest is over its tensors alone, its name is another, and it does not say which images it is of."""
    config = reported()[0]
    new, folder = load_report(config), tmp_path / config.name
    shutil.copytree(zoo_root() / config.name, folder, ignore=shutil.ignore_patterns(REPORT))
    tensors = {"points": new.points, "maps": new.maps}
    digest = report._digest(tensors)[:16]
    text = json.dumps({"name": new.name, "scores": new.scores, "synergy": new.synergy, "digest": digest})
    path = folder / "portrait.safetensors"
    save_file(tensors, path, {"portrait": text})
    write_sealed(tmp_path / DIGESTS, {f"{config.name}/{path.name}": sha256(path)})
    monkeypatch.setenv("CIPER_ZOO", str(tmp_path))
    old = load_report(config)
    assert (old.scores, old.synergy, old.images) == (new.scores, new.synergy, report.SHIPPED_IMAGES)
    assert old.measures["synergy"]["value"] == new.synergy["value"]
    content = path.read_bytes()
    for place in range(content.index(b"scores"), content.index(b"digest"), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ReportError, match="damaged"):
            load_report(config)
    path.write_bytes(content)
    (tmp_path / DIGESTS).unlink()  # an older checkout has no table
    assert load_report(config).images == report.SHIPPED_IMAGES
    (tmp_path / DIGESTS).write_text("[]")
    with pytest.raises(ReportError, match="damaged"):
        read_report(folder, config)


@pytest.mark.parametrize("text", [None, "text", "{}", "[]", '{"pixels": {"category": 1}}', "digit", "\x00\xff"])
def test_missing_or_damaged_baselines_are_named(text, tmp_path, monkeypatch):
    if text == "digit":
        text = file_of(zoo_root(), BASELINES_FILE).read_text().replace("0.5592", "0.5593")
    if text is not None:
        (tmp_path / BASELINES_FILE).write_bytes(text.encode("latin-1"))
    monkeypatch.setenv("CIPER_ZOO", str(tmp_path))
    with pytest.raises(ReportError, match=r"baselines\.json is missing or damaged; delete it"):
        read_baselines()


def test_the_zoo_makes_what_is_missing_of_reports_and_baselines(small, tmp_path, monkeypatch):
    from ciperlib.__main__ import main

    evaluation, _run, _own, _steps = small
    source = zoo_root() / Config(method="simclr").name
    shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns(REPORT))
    monkeypatch.setattr(report, "reported", lambda: [Config(method="simclr")])
    monkeypatch.setattr(report, "EvaluationImages", lambda *_: evaluation)
    monkeypatch.setattr(report, "measure_baselines", lambda _: {"pixels": {"synergy": 0.1}})
    monkeypatch.setattr("ciperlib.learn.zoo.zoo_grid", lambda part=None: [{"method": "simclr", "seeds": [0]}])
    assert main(["zoo", "--root", str(tmp_path)]) == 0
    run = load_run(tmp_path / source.name)
    assert read_report(run.folder, run.config).synergy["levels"] == 4
    assert read_sealed(tmp_path / "baselines.json") == ({"pixels": {"synergy": 0.1}}, True)


@pytest.mark.slow
@pytest.mark.parametrize("choices", [{"architecture": "vit_tiny", "width": 8}, {"architecture": "vmamba", "width": 4},
                                     {"norm": "group", "width": 8}])  # fmt: skip
def test_a_network_that_fullgrad_is_not_exact_for_has_a_report_that_says_so(small, choices):
    evaluation, *_ = small
    encoder = make_encoder(Config(**choices)).eval()
    own = make_report(encoder, "mine", evaluation)
    assert 0 < own.gap < 1
    assert f"its terms miss the output by {own.gap:.0%}" in describe(own)
    assert "approximation" not in describe(load_report(reported()[0]))
    assert own.maps.amax((1, 2)).eq(255).all()
