"""What is published: the zoo is whole, and the sentences and tables say what figures/ measured."""

import itertools
import json
import math
import re

import pandas as pd
import pytest
import yaml

from ciperlib.analyse.equivariance.battery import measure_equivariance
from ciperlib.analyse.report import load_report, read_baselines, reported
from ciperlib.analyse.statistics import over_seeds
from ciperlib.analyse.synthetic import ORBITS, make_orbits
from ciperlib.batch.runner import declared_parameters, folder_name
from ciperlib.batch.sweep import make_tasks
from ciperlib.config import Config
from ciperlib.files import project_root
from ciperlib.labels import label_of, labels
from ciperlib.learn.zoo import configs_of, find_run, zoo_grid

CORE50 = "CORe50's names indexed"
FACTORS = ("category", "object", "session", "pose")


@pytest.fixture(scope="module")
def metrics():
    """The metrics of notebook 02 as `make run` published them."""
    return json.loads((project_root() / "figures" / "02_linear_probing.json").read_text())["metrics"]


def test_the_zoo_holds_its_whole_grid_with_metrics():
    for config in configs_of(zoo_grid()):
        run = find_run(config, project_root() / "data" / "zoo")
        assert run is not None, f"{config.name} is missing: make zoo"
        assert set(FACTORS) <= run.metrics.keys()


def test_published_numbers_are_of_the_whole_zoo_in_the_teaching_setting(metrics):
    published = json.loads((project_root() / "figures" / "02_linear_probing.json").read_text())
    assert published["profile"] == "teaching"
    assert published["parameters"] == {}
    assert metrics["encoders"] == len(configs_of([{"method": "random"}, *zoo_grid("probing")]))


def test_the_sentences_of_notebook_02_are_true_of_its_figure(metrics):
    """Section 3, "What to see", sentence by sentence."""

    def score(factor, name):
        return metrics[f"{factor}: {name}"]

    for method in ("SimCLR", "CIPER"):
        assert score("object", f"{method}, pose aug.") > 0.9
        assert score("session", f"{method}, pose aug.") < score("session", "random encoder")
    assert score("pose", "SimCLR, pose aug.") < score("pose", "random encoder") + 0.02
    assert score("pose", "CIPER, pose aug.") > score("pose", "SimCLR, pose aug.") + 0.25
    assert score("pose", "predictive, pose aug.") > score("pose", "random encoder") + 0.1
    assert score("object", "predictive, pose aug.") < 0.6
    for factor in FACTORS:
        assert score(factor, "CIPER, image aug.") > score(factor, "SimCLR, image aug.")
    assert score("object", "SimCLR, image aug.") < score("object", "pixels")
    by = {name: score(f"category by {name}", "CIPER, image aug., seed 0") for name in ("lbfgs", "sgd", "knn")}
    assert abs(by["lbfgs"] - by["sgd"]) < 0.035  # their intervals, of 0.018 to either side, meet
    assert by["knn"] == pytest.approx(by["lbfgs"] / 2, abs=0.05)
    for factor, chance in (("category", 1 / 10), ("object", 1 / 50), ("session", 1 / 11)):
        assert abs(score(factor, "shuffled labels") - chance) < 0.03
    # section 5
    posed, plain = "CIPER, pose aug.", "CIPER, image aug."
    assert score("azimuth, all", posed) > 67.5  # three quarters of a right angle
    for name in (posed, "SimCLR, pose aug.", plain, "predictive, image aug.", "random encoder"):
        assert score("azimuth, object", name) < score("azimuth, category", name) < score("azimuth, all", name)
        assert score("azimuth, object dealt out", name) == pytest.approx(90, abs=1)
    order = ["predictive, image aug.", plain, "random encoder", "SimCLR, image aug."]
    assert sorted(order, key=lambda name: score("azimuth, object", name)) == order
    pair = f"{posed} - SimCLR, pose aug."
    assert score("azimuth, object", f"{pair} (high)") < 0
    assert score("category, other objects", f"{posed} - random encoder (low)") < 0.06
    assert score("category, other objects", "SimCLR, image aug.") < score("category, other objects", "random encoder")
    assert score("category, other objects", f"CIPER, no crop - {plain} (low)") > 0
    assert score("object, 1 label", f"{pair} (difference)") < 0
    assert score("object, 1 label", plain) < 0.15


def test_the_results_table_is_what_was_published(metrics):
    rows = re.findall(
        r"^\| ([^|]+?) \| ([-\d.]+) \| ([-\d.]+) \| ([-\d.]+) \| ([-\d.]+) \|$",
        results_page(),
        re.M,
    )
    assert len(rows) == 10
    for name, *cells in rows:
        for factor, cell in zip(FACTORS, cells):
            assert float(cell) == pytest.approx(metrics[f"{factor}: {name}"], abs=0.015), (name, factor)


