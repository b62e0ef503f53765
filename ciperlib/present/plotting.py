"""Figures: every `plot_` function takes numbers and gives a plotly Figure; nothing is computed or shown here.

Names that come with the numbers are shown as they are; titles are the caller's own words, in which plotly's little
HTML works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ciperlib.labels import GREY, colour_of, label_of
from ciperlib.markup import as_plotly

LOSSES = {"contrastive": "contrastive loss (nats)", "predictive": "predictive loss"}
BOOKKEEPING = ("epoch", "total", "learning_rate", "seconds")  # of a history; all else are terms of the loss
WIDTH = 840  # pixels: what JupyterLab shows beside its file browser in a window of 1,280
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


def plot_measures(
    table: pd.DataFrame, measures: Mapping[str, str], *, x_title: str, line: float | None = None, line_name: str = ""
) -> go.Figure:
    """One row a measure, within it one dot a seed and a diamond at the mean for each encoder.

    Args:
        table: columns encoder (the label), method, seed, measure, value; and hollow, where some shall be drawn so.
        measures: name in the table -> how it is called here.
        line: a value that means something in all rows, drawn dotted with its name.
    """
    encoders = list(dict.fromkeys(table["encoder"]))
    figure = go.Figure(layout=dict(template=TEMPLATE, width=WIDTH, height=130 + 26 * len(encoders) * len(measures)))
    for e, encoder in enumerate(encoders):
        rows = table[table["encoder"] == encoder]
        hollow = "hollow" in rows and bool(rows["hollow"].iloc[0])
        colour = colour_of(rows["method"].iloc[0])
        marker = dict(color=colour, size=10, symbol="diamond-open" if hollow else "diamond", line_width=2)
        shift = (e - (len(encoders) - 1) / 2) * 0.8 / len(encoders)
        means = rows.groupby("measure")["value"].mean()
        known = [(m, name) for m, name in enumerate(measures) if name in means]
        figure.add_scatter(
            x=[means[name] for _, name in known], y=[m + shift for m, _ in known], mode="markers",
            name=as_plotly(encoder), marker=marker, hovertemplate=f"{as_plotly(encoder)}: %{{x:.3f}}<extra></extra>",
        )  # fmt: skip
        each = [
            (row.value, list(measures).index(row.measure) + shift)
            for row in rows.itertuples()
            if row.measure in measures
        ]
        figure.add_scatter(
            x=[x for x, _ in each], y=[y for _, y in each], mode="markers", showlegend=False, hoverinfo="skip",
            marker=dict(symbol="line-ns", size=12, line=dict(color=colour, width=2)),
        )  # fmt: skip
    if line is not None:
        figure.add_vline(x=line, line=dict(color=GREY, width=1.5, dash="dot"))
        figure.add_annotation(x=line, y=-0.62, text=line_name, showarrow=False, font_size=12, xanchor="left")
    figure.update_yaxes(
        tickvals=list(range(len(measures))), ticktext=list(measures.values()), range=[len(measures) - 0.4, -0.75],
        showgrid=False,
    )  # fmt: skip
    return figure.update_xaxes(title=x_title, rangemode="tozero")


def plot_curves(curves: Mapping[str, Mapping[str, Tensor]], *, x_title: str, y_title: str) -> go.Figure:
    """Mean curves over images: one panel for each of the inner names, one line for each of the outer ones,
    the first solid and those that it is compared with dotted.

    Args:
        curves: line -> panel -> [B, steps + 1], over equal shares from 0 to 1.
    """
    panels = list(next(iter(curves.values())))
    figure = make_subplots(cols=len(panels), subplot_titles=panels, horizontal_spacing=0.12)
    for i, (name, parts) in enumerate(curves.items()):
        dash = "dot" if i else "solid"
        for column, panel in enumerate(panels, 1):
            mean = parts[panel].mean(0).cpu().numpy()
            figure.add_scatter(
                x=np.linspace(0, 1, len(mean)), y=mean, name=as_plotly(name), legendgroup=name, showlegend=column == 1,
                line=dict(color=qualitative.Safe[i], width=3, dash=dash), mode="lines", row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title=x_title).update_yaxes(title=y_title, col=1)
    return figure.update_layout(template=TEMPLATE, width=WIDTH, height=400, margin_t=90, legend_y=1.12)


def plot_lines(
    frame: pd.DataFrame, x: str, ys: Mapping[str, str], *, x_title: str, y_title: str, title: str = "",
    colours: Sequence[str] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
) -> go.Figure:  # fmt: skip
    """Columns of a table against another: `ys` gives each column's name in the legend."""
    figure = go.Figure(layout=dict(template=TEMPLATE, title=title, height=420, width=WIDTH))
    for (column, name), colour in zip(ys.items(), colours):
        line = dict(color=colour, width=3)
        figure.add_scatter(x=frame[x], y=frame[column], name=as_plotly(name), mode="lines+markers", line=line)
    return figure.update_xaxes(title=x_title).update_yaxes(title=y_title)


