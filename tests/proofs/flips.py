"""One flipped bit in a file that is kept: found, and said in a sentence; or without any effect on what is read."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ciperlib.analyse.report import read_report
from ciperlib.batch.records import Record, read_record, write_record
from ciperlib.config import Config
from ciperlib.data import load_images
from ciperlib.learn.runs import STATE, load_run
from ciperlib.learn.training import fit
from ciperlib.learn.zoo import zoo_root
from proofs.trial import run_call, tell

FLIPS = 2000
TINY = dict(
    train_size=48, image_size=16, batch_size=16, epochs=3, width=8, projector_width=16, predictor_width=16,
    precision="bf16",
)  # fmt: skip


class StopError(Exception):
    """Ends a training after an epoch."""


def prove(share: float, seed: int) -> dict[str, Any]:
    """Flips in each kind of file; `found`: changed facts that were read, and tracebacks."""
    generator, found, counts = random.Random(seed), [], {"said": 0, "without effect": 0}
    with tempfile.TemporaryDirectory() as folder:
        kinds = _files(Path(folder))
        for _ in range(round(share * FLIPS)):
            name, (path, read) = generator.choice(list(kinds.items()))
            wrong = _try(path, read, generator, counts)
            if wrong:
                found.append(f"{name}: {wrong}")
                tell(found[-1])
    return {**counts, "found": found}


def _try(path: Path, read: Callable[[], Any], generator: random.Random, counts: dict[str, int]) -> str | None:
    whole = path.read_bytes()
    wanted, content = read(), bytearray(whole)
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(bytes(content))
    try:
        ended = run_call(lambda: 0 if read() == wanted else 77)
    finally:
        path.write_bytes(whole)
    if ended.status == 0:
        counts["without effect" if not ended.out else "said"] += 1
        return None
    counts["said"] += 1
    return "changed facts were read" if ended.status == 77 else ended.refusal()


def _files(folder: Path) -> dict[str, tuple[Path, Callable[[], Any]]]:
    """name -> a file, and what is read of it, as something that can be compared."""
    shipped = sorted(path.parent for path in zoo_root().glob("*/portrait.safetensors"))[0]
    run = fit(Config(**TINY), folder / "runs", progress="none", device="cpu")
    zoo = folder / "zoo"
    shutil.copytree(shipped, zoo / shipped.name)
    shutil.copy(zoo_root() / "digests.json", zoo)
    copy, stopped, record = (
        zoo / shipped.name,
        _stop(folder / "stopped"),
        Record("n.ipynb", {"a": 1}, "smoke", "done", ""),
    )
    record.folder = str(folder / "record")
    write_record(record)
    cache = folder / "data"
    load_images("turntable", "test", size=60, image_size=16, root=cache)
    files = {f"a run's {name}": (run.folder / name, lambda: _facts(run.folder)) for name in run.status["files"]}
    files |= {f"a shipped {path.name}": (path, lambda: _facts(copy)) for path in copy.iterdir() if path.is_file()}
    files |= {
        "a run's status": (run.folder / "status.json", lambda: _facts(run.folder)),
        "a state": (stopped, lambda: _resume(stopped.parent, folder)),
        "a record": (folder / "record" / "status.json", lambda: read_record(folder / "record")),
        "a report": (copy / "portrait.safetensors", lambda: str(read_report(copy, load_run(copy).config).scores)),
        "cached images": (
            next((cache / "cache").glob("*.safetensors")),
            lambda: load_images("turntable", "test", size=60, image_size=16, root=cache).content(),
        ),
    }
    return files


def _facts(folder: Path) -> tuple:
    run = load_run(folder)
    weights = {name: tensor.double().sum().item() for name, tensor in run.load_encoder().state_dict().items()}
    return str(run.config), str(sorted(run.status.items())), str(run.metrics), run.history.to_csv(), str(weights)


def _stop(root: Path) -> Path:
    def stop(progress):
        raise StopError

    try:
        fit(Config(**TINY), root, on_epoch=stop, save_every=0, progress="none", device="cpu")
    except StopError:
        return next(root.glob(f"*/{STATE}"))
    raise AssertionError("it was not stopped")


def _resume(stopped: Path, folder: Path) -> str:
    """The weights that a resumed training ends with: from a damaged state it begins again, and ends with the same."""
    again = Path(tempfile.mkdtemp(dir=folder)) / stopped.name
    shutil.copytree(stopped, again)
    run = fit(Config(**TINY), again.parent, progress="none", device="cpu")
    return str({name: tensor.double().sum().item() for name, tensor in run.load_encoder().state_dict().items()})
