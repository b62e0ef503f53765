"""Figures made of pictures: images, their views, maps over them, and points that stand for them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch.nn.functional as F
from PIL import Image
from plotly.colors import qualitative, sample_colorscale, unlabel_rgb
from plotly.subplots import make_subplots
from torch import Tensor

from ciperlib.analyse.attribution.fullgrad import as_bytes
from ciperlib.analyse.features import Features
from ciperlib.analyse.layout.layouts import Layout
from ciperlib.labels import GREY
from ciperlib.markup import as_plotly
from ciperlib.present.plotting import TEMPLATE, WIDTH


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
                x=column * (side + 4) + side / 2, y=row * (tall + gap) + tall, text=as_plotly(captions[i]),
                showarrow=False, yanchor="top", font_size=11,
            )  # fmt: skip
    width, height = columns * (side + 4), rows * (tall + gap)
    figure.update_xaxes(visible=False, range=[0, width])
    figure.update_yaxes(visible=False, range=[height, 0], scaleanchor="x")
    top = 60 if title else 10
    return figure.update_layout(width=width + 10, height=height + top + 10, margin=dict(l=5, r=5, t=top, b=10))


def plot_views(rows: Mapping[str, Tensor], parameters: Tensor, names: Sequence[str]) -> go.Figure:
    """Rows of pictures (name -> [B, 3, H, W]: the anchors and their views), and below them the parameters [B, D].

    Parameters are written as numbers on a colour that says where in its row the value lies (blue low, orange high).
    """
    b, line = len(parameters), 26
    side = min(100, (WIDTH - 140) // b)
    heights = [side * len(rows), line * len(names)]
    figure = make_subplots(rows=2, cols=1, row_heights=heights, vertical_spacing=0.02)
    for r, images in enumerate(rows.values()):
        for i, pixels in enumerate(_bytes(images)):
            figure.add_layout_image(
                source=_png(pixels, 3), xref="x", yref="y", x=i - 0.47, y=r - 0.47, sizex=0.94, sizey=0.94,
                yanchor="top", sizing="stretch", layer="below",
            )  # fmt: skip
    ticks = dict(
        tickvals=list(range(len(rows))), ticktext=[as_plotly(row) for row in rows], showgrid=False, zeroline=False
    )
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], **ticks, row=1, col=1)
    values = parameters.cpu().numpy().T + 0.0  # (D, B); no negative zeros
    spread = values.max(1, keepdims=True) - values.min(1, keepdims=True)
    place = (values - values.min(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    figure.add_heatmap(
        z=place, text=[[f"{v:.2f}" for v in row] for row in values.round(2) + 0.0], texttemplate="%{text}",
        showscale=False, xgap=3, ygap=2, hoverinfo="text", zmin=0, zmax=1, row=2, col=1,
        colorscale=[[0, "#A6CEE3"], [0.5, "#EEEEEE"], [1, "#EEB48C"]], textfont_color="#222222",  # on any page
    )  # fmt: skip
    texts = [as_plotly(name.replace("_", " ")) for name in names]
    ticks = dict(tickvals=list(range(len(names))), ticktext=texts, showgrid=False, zeroline=False)
    figure.update_yaxes(autorange="reversed", **ticks, row=2, col=1)
    figure.update_xaxes(visible=False, range=[-0.5, b - 0.5])
    margins = dict(l=130, r=10, t=10, b=10)
    return figure.update_layout(
        template=TEMPLATE, width=140 + side * b, height=20 + sum(heights) / 0.98, margin=margins, font_size=14
    )


def plot_maps(
    images: Tensor, maps: Mapping[str, Tensor], masks: Tensor | None = None, captions: Sequence[str] = ()
) -> go.Figure:
    """Images [N, 3, H, W] in a first row, and below it one row for each of `maps` (name -> [N, 1, H, W], not negative).

    Each map is drawn on its own scale, dark to bright; the object's outline, from masks bool [N, H, W], in white.
    """
    rows = {"image": _bytes(images), **{name: _heat(values, masks) for name, values in maps.items()}}
    n, left, gap, top = len(images), 150, 4, 26 if captions else 4
    side = min(96, (WIDTH - left) // n - gap)
    figure = go.Figure(layout=dict(template=TEMPLATE))
    for r, (name, pictures) in enumerate(rows.items()):
        y = top + r * (side + gap)
        figure.add_annotation(
            x=left - 10, y=y + side / 2, text=as_plotly(name), showarrow=False, xanchor="right", font_size=14
        )
        for i, pixels in enumerate(pictures):
            figure.add_layout_image(
                source=_png(pixels, 4 if r == 0 else 1), xref="x", yref="y", x=left + i * (side + gap), y=y,
                sizex=side, sizey=side, sizing="stretch", yanchor="top", layer="below",
            )  # fmt: skip
    for i, text in enumerate(captions):
        place = dict(x=left + i * (side + gap) + side / 2, y=top / 2)
        figure.add_annotation(**place, text=as_plotly(text), showarrow=False, font_size=11)
    width, height = left + n * (side + gap), top + len(rows) * (side + gap)
    figure.update_xaxes(visible=False, range=[0, width])
    figure.update_yaxes(visible=False, range=[height, 0])
    return figure.update_layout(width=width, height=height, margin=dict(l=0, r=0, t=0, b=0))


def plot_layouts(embeddings: Mapping[str, Layout], factors: Sequence[str], *, size: int = 3) -> go.Figure:
    """Points of several embeddings (rows, by name) coloured by several factors (columns); no axes, they mean nothing.

    Categories get a colour each, objects that of their category; azimuth goes round a colour circle. Names are written
    where the middle of a category's or an object's points is, as long as there are at most 12 of them.
    """
    rows, columns = list(embeddings), list(factors)
    figure = make_subplots(
        rows=len(rows), cols=len(columns), horizontal_spacing=0.01, vertical_spacing=0.02,
        column_titles=[as_plotly(factor.replace("_", " ")) for factor in columns],
    )  # fmt: skip
    for r, (name, embedding) in enumerate(embeddings.items(), 1):
        for c, factor in enumerate(columns, 1):
            colours = factor_colours(embedding.features, factor)
            figure.add_scatter(
                x=embedding.points[:, 0].numpy(), y=embedding.points[:, 1].numpy(), mode="markers", showlegend=False,
                marker=dict(size=size, color=colours), hoverinfo="skip", row=r, col=c,
            )  # fmt: skip
            for text, place in layout_names(embedding, factor):
                figure.add_annotation(
                    x=place[0], y=place[1], text=as_plotly(text), showarrow=False, yanchor="top", font_size=10,
                    row=r, col=c,
                )  # fmt: skip
        figure.update_yaxes(title=dict(text=as_plotly(name), font_size=14), row=r, col=1)
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False)
    side = (WIDTH - 40) // max(3, len(columns))
    return figure.update_layout(
        template=TEMPLATE,
        width=40 + side * len(columns),
        height=40 + side * len(rows),
        margin=dict(l=40, r=5, t=35, b=5),
    )


def layout_names(embedding: Layout, factor: str) -> list[tuple[str, list[float]]]:
    """Label of each object or category, and the place below its points; nothing for other factors, or for too many."""
    values, labels = embedding.features.factors[factor], embedding.features.labels.get(factor, ())
    known = values.unique() if factor in ("object", "category") and labels else values[:0]
    if len(known) > 12:
        return []
    points = {v: embedding.points[values == v] for v in known.tolist()}
    compact = 0.25 * embedding.points.std(0).max()  # names of what is strewn all over would lie on each other
    points = {v: own for v, own in points.items() if len(own) > 1 and own.std(0).mean() < compact}
    return [(labels[v], [float(own[:, 0].median()), float(own[:, 1].quantile(0.02))]) for v, own in points.items()]


def factor_colours(features: Features, factor: str) -> list[str]:
    """A colour for each row: a circle for the azimuth, a scale for quantities, distinct ones for categories."""
    values = features.factors[factor].numpy()
    if factor == "azimuth":
        return sample_colorscale("Phase", np.clip(values / (2 * np.pi) % 1, 0, 1).astype(float))
    if np.issubdtype(values.dtype, np.floating):
        return sample_colorscale("Viridis", (values - values.min()) / max(np.ptp(values), 1e-9))
    if factor == "object" and "category" in features.factors:
        values = features.factors["category"].numpy()
    palette = [*qualitative.Safe, *qualitative.Bold]
    return [palette[value % len(palette)] for value in values]


def add_trail(figure: go.Figure, trail: Tensor, name: str, **place: int) -> go.Figure:
    """An orbit trail [n, 2] drawn over a figure of points, its beginning marked."""
    x, y = trail.numpy().T
    line = dict(color=GREY, width=1.5)
    figure.add_scatter(x=x, y=y, mode="lines", line=line, name=as_plotly(name), showlegend=False, **place)
    start = dict(color="#FFFFFF", size=9, line=dict(color=GREY, width=2))
    figure.add_scatter(x=x[:1], y=y[:1], mode="markers", marker=start, showlegend=False, **place)
    return figure


def _heat(maps: Tensor, masks: Tensor | None, scale: int = 4) -> np.ndarray:
    """Maps [N, 1, H, W] as coloured pictures uint8 [N, scale H, scale W, 3], each on its own scale."""
    level = as_bytes(maps)
    table = np.array([unlabel_rgb(colour) for colour in sample_colorscale("Inferno", np.linspace(0, 1, 256))])
    large = lambda x: x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)  # noqa: E731
    pictures = table[large(level)[:, 0].cpu().numpy()].round().astype(np.uint8)
    if masks is not None:
        inside = large(masks[:, None].float())
        outline = (inside > 0) & (-F.max_pool2d(-inside, 3, 1, 1) == 0)  # on the object, next to what is not
        pictures[outline[:, 0].cpu().numpy()] = 255
    return pictures


def _bytes(images: Tensor) -> np.ndarray:
    """[N, 3, H, W] uint8 or float in 0..1 -> uint8 [N, H, W, 3]."""
    if images.is_floating_point():
        images = images.mul(255).round().clamp(0, 255)
    return images.byte().permute(0, 2, 3, 1).cpu().numpy()


def as_png(pixels: Tensor, scale: int) -> bytes:
    """An image, uint8 or float in 0..1 [3, H, W], as PNG bytes, each pixel enlarged to scale x scale."""
    return _encode(_bytes(pixels[None])[0], scale)


def as_data_uri(pixels: Tensor, scale: int) -> str:
    """As `as_png`, as an address that holds the picture itself."""
    return _png(_bytes(pixels[None])[0], scale)


def outline(mask: Tensor) -> tuple[list[float | None], list[float | None]]:
    """The border of a mask, bool [H, W], along its pixels' edges: x and y of line segments with gaps between them."""
    inside = np.pad(mask.cpu().numpy(), 1)
    x: list[float | None] = []
    y: list[float | None] = []
    for row, column in np.argwhere(inside[1:] != inside[:-1]) - (0.5, 1.5):  # between a pixel and the one below
        x, y = [*x, column, column + 1, None], [*y, row, row, None]
    for row, column in np.argwhere(inside[:, 1:] != inside[:, :-1]) - (1.5, 0.5):  # and the one to the right
        x, y = [*x, column, column, None], [*y, row, row + 1, None]
    return x, y


def _png(pixels: np.ndarray, scale: int) -> str:
    """uint8 [H, W, 3] as a data URI, each pixel enlarged to scale x scale so that no browser smooths it."""
    return "data:image/png;base64," + base64.b64encode(_encode(pixels, scale)).decode()


def _encode(pixels: np.ndarray, scale: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(buffer, "PNG")
    return buffer.getvalue()