def test_the_results_table_of_synergy_is_what_was_published():
    m = published("05_explaining_away")["metrics"]
    page = results_page()
    table = page[page.index("| Z | the category adds") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert {row[0] for row in rows} == {name.removeprefix("verdicts: ") for name in m if name.startswith("verdicts: ")}
    for name, *cells, entropy in rows:
        assert float(entropy) == pytest.approx(m[f"level_entropy_nats: {name}"], abs=0.0051)
        for target, about, nats, degrees in (("category", "", *cells[:2]), ("object", ", object", *cells[2:])):
            if nats == "-":
                assert f"value_nats{about}: {name}" not in m
                continue
            *numbers, verdict = re.fullmatch(r"([-\d.]+) \[([-\d.]+), ([-\d.]+)\], (.+)", nats).groups()
            for end, text in zip(("value", "low", "high"), numbers):
                assert float(text) == pytest.approx(m[f"{end}_nats{about}: {name}"], abs=0.00051), (name, end)
            for word in ("present", "absent", "unresolved", "not converged"):
                assert (word in verdict) == (word in m[f"verdicts{about}: {name}"]), (name, verdict)
            if degrees != "-":
                assert float(degrees) == pytest.approx(m[f"the {target}, in degrees: {name}"], abs=0.51)


def test_the_results_table_of_alpha_is_what_the_reports_say():
    rows = []
    for config, name in zip(reported(), labels(reported())):
        own = load_report(config)
        used = own.measures["effective_dimensions"]["value"]
        rows.append({"encoder": name, **own.scores, "synergy": own.synergy["value"], "used": used})
    means = pd.DataFrame(rows).groupby("encoder").mean()
    text = results_page()
    table = re.findall(r"^\| ([^|]+?)" + r" \| ([-\d.]+)" * 5 + r"(?:, unresolved)? \| ([\d.]+) \|$", text, re.M)
    assert len(table) == len(set(labels(reported())))
    for config, name in zip(reported(), labels(reported())):
        if load_report(config).synergy["verdict"] != "present":
            assert re.search(rf"^\| {re.escape(name)} \|.*, unresolved \| [\d.]+ \|$", text, re.M), name
    for name, *cells in table:
        for column, cell in zip((*FACTORS, "synergy", "used"), cells):
            off = 0.051 if column == "used" else 0.0051
            assert float(cell) == pytest.approx(means.loc[name, column], abs=off), (name, column)
    obj, pose = means["object"], means["pose"]
    for column in (means["category"], obj, pose):
        assert column["SimCLR, image aug."] < column["CIPER 0.1, image aug."] < column["CIPER, image aug."]
    for column in (obj, pose):
        assert column["CIPER 10, image aug."] < column["CIPER, image aug."]
    assert obj["CIPER, pose aug."] > obj["SimCLR, pose aug."] - 0.01
    assert pose["CIPER, pose aug."] > pose["CIPER 10, pose aug."]
    assert obj["CIPER 10, pose aug."] < obj["CIPER, pose aug."] - 0.1
    left_out = {step: obj[f"CIPER, no {step}"] for step in ("crop", "jitter", "flip", "grayscale")}
    assert left_out["crop"] < left_out["jitter"] < left_out["flip"] < left_out["grayscale"]


def test_the_ablations_of_notebook_06_and_the_results():
    record = published("06_ablations")
    assert (record["profile"], record["parameters"]) == ("teaching", {})
    m, text = record["metrics"], results_page()
    rows = re.findall(r"^\| ([^|]+?) \| ([-+][\d.]+) \[([-+][\d.]+), ([-+][\d.]+)\] \|$", text, re.M)
    assert len(rows) == 11
    for name, *cells in rows:
        for end, cell in zip(("difference", "low", "high"), cells):
            assert float(cell) == pytest.approx(m[f"object: {name} - CIPER ({end})"], abs=0.0006), (name, end)
    assert m["failed"] == 3  # the minus sign
    assert m["object: SimCLR"] < read_baselines()["pixels"]["object"] < m["object: CIPER"] < 0.85
    assert m["object: no crop"] < m["object: never trained"] + 0.05
    assert m["object: no crop"] < m["object: no jitter"] < m["object: no flip"]
    for name in ("no crop", "no jitter", "SimCLR", "SimCLR, clean pass", "SimCLR, 45 epochs", "half the width"):
        assert m[f"object: {name} - CIPER (high)"] < 0
    assert m["object: half the width"] > m["object: SimCLR"]
    for name in ("no flip", "no grayscale", "colours first", "no coordinates", "flip 0.8"):
        assert m[f"object: {name} - CIPER (low)"] < 0 < m[f"object: {name} - CIPER (high)"]
    for factor in ("category", "object", "pose"):
        assert m[f"{factor}: SimCLR"] < m[f"{factor}: alpha 0.1"] < m[f"{factor}: CIPER"]
    for kind in ("", "pose, "):
        assert m[f"object: {kind}alpha 10"] < m["object: CIPER" if not kind else "object: pose, alpha 1"]
    assert m["object: pose, alpha 1"] > m["object: pose, alpha 0"] - 0.01


def test_the_results_table_of_the_kin_is_what_notebook_08_found():
    record = published("08_equivariance")
    assert (record["profile"], record["parameters"]) == ("teaching", {})
    m, text = record["metrics"], results_page()
    interval = r"[-\d.]+ \[[-\d.]+, [-\d.]+\]"
    rows = re.findall(rf"^\| ([^|]+?)((?: \| {interval}){{4}}(?: \| [\d ]+){{2}}) \| (\d) \|$", text, re.M)
    assert len(rows) == 13
    columns = (*FACTORS, "re-encoded", "invariant")
    for name, cells, passes in rows:
        assert cells.split(" | ")[1:] == [m[f"{column}: {name}"] for column in columns], name
        assert float(passes) == m[f"passes: {name}"]


def test_what_the_results_say_of_each_parameter():
    m, text = published("08_equivariance")["metrics"], results_page()
    crops, colours = ("crop_x", "crop_y", "crop_height", "crop_width"), ("brightness", "contrast", "saturation", "hue")

    def scaled(name, parameters):
        return [m[f"scaled: {name}, image aug., {parameter}"] for parameter in parameters]

    def ends(name, parameters):
        return "{:.2f} to {:.2f}".format(*(end(scaled(name, parameters)) for end in (min, max)))

    grey = (*colours, "grayscale")
    assert f"prediction alone (1): CIPER {ends('CIPER', (*crops, *grey))};" in text
    for name in ("EquiMod", "AugSelf", "SIE"):
        joined = " for colours, {} for crops" if name == "EquiMod" else " and {}"
        assert f"{name} {ends(name, grey)}{joined.format(ends(name, crops))}" in text
    at_most, grey_alone = max(scaled("SimCLR", (*crops, *colours))), scaled("SimCLR", ["grayscale"])[0]
    assert f"SimCLR at most {at_most:.2f}, but {grey_alone:.2f} for grey views" in text
    assert not [name for name in m if name.startswith("scaled: ") and name.endswith(", flip")]  # none to place
    table = pd.read_csv(project_root() / "data" / "sweeps" / "parameters.csv")
    means = table[table["reader"] == "difference"].groupby(["parameter", "encoder"])["value"].mean()
    assert f"of brightness R2 is {means['brightness', 'random encoder']:.2f} untrained" in text
    assert means["flip"].max() < 0.035


def test_the_sentences_of_notebook_08_are_true_of_its_table():
    m = published("08_equivariance")["metrics"]
    for name in ("invariance_error", "decodable"):
        assert m[f"closely, {name}: CIPER, levels shuffled"] < m[f"closely, {name}: CIPER, image aug."]
    assert m["closely, invariance_error: CIPER, image aug."] < m["closely, invariance_error: never trained"]
    assert m["closely, decodable: CIPER, image aug."] > 2 * m["closely, decodable: never trained"]
    assert m["closely, r2_gain: CIPER, levels shuffled"] > 0.02
    assert abs(m["closely, decodable: CIPER, levels shuffled"]) < 0.01
    assert m["differences"] == 66
    for name in ("horizontal_flip", "blur", "crop_x", "azimuth", "distance"):
        assert m[f"verdict: SimCLR, image aug., {name}"] == "invariant"
    for name in ("horizontal_flip", "azimuth", "distance"):
        assert m[f"verdict: CIPER, image aug., {name}"] == "invariant"
    assert m["invariance_error: CIPER, image aug., horizontal_flip"] < 0.05
    assert m["re-encoded: predictive, image aug."] == "11 11 11 11 11"
    table = pd.read_csv(project_root() / "data" / "sweeps" / "equivariance.csv")
    lost = table[table["verdict"] == "lost"]
    assert list(zip(lost["encoder"], lost["transformation"])) == [("SimCLR, pose aug.", "grayscale")]
    assert "become alike" in lost["reason"].iloc[0]
    differing = []
    for _, rows in table.groupby(["encoder", "transformation"]):  # where seeds differ, most stand at the line
        if rows["verdict"].nunique() > 1:
            differing.append(abs(rows["invariance_error"].mean() - 0.1) < 0.035)
    assert sum(differing) > 0.6 * len(differing)
    for name in ("crop_size", "elevation", "brightness"):
        assert m[f"verdict: random encoder, {name}"] == "re-encoded"
    assert min(m[f"decodable: SimCLR, image aug., {name}"] for name in ("hue", "crop_x", "crop_size")) > 0.1
    pair = "CIPER, image aug. minus SimCLR, image aug."
    known = {
        n[len(pair) + 2 : -len(": level known (low)")]: v
        for n, v in m.items()
        if n.startswith(pair) and n.endswith(": level known (low)")
    }
    assert len(known) == 11
    assert min(known.values()) > 0
    assert min(known, key=known.get) == "grayscale"
    moved = [v for n, v in m.items() if n.startswith(pair) and n.endswith("invariance error (difference)")]
    assert sorted(moved)[-2] < 0.1
    pair = "CIPER, pose aug. minus SimCLR, pose aug."
    gains = {n.split(", ")[-1].split(":")[0]: v for n, v in m.items() if n.startswith(pair)
             and n.endswith("level known (difference)")}  # fmt: skip
    assert set(sorted(gains, key=gains.get)[-2:]) == {"elevation", "distance"}
    pair = "SimCLR, image aug. minus random encoder"
    for name in ("elevation", "crop_size", "grayscale"):
        assert m[f"{pair}, {name}: level known (low)"] > 0
    for name in ("horizontal_flip", "brightness"):
        assert m[f"{pair}, {name}: level known (high)"] < 0

    def mean(factor, name):
        return float(m[f"{factor}: {name}" + ", image aug." * ("aug." not in name)].split(" ")[0])

    assert mean("object", "EquiMod") >= mean("object", "CIPER") > mean("object", "predictive")
    assert mean("category", "EquiMod") >= mean("category", "CIPER")
    posed = {name: mean("category", name) for name in ("EquiMod, pose aug.", "CIPER, pose aug.", "SimCLR, pose aug.")}
    assert max(posed, key=posed.get) == "EquiMod, pose aug."
    assert mean("object", "SimCLR") + 0.05 < mean("object", "AugSelf") < mean("object", "EquiMod")
    for name in ("E-SSL", "SIE"):
        assert mean("object", name) == pytest.approx(mean("object", "SimCLR"), abs=0.035)
    assert mean("object", "CLeVER") < 0.44


def test_the_sentences_of_notebook_09_are_true_of_its_figures():
    record = published("09_splitting_the_representation")
    assert (record["profile"], record["parameters"]) == ("teaching", {})
    m = record["metrics"]
    for factor in FACTORS:
        assert m[f"{factor}: SIE, equivariant part"] > m[f"{factor}: SIE, invariant part"]
        assert m[f"{factor}: CLeVER, equivariant part"] < m[f"{factor}: CIPER, last 26"]
        assert m[f"{factor}: CIPER, first 64"] == pytest.approx(m[f"{factor}: CIPER, last 64"], abs=0.02)
    for step in ("rotation", "crop_size", "hue", "azimuth", "elevation"):
        error, known = ({n: m[f"{k}: {n}, {step}"] for n in ("SIE, invariant part", "SIE, equivariant part",
                         "CLeVER, invariant part", "CLeVER, equivariant part", "CIPER, first 64", "CIPER, last 26")}
                        for k in ("invariance_error", "decodable"))  # fmt: skip
        assert error["SIE, invariant part"] < min(error["SIE, equivariant part"], error["CIPER, first 64"])
        assert error["CLeVER, equivariant part"] > error["CLeVER, invariant part"]
        assert known["CLeVER, equivariant part"] < min(known["CLeVER, invariant part"], known["CIPER, last 26"])
    assert m["decodable: SIE, invariant part, rotation"] == pytest.approx(0.5, abs=0.05)
    assert m["decodable: SIE, invariant part, hue"] > 0.6
    whole = {c: m[f"object, {c}: CIPER, whole"] for c in ("clean", "jitter", "jitter + flip", "jitter + rotation")}
    assert whole["jitter"] == pytest.approx(whole["clean"] / 2, abs=0.05)
    assert whole["jitter + flip"] > whole["jitter"] - 0.03
    assert whole["jitter + rotation"] < whole["jitter"] / 2
    for name in ("SIE", "CLeVER"):
        assert m[f"object, jitter: {name}, whole"] < m[f"object, clean: {name}, whole"] / 2
        assert m[f"object, jitter: {name}, invariant part"] < m["object, jitter: CIPER, first 102"]
    for change in ("jitter", "jitter + flip", "jitter + rotation"):
        halves = [m[f"object, {change}: SIE, {part} part"] for part in ("invariant", "equivariant")]
        assert halves[0] == pytest.approx(halves[1], abs=0.04)

    def kept(name):
        return m[f"object, jitter + rotation: {name}"] / m[f"object, clean: {name}"]

    for name in ("SIE, invariant part", "CLeVER, invariant part"):
        assert m[f"object, clean: {name}"] < m["object, clean: CIPER, first 102"]
        assert kept(name) > kept("CIPER, first 102")
    # section 5: before, without two directions, without the object's 49, without any 49

    def after(what, name="CIPER, pose aug."):
        erased = ("nothing", "elevation and distance", "object", "objects dealt out")
        return [m[f"{what}, {one} erased: {name}"] for one in erased]

    for name in ("random encoder", "CIPER, image aug.", "SimCLR, pose aug.", "CIPER, pose aug."):
        whole, two, _, _ = after("object", name)
        assert two == pytest.approx(whole, abs=0.01)
        assert after("object", name)[2] < 0.07
        for factor in ("elevation", "distance"):
            assert after(factor, name)[1] < 0.001
    for factor in ("elevation", "distance"):
        whole, _, own, others = after(factor)
        assert whole > own > others + 0.05
    whole, _, own, others = after("azimuth")
    assert whole + 5 < own == pytest.approx(others, abs=1.5)
    image, never = (after("azimuth", name) for name in ("CIPER, image aug.", "random encoder"))
    assert image[2] > 88
    assert image[3] < 80
    assert never[2] > never[3] + 8
    _, _, own, others = after("elevation", "CIPER, image aug.")
    assert own == pytest.approx(others, abs=0.05)


def test_the_sentences_of_notebook_07_are_true_of_its_figure():
    record = published("07_bring_your_own")
    assert (record["profile"], record["parameters"]) == ("teaching", {})
    m, baselines = record["metrics"], read_baselines()["pixels"]
    assert m["session"] > 0.8
    assert m["session: six numbers"] > m["session"]
    assert all(m[factor] < baselines[factor] for factor in FACTORS)  # never trained: below the pixels
    assert m["object: six numbers"] < 0.1


def test_the_results_waits_are_what_was_measured():
    rows = published("responsiveness")["rows"]
    text = results_page()
    for name in ("JupyterLab", "the page"):
        row = rows[f"slider to drawn figure, {name}"]
        assert row["median_ms"] < 150
        assert row["p95_ms"] < 400
        assert f"{name}, 50 moves | median {row['median_ms']:.0f} ms, 95th percentile {row['p95_ms']:.0f} ms |" in text
    ratios = [row["ratio"] for row in rows.values() if "ratio" in row]
    assert len(ratios) == 5
    assert f"| {min(ratios):.2f} x to {max(ratios):.2f} x | 1.2 x |" in text
    assert f"{rows['the page']['megabytes']:.1f} MB, ready in {rows['the page']['ready_s']:.1f} s" in text
    assert f"| {rows['growth of a kernel']['megabytes']:.2f} MB | 100 MB |" in text


def test_the_results_speeds_are_what_was_measured():
    text = results_page().partition("## Speed")[2]
    shown = re.findall(r"^\| [^|]+ \| [^|]+ \| [^|]+ \| ([\d.]+) x[^|]*\| ([\d.]+) x \|$", text, re.M)
    measured = [(row["ratio"], row["target"]) for row in published("benchmarks")["rows"]]
    assert len(shown) == len(measured)
    for ratio, target in shown:
        close = [r for r, t in measured if t == pytest.approx(float(target), rel=0.02)]
        assert any(r == pytest.approx(float(ratio), rel=0.025) for r in close), ratio


def test_the_results_costs_of_sweeps_are_what_was_measured():
    rows, text = published("sweep_benchmarks")["rows"], results_page()
    against = rows["a sweep against xargs -P2"]
    assert (
        f"| six runs of {against['a_run_s']:.0f} s, two at a time, against `xargs -P2` | {against['ratio']:.2f} x |"
        in text
    )
    assert f"| {rows['a thousand records']['collect_s']:.2f} s | 2 s |" in text
    assert f"| {rows['a thousand records']['entered_again_s']:.2f} s | 5 s |" in text
    assert f"| {rows['sixteen workers']['busy']:.0%} | 90% |" in text
    assert f"| {rows[CORE50]['seconds']:.2f} s | 5 s |" in text
    assert f"| {rows['frames decoded']['ratio']:.1f} x | 1 x |" in text


def test_the_results_cifar10_is_what_its_table_says():
    table, text = (
        pd.read_csv(project_root() / "data" / "sweeps" / "cifar10.csv"),
        results_page(),
    )
    assert (table["status"] == "done").all()
    assert set(zip(table["epochs"], table["train_size"], table["test_size"])) == {(8, 5000, 5000)}
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+ \[[\d.]+, [\d.]+\]) \| [\d–]+ \|$", text, re.M))
    names = {label_of(method): runs["metric: category"] for method, runs in table.groupby("method")}
    assert rows.keys() == names.keys()
    for name, scores in names.items():
        assert len(scores) == 3
        assert rows[name] == "{:.3f} [{:.3f}, {:.3f}]".format(*over_seeds(scores)), name
    paired = table.pivot(index="seed", columns="method", values="metric: category")
    difference = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*over_seeds(paired["ciper"] - paired["simclr"]))
    assert f"CIPER minus SimCLR is {difference}" in text


