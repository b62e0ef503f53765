"""An interval that is drawn is the interval of the table: its arms end where low and high are."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ciperlib.analyse.report import PROBED, Report, load_report, reported
from ciperlib.analyse.statistics import over_seeds
from ciperlib.files import project_root
from ciperlib.present import explorer, plotting, verdicts

SKEWED = [(0.2, 0.25, 0.7), (0.1, 0.5, 0.55), (-0.3, 0.0, 0.05)]  # low, value, high: one arm longer than the other


def arms(figure, axis: str) -> list[tuple[float, float, float]]:
    """(lower end, middle, upper end) of every error bar along "x" or "y", as plotly draws them."""
    found = []
    for trace in figure.data:
        bars = getattr(trace, f"error_{axis}", None)
        if bars is None or bars.array is None:
            continue
        assert bars.visible is not False
        assert bars.type in (None, "data")
        down = bars.array if bars.symmetric or bars.arrayminus is None else bars.arrayminus
        found += [(m - low, m, m + high) for m, low, high in zip(getattr(trace, axis), down, bars.array)]
    return found


def are(found, expected) -> bool:
    return sorted(map(tuple, np.round(found, 9))) == sorted(map(tuple, np.round(expected, 9)))


def test_what_arms_are():
    """Plotly takes `array` for both arms where there is no `arrayminus`: such a figure would be found."""
    figure = plotting.go.Figure()
    figure.add_scatter(x=[1.0], y=[0], error_x=dict(array=[0.5], arrayminus=[0.1]))
    figure.add_scatter(x=[2.0], y=[0], error_x=dict(array=[0.5]))
    figure.add_scatter(x=[3.0], y=[0])
    assert are(arms(figure, "x"), [(0.9, 1.0, 1.5), (1.5, 2.0, 2.5)])
    assert arms(figure, "y") == []


def table(**columns) -> pd.DataFrame:
    rows = [dict(zip(("low", "value", "high"), interval), seed=0) for interval in SKEWED]
    return pd.DataFrame(rows).assign(**columns)


def test_scores_of_one_seed_show_its_interval():
    names = ["random encoder", "SimCLR, image aug.", "CIPER, image aug."]
    rows = table(encoder=names, method=["random", "simclr", "ciper"], factor="object", metric="accuracy")
    both = pd.concat([rows, rows.assign(factor="pose", metric="R2")])
    assert are(arms(plotting.plot_scores(both, ["object", "pose"]), "x"), 2 * SKEWED)


def test_scores_of_several_seeds_show_the_lowest_and_the_highest():
    values = [0.3, 0.4, 0.8]
    rows = table(encoder="CIPER, image aug.", method="ciper", factor="object", metric="accuracy")
    rows = rows.assign(value=values, seed=range(3), low=0.0, high=1.0)
    assert are(arms(plotting.plot_scores(rows, ["object"]), "x"), [(0.3, 0.5, 0.8)])


def test_synergy_shows_its_interval():
    points = table(name=["a", "b", "c"], method=["simclr", "ciper", "none"], group=["x", "x", "y"])
    points = points.assign(entropy=[0.1, 0.6, 1.2])
    figure = plotting.plot_synergy(points)
    assert are(arms(figure, "y"), SKEWED)
    assert arms(figure, "x") == []


def test_factors_show_their_intervals_each_at_its_own():
    rows = table(encoder=["simclr", "ciper", "simclr"], method=["simclr", "ciper", "simclr"], factor=["a", "a", "b"])
    figure = plotting.plot_factors(rows, x_title="R²")
    assert are(arms(figure, "x"), SKEWED)
    simclr = next(trace for trace in figure.data if trace.name == "SimCLR")
    assert list(simclr.x) == [0.25, 0.0]
    assert list(simclr.text) == ["a", "b"]


def made_report() -> Report:
    """A shipped one, but for its intervals."""
    intervals = [*SKEWED, (0.01, 0.02, 0.2)]
    measures = {name: dict(zip(("low", "value", "high"), interval)) for name, interval in zip(PROBED, intervals)}
    report = load_report(reported()[0])
    return replace(report, measures=measures, synergy=report.synergy | dict(zip(("low", "value", "high"), SKEWED[0])))


def test_the_explorer_shows_the_intervals_of_probes_and_of_the_synergy():
    parts = explorer.encoder_parts(made_report())
    figures = {name: plotting.go.Figure(plotting.go.Scatter(**parts[name])) for name in ("encoder", "synergy")}
    assert are(arms(figures["encoder"], "x"), [*SKEWED, (0.01, 0.02, 0.2)])
    assert are(arms(figures["synergy"], "x"), SKEWED[:1])


def test_a_shipped_report_is_drawn_with_its_own_intervals():
    """The whole figure, in which one encoder's traces take the place of another's."""
    report = load_report(reported()[0])
    figure = explorer.plot_report(report)
    scores, found = report.scores, report.synergy
    expected = [tuple(scores[f"{name}{end}"] for end in ("_low", "", "_high")) for name in PROBED]
    assert are(arms(figure, "x"), [*expected, (found["low"], found["value"], found["high"])])
    halves = {name: {end: value / 2 for end, value in own.items()} for name, own in report.measures.items()}
    other = replace(report, measures=halves)
    drawn = arms(explorer.plot_report(other), "x")
    assert are(drawn[: len(expected)], [tuple(end / 2 for end in interval) for interval in expected])


def test_decodability_writes_half_of_the_interval_over_seeds():
    """Symmetric, as a t-interval is; the number above it is its middle."""
    seeds = [0.2, 0.3, 0.7]
    rows = pd.DataFrame({"encoder": "a", "seed": range(3), "parameter": "hue", "scaled": seeds})
    mean, low, high = over_seeds(seeds)
    assert high - mean == pytest.approx(mean - low)
    (text,) = verdicts.plot_decodability(rows).data[0].text[0]
    assert text == f"{mean:.2f}<br>± {high - mean:.2f}"
    assert f"{high - mean:.2f}" == "0.66"  # 4.303 times the standard error, two degrees of freedom


def functions_with_bars(path: Path) -> set[str]:
    """Names of the functions of a file in which error bars are made."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(part, ast.keyword) and str(part.arg).startswith("array") for part in ast.walk(node))
    }


def test_whoever_draws_intervals_is_tested_above():
    drawing = {name for path in (project_root() / "ciperlib").rglob("*.py") for name in functions_with_bars(path)}
    assert drawing == {"plot_synergy", "plot_factors", "_add_score", "_interval"}
    assert not [path for path in (project_root() / "notebooks").glob("*.ipynb") if "arrayminus" in path.read_text()]
