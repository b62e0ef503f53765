"""How long after a slider's move its figure is drawn, in a real JupyterLab and in the exported page; how long the page
takes to be ready; how much longer a notebook takes in JupyterLab than in a batch; how much a kernel grows.

    python tests/responsiveness.py --output figures/responsiveness.json [--notebooks 02 04]

Times are of the machine it runs on; nothing else should run on it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import nbformat
from lab import copy_notebook, figure_of, open_browser, open_notebook, run_all, serve_lab
from playwright.sync_api import Page

from ciperlib.files import project_root, write_json
from ciperlib.learn.devices import environment, find_device
from ciperlib.present.controls import AlphaExplorer
from ciperlib.present.page import write_page

MOVES = 50
SIMULATED = 2000
# From the slider's own event to the first drawing of the figure in which the encoder's numbers have changed.
LISTEN = """() => { window.waits = [];
  const figures = [...document.querySelectorAll('.ciper-control .js-plotly-plot, body > .js-plotly-plot')];
  const figure = figures[figures.length - 1], sliders = [...document.querySelectorAll('input[type=range]')];
  const slider = sliders.filter(s => s.getAttribute('aria-label') === 'alpha').pop();
  const shown = () => String(figure.data.find(t => t.name === 'encoder').x);
  let begun = null, before = null;
  slider.addEventListener('input', () => { begun = performance.now(); before = shown(); }, true);
  figure.on('plotly_afterplot', () => { if (begun !== null && shown() !== before) {
    window.waits.push(performance.now() - begun); begun = null; } });
  slider.focus(); }"""


def measure_moves(page: Page, moves: int = MOVES) -> dict[str, float]:
    """Moves the alpha slider by its keys, each move after the one before has been drawn."""
    page.evaluate(LISTEN)
    for move in range(moves):
        page.keyboard.press("ArrowLeft" if move % 4 < 2 else "ArrowRight")
        page.wait_for_function("n => window.waits.length > n", arg=move, timeout=10_000)
    waits = sorted(page.evaluate("() => window.waits"))
    percentile = waits[int(0.95 * (len(waits) - 1))]
    return {"moves": moves, "median_ms": statistics.median(waits), "p95_ms": percentile, "longest_ms": waits[-1]}


def measure_lab(notebooks: list[Path]) -> dict[str, dict[str, float]]:
    """The explorer alone, then whole notebooks in the teaching profile."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, serve_lab(_explorer_alone(Path(folder))) as url:
        with open_browser() as page:
            open_notebook(page, url.format("explorer.ipynb"))
            run_all(page)
            figure_of(page, "synergy")
            found["slider to drawn figure, JupyterLab"] = measure_moves(page)
        for path in notebooks:
            name = copy_notebook(path, Path(folder), "teaching")
            with open_browser() as page:
                start = time.monotonic()
                open_notebook(page, url.format(name))
                run_all(page, 600)
                seconds = time.monotonic() - start
                page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
            batch = json.loads((project_root() / "figures" / f"{path.stem}.json").read_text())["seconds"]
            found[f"{path.stem}, opened and run"] = {"lab_s": seconds, "batch_s": batch, "ratio": seconds / batch}
    return found


def measure_page() -> dict[str, dict[str, float]]:
    """The exported page from the file system: until its first figure is drawn, and its slider."""
    with tempfile.TemporaryDirectory() as folder, open_browser() as page:
        path = write_page(Path(folder) / "explorer.html")
        start = time.monotonic()
        page.goto(path.as_uri())
        figure_of(page, "synergy")
        ready = {"ready_s": time.monotonic() - start, "megabytes": path.stat().st_size / 1e6}
        return {"the page": ready, "slider to drawn figure, the page": measure_moves(page)}


def measure_growth() -> dict[str, float]:
    """Megabytes that a kernel grows by in simulated moves of all of the explorer's controls."""
    explorer = AlphaExplorer()
    sizes = []
    for move in range(SIMULATED + 100):
        if move == 100:  # what is loaded once is loaded by then
            sizes.append(_megabytes())
        explorer.alpha.index = move % 4
        explorer.seed.index = move // 4 % 3
        explorer.image.value = move % 10
        assert explorer.error is None, explorer.error
    return {"moves": SIMULATED, "megabytes": _megabytes() - sizes[0]}


def _megabytes() -> float:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024


def _explorer_alone(folder: Path) -> Path:
    cell = nbformat.v4.new_code_cell("from ciperlib.present.controls import AlphaExplorer\nAlphaExplorer()")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), folder / "explorer.ipynb")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--notebooks", nargs="*", default=["04"], help="beginnings of names; each takes its batch's time"
    )
    options = parser.parse_args()
    notebooks = [
        path for name in options.notebooks for path in sorted((project_root() / "notebooks").glob(f"{name}*.ipynb"))
    ]
    rows = {**measure_page(), **measure_lab(notebooks), "growth of a kernel": measure_growth()}
    for name, row in rows.items():
        print(f"{name}:  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if options.output:
        write_json(options.output, {"rows": rows, "versions": environment(find_device("cpu"))})


if __name__ == "__main__":
    main()
