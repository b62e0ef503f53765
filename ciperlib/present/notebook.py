"""What a notebook's cells call: `setup`, `save_figure`, `record_metrics`. The same calls serve a reader and a batch.

In a batch the environment's `CIPER_OUTPUT` names the run's folder; figures and metrics are written there. Without it
(a reader in JupyterLab, or plain papermill) they are only shown.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from IPython.display import display
from PIL import Image
from plotly import io as pio
from plotly.graph_objects import Figure

from ciperlib.batch.records import OUTPUT_VARIABLE
from ciperlib.files import project_root, write_atomically, write_json
from ciperlib.learn.devices import environment, find_device
from ciperlib.markup import NO_FORMULAS, as_html, as_markdown
from ciperlib.plugin import load_plugin
from ciperlib.present import drawing
from ciperlib.present.drawing import to_png

PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"
HTML, MARKDOWN, TEXT = "text/html", "text/markdown", "text/plain"
PNG_SCALE = 1.5  # of pictures that are kept, for screens with small pixels; a reader's are of the figure's own size
SECONDS_TO_WAIT = 20  # for a browser to start, while somebody is waiting
_session = {"interactive": True, "plotly_js_shown": False}


def setup(interactive: bool = True, device: str = "auto", plugin: str = "") -> torch.device:
    """Called first in every notebook; says which versions it runs on, and gives the device to put images on.

    Args:
        interactive: True where a reader is, who gets controls and progress bars; False in a batch, which gets lines.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".
        plugin: a Python file of your own whose methods, steps, networks, images and measures can then be chosen by
            name. Its code is run.

    Raises:
        DeviceError: a GPU is asked for where torch sees none.
        PluginError: the file is missing, fails, or registers a name that is taken.
    """
    load_plugin(plugin)
    _session.update(interactive=interactive, plotly_js_shown=False)
    facts = environment(place := find_device(device))
    if (folder := output_folder()) is not None:
        write_json(folder / "environment.json", facts)
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    if interactive:
        drawing.begin(SECONDS_TO_WAIT)  # it is ready when the first figure is
    return place


def progress() -> str:
    """How `fit` shall report here: a bar for a reader, lines in a batch."""
    return "bar" if _session["interactive"] else "lines"


def is_live() -> bool:
    """Whether a reader is here, who can turn a control."""
    return _session["interactive"]


def save_figure(figure: Figure, name: str, caption: str) -> None:
    """Shows a figure with its caption and, in a batch, keeps it as figures/<name>.png in the run's folder.

    Args:
        name: of the file. caption: shown as it is, whatever characters are in it.
    """
    png = show_figure(figure, caption)
    display(_as_caption(caption), raw=True)
    if (folder := output_folder()) is not None:
        _update(folder / "captions.json", {name: caption})
        if png is not None:
            write_atomically(folder / "figures" / f"{name}.png", png)


def _as_caption(text: str) -> dict[str, str]:
    """Words below a figure, in whatever form they are shown."""
    return {HTML: f"<em {NO_FORMULAS}>{as_html(text)}</em>", MARKDOWN: f"*{as_markdown(text)}*", TEXT: text}


def show_figure(figure: Figure, caption: str = "") -> bytes | None:
    """Shows a figure as plotly's own mimetype, which JupyterLab, VS Code and Colab draw without a kernel, and beside it
    as a PNG where a browser is found to draw one; so it survives saving, reopening, export and GitHub.

    In a batch there is HTML too, for the page: the PNG with its caption for those who cannot see it, or without a
    browser a figure of plotly's, with plotly.js once in the page.

    Returns:
        The PNG: in a batch `PNG_SCALE` times the figure's size; None without a browser.
    """
    batch = output_folder() is not None or not _session["interactive"]
    png = to_png(figure, PNG_SCALE if batch else 1.0)
    bundle = {PLOTLY: json.loads(pio.to_json(figure, validate=False)), TEXT: f"[figure] {caption}"}
    if png is not None:
        bundle[PNG] = _base64(_shrink(png) if batch else png)
    if batch:
        bundle[HTML] = _page_part(figure, png, caption)
    display(bundle, raw=True)
    return png


def _page_part(figure: Figure, png: bytes | None, caption: str) -> str:
    """The figure in the page that is made of the notebook."""
    if png is not None:
        width = Image.open(io.BytesIO(png)).width / PNG_SCALE
        return f'<img alt="{as_html(caption)}" width="{width:.0f}" src="data:{PNG};base64,{_base64(png)}">'
    first = not _session["plotly_js_shown"]
    _session["plotly_js_shown"] = True
    return pio.to_html(figure, include_plotlyjs=first, full_html=False)


def _shrink(png: bytes) -> bytes:
    """A kept PNG in the figure's own size: JupyterLab shows a PNG as large as it is."""
    picture, buffer = Image.open(io.BytesIO(png)), io.BytesIO()
    size = (round(side / PNG_SCALE) for side in picture.size)
    picture.resize(tuple(size), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def record_metrics(**metrics: float | int | str | bool) -> None:
    """Keeps named numbers of this notebook in metrics.json of the run's folder; a reader, who has none, sees nothing.

    Raises:
        ValueError: a number that is not finite; a metric that could not be measured is left out, not recorded.
    """
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metric {name}={value} is not finite")
    if (folder := output_folder()) is not None:
        _update(folder / "metrics.json", metrics)


def output_folder() -> Path | None:
    """The folder of the batch run that this notebook is part of, or None."""
    return Path(os.environ[OUTPUT_VARIABLE]) if OUTPUT_VARIABLE in os.environ else None


def results_folder() -> Path:
    """Where a notebook keeps what it found: the batch run's folder, else out/ of the checkout; made if missing."""
    folder = output_folder() or project_root() / "out"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _update(path: Path, values: dict[str, Any]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**known, **values})