@pytest.mark.parametrize("name", ["README.md", "RESULTS.md"])
def test_there_are_no_gaps(name):
    text = (project_root() / name).read_text().replace("RESULTS.md", "")
    assert not re.search(r"\b(TIME\d+|RESULTS|SPEED|[A-Z]+_ROWS)\b", text)


def results_page():
    """As it is read: without the marks of its tables and numbers."""
    return re.sub(r"<!--.*?-->\n?", "", (project_root() / "RESULTS.md").read_text())


def published(stem):
    return json.loads((project_root() / "figures" / f"{stem}.json").read_text())


def test_the_sentences_of_notebook_03_are_true_of_its_figures():
    record = published("03_saliency")
    assert record["profile"] == "teaching"
    assert record["parameters"] == {}
    m = record["metrics"]

    def interval(measure, pair="CIPER - SimCLR"):
        return [m[f"{measure}, {pair} ({side})"] for side in ("low", "difference", "high")]

    bare = "the same without coordinates"
    # section 4
    for part, verdict in (("object", "object"), ("background", "surroundings")):
        assert m[f"verdict, reads the {part} alone"] == verdict
        for control in ("labels", "weights"):
            assert m[f"verdict, reads the {part} alone, random {control}"] == "nothing"
    assert m["similarity to edges"] > 0.2 > m["similarity to random weights"]
    assert m["deletion, FullGrad"] < m["deletion, edges"] < m["deletion, random weights"]
    assert m["insertion, FullGrad"] > m["insertion, edges"] > m["insertion, random weights"]
    # section 5
    for name in ("CIPER", "SimCLR", "predictive", "random encoder"):
        assert m[f"kept, object hidden: {name}"] < 0.1
    for kept in ("kept, background plain", "kept, background exchanged"):
        assert m[f"{kept}: CIPER"] < m[f"{kept}: SimCLR"]
    occlusion = {
        name: m[f"occlusion on the object: {name}"] for name in ("SimCLR", "CIPER", "random encoder", "predictive")
    }
    assert occlusion["SimCLR"] > occlusion["CIPER"] > occlusion["SimCLR"] - 0.05
    assert occlusion["CIPER"] > max(occlusion["random encoder"], occlusion["predictive"]) + 0.1
    # section 6
    assert 0.01 < m["coordinates of the map: CIPER"] < 0.04
    # section 7: no map has more of itself on the object than edges have
    encoders = [name.removeprefix("verdicts: ") for name in m if name.startswith("verdicts: ")]
    assert all("object" not in m[f"verdicts: {name}"] for name in encoders)
    edges = m["edges on the object: CIPER"]
    assert all(m["area"] < m[f"pixels on the object: {name}"] < edges - 0.05 for name in encoders)
    for factor in ("object", "category"):
        assert m[f"{factor}, all images: CIPER - SimCLR (high)"] < 0
    for pair, about in (("CIPER - SimCLR", -0.04), (bare, -0.06)):
        assert interval("map on the object", pair)[2] < 0
        assert interval("map on the object", pair)[1] == pytest.approx(about, abs=0.005)
        assert interval("accuracy", pair)[0] < 0 < interval("accuracy", pair)[2]
    cases = itertools.product(("kept, background plain", "kept, background exchanged"), ("CIPER - SimCLR", bare))
    excluding = [case for case in cases if interval(*case)[2] < 0]
    assert excluding == [("kept, background plain", "CIPER - SimCLR")]
    session = {name: m[f"session accuracy, all held-out images: {name}"] for name in ("CIPER", "SimCLR")}
    assert session["CIPER"] > 0.98
    assert session["SimCLR"] < 0.75


