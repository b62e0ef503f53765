"""Run folders: found, checked, exported; a damaged one is never taken for a whole one."""

import json
import lzma

import pytest
import torch
from conftest import TINY
from safetensors.torch import load

import ciperlib
from ciperlib.config import Config
from ciperlib.files import read_sealed, sha256, write_atomically, write_sealed
from ciperlib.learn.runs import (
    CONFIG,
    ENCODER,
    HEADS,
    PACKED,
    STATUS,
    RunError,
    find_runs,
    load_run,
)
from ciperlib.learn.training import fit
from ciperlib.learn.zoo import export_run, find_run, zoo_root

ZOO_BYTES = 70_000_000


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    choices = [{"seed": seed, "method": method} for seed in (0, 1) for method in ("simclr", "predictive")]
    configs = [Config(**{**TINY, "epochs": 1, **chosen}) for chosen in choices]
    return [fit(config, root, progress="none", device="cpu") for config in configs]


@pytest.fixture
def copy(runs, tmp_path):
    """A copy of a finished run that may be damaged."""
    import shutil

    folder = tmp_path / runs[0].name
    shutil.copytree(runs[0].folder, folder)
    return folder


def test_a_run_is_a_folder_named_by_its_config(runs):
    run = runs[0]
    assert run.folder.name == run.config.name
    assert {path.name for path in run.folder.iterdir()} - {".lock"} == {CONFIG, ENCODER, HEADS, STATUS, "history.csv"}
    assert {"versions", "seconds", "compute", "trained_on", "training_ids", "files"} <= run.status.keys()
    assert run.status["trained_on"] == {"name": "turntable-16", "ranges": [[0, 47]]}


def test_the_encoder_comes_back_frozen_and_in_eval_mode(runs):
    encoder = runs[0].load_encoder()
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_runs_are_found_by_their_choices(runs):
    root = runs[0].folder.parent
    assert len(find_runs(root)) == 4
    assert [run.config.seed for run in find_runs(root, method="simclr")] == [0, 1]
    assert find_run(runs[2].config, root) == runs[2]
    assert find_run(Config(), root) is None
    with pytest.raises(RunError, match="did you mean 'method'"):
        find_runs(root, methods="simclr")


@pytest.mark.parametrize("name", [ENCODER, HEADS, CONFIG, "history.csv"])
def test_a_missing_or_damaged_file_is_named(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(RunError, match=f"{name} is damaged"):
        load_run(copy)
    (copy / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        load_run(copy)


def test_without_its_status_a_run_is_not_finished(copy):
    (copy / STATUS).unlink()
    with pytest.raises(RunError, match="not finished"):
        load_run(copy)


def test_a_damaged_status(copy):
    (copy / STATUS).write_text("{")
    with pytest.raises(RunError, match=r"status.json is missing or damaged"):
        load_run(copy)


def test_a_run_of_a_later_version_names_both_versions(copy):
    config = json.loads((copy / CONFIG).read_text())
    write_atomically(copy / CONFIG, json.dumps({**config, "magic": 1}))
    status, _ = read_sealed(copy / STATUS)
    status["versions"]["ciperlib"], status["files"][CONFIG] = "9.0", sha256(copy / CONFIG)
    write_sealed(copy / STATUS, status)
    with pytest.raises(RunError, match=rf"written by ciperlib 9.0 .* by {ciperlib.__version__}.*'magic'"):
        load_run(copy)


def test_a_renamed_folder_is_refused(copy):
    with pytest.raises(RunError, match="its name is its identity"):
        load_run(copy.rename(copy.with_name("best-run-ever")))


def test_no_folder(tmp_path):
    with pytest.raises(RunError, match="there is no run in"):
        load_run(tmp_path / "nothing")


def test_an_exported_run_is_half_the_size_and_nearly_the_same(runs, tmp_path):
    images = torch.rand(4, 3, 16, 16)
    exported = export_run(runs[0], tmp_path, {"category": 0.5})
    torch.testing.assert_close(exported.load_encoder()(images), runs[0].load_encoder()(images), atol=5e-3, rtol=5e-3)
    assert (exported.folder / PACKED).stat().st_size < 0.6 * (runs[0].folder / ENCODER).stat().st_size
    assert not (exported.folder / ENCODER).exists()
    assert not (exported.folder / HEADS).exists()
    assert exported.metrics == {"category": 0.5}
    assert exported.config == runs[0].config
    assert exported.history.equals(runs[0].history)


def test_packing_loses_nothing_and_is_plain_xz(runs, tmp_path):
    """What `xz -d` gives is the safetensors file itself; a flipped bit in the packed one is found by its checksum."""
    exported = export_run(runs[0], tmp_path)
    file = exported.folder / PACKED
    tensors = load(lzma.decompress(file.read_bytes(), lzma.FORMAT_XZ))
    encoder, buffers = runs[0].load_encoder(), {name for name, _ in runs[0].load_encoder().named_buffers()}
    assert tensors.keys() == encoder.state_dict().keys()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensors[name], tensor if name in buffers else tensor.half())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        load_run(exported.folder)


def test_the_zoo_stays_small():
    assert sum(path.stat().st_size for path in zoo_root().rglob("*") if path.is_file()) < ZOO_BYTES


def test_every_run_of_the_zoo_loads():
    for run in find_runs(zoo_root()):
        assert run.metrics
        assert run.load_encoder().representation_size == 8 * run.config.width


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
