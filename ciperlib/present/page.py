"""The alpha explorer as one HTML file: no kernel, no network, opened from the file system."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from ciperlib.analyse.report import load_report, reported
from ciperlib.config import Config
from ciperlib.files import write_own
from ciperlib.markup import as_html, as_script
from ciperlib.present import explorer


def write_page(path: str | Path) -> Path:
    """Writes the explorer over all reports of the zoo.

    Raises:
        ReportError, RunError: an encoder or a report is missing or damaged.
        NotOursError: another file is in the way, or the page was edited.
    """
    data = as_script(json.dumps(_plain(page_data()), separators=(",", ":")))
    fills = {"PLOTLY": get_plotlyjs(), "DATA": data, "CONTROLS": _controls(), "COUNT": str(len(reported()))}
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    page = re.sub("<!--([A-Z]+)-->", lambda place: fills[place[1]], page)  # at once: what was filled in is left alone
    write_own(Path(path), page)
    return Path(path)


def page_data() -> dict[str, Any]:
    """All that the page knows: the figure of the first choice (see `plot_report`), and what each encoder, image and
    colouring counterfactuals in it, by the names of its traces. An encoder's key is "method alpha views seed"."""
    things = range(len(explorer.choices()[2]))
    return {
        "figure": explorer.plot_report(explorer.find_report()).to_plotly_json(),
        "encoders": {_key(config): _encoder(config) for config in reported()},
        "images": [{"source": explorer.picture(image), **explorer.outline_parts(image)} for image in things],
        "colourings": {name: explorer.colour_parts(name) for name in explorer.COLOURINGS},
    }


def _encoder(config: Config) -> dict[str, Any]:
    report = load_report(config)
    return {
        "about": explorer.describe(report),
        "parts": explorer.encoder_parts(report),
        "maps": [explorer.map_parts(report, image) for image in range(len(report.maps))],
        "names": {name: explorer.name_parts(report, name) for name in explorer.COLOURINGS},
    }


def _key(config: Config) -> str:
    return f"{explorer.method_of(config)} {config.alpha:g} {','.join(config.augmentations)} {config.seed}"


def _controls() -> str:
    alphas, seeds, things = explorer.choices()
    return "\n".join(
        [
            _list("method", explorer.method_names()),
            _list("views", explorer.VIEWS),
            _slider("alpha", alphas, alphas.index("1")),
            _slider("seed", seeds, 0),
            _list("image", {str(i): name for i, name in enumerate(things)}, "look at"),
            _list("colouring", {name: name for name in explorer.COLOURINGS}, "colour by"),
        ]
    )


def _list(key: str, options: dict[str, str], name: str = "") -> str:
    choices = "".join(f'<option value="{as_html(value)}">{as_html(text)}</option>' for value, text in options.items())
    return f'<label>{name or key} <select id="{key}" aria-label="{name or key}">{choices}</select></label>'


def _slider(key: str, options: list[str], index: int) -> str:
    ends = f'min="0" max="{len(options) - 1}" step="1" value="{index}" data-options="{as_html(" ".join(options))}"'
    return f'<label>{key} <input type="range" id="{key}" aria-label="{key}" {ends}><output></output></label>'


def _plain(value: Any) -> Any:
    """Values as JSON: arrays in plotly.js's own typed form, which is a third of the size of written numbers."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "uif":
        kind = {"uint8": "u1", "float32": "f4", "float64": "f8"}[str(value.dtype)]
        text = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"dtype": kind, "bdata": text, "shape": ", ".join(map(str, value.shape))}
    return value.item() if isinstance(value, np.generic) else value
