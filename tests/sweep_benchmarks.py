"""What sweeps and image folders cost, against what one would use instead; of one run, on a quiet machine.

python tests/sweep_benchmarks.py --output figures/sweep_benchmarks.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ciperlib.batch import sweep as sweeping
from ciperlib.batch.collect import collect
from ciperlib.batch.records import write_record
from ciperlib.batch.sweep import make_tasks, sweep
from ciperlib.batch.task import Task, make_record
from ciperlib.data import core50
from ciperlib.data.photographs import read_images
from ciperlib.files import project_root, write_json
from ciperlib.learn.devices import environment, find_device

ONE = project_root() / "notebooks" / "one_encoder.ipynb"


def overhead(folder: Path, runs: int = 6) -> dict[str, float]:
    """Runs of half a minute, two at a time: the sweep's command against the same runs' commands under xargs -P2; each
    twice, the other way round the second time, so that a machine that slows down slows both."""
    chosen = f"{ONE} -p train_size 2000 -p epochs 5"
    seconds = {"xargs": 0.0, "sweep": 0.0}
    for turn, what in enumerate(("xargs", "sweep", "sweep", "xargs")):
        output = folder / f"out-{turn}"
        one = f"{sys.executable} -m ciperlib run {chosen} -p seed {{}} --output {output}"
        many = f"{sys.executable} -m ciperlib sweep {chosen} -p seed 0..{runs - 1} --output {output} --workers 2"
        command = many if what == "sweep" else f"seq 0 {runs - 1} | xargs -P2 -I{{}} {one}"
        seconds[what] += _time(command, folder / f"runs-{turn}") / 2
    own, plain = seconds["sweep"], seconds["xargs"]
    return {"runs": runs, "sweep_s": own, "xargs_s": plain, "a_run_s": 2 * plain / runs, "ratio": own / plain}


def _time(command: str, root: Path) -> float:
    """Seconds that a shell command takes, its trainings in a folder of their own and one thread a run."""
    own = {"CIPER_RUNS": str(root), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    begun = time.monotonic()
    subprocess.run(command, shell=True, env={**os.environ, **own}, check=True, capture_output=True)
    return time.monotonic() - begun


def records(folder: Path, count: int = 1000) -> dict[str, float]:
    """A thousand recorded runs: the table, and the same sweep entered again."""
    tasks = make_tasks(ONE, {"seed": range(count)}, output=folder / "many")
    for task in tasks:
        task.folder.mkdir(parents=True)
        record = make_record(task, "done", 1.0, [])
        record.metrics, record.versions = {f"metric {i}": i / 7 for i in range(20)}, environment(find_device("cpu"))
        write_record(record)
    begun = time.monotonic()
    assert len(collect(folder / "many")) == count
    collected = time.monotonic() - begun
    begun = time.monotonic()
    assert len(sweep(make_tasks(ONE, {"seed": range(count)}, output=folder / "many"))) == count
    return {"records": count, "collect_s": collected, "entered_again_s": time.monotonic() - begun}


def busy_workers(workers: int = 16, tasks: int = 320, seconds: float = 0.5) -> dict[str, float]:
    """In-process workers and sleeping tasks: the share of their time that is not the scheduler's."""
    from dask.distributed import Client, LocalCluster

    grid = [Task(str(ONE), {"seed": i}, "teaching", Path("nowhere") / str(i)) for i in range(tasks)]
    local = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit=None
    )
    with local as cluster, Client(cluster) as client:
        begun = time.monotonic()
        sweeping._follow(client, grid, _sleep, 0, 0, lambda text: None)
        return {"workers": workers, "busy": tasks * seconds / workers / (time.monotonic() - begun)}


def _sleep(_task: Task) -> dict[str, str]:
    time.sleep(0.5)
    return {"status": "done"}


def names(folder: Path) -> dict[str, float]:
    """CORe50's 164,866 file names, as empty files in the official layout."""
    for session, count in core50.FRAMES.items():
        for object in range(1, 51):
            place = folder / f"s{session}" / f"o{object}"
            place.mkdir(parents=True)
            for frame in range(count // 50 + (object <= count % 50)):
                (place / f"C_{session:02d}_{object:02d}_{frame:03d}.png").touch()
    begun = time.monotonic()
    found = core50.index_frames(folder, tuple(core50.FRAMES))
    seconds = time.monotonic() - begun
    shutil.rmtree(folder)
    return {"names": len(found), "seconds": seconds}


def decoding(folder: Path, count: int = 2000) -> dict[str, float]:
    """Frames of 128x128 as PNG to one tensor, against Pillow's own loop into an array."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path, pixels in zip(paths, coarse):
        noise = draw.integers(0, 12, (128, 128, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC)
        Image.fromarray(np.asarray(image) // 2 + noise).save(path)
    begun = time.monotonic()
    for path in paths:
        with Image.open(path) as file:
            np.asarray(file.convert("RGB"))
    pillow = time.monotonic() - begun
    begun = time.monotonic()
    read_images(paths, 128)
    own = time.monotonic() - begun
    return {"images_per_s": count / own, "pillow_per_s": count / pillow, "ratio": pillow / own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        rows = {
            "CORe50's names indexed": names(folder / "names"),
            "frames decoded": decoding(folder),
            "a thousand records": records(folder),
            "sixteen workers": busy_workers(),
            "a sweep against xargs -P2": overhead(folder),
        }
    print(json.dumps(rows, indent=2))
    if options.output:
        write_json(options.output, {"rows": rows, "versions": environment(find_device("cpu"))})


if __name__ == "__main__":
    main()
