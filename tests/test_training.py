"""Training: resumes to the bit, refuses what cannot work, and never leaves a damaged run that looks finished."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

import ciperlib.learn.training as training
from ciperlib.config import Config
from ciperlib.data.imageset import DataError, load_images
from ciperlib.learn.devices import DeviceError
from ciperlib.learn.locks import locked
from ciperlib.learn.runs import ENCODER, HEADS, STATE, STATUS, RunError, load_run, read_state
from ciperlib.learn.training import TrainingError, fit

KILLS = 4  # `make prove` takes forty more


def quiet(config, root, **options):
    return fit(config, root, progress="none", device="cpu", **options)


def weights(run):
    return (run.folder / ENCODER).read_bytes() + (run.folder / HEADS).read_bytes()


@pytest.mark.parametrize("method", ["simclr", "simclr_clean_pass", "predictive", "ciper"])
@pytest.mark.parametrize("augmentations", ["crop,flip,jitter,grayscale", "pose", "session"])
def test_every_method_trains(method, augmentations, tmp_path):
    run = quiet(Config(**{**TINY, "epochs": 1, "train_size": 200, "batch_size": 100, "method": method,
                          "augmentations": augmentations}), tmp_path)  # fmt: skip
    assert run.history["total"].notna().all()
    assert not (run.folder / STATE).exists()
    h = run.load_encoder()(load_images("turntable", "train", size=200, image_size=16).floats(slice(0, 3)))
    assert h.shape == (3, 64)


def test_a_random_encoder_is_the_config_s_own_untrained_one(tmp_path):
    run = quiet(Config(**{**TINY, "method": "random"}), tmp_path)
    assert run.history.empty
    trained = quiet(Config(**{**TINY, "learning_rate": 0.0, "weight_decay": 0.0}), tmp_path)
    for name, tensor in load_file(run.folder / ENCODER).items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, load_file(trained.folder / ENCODER)[name])


def test_the_loss_goes_down(tmp_path):
    config = Config(**{**TINY, "train_size": 200, "batch_size": 50, "epochs": 8, "augmentations": "flip"})
    history = quiet(config, tmp_path).history
    assert history["total"].iloc[-1] < history["total"].iloc[0] - 0.1
    assert history["learning_rate"].iloc[0] > history["learning_rate"].iloc[-1] > 0


def test_a_finished_run_is_found_and_not_trained_again(tiny, tmp_path, monkeypatch):
    first = quiet(tiny, tmp_path)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained again"))
    again = quiet(tiny, tmp_path)
    assert again.folder == first.folder == tmp_path / tiny.name


def test_two_trainings_give_the_same_weights(tiny, tmp_path):
    assert weights(quiet(tiny, tmp_path / "a")) == weights(quiet(tiny, tmp_path / "b"))


class StopError(Exception):
    pass


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_stopped_run_resumes_to_the_bit(precision, tmp_path):
    config = Config(**{**TINY, "precision": precision})
    whole = quiet(config, tmp_path / "whole")

    def stop(progress):
        if progress.epoch == 2:
            raise StopError

    with pytest.raises(StopError):
        quiet(config, tmp_path / "parts", on_epoch=stop, save_every=0)
    with pytest.raises(RunError, match="not finished"):
        load_run(tmp_path / "parts" / config.name)
    epochs = []
    resumed = quiet(config, tmp_path / "parts", on_epoch=lambda p: epochs.append(p.epoch))
    assert epochs == [3]
    assert weights(resumed) == weights(whole)
    losses = ["epoch", "total", "contrastive", "predictive"]
    assert resumed.history[losses].equals(whole.history[losses])


@pytest.mark.parametrize("class_information", ["none", "added", "removed"])
def test_a_transformation_is_learned_with_and_without_the_class(class_information, tmp_path):
    choices = {**TINY, "method": "transformation_prediction", "augmentations": "", "epochs": 20, "train_size": 200,
               "batch_size": 50, "class_information": class_information}  # fmt: skip
    history = quiet(Config(**choices), tmp_path).history
    assert history["transformation"].iloc[-1] < 0.8 * history["transformation"].iloc[0]
    assert ("class" in history) == (class_information != "none")


def test_an_adversary_s_run_resumes_to_the_bit(tmp_path):
    choices = {"method": "transformation_prediction", "augmentations": "", "class_information": "removed"}
    config = Config(**{**TINY, **choices})
    whole = quiet(config, tmp_path / "whole")

    def stop(progress):
        raise StopError

    with pytest.raises(StopError):
        quiet(config, tmp_path / "parts", on_epoch=stop, save_every=0)
    assert weights(quiet(config, tmp_path / "parts")) == weights(whole)


def test_forgetting_the_momentum_would_be_noticed(tiny, tmp_path, monkeypatch):
    """The planted fault for the test above."""
    whole = quiet(tiny, tmp_path / "whole")
    write = training.write_state

    def forget(folder, tensors, metadata):
        write(folder, {n: t for n, t in tensors.items() if not n.startswith("momentum")}, metadata)

    def stop(progress):
        raise StopError

    monkeypatch.setattr(training, "write_state", forget)
    with pytest.raises(StopError):
        quiet(tiny, tmp_path / "parts", on_epoch=stop, save_every=0)
    assert weights(quiet(tiny, tmp_path / "parts")) != weights(whole)


def _train(config, root):
    quiet(config, root, save_every=0, on_epoch=lambda _: time.sleep(0.05))


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path):
    config = Config(**{**TINY, "train_size": 400, "batch_size": 100, "epochs": 60, "augmentations": "pose"})
    whole = quiet(config, tmp_path / "whole", save_every=0)  # renders the images, outside the race
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ciperlib.learn.training"])
    rng, folder, epochs = random.Random(0), tmp_path / "killed" / config.name, [0]
    for kill in range(KILLS + 1):
        child = context.Process(target=_train, args=(config, tmp_path / "killed"))
        child.start()
        if kill < KILLS:
            while child.is_alive() and _epochs_saved(folder) <= epochs[-1]:
                time.sleep(0.02)
            time.sleep(rng.random() / 2)
            assert child.is_alive(), "the training ended before it could be killed"
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        epochs.append(_epochs_saved(folder))
    assert child.exitcode == 0
    assert all(0 < a < b for a, b in itertools.pairwise(epochs[1:-1]))  # each life went on where the last one ended
    assert weights(load_run(folder)) == weights(whole)


def _epochs_saved(folder):
    found = read_state(folder) if folder.exists() else None
    return 0 if found is None else len(found[1]["history"])


def test_a_run_that_diverges_in_its_last_step_is_not_finished(tmp_path):
    config = Config(**{**TINY, "train_size": 16, "epochs": 1, "learning_rate": 1e30, "precision": "float32"})
    with pytest.raises(TrainingError, match="weights are not finite"):
        quiet(config, tmp_path)
    assert not (tmp_path / config.name / STATUS).exists()


def test_an_old_recipe_is_not_trained_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "RECIPE", 2)
    with pytest.raises(TrainingError, match="can be loaded, not trained"):
        quiet(Config(**TINY), tmp_path)


def test_a_damaged_state_is_said_and_the_run_starts_again(tiny, tmp_path, capsys):
    whole = quiet(tiny, tmp_path / "whole")
    folder = tmp_path / "again" / tiny.name
    folder.mkdir(parents=True)
    (folder / STATE).write_bytes(b"half a file")
    assert weights(quiet(tiny, tmp_path / "again")) == weights(whole)
    assert "damaged" in capsys.readouterr().out


def test_a_resume_elsewhere_says_so(tiny, tmp_path, monkeypatch, capsys):
    def stop(progress):
        raise StopError

    with pytest.raises(StopError):
        quiet(tiny, tmp_path, on_epoch=stop, save_every=0)
    here = training.environment
    monkeypatch.setattr(training, "environment", lambda device: {**here(device), "threads": "64"})
    quiet(tiny, tmp_path)
    assert "resuming with threads 64" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(tmp_path):
    config = Config(**{**TINY, "learning_rate": 1e30, "epochs": 5, "precision": "float32"})
    with pytest.raises(TrainingError, match=r"not finite in epoch .* Lower learning_rate"):
        quiet(config, tmp_path, save_every=0)
    with pytest.raises(RunError, match="not finished"):
        load_run(tmp_path / config.name)
    state = tmp_path / config.name / STATE
    assert not state.exists() or all(t.isfinite().all() for t in load_file(state).values())


def test_a_run_trained_by_another_process_is_refused_or_waited_for(tiny, tmp_path, capsys):
    with locked(tmp_path / tiny.name), pytest.raises(RunError, match="by another process"):
        quiet(tiny, tmp_path, wait=False)
    with locked(tmp_path / tiny.name):
        found = []
        thread = threading.Thread(target=lambda: found.append(quiet(tiny, tmp_path)))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(60)
    assert found[0].name == tiny.name
    assert "by another process" in capsys.readouterr().out


def test_an_unwritable_folder_is_a_clear_error(tiny, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match="cannot write in"):
        quiet(tiny, tmp_path / "file")


def test_a_full_disk_leaves_nothing_that_looks_finished(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        quiet(tiny, tmp_path)
    monkeypatch.undo()
    folder = tmp_path / tiny.name
    assert {path.name for path in folder.iterdir()} <= {".lock"}
    (folder / ".encoder.safetensors.123.part").write_text("left by a killed process")
    assert not list(quiet(tiny, tmp_path).folder.glob("*.part"))


def test_a_gpu_that_is_not_there(tiny, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(DeviceError, match="device='cpu'"):
        fit(tiny, tmp_path, device="cuda")


def test_missing_images_are_the_data_s_own_error(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_images", lambda *_, **__: (_ for _ in ()).throw(DataError("gone")))
    with pytest.raises(DataError, match="gone"):
        quiet(Config(**TINY), tmp_path)


def test_lines_are_few(tiny, tmp_path, capsys):
    fit(tiny, tmp_path, device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert 1 <= len(lines) <= 3
    assert "epoch 3/3" in lines[-1]


WITHOUT_NOTEBOOKS = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Refuse())
import ciperlib.data, ciperlib.analyse.probing.probes, ciperlib.analyse.probing.tables
from ciperlib.__main__ import main
root = sys.argv[1]
choices = {choices}
arguments = [part for name, value in choices.items() for part in ("-p", name, str(value))]
assert main(["fit", "--root", root, "--device", "cpu", *arguments]) == 0
"""


