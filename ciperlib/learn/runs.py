"""A run's folder on disk: written whole, found again, checked before it is trusted."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save
from torch import Tensor

import ciperlib
from ciperlib.config import Config, ConfigError, nearest
from ciperlib.data.imageset import DataError, TrainedOn
from ciperlib.files import (
    SealError,
    place,
    read_sealed,
    sha256,
    write_atomically,
    write_json,
    write_sealed,
)
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.encoders.base import Encoder

CONFIG, ENCODER, HEADS, HISTORY, STATUS = (
    "config.json", "encoder.safetensors", "heads.safetensors", "history.csv", "status.json",
)  # fmt: skip
STATE, METRICS = "state.safetensors", "metrics.json"
PACKED = ENCODER + ".xz"  # in the zoo; `xz -d` gives the plain file
# Of what was shipped before files had seals of their own: a table beside the runs, "RUN/FILE" -> SHA-256.
DIGESTS = "digests.json"
UNSEALED = {"compute", "files", "seconds", "trained_on", "training_ids", "versions"}  # what such a status holds
# Numbers of two bytes, of which only the one with the exponent repeats itself: the packer keeps a statistic for each.
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 1}]


class RunError(Exception):
    """A run that is missing, unfinished, damaged or busy; the message says what to do about it."""


class PluginRunError(RunError):
    """A run of a user's own code that is not loaded, or is another version."""


@dataclass(frozen=True)
class Run:
    """A finished run on disk.

    Attributes:
        folder: its place; the last part is `config.name`.
        config: the choices that made it.
        status: versions, device, threads, seconds, the ids it was trained on, and the digests of its files.
    """

    folder: Path
    config: Config
    status: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its config, and so of its folder."""
        return self.config.name

    def load_encoder(self, device: str | torch.device = "cpu") -> Encoder:
        """The trained encoder in float32, in eval mode, its parameters not asking for gradients.

        Raises:
            RunError: weights that are not those of the config's encoder.
        """
        encoder = make_encoder(self.config)
        wanted = encoder.state_dict()
        try:
            tensors = self._read_weights(most=sum(t.numel() * 8 for t in wanted.values()) + 2**20)
            encoder.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in tensors.items()})
        except (OSError, SafetensorError, lzma.LZMAError, RuntimeError, KeyError) as error:
            raise RunError(
                f"the encoder in {self.folder} is not that of its config ({error}); train it again"
            ) from error
        return encoder.eval().requires_grad_(False).to(device)

    def _read_weights(self, most: int) -> dict[str, Tensor]:
        """Of either file; a packed one is unpacked to `most` bytes, so that no file can fill the memory."""
        packed = self.folder / PACKED
        if not packed.exists():
            return load_file(self.folder / ENCODER)
        return load(lzma.LZMADecompressor().decompress(packed.read_bytes(), most))

    @property
    def trained_on(self) -> TrainedOn:
        """The ids of the images it was trained on."""
        return TrainedOn.from_list(**self.status["trained_on"])

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: epoch, total and each loss term, learning_rate, seconds."""
        return pd.read_csv(self.folder / HISTORY)

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured of the encoder and kept with it; empty if nothing was."""
        path = self.folder / METRICS
        return _read_checked(path)[0] if path.exists() else {}


def runs_root(root: str | Path | None = None) -> Path:
    """Where runs are written: `root`, else the environment's `CIPER_RUNS`, else `runs/` of the checkout."""
    return place(root, "CIPER_RUNS", "runs")


def load_run(folder: str | Path) -> Run:
    """The finished run in `folder`, after checking that every file is there and is what was written.

    Raises:
        RunError: no such folder, not finished, a file missing or changed, or a config this version cannot read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"there is no run in {folder}; make it with `python -m ciperlib fit`, or check the name")
    if not (folder / STATUS).exists():
        raise RunError(f"the run in {folder} is not finished; the command that started it carries it on")
    status = _read_status(folder)
    for name, digest in status["files"].items():
        if not (folder / name).exists():
            raise RunError(f"{folder / name} is missing; delete the folder and train again, or restore the file")
        if sha256(folder / name) != digest:
            raise RunError(f"{folder / name} is damaged (its checksum is wrong); delete the folder and train again")
    config = _read_plugin_config(folder, status)
    if config.name != folder.name:
        config = next((older for older in config.older() if older.name == folder.name), config)
    if config.name != folder.name:
        raise RunError(f"{folder} holds the run {config.name}; rename the folder back, its name is its identity")
    return Run(folder, config, status)


def _read_status(folder: Path) -> dict[str, Any]:
    """What the status says, once it is what was written and holds what a status must."""
    status, sealed = _read_checked(folder / STATUS)
    try:
        TrainedOn.from_list(**status["trained_on"])
        files, texts = status["files"], [*status["files"].items(), *status["versions"].items()]
        sound = all(isinstance(text, str) for pair in texts for text in pair) and {CONFIG, HISTORY} <= files.keys()
        sound &= files.keys() <= {CONFIG, HISTORY, ENCODER, HEADS, PACKED} and (sealed or status.keys() == UNSEALED)
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise RunError(f"{folder / STATUS} is damaged; delete the folder and train again, or restore the file")
    return status


def _read_checked(path: Path) -> tuple[dict[str, Any], bool]:
    """The object of a JSON file that has a seal, or a digest in the table beside its run's folder, or (of an older
    version's run) neither; and whether anything vouches for it."""
    try:
        value, sealed = read_sealed(path)
        digest = None if sealed else shipped_digest(path)
        if digest is not None and digest != sha256(path):
            raise SealError(f"{path} is damaged (its checksum is wrong)")
    except SealError as error:
        raise RunError(f"{error}; delete the folder and train again, or restore the file") from error
    return value, sealed or digest is not None


