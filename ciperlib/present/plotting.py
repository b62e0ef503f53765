"""Figures: every `plot_` function takes numbers and gives a plotly Figure; nothing is computed or shown here."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots
from torch import Tensor

from ciperlib.config import IMAGE_STEPS, Config

# Okabe and Ito's colours, told apart by colour-blind readers; one colour a method through the whole workbook.
COLOURS = {
    "pixels": "#999999",
    "random": "#777777",
    "simclr": "#0072B2",
    "simclr_clean_pass": "#56B4E9",
    "predictive": "#E69F00",
    "ciper": "#D55E00",
}
LABELS = {
    "pixels": "pixels",
    "random": "random encoder",
    "simclr": "SimCLR",
    "simclr_clean_pass": "SimCLR + clean pass",
    "predictive": "predictive",
    "ciper": "CIPER",
}
WIDTH = 840  # pixels: what JupyterLab shows beside its file browser in a window of 1,280
GREY = "#777777"  # readable on white and on black
GRID = "rgba(127,127,127,0.25)"

TEMPLATE = go.layout.Template(
    layout=dict(
        font=dict(size=15, color=GREY, family="DejaVu Sans, Verdana, sans-serif"),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis=dict(gridcolor=GRID, zerolinecolor=GRID, automargin=True),
        yaxis=dict(gridcolor=GRID, zerolinecolor=GRID, automargin=True),
        margin=dict(l=70, r=30, t=50, b=60),
        legend=dict(orientation="h", y=1.02, yanchor="bottom"),
    )
)


def label(config: Config) -> str:
    """How a config is called in tables and figures: its method and the kind of its augmentation."""
    kinds = {IMAGE_STEPS: "image aug.", ("pose",): "pose aug.", ("session",): "session aug."}
    kind = kinds.get(config.augmentations, "+".join(config.augmentations))
    return LABELS[config.method] if config.method == "random" else f"{LABELS[config.method]}, {kind}"


def plot_images(
    images: Tensor, captions: Sequence[str] = (), *, columns: int = 10, scale: int = 3, title: str = ""
) -> go.Figure:
    """A grid of images, uint8 or float in 0..1 [N, 3, H, W], row by row; captions go below the first ones."""
    pixels = _bytes(images)
    n, h, w, _ = pixels.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    side, gap = min(w * scale, WIDTH // columns - 4), 22 if captions else 4
    tall = side * h // w
    figure = go.Figure(layout=dict(template=TEMPLATE, title=title))
    for i in range(n):
        row, column = divmod(i, columns)
        figure.add_layout_image(
            source=_png(pixels[i], scale), xref="x", yref="y", sizing="stretch", layer="below",
            x=column * (side + 4), y=row * (tall + gap), sizex=side, sizey=tall, yanchor="top",
        )  # fmt: skip
        if i < len(captions):
            figure.add_annotation(
                x=column * (side + 4) + side / 2, y=row * (tall + gap) + tall, text=captions[i],
                showarrow=False, yanchor="top", font_size=11,
            )  # fmt: skip
    width, height = columns * (side + 4), rows * (tall + gap)
    figure.update_xaxes(visible=False, range=[0, width])
    figure.update_yaxes(visible=False, range=[height, 0], scaleanchor="x")
    top = 60 if title else 10
    return figure.update_layout(width=width + 10, height=height + top + 10, margin=dict(l=5, r=5, t=top, b=10))


def plot_views(anchors: Tensor, views: Sequence[Tensor], parameters: Tensor, names: Sequence[str]) -> go.Figure:
    """Anchors [B, 3, H, W] above their views, and below them the parameters [B, D] of the first view.

    Parameters are written as numbers on a colour that says where in its row the value lies (blue low, orange high).
    """
    b, line = len(anchors), 26
    side = min(100, (WIDTH - 140) // b)
    rows = [("anchor x0", anchors), *((f"view x{i + 1}", view) for i, view in enumerate(views))]
    heights = [side * len(rows), line * len(names)]
    figure = make_subplots(rows=2, cols=1, row_heights=heights, vertical_spacing=0.02)
    for r, (_, images) in enumerate(rows):
        for i, pixels in enumerate(_bytes(images)):
            figure.add_layout_image(
                source=_png(pixels, 3), xref="x", yref="y", x=i - 0.47, y=r - 0.47, sizex=0.94, sizey=0.94,
                yanchor="top", sizing="stretch", layer="below",
            )  # fmt: skip
    ticks = dict(tickvals=list(range(len(rows))), ticktext=[name for name, _ in rows], showgrid=False, zeroline=False)
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], **ticks, row=1, col=1)
    values = parameters.cpu().numpy().T + 0.0  # (D, B); no negative zeros
    spread = values.max(1, keepdims=True) - values.min(1, keepdims=True)
    place = (values - values.min(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    figure.add_heatmap(
        z=place, text=[[f"{v:.2f}" for v in row] for row in values.round(2) + 0.0], texttemplate="%{text}",
        showscale=False, xgap=3, ygap=2, hoverinfo="text", zmin=0, zmax=1, row=2, col=1,
        colorscale=[[0, "rgba(0,114,178,0.35)"], [0.5, "rgba(127,127,127,0.05)"], [1, "rgba(213,94,0,0.45)"]],
    )  # fmt: skip
    ticks = dict(tickvals=list(range(len(names))), ticktext=[name.replace("_", " ") for name in names], showgrid=False)
    ticks["zeroline"] = False
    figure.update_yaxes(autorange="reversed", **ticks, row=2, col=1)
    figure.update_xaxes(visible=False, range=[-0.5, b - 0.5])
    margins = dict(l=130, r=10, t=10, b=10)
    return figure.update_layout(
        template=TEMPLATE, width=140 + side * b, height=20 + sum(heights) / 0.98, margin=margins, font_size=14
    )


def plot_lines(
    frame: pd.DataFrame, x: str, ys: Mapping[str, str], *, x_title: str, y_title: str, title: str = "",
    colours: Sequence[str] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
) -> go.Figure:  # fmt: skip
    """Columns of a table against another: `ys` gives each column's name in the legend."""
    figure = go.Figure(layout=dict(template=TEMPLATE, title=title, height=420, width=WIDTH))
    for (column, name), colour in zip(ys.items(), colours):
        line = dict(color=colour, width=3)
        figure.add_scatter(x=frame[x], y=frame[column], name=name, mode="lines+markers", line=line)
    return figure.update_xaxes(title=x_title).update_yaxes(title=y_title)


