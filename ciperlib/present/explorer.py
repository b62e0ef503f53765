"""The alpha explorer without widgets: which encoder a choice means, and one figure of all that is known of it.

The figure is a frame that is the same for every encoder, and a handful of named traces with what differs. The live
control and the exported page exchange those and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from ciperlib.analyse.features import as_features
from ciperlib.analyse.report import (
    PROBED,
    EvaluationImages,
    Report,
    ReportError,
    as_layout,
    load_report,
    read_baselines,
    reported,
)
from ciperlib.config import IMAGE_STEPS, Config
from ciperlib.labels import GREY, colour_of, label, label_of
from ciperlib.markup import as_plotly
from ciperlib.present.pictures import as_data_uri, factor_colours, layout_names, outline
from ciperlib.present.plotting import TEMPLATE, WIDTH
from ciperlib.registry import measures, methods

VIEWS = {",".join(IMAGE_STEPS): "image", "pose": "pose"} | {
    ",".join(step for step in IMAGE_STEPS if step != left): f"image without {left}" for left in IMAGE_STEPS
}
COLOURINGS = ("category", "azimuth", "elevation", "session")
BASELINES = {"pixels": "line-ns", "random encoder": "circle-open", "shuffled labels": "x-thin"}  # and their symbols
MOST_NATS = 0.45
Parts: TypeAlias = dict[str, dict[str, Any]]  # name of a trace -> what it gets


def find_encoder(
    alpha: float = 1.0, augmentations: str | Sequence[str] = IMAGE_STEPS, method: str = "ciper", seed: int = 0
) -> Config:
    """The zoo's encoder of a choice, in the words of `Config`; alpha counts for CIPER alone.

    Raises:
        ConfigError: a value that no config may have.
        ReportError: a choice that the zoo does not hold; the message says what it holds next to it.
    """
    wanted = Config(method=method, augmentations=augmentations, seed=seed, alpha=alpha if method == "ciper" else None)
    views = VIEWS.get(",".join(wanted.augmentations), "+".join(wanted.augmentations))
    same = [config for config in reported() if config.augmentations == wanted.augmentations]
    if not same:
        raise ReportError(f"the zoo has no encoder trained with views {views!r}; it has {_listed(VIEWS.values())}")
    family = [config for config in same if method_of(config) == method]
    if not family:
        names = method_names()
        known = dict.fromkeys(names[method_of(config)] for config in same)
        raise ReportError(
            f"with views {views!r} the zoo has only {_listed(known)}, not {names.get(method, label_of(method))}"
        )
    if seed not in (seeds := sorted({config.seed for config in family})):
        raise ReportError(f"the zoo has no seed {seed}; it has {_listed(seeds)}")
    for config in family:
        if (config.method, config.alpha, config.seed) == (wanted.method, wanted.alpha, seed):
            return config
    alphas = (f"{value:g}" for value in sorted({config.alpha for config in family}))
    raise ReportError(
        f"with views {views!r} the zoo has only alpha {_listed(alphas)}, not {alpha:g}; train your own in notebook 01"
    )


def method_names() -> dict[str, str]:
    """The methods that can be chosen, and how they are called; SimCLR is CIPER's alpha 0, and not in the list."""
    called = {"ciper": "CIPER (alpha 0: SimCLR)", "predictive": "prediction alone"}
    known = dict.fromkeys(method_of(config) for config in reported())
    return {name: called.get(name, own.label) for name, own in methods.items() if name in known}


def method_of(config: Config) -> str:
    """The method as it is chosen: SimCLR is CIPER with alpha 0."""
    return "ciper" if config.method == "simclr" else config.method


def find_report(**choice: Any) -> Report:
    """The report of the zoo's encoder of a choice; arguments and errors as `find_encoder`.

    Raises:
        RunError: the encoder is missing or damaged.
    """
    return load_report(find_encoder(**choice))


def choices() -> tuple[list[str], list[str], list[str]]:
    """What there is to choose from beside methods and `VIEWS`: values of alpha, seeds, and what the images show."""
    alphas = sorted({config.alpha for config in reported() if method_of(config) == "ciper"})
    seeds = sorted({config.seed for config in reported()})
    return (
        [f"{alpha:g}" for alpha in alphas],
        list(map(str, seeds)),
        list(evaluation_images().looked_at.labels["category"]),
    )