def test_the_sentences_of_notebook_04_are_true_of_its_figures():
    record = published("04_embeddings")
    assert record["profile"] == "teaching"
    assert record["parameters"] == {}
    m = record["metrics"]
    strewn = 15 / (m["images"] - 1)
    for name in ("SimCLR", "CIPER"):
        assert m[f"kept, PCA: {name}"] < m[f"kept, PaCMAP: {name}"] < 0.5
        assert m[f"agreement of seeds: {name}"] == pytest.approx(0.6, abs=0.03)
        assert m[f"kept, PaCMAP, shuffled: {name}"] == pytest.approx(10 * strewn, rel=0.1)
        assert m[f"trustworthiness, PaCMAP, shuffled: {name}"] == pytest.approx(0.73, abs=0.03)
        assert m[f"order in h: {name}"] > 0.94
    for measure in ("order in h", "order in the picture", "share of variance within objects"):
        assert m[f"{measure}: CIPER"] > m[f"{measure}: SimCLR"]
    assert m["order in h: never trained"] > m["order in h: SimCLR"]
    assert m["order in h: pixels"] > max(m["order in h: CIPER"], 0.99)
    for name in ("never trained", "pixels"):
        assert m[f"share of variance within objects: {name}"] > 0.7


def test_the_sentences_of_notebook_05_are_true_of_its_figures():
    record = published("05_explaining_away")
    assert record["profile"] == "teaching"
    assert record["parameters"] == {}
    m = record["metrics"]

    def interval(name):
        return [m[f"CIPER, image aug. minus {name} ({side})"] for side in ("low", "difference", "high")]

    # sections 1 to 3
    bit = "the 9 is a turned 6"
    for column in ("value_nats", "level_entropy_nats", "class_entropy_nats"):
        assert m[f"{column}: {bit}"] == pytest.approx(math.log(2), abs=0.002)
    real = {name: m[f"{name}_nats: real 6 and 9"] for name in ("forward", "backward", "class_entropy", "value")}
    assert min(real["forward"], real["backward"]) > real["class_entropy"]
    assert real["value"] <= min(real["class_entropy"], m["level_entropy_nats: real 6 and 9"]) + 1e-9
    assert real["value"] < 0.1
    for world in ("xor", "modular", "mixture"):
        for estimate in ("forward", "backward"):
            assert m[f"{estimate}_nats: {world}"] == pytest.approx(m[f"truth: {world}"], abs=0.015)
    assert m["forward_nats: quadrant"] > 0.6
    assert m["value_nats: quadrant"] < 0.02
    # section 4
    worth, open_level, open_class = (
        {name.split(": ", 1)[1]: value for name, value in m.items() if name.startswith(f"{column}: ")}
        for column in ("value_nats", "level_entropy_nats", "class_entropy_nats")
    )
    image, posed = ([f"{name}, {views} aug." for name in ("SimCLR", "CIPER", "EquiMod")] for views in ("image", "pose"))
    encoders = [*image, *posed, "random encoder", "CIPER 0.1, image aug."]
    encoders += [f"predictive, {views} aug." for views in ("image", "pose")]
    assert min(encoders, key=open_level.get) == "CIPER, pose aug."
    assert max(encoders, key=open_level.get) == "SimCLR, image aug."
    assert all(worth[name] < worth["random encoder"] + 0.01 for name in image)
    assert interval("random encoder")[2] < 0
    assert 0 < interval("SimCLR, image aug.")[0] < interval("SimCLR, image aug.")[2] < 0.02
    assert all(m[f"high_nats: {name}"] - m[f"low_nats: {name}"] > 0.1 for name in image)
    reports = [load_report(config).synergy["value"] for config in configs_of([{"method": "ciper"}], [0, 1, 2])]
    assert sum(reports) / 3 == pytest.approx(0.15, abs=0.005)  # of 2,000 images: the other way round
    assert read_baselines()["random encoder"]["synergy"] == pytest.approx(0.10, abs=0.005)
    assert m["low_nats: random encoder"] < m["high_nats: CIPER, image aug."]
    assert m["low_nats: CIPER, image aug."] < m["high_nats: random encoder"]
    assert max(worth[name] for name in posed) < 0.02
    assert max(open_class[name] for name in posed) < 0.11
    assert open_class["predictive, pose aug."] > 1
    assert worth["predictive, pose aug."] > 0.1
    assert "present" in m["verdicts: random encoder"]
    assert all("present" not in m[f"verdicts: {name}"] for name in posed)
    assert max(m[f"forward_nats: {name}"] / worth[name] for name in image) > 3
    # section 5
    gained = {name.split(": ", 1)[1]: value for name, value in m.items() if name.startswith("the object, in degrees: ")}
    assert max(gained, key=gained.get) == "CIPER, pose aug."
    alone = {name.split(": ", 1)[1]: v for name, v in m.items() if name.startswith("forward_nats, object: ")}
    alone.pop("pixels")
    assert max(alone, key=alone.get) == "CIPER, pose aug."
    known = {name.split(": ", 1)[1]: v for name, v in m.items() if name.startswith("value_nats, object: ")}
    assert known["CIPER, pose aug."] < 0.05 < known["random encoder"]
    assert known["predictive, pose aug."] > 0.05
    # section 6
    accuracy, level, synergy = (
        {name.split(": ", 1)[1]: value for name, value in m.items() if name.startswith(f"{measure}, lesson: ")}
        for measure in ("accuracy", "level_entropy_nats", "value_nats")
    )
    turning, plain = "rotation, turning network", "rotation, without coordinates"
    pooled = f"{turning}, pooled"
    fixed = "azimuth, at one level"
    lossy = {"azimuth", fixed, "identity", "identity + image aug.", "rotation + image aug.", pooled}
    for name in set(level) - lossy:
        assert level[name] < 0.11
        assert abs(synergy[name]) < 0.01
    assert [name for name in level if m[f"by heart, lesson: {name}"]] == [fixed]
    assert m[f"by heart, lesson: {fixed}"] == 3
    assert m[f"training_nats, lesson: {fixed}"] < 0.02 < 1 < level[fixed]
    assert accuracy[fixed] < m["accuracy, untrained"]
    assert synergy[fixed] > 0.05
    for name in ("jigsaw", "blur"):
        assert set(m[f"verdicts, lesson: {name}"].split(", ")) == {"absent"}
    more = {name for name in accuracy if accuracy[name] > m["accuracy, best untrained"]}
    assert more - {turning, plain, pooled} == {"jigsaw", "azimuth", "rotation + image aug.", "rotation, class added"}
    assert level[pooled] > 1.3
    seeds = {name: m[f"accuracies, lesson: {name}"].split(", ") for name in (turning, plain, pooled)}
    for other in (plain, pooled):
        assert all(float(a) > float(b) for a, b in zip(seeds[turning], seeds[other]))
    assert accuracy["blur"] < m["accuracy, untrained"] < 0.37
    assert level["rotation + image aug."] > level["rotation"] + 0.15
    assert accuracy["rotation + image aug."] > accuracy["rotation"] + 0.03
    assert accuracy["identity + image aug."] < accuracy["identity"]
    assert level["rotation, class added"] > level["rotation"] + 0.02
    assert level["rotation, class removed"] == pytest.approx(level["rotation"], abs=0.01)
    assert synergy["azimuth"] > 0.025
    assert min(map(float, m["accuracies, lesson: azimuth"].split(", "))) > m["accuracy, best untrained"]
    assert synergy["azimuth"] > max(abs(synergy["jigsaw"]), abs(synergy["rotation"])) + 0.02
    assert level["azimuth"] > 0.7