def _read_plugin_config(folder: Path, status: dict[str, Any]) -> Config:
    """The run's config, once the user's own code that it was made with is known to be what is loaded."""
    made = status.get("plugins", {})
    try:
        config = read_config(folder, status["versions"].get("ciperlib", "unknown"))
    except RunError as error:
        if not made:
            raise
        raise PluginRunError(
            f"the run in {folder} was made with your own {', '.join(made)}: load its file (plugin=...) first"
        ) from error
    for name, digest in config.plugins.items():
        if made.get(name) != digest:
            raise PluginRunError(
                f"the run in {folder} was made with another version of your {name} ({made.get(name)}, now {digest}): "
                "bring that file back, raise its `recipe`, or delete the folder and train again"
            )
    return config


def shipped_digest(path: Path) -> str | None:
    """SHA-256 of a file of the zoo, or of one of its runs, as it was shipped; None where no table names it.

    Raises:
        SealError: the table is damaged.
    """
    table = next((folder / DIGESTS for folder in path.parents[:2] if (folder / DIGESTS).exists()), None)
    return None if table is None else read_sealed(table)[0].get(path.relative_to(table.parent).as_posix())


def read_config(folder: Path, version: str = "unknown") -> Config:
    """The config in a folder; RunError for one that is damaged or that this version cannot read."""
    try:
        return Config.from_parameters(**read_sealed(folder / CONFIG)[0])
    except SealError as error:
        raise RunError(f"{error}; delete the folder and train again") from error
    except ConfigError as error:
        raise RunError(
            f"the config in {folder} was written by ciperlib {version} and cannot be read by {ciperlib.__version__}: "
            f"{error}; install the version that made it"
        ) from error


def find_runs(root: str | Path | None = None, **choices: Any) -> list[Run]:
    """All finished runs under `root` (default: `runs/`) whose config has these choices, in order of name; without
    those of a user's own code that is not loaded.

    Raises:
        RunError: an unknown choice, or a finished run that is damaged.
    """
    for name in choices:
        if name not in Config.__dataclass_fields__:
            raise RunError(f"configs have no {name!r}{nearest(name, Config.__dataclass_fields__)}")
    folders = sorted(path.parent for path in runs_root(root).glob(f"*/{STATUS}"))
    runs = []
    for folder in folders:
        with suppress(PluginRunError):
            runs.append(load_run(folder))
    return [run for run in runs if all(getattr(run.config, name) == value for name, value in choices.items())]


def begin_run(folder: Path, config: Config) -> None:
    """Writes the config of a training that begins (or goes on), and tidies what a killed one left half-written."""
    with writing(folder):
        there = {path.name for path in folder.iterdir() if path.suffix != ".part"}
        if CONFIG not in there and there - {".lock", STATE}:
            raise RunError(f"{folder} is no run's folder ({', '.join(sorted(there)[:3])}); choose another place")
        for left in folder.glob(".*.part"):
            left.unlink()
        write_json(folder / CONFIG, config.to_dict())


def write_run(folder: Path, tensors: dict[str, dict[str, Tensor]], history: pd.DataFrame, status: dict) -> None:
    """Writes the results of a finished training; `status.json` last, so that a folder without it is not finished.

    Args:
        tensors: file name -> name -> tensor; a name that ends in .xz is packed, without loss.
    """
    with writing(folder):
        for name, content in tensors.items():
            file = _safetensors(content)
            write_atomically(folder / name, lzma.compress(file, filters=_XZ) if name.endswith(".xz") else file)
        write_atomically(folder / HISTORY, history.to_csv(index=False))
        files = {name: sha256(folder / name) for name in (CONFIG, HISTORY, *tensors)}
        write_sealed(folder / STATUS, {**status, "files": files})


def write_state(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Everything needed to carry on, as one file with its own checksum, so that no two parts of it can disagree."""
    text = json.dumps({**metadata, "run": folder.name})
    with writing(folder):
        seal = _digest(tensors, text)
        write_atomically(folder / STATE, _safetensors(tensors, {"state": text, "sha256": seal}))


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `write_state` wrote, or None where nothing (whole) was.

    Raises:
        RunError: the state of another run.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
        state = json.loads(metadata["state"])
        if metadata.get("sha256") != _digest(tensors, metadata["state"]):
            raise ValueError("its checksum is wrong")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        print(f"{path} is damaged ({error}); starting this run again from its beginning")
        return None
    if state["run"] != folder.name:
        raise RunError(f"{path} is the state of {state['run']}; remove it, or put it back where it came from")
    return tensors, state


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 of named tensors and a text."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What goes wrong with the disk inside is a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        message = f"cannot write in {folder}: {error.strerror}; free some space, or choose another folder of runs"
        raise RunError(message) from error


def _safetensors(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