def plot_report(report: Report, image: int = 0, colouring: str = "category") -> go.Figure:
    """Probes with their baselines, layout, one image with its saliency, and the explaining-away meter of one encoder.

    Args:
        image: which of the report's images, by category, 0 to 9.
        colouring: of the layout, one of `COLOURINGS`.
    """
    if not 0 <= image < len(report.maps) or colouring not in COLOURINGS:
        raise ReportError(f"image must be from 0 to {len(report.maps) - 1}, and colouring one of {COLOURINGS}")
    figure = go.Figure(_frame())
    parts_of_the_layout = name_parts(report, colouring), colour_parts(colouring)
    for parts in (encoder_parts(report), map_parts(report, image), outline_parts(image), *parts_of_the_layout):
        for name, part in parts.items():
            next(figure.select_traces({"name": name})).update(part)
    figure.layout.images[0].source = picture(image)
    return figure


def describe(report: Report) -> str:
    """The report's encoder and its verdicts, in sentences."""
    found = report.synergy
    known = ", ".join(f"{rows()[name]} {report.measures[name]['value']:.2f}" for name in PROBED)
    left = f"{found['level_entropy']:.2f} of {np.log(found['levels']):.2f} nats"
    gain = f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    return (
        f"{_about(report)}. Linear probes: {known}. Of the azimuth {left} are not known; the category adds {gain}: "
        f"{found['verdict']}.{_further(report)}"
    )


def _further(report: Report) -> str:
    """What else was measured, and what is only nearly so."""
    called = {name: measures[name].label if name in measures else name for name in report.measures}
    said = [
        f" {called[name][:1].upper()}{called[name][1:]}: {_shown(name, found)}."
        for name, found in report.measures.items()
        if name not in (*PROBED, "synergy")
    ]
    if report.gap:
        said.append(f" FullGrad's map is an approximation here: its terms miss the output by {report.gap:.0%}.")
    return "".join(said)


def _shown(name: str, found: Mapping[str, float]) -> str:
    digits = measures[name].digits if name in measures else 2
    value, *ends = (f"{number:.{digits}f}" for number in found.values())
    return f"{value} [{', '.join(ends)}]" if ends else value


def _about(report: Report) -> str:
    config = report.config
    if config is None:
        return report.name
    return f"{label(config)}, seed {config.seed} ({config.epochs} epochs on {config.train_size:,} images)"


def encoder_parts(report: Report) -> Parts:
    """What differs from encoder to encoder, and with nothing else."""
    found = report.synergy
    colour = colour_of(report.config.method if report.config else "external")
    known = [report.measures.get(name, {}) for name in rows()]  # an older report lacks some
    value = [measure.get("value") for measure in known]
    low, high = ([measure.get(end, measure.get("value")) for measure in known] for end in ("low", "high"))
    verdict = f"{as_plotly(found['verdict'])}<br>H(A|Z) {found['level_entropy']:.2f} of {np.log(found['levels']):.2f}"
    return {
        "encoder": _interval(low, value, high, colour),
        "synergy": _interval([found["low"]], [found["value"]], [found["high"]], colour),
        "verdict": {"text": [verdict]},
        "layout": {"x": report.points[:, 0].numpy(), "y": report.points[:, 1].numpy()},
    }


def name_parts(report: Report, colouring: str) -> Parts:
    """The names beside the layout's clusters, where there are clusters."""
    names = layout_names(as_layout(report, evaluation_images()), colouring)
    texts, places = [as_plotly(text) for text, _ in names], [place for _, place in names]
    return {"names": {"x": [x for x, _ in places], "y": [y for _, y in places], "text": texts}}


def map_parts(report: Report, image: int) -> Parts:
    """An encoder's saliency map of an image."""
    return {"map": {"z": report.maps[image].numpy()}}


def outline_parts(image: int) -> Parts:
    """The outline of an image's object."""
    x, y = outline(evaluation_images().looked_at.masks[image])
    return {"outline": {"x": x, "y": y}}


def colour_parts(colouring: str) -> Parts:
    """What differs with what the layout's points are coloured by."""
    laid_out = evaluation_images().laid_out
    features = as_features(torch.zeros(len(laid_out), 1), laid_out, "")
    return {"layout": {"marker": {"color": factor_colours(features, colouring)}}}


def picture(image: int) -> str:
    """The image that is looked at, as a data URI."""
    return as_data_uri(evaluation_images().looked_at.images[image], 4)


@cache
def evaluation_images() -> EvaluationImages:
    """The images that all reports are of."""
    return EvaluationImages()