def plot_history(
    histories: Mapping[str, pd.DataFrame], *, before: Mapping[str, pd.DataFrame] | None = None, title: str = ""
) -> go.Figure:
    """Loss curves of several runs, one panel for each term that any of them has.

    Args:
        histories: method -> `Run.history`.
        before: name -> the history of another run, which is drawn dimly, to compare with.
    """
    before = before or {}
    every = [*before.values(), *histories.values()]
    terms = list(dict.fromkeys(c for h in reversed(every) for c in h if c not in BOOKKEEPING)) or ["total"]
    columns = {1: 1, 2: 2, 4: 2}.get(len(terms), 3)
    rows = -(-len(terms) // columns)
    names = [LOSSES.get(term, as_plotly(f"{term.replace('_', ' ')} loss")) for term in terms]
    wide = dict(horizontal_spacing=0.14) if columns < 3 else dict(horizontal_spacing=0.09, subplot_titles=names)
    figure = make_subplots(rows=rows, cols=columns, vertical_spacing=0.6 / (rows + 1), **wide)
    for i, (name, history) in enumerate((before | dict(histories)).items()):
        _add_history(figure, history, name, terms, columns, dim=i < len(before))
    step = max((-(-len(history) // 6) for history in every), default=1)
    figure.update_xaxes(title=dict(text="epoch", standoff=6), dtick=max(1, step))
    if columns < 3:
        for i, name in enumerate(names):
            figure.update_yaxes(title=name, row=i // columns + 1, col=i % columns + 1)
    height = 420 if rows == 1 else 140 + 240 * rows
    return figure.update_layout(template=TEMPLATE, title=title, height=height, width=WIDTH, legend_y=1.08)


def _add_history(
    figure: go.Figure, history: pd.DataFrame, name: str, terms: list[str], columns: int, dim: bool
) -> None:  # fmt: skip
    line = dict(color=GREY, width=2, dash="dot") if dim else dict(color=colour_of(name), width=3)
    own = [term for term in terms if term in history]
    for term in own:
        row, column = divmod(terms.index(term), columns)
        figure.add_scatter(
            x=history["epoch"], y=history[term], name=as_plotly(label_of(name).replace("_", " ")),
            legendgroup=name, showlegend=term == own[0], mode="lines" if dim else "lines+markers", line=line,
            row=row + 1, col=column + 1,
        )  # fmt: skip


def plot_scores(
    table: pd.DataFrame, factors: Sequence[str], *, baselines: Mapping[str, Mapping[str, float]] | None = None,
    ends: Mapping[str, float] | None = None, title: str = "",
) -> go.Figure:  # fmt: skip
    """Probe scores: one panel a factor, one row an encoder, a tick a seed, and the mean with its range.

    Args:
        table: columns encoder (the row's label), method, factor, value, low, high, seed.
        factors: the panels, from left to right.
        baselines: factor -> name -> score, drawn as dotted lines.
        ends: factor -> where its axis ends, for what is no share; else 1. A mean beyond that moves the end.
    """
    encoders = list(dict.fromkeys(table["encoder"]))
    titles = [_score_title(table, factor) for factor in factors]
    figure = make_subplots(cols=len(factors), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=titles)
    for column, factor in enumerate(factors, 1):
        for encoder in encoders:
            rows = table[(table["encoder"] == encoder) & (table["factor"] == factor)]
            _add_score(figure, rows, encoder, column)
        for name, value in (baselines or {}).get(factor, {}).items():
            figure.add_vline(x=value, line=dict(color=GREY, width=1.5, dash="dot"), row=1, col=column)
            figure.add_annotation(
                x=value, y=len(encoders) - 0.45, text=as_plotly(name), showarrow=False, font_size=10, xanchor="left",
                row=1, col=column,
            )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False, range=[len(encoders) - 0.3, -0.6])
    for column, factor in enumerate(factors, 1):
        end, means = (ends or {}).get(factor, 1), table[table["factor"] == factor].groupby("encoder")["value"].mean()
        end = np.ceil(10 * means.max()) / 10 if means.max() > 1.06 * end else end  # an encoder unlike ours
        start = min(-0.06 * end, 1.1 * table.loc[table["factor"] == factor, "low"].min())
        figure.update_xaxes(range=[start, 1.06 * end], tickvals=[0, end / 2, end], row=1, col=column)
    height = 180 + 38 * len(encoders)
    return figure.update_layout(
        template=TEMPLATE, title=title, height=height, width=240 + 150 * len(factors), margin_t=80
    )


def as_scores(
    table: pd.DataFrame, columns: Mapping[str, str], metrics: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Columns of a table with a row an encoder, as `plot_scores` draws them: a row for each number, without interval.

    Args:
        columns: in the table -> how the panel is called.
        metrics: panel -> what its numbers are, which stands in its title.
    """
    scores = table.melt(["encoder", "method", "seed"], list(columns), "factor").replace({"factor": dict(columns)})
    kinds = scores["factor"].map(metrics or {}).fillna("")
    return scores.assign(low=scores["value"], high=scores["value"], metric=kinds)


def plot_synergy(points: pd.DataFrame) -> go.Figure:
    """Synergy I(A;C|Z) against what is not known of the transformation, H(A|Z), and the bound that it cannot cross.

    Args:
        points: columns name, method, group, entropy, value, low, high (nats); methods without a colour are grey, each
            group has its symbol. Points that lie close to one another share a label.
    """
    most = 1.06 * max(points["entropy"].max(), points["high"].max())
    figure = go.Figure(layout=dict(template=TEMPLATE, width=WIDTH, height=560))
    figure.add_scatter(
        x=[0, most, 0], y=[0, most, most], fill="toself", mode="lines", line=dict(color=GREY, width=2),
        hoverinfo="skip", fillcolor="rgba(127,127,127,0.18)", showlegend=False,
    )  # fmt: skip
    figure.add_annotation(x=0.3 * most, y=0.8 * most, text="impossible:<br>more than H(A|Z)", showarrow=False)
    for (group, rows), symbol in zip(points.groupby("group", sort=False), ("circle-open", "diamond", "square", "x")):
        colours = [colour_of(method) for method in rows["method"]]
        figure.add_scatter(
            x=rows["entropy"], y=rows["value"], name=as_plotly(group), mode="markers",
            hovertext=[as_plotly(name) for name in rows["name"]],
            marker=dict(color=colours, size=12, symbol=symbol, line_width=2),
            error_y=dict(array=rows["high"] - rows["value"], arrayminus=rows["value"] - rows["low"], thickness=1.5),
        )  # fmt: skip
    first = points["group"].iloc[0]
    for together in _close_points(points):
        x, y, names = together["entropy"].mean(), together["value"].mean(), list(map(as_plotly, together["name"]))
        text = "<br>".join(" · ".join(names[i : i + 2]) for i in range(0, len(names), 2))  # names hold commas
        if len(names) == 1 and together["group"].iloc[0] == first:
            place = dict(y=together["high"].iloc[0], yshift=12, showarrow=False)
        elif len(names) < 3:
            left = x > most / 2
            place = dict(xshift=-14 if left else 14, xanchor="right" if left else "left", showarrow=False)
        else:  # below, where nothing is
            place = dict(ax=min(max(x, 0.24 * most), 0.8 * most), ay=-0.2 * most, axref="x", ayref="y", standoff=10)
        figure.add_annotation(**{"x": x, "y": y, "text": text, "arrowcolor": GREY, "font_size": 12, **place})
    figure.update_xaxes(title="H(A|Z): what is not known of the transformation (nats)", range=[-0.04, most])
    return figure.update_yaxes(title="I(A;C|Z): what the class adds (nats)", range=[-0.34 * most, most], zeroline=True)


def _close_points(points: pd.DataFrame) -> list[pd.DataFrame]:
    """Points in groups of those whose labels would cover one another: chains of near ones."""
    place = points[["entropy", "value"]].to_numpy() / (0.09, 0.06)
    near = (np.abs(place[:, None] - place[None]) < 1).all(2)
    _, chain = connected_components(near)
    return [rows for _, rows in points.groupby(chain, sort=False)]


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
            name=as_plotly(label_of(encoder)),
            marker=dict(color=colour_of(rows["method"].iloc[0]), size=11),
            error_x=dict(array=rows["high"] - rows["value"], arrayminus=rows["value"] - rows["low"], thickness=2),
            text=[as_plotly(factor) for factor in rows["factor"]],
            hovertemplate=f"{as_plotly(encoder)}, %{{text}}: %{{x:.3f}}<extra></extra>",
        )  # fmt: skip
    names = [as_plotly(factor.replace("_", " ")) for factor in factors]
    figure.update_yaxes(tickvals=list(range(len(factors))), ticktext=names, range=[len(factors) - 0.4, -0.6])
    return figure.update_xaxes(title=x_title, range=[min(-0.05, table["value"].min() - 0.05), 1.02], zeroline=True)


def _score_title(table: pd.DataFrame, factor: str) -> str:
    metric = table.loc[table["factor"] == factor, "metric"].iloc[0]
    return f"{as_plotly(factor)}<br>{as_plotly(metric.replace('R2', 'R²'))}"


def _add_score(figure: go.Figure, rows: pd.DataFrame, encoder: str, column: int) -> None:
    if rows.empty:
        return
    colour, encoder = colour_of(rows["method"].iloc[0]), as_plotly(encoder)
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