def plot_history(histories: Mapping[str, pd.DataFrame], *, title: str = "") -> go.Figure:
    """Loss curves of several runs (name -> `Run.history`): contrastive on the left, predictive on the right."""
    terms = [t for t in ("contrastive", "predictive") if any(t in h for h in histories.values())]
    names = {"contrastive": "contrastive loss (nats)", "predictive": "predictive loss"}
    figure = make_subplots(cols=len(terms), horizontal_spacing=0.14)
    for label, history in histories.items():
        colour = COLOURS.get(label, GREY)
        for column, term in enumerate(terms, 1):
            if term in history:
                figure.add_scatter(
                    x=history["epoch"], y=history[term], name=LABELS.get(label, label), legendgroup=label,
                    showlegend=column == 1 or terms[0] not in history, mode="lines+markers",
                    line=dict(color=colour, width=3), row=1, col=column,
                )  # fmt: skip
    for column, term in enumerate(terms, 1):
        figure.update_xaxes(title="epoch", tickformat=",d", row=1, col=column)
        figure.update_yaxes(title=names[term], row=1, col=column)
    return figure.update_layout(template=TEMPLATE, title=title, height=420, width=WIDTH)


def plot_scores(
    table: pd.DataFrame, factors: Sequence[str], *, floors: Mapping[str, Mapping[str, float]] | None = None,
    title: str = "",
) -> go.Figure:  # fmt: skip
    """Probe scores: one panel a factor, one row an encoder, a tick a seed, and the mean with its range.

    Args:
        table: columns encoder (the row's label), method, factor, value, low, high, seed.
        factors: the panels, from left to right.
        floors: factor -> name -> score, drawn as dotted lines.
    """
    encoders = list(dict.fromkeys(table["encoder"]))
    titles = [_score_title(table, factor) for factor in factors]
    figure = make_subplots(cols=len(factors), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=titles)
    for column, factor in enumerate(factors, 1):
        for encoder in encoders:
            rows = table[(table["encoder"] == encoder) & (table["factor"] == factor)]
            _add_score(figure, rows, encoder, column)
        for name, value in (floors or {}).get(factor, {}).items():
            figure.add_vline(x=value, line=dict(color=GREY, width=1.5, dash="dot"), row=1, col=column)
            figure.add_annotation(
                x=value, y=len(encoders) - 0.45, text=name, showarrow=False, font_size=10, xanchor="left",
                row=1, col=column,
            )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False, range=[len(encoders) - 0.3, -0.6])
    figure.update_xaxes(range=[-0.06, 1.06], tickvals=[0, 0.5, 1])
    height = 180 + 38 * len(encoders)
    return figure.update_layout(
        template=TEMPLATE, title=title, height=height, width=240 + 150 * len(factors), margin_t=80
    )


