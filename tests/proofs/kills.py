"""kill -9 at random moments over `fit`, `sweep`, cached images and the page: nothing is lost, nothing damaged looks
whole, and the same command then ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ciperlib.batch.collect import collect
from ciperlib.config import Config
from ciperlib.files import project_root, sha256
from ciperlib.learn.runs import HISTORY, load_run
from proofs.trial import tell

KILLS = {"fit": 40, "cache": 20, "page": 20, "sweep": 20}
IN_A_ROW = 3  # kills of the same thing, before it is left to end
TINY = dict(
    train_size=256, image_size=16, batch_size=64, epochs=12, width=8, projector_width=16, predictor_width=16,
    precision="bf16",
)  # fmt: skip
SLEEPER = """
import json, nbformat, sys
twice = "from ciperlib.present.notebook import record_metrics\\nrecord_metrics(twice=2 * seed)"
cells = [nbformat.v4.new_code_cell('seed = 0  # a number', metadata={"tags": ["parameters"]}),
         nbformat.v4.new_code_cell(twice)]
kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), sys.argv[1])
"""


def prove(share: float, seed: int) -> dict[str, Any]:
    """Kills of each kind; `found`: what was lost, or damaged and taken for whole."""
    generator, found, counts = random.Random(seed), [], {}
    for name, kills in KILLS.items():
        counts[name] = max(1, round(share * kills))
        with tempfile.TemporaryDirectory() as folder:
            found += PROOFS[name](Path(folder), counts[name], generator)
        tell(f"{name}: {counts[name]} kills, {len(found)} found so far")
    return {**counts, "found": found}


def _rows(kills: int) -> list[int]:
    """So many kills, in rows of a few."""
    return [min(IN_A_ROW, kills - done) for done in range(0, kills, IN_A_ROW)]


def _killed(command: list[str], folder: Path, kills: int, moment: Callable[[], float]) -> Iterator[tuple[int, Path]]:
    """The number and the place of each row, where the command (its last argument is the place) was killed; what is
    left there goes when the next one begins."""
    for number, row in enumerate(_rows(kills)):
        place = folder / str(number)
        for _ in range(row):
            _kill([*command, str(place)], moment())
        yield number, place
        shutil.rmtree(place)


def _fit(folder: Path, kills: int, generator: random.Random) -> list[str]:
    pairs = [part for name, value in TINY.items() for part in ("-p", name, str(value))]
    command = ["fit", "--device", "cpu", *pairs, "--root"]
    name, found = Config(**TINY).name, []
    whole = folder / "whole"
    seconds = _run([*command, str(whole)])
    wanted, losses = sha256(whole / name / "encoder.safetensors"), _losses(whole / name)
    for number, root in _killed(command, folder, kills, lambda: generator.uniform(0.3, 1.0) * seconds):
        if (root / name / "status.json").exists() and _losses(root / name) != losses:
            found.append(f"fit {number}: a killed run looks whole")
        _run([*command, str(root)])
        if sha256(root / name / "encoder.safetensors") != wanted or _losses(root / name) != losses:
            found.append(f"fit {number}: other weights or losses after the kill")
    return found


def _losses(folder: Path) -> list[float]:
    load_run(folder).load_encoder()
    return [float(line.split(",")[1]) for line in (folder / HISTORY).read_text().splitlines()[1:]]


def _cache(folder: Path, kills: int, generator: random.Random) -> list[str]:
    command, found = ["data", "turntable", "--data"], []
    seconds = _run([*command, str(folder / "whole")])
    wanted = _pixels(folder / "whole")
    for number, root in _killed(command, folder, kills, lambda: generator.uniform(0.2, 1.0) * seconds):
        _run([*command, str(root)])
        if _pixels(root) != wanted:
            found.append(f"cache {number}: other images after the kill")
    return found


def _pixels(root: Path) -> dict[str, str]:
    """Of each cached file (a name that another process could trust): the digest of what it holds."""
    digests = {}
    for path in (root / "cache").glob("*.safetensors"):
        with safe_open(path, "np") as file:
            digests[path.name] = file.metadata()["sha256"]
    return digests


def _page(folder: Path, kills: int, generator: random.Random) -> list[str]:
    path, found = folder / "page.html", []
    seconds = _run(["page", "--output", str(path)])
    wanted = sha256(path)
    for number, row in enumerate(_rows(kills)):
        if number % 2:
            path.unlink()  # else over the page that is there
        for _ in range(row):
            _kill(["page", "--output", str(path)], generator.uniform(0.3, 1.0) * seconds)
            if path.exists() and sha256(path) != wanted:
                found.append(f"page {number}: half a page")
        _run(["page", "--output", str(path)])
        if sha256(path) != wanted:
            found.append(f"page {number}: another page after the kill")
    return found


def _sweep(folder: Path, kills: int, generator: random.Random) -> list[str]:
    notebook, found = folder / "sleeper.ipynb", []
    subprocess.run([sys.executable, "-c", SLEEPER, str(notebook)], check=True)
    command = ["sweep", str(notebook), "-p", "seed", "0..2", "--workers", "2", "--output"]
    seconds = _run([*command, str(folder / "whole")])
    wanted = _table(folder / "whole")
    for number, output in _killed(command, folder, kills, lambda: generator.uniform(0.2, 1.0) * seconds):
        (note := output / "note.txt").parent.mkdir(exist_ok=True)
        note.write_text("mine")
        _run([*command, str(output)])
        if _table(output) != wanted:
            found.append(f"sweep {number}: another table after the kill")
        if note.read_text() != "mine":
            found.append(f"sweep {number}: a file of somebody else's is gone")
    return found


def _table(output: Path) -> list[tuple]:
    table = collect(output)
    return sorted(table[["status", "seed", "metric: twice"]].itertuples(index=False, name=None))


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "ciperlib", *arguments]


def _run(arguments: list[str]) -> float:
    begun = time.monotonic()
    done = subprocess.run(_command(arguments), cwd=project_root(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments[:2]} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.monotonic() - begun


def _kill(arguments: list[str], seconds: float) -> None:
    """Starts the command as a group of its own, and ends that, whatever it is at, after some seconds."""
    child = subprocess.Popen(
        _command(arguments),
        cwd=project_root(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


PROOFS: dict[str, Callable[[Path, int, random.Random], list[str]]] = {
    "fit": _fit, "cache": _cache, "page": _page, "sweep": _sweep,
}  # fmt: skip