def test_the_battery_s_validation_says_what_its_verdicts_were():
    rows = json.loads((project_root() / "figures" / "validation.json").read_text())["battery"]
    assert {(row["kind"], row["levels"], row["noise"]) for row in rows} == set(
        itertools.product(ORBITS, (2, 4), (0.05, 0.5, 1.0))
    )
    assert all(row["draws"] == 20 == row["right"] + row["wrong"] + row["undecided"] for row in rows)
    assert sum(row["wrong"] for row in rows) <= 0.05 * 20 * len(rows)
    plain = [row for row in rows if row["noise"] < 1]
    for kind in ("turned", "affine", "destroyed"):
        assert sum(row["right"] for row in plain if row["kind"] == kind) >= 0.9 * 80
    found = measure_equivariance(make_orbits("affine", 2000, m=2, d=128, noise=0.5, seed=3), seed=3)
    assert found.verdict == ORBITS["affine"]


def test_the_estimator_s_validation_is_made_of_its_draws():
    """By the draws themselves, whatever the summary says."""
    found = json.loads((project_root() / "figures" / "validation.json").read_text())
    draws = pd.read_csv(project_root() / "data" / "sweeps" / "worlds.csv")
    assert not draws.duplicated(["world", "seed"]).any()
    assert draws["world"].nunique() == 10
    assert set(draws["n"]) == {10_000}
    assert set(draws["d"]) == {128}
    draws = draws[draws.groupby("seed")["world"].transform("nunique") == 10]  # else some worlds count more than others
    told = draws[draws["verdict"].isin(["present", "absent"])]
    inside = told["truth_nats"].between(told["low_nats"] - 0.001, told["high_nats"] + 0.001)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["all"]["draws"] == len(draws)
    assert (rows["all"]["answered"], rows["all"]["holds"]) == (len(told), inside.sum())
    assert inside.mean() >= 0.9
    widths = told["high_nats"] - told["low_nats"]
    assert widths.median() <= 0.1
    for name, least in (("linear", 0.8), ("curved", 0.4)):  # half of the curved ones were hoped for
        assert rows[name]["answered"] >= least * rows[name]["draws"]
    shared = draws["truth_nats"] >= 0.1
    for name, part, right, wrong in (
        ("some", draws[shared], "present", "absent"),
        ("none", draws[~shared], "absent", "present"),
    ):
        assert rows[name]["right"] == part["verdict"].eq(right).sum()
        assert rows[name]["wrong"] == part["verdict"].eq(wrong).sum()
        assert rows[name]["wrong"] <= 0.05 * len(part)
    assert 0.02 <= found["p_values"]["at_most_0.05"] / found["p_values"]["repeats"] <= 0.08


