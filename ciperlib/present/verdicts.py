"""What many encoders do with many transformations, as one picture: verdicts, or how much can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ciperlib.analyse.statistics import over_seeds
from ciperlib.labels import GREY
from ciperlib.markup import as_plotly
from ciperlib.present.plotting import TEMPLATE, WIDTH

VERDICTS = {  # and their colours: told apart by colour-blind readers, readable under black letters
    "invariant": "#7FB8E0",
    "re-encoded": "#F0B35A",
    "lost": "#B9B9B9",
    "unresolved": "#DDD0EA",
    "seeds differ": "#FFFFFF",
}


def summarise_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row an encoder and transformation, in the table's order: the verdict that all seeds have, or "seeds differ",
    and the means of what made it.

    Args:
        table: rows of `Equivariance.to_row` with the columns encoder and seed.
    """
    numbers = {name: (name, "mean") for name in ("invariance_error", "decodable", "r2", "r2_gain", "mrr")}
    groups = table.groupby(["encoder", "transformation"], sort=False)
    verdict = groups["verdict"].agg(lambda seeds: seeds.iloc[0] if seeds.nunique() == 1 else "seeds differ")
    return groups.agg(**numbers).assign(verdict=verdict, seeds=groups.size()).reset_index()


def plot_verdicts(table: pd.DataFrame, title: str = "") -> go.Figure:
    """A row an encoder, a column a transformation; the colour is the verdict, the numbers are the invariance error and
    below it the share of the level that the best reader knows.

    Args:
        table: as for `summarise_verdicts`.
    """
    summary, names = summarise_verdicts(table), list(VERDICTS)
    encoders, columns = (list(dict.fromkeys(summary[name])) for name in ("encoder", "transformation"))
    cells = {(row.encoder, row.transformation): row for row in summary.itertuples()}
    rows = [[cells.get((encoder, column)) for column in columns] for encoder in encoders]
    text = [[f"{c.invariance_error:.2f}<br>{c.decodable:.0%}" if c else "" for c in row] for row in rows]
    code = [[names.index(c.verdict) if c else None for c in row] for row in rows]
    steps = [(edge / len(names), colour) for i, colour in enumerate(VERDICTS.values()) for edge in (i, i + 1)]
    figure = _draw_cells(code, text, encoders, columns, colorscale=steps, zmin=-0.5, zmax=len(names) - 0.5)
    for name in (name for name in names if name in set(summary["verdict"])):
        marker = dict(color=VERDICTS[name], size=14, symbol="square", line=dict(color=GREY, width=1))
        figure.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker)
    legend = dict(orientation="h", y=-0.02, yanchor="top")
    return figure.update_layout(title=title, height=150 + 38 * len(encoders), legend=legend)


def plot_decodability(table: pd.DataFrame, title: str = "") -> go.Figure:
    """A row an encoder, a column a parameter; the number and the colour say where its R2 lies between baseline (0) and
    upper bound (1), below it half of the 95% interval over seeds; "-" where the two are not apart for
    some seed.

    Args:
        table: rows of `decodability.rescale` with the columns encoder and seed, one a parameter.

    Raises:
        ValueError: several rows for a parameter, of other readers or other views.
    """
    if table.duplicated(["encoder", "seed", "parameter"]).any():
        raise ValueError(
            "several rows of one encoder, seed and parameter: choose one reader, and all views or coloured"
        )
    encoders, parameters = (list(dict.fromkeys(table[name])) for name in ("encoder", "parameter"))
    groups = table.groupby(["encoder", "parameter"])["scaled"]
    cells = {key: None if seeds.isna().any() else over_seeds(seeds) for key, seeds in groups}
    place = [[(encoder, parameter) for parameter in parameters] for encoder in encoders]
    text = [[_with_interval(cells[key]) if key in cells else "" for key in row] for row in place]
    value = [[cells[key][0] if cells.get(key) else None for key in row] for row in place]
    colours = [(0, "#F3F0E4"), (1, VERDICTS["re-encoded"])]
    return _draw_cells(value, text, encoders, parameters, colorscale=colours, zmin=0, zmax=1).update_layout(title=title)


def _draw_cells(value, text, rows: Sequence[str], columns: Sequence[str], **colours: Any) -> go.Figure:
    """A table with a colour and a text in each cell."""
    figure = go.Figure(layout=dict(template=TEMPLATE, width=WIDTH, height=130 + 38 * len(rows)))
    figure.add_heatmap(
        z=value, x=[as_plotly(column).replace("_", "<br>") for column in columns], y=[as_plotly(row) for row in rows],
        text=text, texttemplate="%{text}",
        textfont=dict(size=11, color="black"), showscale=False, xgap=2, ygap=2,
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>", **colours,
    )  # fmt: skip
    figure.update_xaxes(side="top", showgrid=False, tickangle=0, tickfont_size=11)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure.update_layout(margin=dict(l=10, r=10))


def _with_interval(cell: tuple[float, float, float] | None) -> str:
    if cell is None:
        return "-"
    mean, low, high = cell
    return f"{mean:.2f}" + (f"<br>± {(high - low) / 2:.2f}" if low == low else "")
