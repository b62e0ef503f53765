"""The alpha explorer as one HTML file: no kernel, no network, opened from the file system."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from ciperlib.analyse.portrait import portrayed
from ciperlib.config import Config
from ciperlib.files import write_atomically
from ciperlib.present.explorer import (
    COLOURINGS,
    METHODS,
    VIEWS,
    colour_parts,
    describe,
    encoder_parts,
    find_portrait,
    map_parts,
    method_of,
    name_parts,
    outline_parts,
    picture,
    plot_portrait,
    sitting,
)


def write_page(path: str | Path) -> Path:
    """Writes the explorer over all portraits of the zoo.

    Raises:
        PortraitError, RunError: an encoder or a portrait is missing or damaged.
    """
    data = json.dumps(_plain(page_data()), separators=(",", ":")).replace("</", "<\\/")
    fills = {"PLOTLY": get_plotlyjs(), "DATA": data, "CONTROLS": _controls(), "COUNT": str(len(portrayed()))}
    page = (Path(__file__).parent / "page.html").read_text()
    for name, text in fills.items():
        page = page.replace(f"<!--{name}-->", text)
    write_atomically(Path(path), page)
    return Path(path)


def page_data() -> dict[str, Any]:
    """All that the page knows: the figure of the first choice (see `plot_portrait`), and what each encoder, image and
    colouring exchanges in it, by the names of its traces. An encoder's key is "method alpha views seed"."""
    images = range(len(sitting().looked_at))
    return {
        "figure": plot_portrait(find_portrait()).to_plotly_json(),
        "encoders": {_key(config): _encoder(config) for config in portrayed()},
        "images": [{"source": picture(image), **outline_parts(image)} for image in images],
        "colourings": {colouring: colour_parts(colouring) for colouring in COLOURINGS},
    }


def _encoder(config: Config) -> dict[str, Any]:
    portrait = find_portrait(
        alpha=config.alpha, augmentations=config.augmentations, method=method_of(config), seed=config.seed
    )
    return {
        "about": describe(portrait),
        "parts": encoder_parts(portrait),
        "maps": [map_parts(portrait, image) for image in range(len(portrait.maps))],
        "names": {colouring: name_parts(portrait, colouring) for colouring in COLOURINGS},
    }


def _key(config: Config) -> str:
    return f"{method_of(config)} {config.alpha:g} {','.join(config.augmentations)} {config.seed}"


def _controls() -> str:
    alphas = sorted({config.alpha for config in portrayed() if method_of(config) == "ciper"})
    seeds = sorted({config.seed for config in portrayed()})
    things = {str(i): name for i, name in enumerate(sitting().looked_at.labels["category"])}
    return "\n".join(
        [
            _list("method", METHODS),
            _list("views", VIEWS),
            _slider("alpha", [f"{alpha:g}" for alpha in alphas], alphas.index(1.0)),
            _slider("seed", [str(seed) for seed in seeds], 0),
            _list("image", things, "look at"),
            _list("colouring", {name: name for name in COLOURINGS}, "colour by"),
        ]
    )


def _list(key: str, options: dict[str, str], name: str = "") -> str:
    choices = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options.items())
    return f'<label>{name or key} <select id="{key}" aria-label="{name or key}">{choices}</select></label>'


def _slider(key: str, options: list[str], index: int) -> str:
    ends = f'min="0" max="{len(options) - 1}" step="1" value="{index}" data-options="{" ".join(options)}"'
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
