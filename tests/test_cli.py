"""The command line: what it does, and how it refuses."""

import pytest
from conftest import TINY

from ciperlib.__main__ import REFUSED, main
from ciperlib.config import Config
from ciperlib.learn.runs import load_run


def arguments(**choices):
    return [part for name, value in choices.items() for part in ("-p", name, str(value))]


def test_fit_then_probe(tmp_path, capsys):
    choices = {**TINY, "train_size": 200, "epochs": 1, "method": "simclr", "augmentations": "pose"}
    assert main(["fit", "--root", str(tmp_path), "--device", "cpu", *arguments(**choices)]) == 0
    folder = tmp_path / Config(**choices).name
    assert str(folder) in capsys.readouterr().out
    assert main(["probe", str(folder)]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("category", "object", "session", "pose", "baseline: random encoder"))
    metrics = load_run(folder).metrics
    assert 0 <= metrics["object_low"] <= metrics["object"] <= metrics["object_high"] <= 1
    assert {"pose", "pose_azimuth_error_degrees", "pose_paper_style_error"} <= metrics.keys()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["fit", "-p", "alpah", "1"], "did you mean 'alpha'"),
        (["fit", "-p", "alpha", "nan"], "finite"),
        (["fit", "--profile", "papr"], "did you mean 'paper'"),
        (["probe", "nobody"], "there is no run 'nobody'"),
        (["run", "nothing.ipynb"], "there is no notebook"),
        (["data", "imagenet"], "no image set named"),
    ],
)
def test_refusals_are_one_line_and_a_status(command, words, capsys):
    assert main(command) == REFUSED
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_bug_is_not_dressed_up_as_a_refusal(monkeypatch):
    monkeypatch.setattr("ciperlib.data.load_images", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["data", "turntable"])


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ciperlib.data.load_images", interrupt)
    assert main(["data", "turntable"]) == 130
    assert "the same command carries on" in capsys.readouterr().err


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "out/status.json")

    monkeypatch.setattr("ciperlib.data.load_images", full)
    assert main(["data", "turntable"]) == REFUSED
    assert capsys.readouterr().err == "ciperlib: out/status.json: No space left on device\n"


def test_values_are_read_as_what_they_are():
    from ciperlib.__main__ import _parameters

    pairs = [("a", "1"), ("b", "0.5"), ("c", "true"), ("d", "none"), ("e", "crop,flip"), ("f", "1e-3")]
    assert _parameters(pairs) == {"a": 1, "b": 0.5, "c": True, "d": None, "e": "crop,flip", "f": 1e-3}


def test_the_zoo_trains_what_is_missing_only(tmp_path, monkeypatch, capsys):
    (tmp_path / "data" / "zoo").mkdir(parents=True)
    sizes = "train_size: 200, batch_size: 100, epochs: 1, width: 8, image_size: 16"
    grid = f"tried:\n  - {{method: simclr, {sizes}, precision: bf16, seeds: [0, 1]}}\n"
    (tmp_path / "data" / "zoo" / "grid.yml").write_text(grid)
    for module in ("ciperlib.learn.zoo", "ciperlib.files"):
        monkeypatch.setattr(f"{module}.project_root", lambda: tmp_path)
    monkeypatch.delenv("CIPER_ZOO", raising=False)
    assert main(["zoo", "--device", "cpu"]) == 0
    folders = sorted((tmp_path / "data" / "zoo").glob("simclr*"))
    assert len(folders) == 2
    assert all(load_run(folder).metrics["pose"] < 1 for folder in folders)
    capsys.readouterr()
    assert main(["zoo", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == ""
