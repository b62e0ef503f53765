"""Does every figure appear on a machine that has other work? Notebooks are run in JupyterLab (*Run All*, smoke profile)
beside busy processes, and figures counted: how many there must be, and how many are drawn a minute later.

    python tests/overload.py --tries 10 --busy 2 --output out/overload.json [--notebooks 01 02]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import artefact, copy_notebook, count_figures, open_browser, open_notebook, run_all, serve_lab

from ciperlib.files import project_root, write_json
from ciperlib.learn.devices import environment, find_device

BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with whoever began it, however
SECONDS = 900.0  # for a notebook's cells


@contextmanager
def busy(count: int) -> Iterator[None]:
    """`count` processes that do nothing as fast as they can."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def try_once(notebooks: list[Path], number: int) -> list[dict[str, float | str]]:
    """Each notebook once, in a JupyterLab of its own: its figures, and the load at the end. What is empty is kept as a
    screenshot in out/browser/."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, serve_lab(Path(folder)) as url:
        for path in notebooks:
            name = copy_notebook(path, Path(folder))
            with open_browser() as page:
                open_notebook(page, url.format(name))
                seconds = run_all(page, SECONDS)
                found = count_figures(page)
                empty = found["expected"] - found["drawn"]
                if empty:
                    page.screenshot(path=artefact(f"overload-{number}-{path.stem}.png"))
                page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
            rows.append({"notebook": path.stem, **found, "empty": empty, "seconds": seconds, "load": load})
            print(json.dumps({"try": number, **rows[-1]}), file=sys.stderr, flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--busy", type=int, default=2, help="processes beside it")
    parser.add_argument("--notebooks", nargs="*", default=["01", "02", "03", "04", "05"], help="beginnings of names")
    parser.add_argument("--output", type=Path, help="the JSON file (default: standard output)")
    options = parser.parse_args()
    paths = [
        path for name in options.notebooks for path in sorted((project_root() / "notebooks").glob(f"{name}*.ipynb"))
    ]
    with busy(options.busy):
        tries = [try_once(paths, number) for number in range(1, options.tries + 1)]
    sums = {name: [sum(row[name] for row in rows) for rows in tries] for name in ("expected", "drawn", "empty")}
    result = {"busy": options.busy, **sums, "rows": tries, "versions": environment(find_device("cpu"))}
    if options.output:
        write_json(options.output, result)
    else:
        print(json.dumps(result, indent=2))
    return int(any(sums["empty"]))


if __name__ == "__main__":
    sys.exit(main())