@cache
def _frame() -> go.Figure:
    """All of the figure that is the same for every encoder: axes, titles, baselines; and the named traces, empty."""
    specs = [[{"colspan": 2}, None, {}], [{}, {}, {}]]
    read = "what a linear probe reads" if set(rows()) <= set(PROBED) else "probes, and other shares of 1"
    figure = make_subplots(
        2, 3, specs=specs, column_widths=[0.24, 0.24, 0.52], row_heights=[0.58, 0.42], horizontal_spacing=0.06,
        vertical_spacing=0.16, subplot_titles=[
            read, "500 images laid out by PaCMAP", "image", "FullGrad",
            "does the category add to the azimuth?",
        ],
    )  # fmt: skip
    _add_probes(figure)
    _add_layout(figure)
    _add_map(figure)
    _add_meter(figure)
    return figure.update_layout(
        template=TEMPLATE, width=WIDTH, height=620, margin=dict(l=90, r=10, t=70, b=50),
        legend=dict(y=1.1, x=0.5, xanchor="center"),
    )  # fmt: skip


def _add_probes(figure: go.Figure) -> None:
    names = list(rows().values())
    for baseline, symbol in BASELINES.items():
        x = [read_baselines()[baseline].get(name) for name in rows()]
        figure.add_scatter(x=x, y=names, name=baseline, mode="markers", marker=_mark(symbol), row=1, col=1)
    figure.add_scatter(y=names, name="encoder", mode="markers", row=1, col=1)
    figure.update_xaxes(range=[-0.1, 1.04], tickvals=[0, 0.5, 1], row=1, col=1)
    figure.update_yaxes(autorange="reversed", showgrid=False, row=1, col=1)


def _add_layout(figure: go.Figure) -> None:
    figure.add_scatter(name="layout", mode="markers", marker_size=5, hoverinfo="skip", showlegend=False, row=1, col=3)
    figure.add_scatter(
        name="names", mode="text", textfont_size=11, textposition="bottom center", hoverinfo="skip", showlegend=False,
        row=1, col=3,
    )  # fmt: skip
    figure.update_xaxes(visible=False, row=1, col=3).update_yaxes(visible=False, row=1, col=3)


def _add_map(figure: go.Figure) -> None:
    side = evaluation_images().looked_at.images.shape[-1]
    figure.add_heatmap(
        name="map", colorscale="Inferno", showscale=False, hoverinfo="skip", zmin=0, zmax=255, row=2, col=2
    )
    figure.add_layout_image(
        source=picture(0), x=-0.5, y=-0.5, sizex=side, sizey=side, yanchor="top", sizing="stretch", layer="below",
        row=2, col=1,
    )  # fmt: skip
    line = dict(color="white", width=1.5)
    figure.add_scatter(name="outline", mode="lines", line=line, hoverinfo="skip", showlegend=False, row=2, col=2)
    for column in (1, 2):
        axis = dict(range=[-0.5, side - 0.5], constrain="domain", visible=False, row=2, col=column)
        figure.update_xaxes(**axis)
        figure.update_yaxes(**axis | {"range": axis["range"][::-1]}, scaleanchor=f"x{column + 2}")


def _add_meter(figure: go.Figure) -> None:
    place = dict(row=2, col=3)
    for baseline, symbol in BASELINES.items():
        if "synergy" in read_baselines()[baseline]:
            x = [read_baselines()[baseline]["synergy"]]
            figure.add_scatter(
                x=x, y=[0], name=baseline, mode="markers", marker=_mark(symbol), showlegend=False, **place
            )
    figure.add_scatter(y=[0], name="synergy", mode="markers", showlegend=False, **place)
    text = dict(mode="text", textposition="middle left", hoverinfo="skip", showlegend=False)
    figure.add_scatter(x=[MOST_NATS], y=[0.6], name="verdict", **text, **place)
    figure.update_xaxes(range=[-0.02, MOST_NATS], title="I(A;C|Z) in nats", **place)
    figure.update_yaxes(visible=False, range=[-1, 1], **place)


def rows() -> dict[str, str]:
    """The measures that stand beside the probes, and how they are called."""
    return {name: measure.label for name, measure in measures.items() if measure.scale == "share"}


def _interval(
    low: list[float | None], value: list[float | None], high: list[float | None], colour: str
) -> dict[str, Any]:
    above = [None if v is None else h - v for h, v in zip(high, value)]
    bars = dict(array=above, arrayminus=[None if v is None else v - w for v, w in zip(value, low)])
    return {
        "x": value,
        "error_x": dict(**bars, color=colour, thickness=2),
        "marker": dict(color=colour, size=12, symbol="diamond"),
    }


def _mark(symbol: str) -> dict[str, Any]:
    return dict(symbol=symbol, size=14 if "line" in symbol else 10, color=GREY, line=dict(color=GREY, width=2))


def _listed(values) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last
