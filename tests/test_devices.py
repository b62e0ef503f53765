"""Which precision a device takes, decided by what it says of itself; and runs that are found before any is trained."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import TINY, make_noise_images

from ciperlib.config import Config, ConfigError
from ciperlib.learn import devices, training
from ciperlib.learn.devices import DeviceError, find_device, has_fast_bf16
from ciperlib.learn.runs import STATE
from ciperlib.learn.training import TrainingError, fit
from ciperlib.learn.zoo import find_run, zoo_root

CPU = torch.device("cpu")
OPEN = {**TINY, "precision": None}  # as a user who says nothing of it


def quiet(config, root=None, **options):
    return fit(config, root, progress="none", device="cpu", **options)


@pytest.mark.parametrize(("chip", "allowed", "fast"), [
    ({"avx512_bf16": True}, "AVX512", True), ({"amx_bf16": True}, "AVX512_VNNI", True),
    ({"avx512_bf16": True}, "AVX2", False),  # told to do without, or built so
    ({"avx512_f": True, "avx512_bf16": False}, "AVX512", False), ({}, "AVX512", False),
    ({"sve_bf16": True}, "SVE256", False),
])  # fmt: skip
def test_bf16_is_fast_where_the_chip_and_torch_both_say_so(chip, allowed, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: chip, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: allowed)
    assert has_fast_bf16(CPU) is fast
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older torch: the system's word
    monkeypatch.setattr(devices, "cpu_flags", lambda: {name for name, has in chip.items() if has})
    assert has_fast_bf16(CPU) is fast


def test_a_gpu_is_fast_at_bf16_and_apple_s_is_not_asked_for_it():
    assert has_fast_bf16(torch.device("cuda"))
    assert not has_fast_bf16(torch.device("mps"))


NARROW = """
import sys
from ciperlib.config import Config
from ciperlib.learn.training import fit
for width in (2, 4, 7):
    fit(Config(width=width, train_size=400, batch_size=16, image_size=16, epochs=3), sys.argv[1], progress="none")
"""


@pytest.mark.slow
def test_a_narrow_network_trains_on_a_cpu_without_avx_512(tmp_path):
    """Channels last, the process dies of what it wrote beyond its memory."""
    variables = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", NARROW, str(tmp_path)], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_apple_s_device_is_taken_where_torch_has_it_and_never_by_itself(monkeypatch):
    with pytest.raises(DeviceError, match="no device 'mps'"):
        find_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("mps") == torch.device("mps")
    assert find_device("auto").type != "mps"


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(training, "has_fast_bf16", lambda device: False)


def test_a_new_training_on_a_slow_cpu_is_float32_under_that_name_and_says_so(slow, tmp_path, capsys):
    config = Config(**OPEN, seed=3)
    run = quiet(config, tmp_path)
    assert run.name == Config(**{**OPEN, "precision": "float32"}, seed=3).name != config.name
    assert run.config.precision == "float32"
    assert capsys.readouterr().out.count("slow at bf16") == 1
    assert quiet(config, tmp_path) == run  # found again


def test_a_finished_bf16_run_is_used_and_bf16_that_is_asked_for_is_trained(slow, tmp_path, monkeypatch, capsys):
    asked = quiet(Config(**TINY), tmp_path)
    assert asked.name == Config(**OPEN).name
    assert quiet(Config(**OPEN), tmp_path) == asked
    assert "slow" not in capsys.readouterr().out


def test_an_untrained_encoder_has_no_precision(slow, tmp_path, capsys):
    assert quiet(Config(**OPEN, method="random"), tmp_path).name == Config(**OPEN, method="random").name
    assert "slow" not in capsys.readouterr().out


def test_no_precision_and_bf16_are_one_name():
    assert Config(precision="bf16").name == Config().name != Config(precision="float32").name
    assert Config.from_parameters(**Config().to_dict()) == Config()


def test_fit_finds_a_shipped_run_before_it_trains_one(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_train", lambda *_: 1 / 0)
    run = quiet(Config(augmentations="pose"))
    assert run.folder.parent == zoo_root()
    with pytest.raises(ZeroDivisionError):
        quiet(Config(augmentations="pose"), tmp_path)  # asked for in a place of one's own


# --- images that may change ---------------------------------------------------------------------------------------


@pytest.fixture
def mine(monkeypatch):
    """Config of a folder, and a dictionary whose `images` are those that lie in it."""
    there = {"images": make_noise_images()}
    monkeypatch.setattr(training, "load_images", lambda *_, **__: there["images"])
    return Config(**TINY, dataset="folder:mine"), there


def other(images):
    return type(images)(**{**vars(images), "images": 255 - images.images})


def test_a_folder_s_run_is_named_by_its_pixels(mine, tmp_path):
    config, there = mine
    first = quiet(config, tmp_path)
    assert quiet(config, tmp_path) == first
    assert first.config.content == there["images"].content()
    there["images"] = other(there["images"])
    assert quiet(config, tmp_path).name != first.name
    assert find_run(config, tmp_path) is None  # without its content, no run is taken for a folder's


def test_a_run_that_names_other_images_is_refused(mine, tmp_path):
    config, there = mine
    named = quiet(config, tmp_path).config
    there["images"] = other(there["images"])
    with pytest.raises(TrainingError, match="others now"):
        quiet(named, tmp_path / "elsewhere")


def test_a_stopped_run_refuses_other_images(mine, tmp_path):
    class StopError(Exception):
        pass

    def stop(progress):
        raise StopError

    config, there = mine
    with pytest.raises(StopError):
        quiet(config, tmp_path, on_epoch=stop, save_every=0)
    (begun,) = tmp_path.glob(f"*/{STATE}")
    there["images"] = other(there["images"])
    with pytest.raises(StopError):
        quiet(config, tmp_path, on_epoch=stop, save_every=0)  # begins anew, under its own name
    (again,) = set(tmp_path.glob(f"*/{STATE}")) - {begun}
    again.unlink()
    begun.rename(again)
    with pytest.raises(Exception, match="is the state of"):
        quiet(config, tmp_path)


def test_content_is_of_images_that_may_change_only():
    with pytest.raises(ConfigError, match="does not go with dataset='turntable'"):
        Config(content="12345678")


def test_an_encoder_that_is_not_finite_is_no_run(tmp_path, monkeypatch):
    before = training.Trainer.train_epoch

    def spoil(trainer):
        row = before(trainer)
        trainer.objective.encoder.bn1.running_var.fill_(float("inf"))
        trainer.objective.encoder.bn1.running_mean.fill_(float("inf"))
        return row

    monkeypatch.setattr(training.Trainer, "train_epoch", spoil)
    with pytest.raises(TrainingError, match="not finite"):
        quiet(Config(**TINY), tmp_path)
    assert not list(tmp_path.glob("*/status.json"))