@pytest.mark.parametrize("name", ["ablations", "cifar10"])
def test_recorded_sweep_runs_keep_the_names_of_their_trainings_and_folders(name):
    table = pd.read_csv(project_root() / "data" / "sweeps" / f"{name}.csv")
    notebook = project_root() / "notebooks" / "one_encoder.ipynb"
    known, folders = [column for column in table if column in declared_parameters(notebook)], set()
    for _, row in table.iterrows():
        given = {column: row[column] for column in known if not pd.isna(row[column])}
        given = {n: v.item() if hasattr(v, "item") else v for n, v in given.items()}
        given |= {n: int(v) for n, v in given.items() if isinstance(v, float) and v.is_integer()}
        if row["status"] == "done":
            choices = {n: v for n, v in given.items() if n != "test_size"}
            config = Config.from_parameters(**choices)
            assert row["metric: run"] in (config.name, *(older.name for older in config.older()))
        folders.add(folder_name(notebook, given))
    if name == "ablations":  # whose values a table does not show as they were given: 10 or 10.0
        asked = yaml.safe_load((project_root() / "data" / "sweeps" / "ablations.yml").read_text())
        kinds = [{key: [value] for key, value in kind.items()} for kind in asked["kinds"].values()]
        tasks = [task for kind in kinds for task in make_tasks(notebook, kind | {"seed": asked["seeds"]})]
        folders = {task.folder.name for task in tasks}
    assert set(table["folder"]) <= folders
