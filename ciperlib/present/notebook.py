"""What a notebook's cells call: `setup`, `save_figure`, `record_metrics`. The same calls serve a reader and a batch.

In a batch the environment's `CIPER_OUTPUT` names the run's folder; figures and metrics are written there. Without it
(a reader in JupyterLab, or plain papermill) they are only shown.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from IPython.display import HTML, Image, Markdown, display
from plotly import io as pio
from plotly.graph_objects import Figure, FigureWidget
from plotly.offline import get_plotlyjs

from ciperlib.files import write_atomically, write_json
from ciperlib.learn.devices import environment, find_device
from ciperlib.present.records import OUTPUT_VARIABLE

PNG_SCALE = 1.5
SECONDS_FOR_A_BROWSER = 60  # to start and draw one picture
_session = {"interactive": True, "plotly_js_shown": False}


def setup(interactive: bool = True, device: str = "auto") -> torch.device:
    """Called first in every notebook; says which versions it runs on, and gives the device to put images on.

    Args:
        interactive: True shows live figures and progress bars; False shows pictures and lines, as in a batch.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".

    Raises:
        DeviceError: a GPU is asked for where torch sees none.
    """
    _session.update(interactive=interactive, plotly_js_shown=False)
    facts = environment(place := find_device(device))
    if (folder := output_folder()) is not None:
        write_json(folder / "environment.json", facts)
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    return place


def progress() -> str:
    """How `fit` shall report here: a bar for a reader, lines in a batch."""
    return "bar" if _session["interactive"] else "lines"


def save_figure(figure: Figure, name: str, caption: str) -> None:
    """Shows a figure with its caption and, in a batch, keeps it as figures/<name>.png in the run's folder.

    Live where a reader is, else as `show_figure` does it.
    """
    png = show_figure(figure, caption, live=_session["interactive"])
    display(Markdown(f"*{caption}*"))
    if (folder := output_folder()) is not None:
        _update(folder / "captions.json", {name: caption})
        if png is not None:
            write_atomically(folder / "figures" / f"{name}.png", png)


def show_figure(figure: Figure, caption: str = "", *, live: bool) -> bytes | None:
    """Shows a figure: live, or as a PNG (returned) where a Chrome or Chromium is found to draw it, else plotly's own
    figure without a kernel, with plotly.js embedded once in the page."""
    png = None if live else to_png(figure)
    if live:
        display(FigureWidget(figure))
    elif png is not None:
        display(Image(png, width=figure.layout.width, alt=caption))
    else:
        if not _session["plotly_js_shown"]:
            display(HTML(f"<script>{get_plotlyjs()}</script>"))
            _session["plotly_js_shown"] = True
        display(HTML(pio.to_html(figure, include_plotlyjs=False, full_html=False)))
    return png


def record_metrics(**metrics: float | int | str | bool) -> None:
    """Keeps named numbers of this notebook in metrics.json of the run's folder, and shows them.

    Raises:
        ValueError: a number that is not finite; a metric that could not be measured is left out, not recorded.
    """
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metric {name}={value} is not finite")
    print("  ".join(f"{name} = {_short(value)}" for name, value in metrics.items()))
    if (folder := output_folder()) is not None:
        _update(folder / "metrics.json", metrics)


def output_folder() -> Path | None:
    """The folder of the batch run that this notebook is part of, or None."""
    return Path(os.environ[OUTPUT_VARIABLE]) if OUTPUT_VARIABLE in os.environ else None


def to_png(figure: Figure) -> bytes | None:
    """The figure as PNG, or None where there is no browser to draw it (said once)."""
    return _draw(figure) if _drawing_browser() else None


def _draw(figure: Figure) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plotly warns of an option of its own that a running server ignores
        return figure.to_image(format="png", scale=PNG_SCALE)


@cache
def _drawing_browser() -> bool:
    """Starts the browser that draws PNGs and keeps it; False, with one line of explanation, where there is none.

    A first picture is tried in a process of its own: kaleido's server waits for ever for a browser that does not start.
    """
    trial = [sys.executable, "-c", "import kaleido; kaleido.calc_fig_sync({'data': []})"]
    try:
        subprocess.run(trial, check=True, capture_output=True, timeout=SECONDS_FOR_A_BROWSER)
    except (subprocess.SubprocessError, OSError):
        print("figures stay plotly's own here; to get PNG pictures, install Chrome or Chromium")
        return False
    import kaleido

    kaleido.start_sync_server(n=1, silence_warnings=True)
    return True


def _update(path: Path, values: dict[str, Any]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**known, **values})


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