def test_fit_needs_no_notebook_package(tmp_path):
    blocked = ["plotly", "IPython", "ipywidgets", "papermill", "pacmap", "captum", "dask", "distributed", "nbconvert"]
    code = WITHOUT_NOTEBOOKS.format(blocked=blocked, choices={**TINY, "epochs": 1})
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ciper", "essl", "augself", "equimod", "sie", "clever"])
def test_two_processes_equal_one(method, tmp_path):
    """torchrun with gloo, float32, no BatchNorm: the same weights as one process on the same global batch."""
    choices = {**TINY, "norm": "group", "precision": "float32", "epochs": 2, "method": method}
    arguments = list(itertools.chain.from_iterable(("-p", k, str(v)) for k, v in choices.items()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ciperlib", "fit", "--root", str(tmp_path / "two"), "--device", "cpu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    one, two = quiet(Config(**choices), tmp_path / "one"), load_run(tmp_path / "two" / Config(**choices).name)
    assert two.status["versions"]["processes"] == "2"
    for file in (ENCODER, HEADS):
        a, b = load_file(one.folder / file), load_file(two.folder / file)
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-5)


def test_batch_norm_is_refused_where_it_cannot_be_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "world_size", lambda: 2)
    with pytest.raises(TrainingError, match="norm='group'"):
        quiet(Config(**TINY), tmp_path)
    with pytest.raises(TrainingError, match="cannot be shared by 2"):
        quiet(Config(**{**TINY, "batch_size": 15}), tmp_path)