def plot_factors(table: pd.DataFrame, *, x_title: str, title: str = "") -> go.Figure:
    """One row a factor, one dot an encoder, with its interval: which factors each encoder keeps.

    Args:
        table: columns encoder, method, factor, value, low, high.
    """
    factors = list(dict.fromkeys(table["factor"]))
    encoders = list(dict.fromkeys(table["encoder"]))
    figure = go.Figure(layout=dict(template=TEMPLATE, title=title, height=150 + 46 * len(factors), width=WIDTH))
    for i, encoder in enumerate(encoders):
        rows = table[table["encoder"] == encoder]
        shift = (i - (len(encoders) - 1) / 2) * 0.22
        figure.add_scatter(
            x=rows["value"], y=[factors.index(factor) + shift for factor in rows["factor"]], mode="markers",
            name=LABELS.get(encoder, encoder), marker=dict(color=COLOURS.get(rows["method"].iloc[0], GREY), size=11),
            error_x=dict(array=rows["high"] - rows["value"], arrayminus=rows["value"] - rows["low"], thickness=2),
            text=rows["factor"], hovertemplate=f"{encoder}, %{{text}}: %{{x:.3f}}<extra></extra>",
        )  # fmt: skip
    names = [factor.replace("_", " ") for factor in factors]
    figure.update_yaxes(tickvals=list(range(len(factors))), ticktext=names, range=[len(factors) - 0.4, -0.6])
    return figure.update_xaxes(title=x_title, range=[min(-0.05, table["value"].min() - 0.05), 1.02], zeroline=True)


def _score_title(table: pd.DataFrame, factor: str) -> str:
    metric = table.loc[table["factor"] == factor, "metric"].iloc[0]
    return f"{factor}<br>{metric.replace('R2', 'R²')}"


def _add_score(figure: go.Figure, rows: pd.DataFrame, encoder: str, column: int) -> None:
    if rows.empty:
        return
    colour = COLOURS.get(rows["method"].iloc[0], GREY)
    mean = rows["value"].mean()
    low, high = (rows[["low", "high"]].iloc[0]) if len(rows) == 1 else (rows["value"].min(), rows["value"].max())
    figure.add_scatter(
        x=[mean], y=[encoder], mode="markers", marker=dict(color=colour, size=9, symbol="diamond"), showlegend=False,
        error_x=dict(array=[high - mean], arrayminus=[mean - low], color=colour, thickness=2), row=1, col=column,
        hovertemplate=f"{encoder}: %{{x:.3f}}<extra></extra>",
    )  # fmt: skip
    if len(rows) > 1:
        figure.add_scatter(
            x=rows["value"], y=[encoder] * len(rows), mode="markers", showlegend=False,
            marker=dict(symbol="line-ns", size=16, line=dict(color=colour, width=2)), row=1, col=column,
            text=[f"seed {s}" for s in rows["seed"]], hovertemplate="%{text}: %{x:.3f}<extra></extra>",
        )  # fmt: skip


def _bytes(images: Tensor) -> np.ndarray:
    """[N, 3, H, W] uint8 or float in 0..1 -> uint8 [N, H, W, 3]."""
    if images.is_floating_point():
        images = images.mul(255).round().clamp(0, 255)
    return images.byte().permute(0, 2, 3, 1).cpu().numpy()


def _png(pixels: np.ndarray, scale: int) -> str:
    """uint8 [H, W, 3] as a data URI, each pixel enlarged to scale x scale so that no browser smooths it."""
    image = Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
