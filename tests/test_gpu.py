"""The GPU's command, rehearsed: every part runs, nothing runs twice, and a device that differs is found out."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import gpu
import pytest
import torch
from safetensors.torch import load_file, save_file

COMMAND = Path(gpu.__file__)
ABSENT = ["plotly", "pacmap", "papermill", "ipywidgets", "dask", "captum", "sklearn", "timm", "IPython"]
WITHOUT = """
import sys
sys.modules |= dict.fromkeys({absent})
import gpu
sys.exit(gpu.main(sys.argv[1:]))
"""


def run(*arguments):
    """The command in a process of its own, which may take twice what it shall."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def rehearse(*parts, output):
    """The exit status and the entries of a rehearsal in this process."""
    status = gpu.main(["--rehearse", "--output", str(output), *(["--only", *parts] if parts else [])])
    return status, json.loads(output.read_text())["parts"]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    output = tmp_path_factory.mktemp("gpu") / "rehearsal.json"
    return output, run(COMMAND, "--rehearse", "--output", output)


@pytest.mark.slow
def test_a_rehearsal_runs_every_part(rehearsal):
    output, done = rehearsal
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(output.read_text())
    assert set(report["parts"]) == set(gpu.PARTS)
    for name, entry in report["parts"].items():
        assert entry["ok"] is True, (name, entry)
        assert entry["rehearsal"] is True
        assert {"torch", "device"} <= set(entry["on"])
        assert entry["on"]["device"] in report["hardware"]
        assert f"{name}: holds" in done.stdout


@pytest.mark.slow
def test_a_second_call_runs_nothing_again(rehearsal):
    output, _ = rehearsal
    before = output.read_bytes()
    done = run(COMMAND, "--rehearse", "--output", output)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == before
    assert not any(f"{name}: " in done.stdout for name in gpu.PARTS)


@pytest.mark.slow
def test_it_needs_nothing_but_the_library_s_own_packages(tmp_path):
    output, environment = tmp_path / "bare.json", {**os.environ, "PYTHONPATH": str(COMMAND.parent)}
    command = [sys.executable, "-c", WITHOUT.format(absent=ABSENT), "--rehearse", "--output", str(output)]
    only = ["--only", "fullgrad", "render", "probes", "resume", "products"]
    done = subprocess.run([*command, *only], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    parts = json.loads(output.read_text())["parts"]
    assert all(parts[name]["ok"] for name in only[2:])
    assert parts["fullgrad"]["ok"] or parts["fullgrad"]["skipped"] == "captum is not installed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_refuses_and_writes_nothing(tmp_path, capsys):
    assert gpu.main(["--output", str(tmp_path / "gpu.json")]) == 2
    assert not list(tmp_path.iterdir())
    assert "no GPU here" in capsys.readouterr().err


def test_pixels_that_differ_on_the_device_fail(tmp_path, monkeypatch):
    render, calls = gpu.turntable.render, []

    def faulty(*columns):
        calls.append(columns)
        found = render(*columns)
        return found if len(calls) == 1 else found._replace(images=found.images ^ 2)

    monkeypatch.setattr(gpu.turntable, "render", faulty)
    status, parts = rehearse("render", output=tmp_path / "fault.json")
    assert status == 1
    assert parts["render"]["ok"] is False
    assert parts["render"]["pixels_within_1_of_255"] == 0


def test_trainings_that_differ_in_a_bit_are_told_apart(tmp_path):
    here = gpu.Here(gpu.CPU, tmp_path, float("inf"), {}, rehearsal=True)
    first = gpu.small_run(here, "first")
    assert gpu.apart(first, first)["equal"]
    second = gpu.small_run(here, "second")
    tensors = load_file(second.folder / gpu.HEADS)
    tensors["predictive.predictor.0.bias"][0] += 1
    save_file(tensors, second.folder / gpu.HEADS)
    found = gpu.apart(first, second)
    assert (found["equal"], found["different"]) == (False, 1)
    assert found["largest_gap"] == pytest.approx(1)


def test_an_exception_in_one_part_is_kept_and_stops_no_other(tmp_path, monkeypatch, capsys):
    def broken(here):
        raise ValueError("planted")

    monkeypatch.setitem(gpu.PARTS, "render", gpu.Part(broken, 1))
    status, parts = rehearse("render", "augmentation", output=tmp_path / "broken.json")
    assert status == 1
    assert parts["render"]["ok"] is False
    assert parts["render"]["error"] == "ValueError: planted"
    assert parts["augmentation"]["ok"] is True
    assert "FAILS (ValueError: planted)" in capsys.readouterr().out


def test_what_does_not_fit_is_left_for_the_next_call(tmp_path, capsys):
    output = tmp_path / "short.json"
    assert gpu.main(["--rehearse", "--output", str(output), "--minutes", "0"]) == 0
    assert not output.exists()
    assert "explaining_away: left for the next call" in capsys.readouterr().out


def test_a_part_is_measured_anew_where_it_is_named_or_on_another_device(tmp_path, monkeypatch):
    output, calls = tmp_path / "again.json", []
    monkeypatch.setattr(gpu, "PARTS", {"products": gpu.Part(lambda here: {"ok": not calls.append(here)}, 1)})
    for parts, times in (((), 1), ((), 1), (("products",), 2)):
        rehearse(*parts, output=output)
        assert len(calls) == times
    monkeypatch.setattr(gpu, "environment", lambda device: dict.fromkeys(gpu.VERSIONS, "another"))
    _, parts = rehearse(output=output)
    assert len(calls) == 3
    assert calls[-1].known == {}
    assert parts["products"]["on"]["device"] == "another"


def test_an_unfinished_or_skipped_part_is_run_again(tmp_path, monkeypatch):
    output, answers = tmp_path / "open.json", [{"ok": None, "unfinished": "1 of 2"}, {"ok": None, "skipped": "no"}]
    monkeypatch.setattr(gpu, "PARTS", {"one": gpu.Part(lambda here: answers.pop(0) if answers else {"ok": True}, 1)})
    assert [rehearse(output=output)[1]["one"]["ok"] for _ in range(3)] == [None, None, True]


def test_rehearsals_and_measurements_do_not_share_a_file(tmp_path):
    output = tmp_path / "measured.json"
    output.write_text(json.dumps({"hardware": {}, "parts": {"render": {"ok": True}}}))
    for path in (output, gpu.PUBLISHED):
        with pytest.raises(SystemExit) as refused:
            gpu.main(["--rehearse", "--output", str(path)])
        assert refused.value.code == 2
    assert json.loads(output.read_text())["parts"] == {"render": {"ok": True}}


@pytest.mark.slow
def test_a_training_that_is_stopped_goes_on_with_the_same_epochs(tmp_path, monkeypatch):
    here = gpu.Here(gpu.CPU, tmp_path, 0.0, {"cifar10_ciper": {"epochs": 3}}, rehearsal=True)
    monkeypatch.setattr(gpu, "fit", partial(gpu.fit, save_every=0))
    stopped = gpu.train_on_cifar10(here, "simclr")
    assert stopped == {"ok": None, "epochs": 3, "unfinished": "1 of 3 epochs done"}
    done = gpu.train_on_cifar10(here._replace(until=float("inf"), known={"cifar10_simclr": stopped}), "simclr")
    assert done["ok"]
    assert done["epochs"] == 3
