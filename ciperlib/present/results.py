"""The tables of RESULTS.md, made of figures/, data/sweeps and the zoo's reports; to add one, write a function below."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ciperlib.analyse.compare import cases_of, compare
from ciperlib.analyse.report import REPORTED, load_report, reported
from ciperlib.analyse.statistics import over_seeds
from ciperlib.config import Config
from ciperlib.files import project_root, write_atomically
from ciperlib.labels import label_of, labels, views_of
from ciperlib.learn.runs import Run
from ciperlib.learn.zoo import configs_of, find_run, zoo_grid, zoo_root
from ciperlib.present.published import Read, fill, metrics_of, with_interval
from ciperlib.registry import measures, methods

PAGE = "RESULTS.md"
FAMILY = ("simclr", "simclr_clean_pass", "ciper", "predictive")  # alpha from nothing to everything; then the others
VIEWS = ("image", "no", "pose", "session")  # the first word of `views_of`
FACTORS = ("category", "object", "session", "pose")
TABLES: dict[str, Callable[[Read], str]] = {}


def render_results(text: str, read: Read, page: str = PAGE) -> str:
    """The same page with each of its tables and numbers made anew.

    Args:
        text: of the page.
        read: gives the text of a file by its path in the checkout.
        page: the page's name, for messages.

    Raises:
        ResultsError: a mark that names no table, or a file that lacks what is asked of it.
    """
    return fill(text, read, TABLES, page)


def pages() -> list[str]:
    """The pages that quote what was published, by their paths in the checkout."""
    notebooks = sorted(path.name for path in (project_root() / "notebooks").glob("*.ipynb"))
    return [PAGE, "README.md", *(f"notebooks/{name}" for name in notebooks)]


def write_results() -> list[str]:
    """Makes the tables and numbers of the checkout's pages anew; returns the pages that changed.

    Raises:
        ResultsError: as for `render_results`.
    """
    changed = []
    for page in pages():
        text = _read(page)
        made = render_results(text, _read, page)
        if made != text:
            write_atomically(project_root() / page, made)
            changed.append(page)
    return changed


def _read(name: str) -> str:
    return (project_root() / name).read_text(encoding="utf-8")


def table(make: Callable[[Read], str]) -> Callable[[Read], str]:
    """A decorator: the function makes the table of its name."""
    TABLES[make.__name__] = make
    return make


def as_markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows of texts under their names."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def in_order(names: Iterable[str]) -> list[str]:
    """Names of encoders and baselines, as they shall stand: what cannot know first, then by views, method and alpha."""
    configs = configs_of([kind for part in REPORTED for kind in zoo_grid(part)], [0])
    order = list(dict.fromkeys((*FAMILY, *methods)))
    configs.sort(key=lambda c: (VIEWS.index(views_of(c).split()[0]), order.index(c.method), c.alpha))
    known = ["shuffled labels", "pixels", "random encoder", *labels(configs)]
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


@table
def probing(read: Read) -> str:
    """Linear probes, by notebook 02."""
    metrics = metrics_of(read, "02_linear_probing")
    names = [name.removeprefix("pose: ") for name in metrics if re.fullmatch(r"pose: [^()]*", name)]
    rows = [[name, *(f"{metrics[f'{factor}: {name}']:.2f}" for factor in FACTORS)] for name in in_order(names)]
    return as_markdown_table(["encoder", *FACTORS], rows)


@table
def objects(read: Read) -> str:
    """What was asked of many encoders object by object."""
    found = pd.read_csv(io.StringIO(read("data/sweeps/objects.csv")))
    columns = {
        ("azimuth", "all"): "azimuth by one map for all", ("azimuth", "category"): "a map for each category",
        ("azimuth", "object"): "for each object", ("azimuth", "guessed object"): "for the guessed object",
        ("category", "other objects"): "category of other objects", ("object", "1 label"): "objects from one label",
        ("object", "other places"): "objects in other places",
    }  # fmt: skip
    means = found.groupby(["encoder", "factor", "how"])["value"].mean()
    rows = []
    for name in in_order(dict.fromkeys(found["encoder"])):
        values = [means[name, *column] for column in columns]
        rows.append([name, *(f"{v:.0f}°" if v > 1 else f"{v:.2f}" for v in values)])
    return as_markdown_table(["encoder", *columns.values()], rows)


@table
def bounds(read: Read) -> str:
    """What the same network knows that is told the answer, from the zoo; and who knows more without being told."""
    rows, probed = [], metrics_of(read, "02_linear_probing")
    for kind in zoo_grid("bounds"):
        configs = configs_of([kind])
        target = configs[0].option("target")
        values = [_shipped(config).metrics[target] for config in configs]
        untold = {
            name.removeprefix(f"{target}: "): value
            for name, value in probed.items()
            if re.fullmatch(rf"{target}: [^()]*", name)
        }
        best = max(untold, key=untold.__getitem__)
        broken = "no bound: " * (untold[best] > sum(values) / len(values))
        told = " ".join(f"{value:.3f}" for value in values)
        measure = "R²" if target == "pose" else "accuracy"
        rows.append([target, told, f"{broken}{best} {untold[best]:.3f}", measure])
    return as_markdown_table(["told", "three seeds", "best that was not told (mean)", "measure"], rows)


def _shipped(config: Config) -> Run:
    run = find_run(config, zoo_root())
    if run is None:
        raise KeyError(f"{config.name} is not in the zoo: make zoo")
    return run


@table
def reports(read: Read) -> str:
    """The encoders of the explorer: what their reports hold, registered measures among it. A synergy whose verdict is
    not "present" for every seed says so."""
    open_ones = set()

    def facts(case) -> dict[str, float]:
        report = load_report(case.config)
        if report.synergy["verdict"] != "present":
            open_ones.add(case.name)
        return {name: value["value"] for name, value in report.measures.items()}

    found = compare(cases_of(reported()), facts, keep=False).groupby("encoder", sort=False).mean(numeric_only=True)
    found = found.dropna(axis="columns")  # what an older report does not hold is shown of none
    digits = {name: measure.digits for name, measure in measures.items() if name in found}
    head = ["encoder", *(measures[name].label.replace("|", " given ") for name in digits)]

    def cell(name: str, column: str) -> str:
        said = ", unresolved" if column == "synergy" and name in open_ones else ""
        return f"{found.loc[name, column]:.{digits[column]}f}{said}"

    rows = [[name, *(cell(name, column) for column in digits)] for name in in_order(found.index)]
    return as_markdown_table(head, rows)


@table
def saliency(read: Read) -> str:
    """Where CIPER looks, by notebook 03."""
    metrics = metrics_of(read, "03_saliency")
    called = {
        "map on the object": "share of the map on the object",
        "pixels on the object": "share of its pixel terms",
        "kept, background plain": "answers kept, background plain",
        "kept, background exchanged": "answers kept, background exchanged",
        "accuracy": "accuracy",
    }
    pairs = ("CIPER - SimCLR", "the same without coordinates")
    rows = [[shown, *(with_interval(metrics, f"{name}, {pair}") for pair in pairs)] for name, shown in called.items()]
    return as_markdown_table(["CIPER minus SimCLR", "with coordinate channels", "without"], rows)


@table
def synergy(read: Read) -> str:
    """What the category and the object add to knowing the azimuth, by notebook 05: in nats with the verdicts, and in
    degrees."""
    metrics = metrics_of(read, "05_explaining_away")
    names = [name.removeprefix("verdicts: ") for name in metrics if name.startswith("verdicts: ")]
    rows = []
    for name in in_order(names):
        row = [name]
        for target, about in (("category", ""), ("object", ", object")):
            row.append(_adds(metrics, about, name))
            degrees = metrics.get(f"the {target}, in degrees: {name}")
            row.append("-" if degrees is None else f"{degrees:.0f}")
        rows.append([*row, f"{metrics[f'level_entropy_nats: {name}']:.2f}"])
    head = ["Z", "the category adds (nats)", "degrees", "the object adds (nats)", "degrees", "H(A given Z)"]
    return as_markdown_table(head, rows)


def _adds(metrics: Mapping[str, Any], about: str, name: str) -> str:
    """Nats, interval and verdict; a dash for what was not asked."""
    if f"verdicts{about}: {name}" not in metrics:
        return "-"
    nats = [f"{metrics[f'{end}_nats{about}: {name}']:.3f}" for end in ("value", "low", "high")]
    return "{} [{}, {}], {}".format(*nats, _verdict(metrics[f"verdicts{about}: {name}"]))


def _verdict(of_seeds: str) -> str:
    """One word where the seeds agree, else how many of them say what."""
    words = of_seeds.split(", ")
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    if len(counts) == 1:
        return words[0]
    return " and ".join(f"{count} {word}" for word, count in counts.items())


@table
def validation(read: Read) -> str:
    """The estimator of explaining-away, asked what is known, by `make validate`."""
    found = json.loads(read("figures/validation.json"))
    rows = []
    called = {"linear": "what linear maps can express", "curved": "what they cannot", "some": "at least 0.1 nats",
              "none": "nothing to be told"}  # fmt: skip
    for part in found["rows"]:
        name = called.get(part["name"], part["name"])
        name += f" ({part['truth_nats']:.3f} nats)" if part.get("truth_nats") is not None else ""
        right = f"{part['right']}, {part['wrong']}"
        width = "-" if part["width_nats"] is None else f"{part['width_nats']:.3f}"
        answered = f"{part['answered']} of {part['draws']}"
        holds = f"{part['holds']} of {part['answered']}" if part["answered"] else "-"
        rows.append([name, answered, holds, width, right])
    return as_markdown_table(["world", "answers", "truth inside", "median width", "verdict right, wrong"], rows)


@table
def battery(read: Read) -> str:
    """The battery, asked of planted codes, by `make validate`."""
    found = json.loads(read("figures/validation.json"))["battery"]
    called = {"invariant": "nothing is done", "additive": "a shift", "turned": "an orthogonal map",
              "affine": "an affine map", "destroyed": "another h, at random"}  # fmt: skip
    noises = list(dict.fromkeys(row["noise"] for row in found))
    cells: dict[tuple[str, int], list[str]] = {}
    for row in found:
        others = [f"{row[word]} {word}" for word in ("wrong", "undecided") if row[word]]
        said = f"{row['right']} of {row['draws']}" + (f" ({', '.join(others)})" if others else "")
        cells.setdefault((row["kind"], row["levels"]), []).append(said)
    rows = [[f"{called[kind]}, {levels} levels", *said] for (kind, levels), said in cells.items()]
    return as_markdown_table(["what is done to h", *(f"right, noise {noise:g}" for noise in noises)], rows)


@table
def ablations(read: Read) -> str:
    """CIPER with one choice changed, by notebook 06."""
    metrics = metrics_of(read, "06_ablations")
    names = re.findall(r"object: (.+) - CIPER \(difference\)", "\n".join(metrics))
    names = [name for name in names if name != "never trained"]
    order = ["no crop", "no jitter", "no flip", "no grayscale", "SimCLR"]
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    rows = [[name, with_interval(metrics, f"object: {name} - CIPER")] for name in names]
    return as_markdown_table(["changed", "object accuracy, minus CIPER's"], rows)


@table
def kin(read: Read) -> str:
    """Every method in one setting, by notebook 08."""
    metrics = metrics_of(read, "08_equivariance")
    columns = [*FACTORS, "re-encoded", "invariant", "passes"]
    names = [name.removeprefix("passes: ") for name in metrics if name.startswith("passes: ")]
    rows = [[name, *(_plain(metrics[f"{column}: {name}"]) for column in columns)] for name in in_order(names)]
    return as_markdown_table(["encoder", *columns], rows)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@table
def proofs(read: Read) -> str:
    """The long proofs in full counts."""
    parts = json.loads(read("figures/prove_full.json"))["parts"]
    kills = sum(parts["kills"][what] for what in ("fit", "cache", "page", "sweep"))
    configs, drawn = parts["any config"], parts["load in a browser"]
    finite = f"{len(configs['found'])} crashes ({configs['not finite']} said that their loss is not finite)"
    faults = parts["planted faults"]
    bad = "bad input: choices, arguments, tables, pictures, weights, records, notebooks, profiles"
    in_lab = "figures of notebooks 01 to 05 in JupyterLab beside two busy processes"
    rows = [
        [bad, parts["bad input"]["tried"], _none(parts["bad input"], "wrong answers, tracebacks, hangs or losses")],
        ["random configs that are accepted, a step each", f"{configs['tried']:,}", finite],
        ["kill -9 over `fit`, cached images, a sweep and the page", kills, _none(parts["kills"], "lost or damaged")],
        ["faults planted in the library, one at a time", faults["planted"], f"{faults['caught']} caught"],
        [
            "an epoch on an imitated CPU without fast bf16, three alternating pairs",
            f"{parts['another CPU']['ratio']} x the time", f"({parts['another CPU']['bound']:g} x allowed)",
        ],
        [in_lab, f"{drawn['drawn']} in {drawn['tries']} tries", _none(drawn, "empty")],
    ]  # fmt: skip
    return as_markdown_table(["what", "tried", "found"], rows)


def _none(part: Mapping[str, Any], what: str) -> str:
    return f"{len(part['found'])} {what}"


@table
def gpu_agreement(read: Read) -> str:
    """The CPU against the GPU."""
    parts = json.loads(read("figures/gpu.json"))["parts"]
    render, views, step = parts["render"], parts["augmentation"], parts["step"]["relative_gap_of_gradient"]
    features, probes, maps = parts["features"]["relative_gap"], parts["probes"], parts["fullgrad"]
    same = all(parts[name]["equal"] for name in ("resume", "determinism"))
    cpu = step["bf16 on the CPU"]
    rows = [
        [
            "rendered pixels within 1 of 255; masks equal",
            f"{render['pixels_within_1_of_255']:.3%}; {render['masks_equal']:.3%}", "99.9%",
        ],
        [
            "augmented pixels, largest gap; parameters drawn",
            f"{_small(views['largest_pixel_gap'])}; {_small(views['largest_parameter_gap'])}", "1/255; 1e-5",
        ],
        [
            "features, relative gap: float32; TF32",
            f"{_small(features['float32'])}; {_small(features['TF32'])}", "1e-4; 1e-2",
        ],
        [
            "gradient of CIPER's first step: float32; TF32; bf16 (bf16 on the CPU)",
            f"{step['float32']:.3f}; {step['TF32']:.2f}; {step['bf16']:.2f} ({cpu:.2f})",
            f"0.03; {cpu:.2f}; {1.5 * cpu:.2f}",
        ],
        ["probes of its features: accuracy; R2", f"{probes['accuracy_gap']:.3f}; {_small(probes['R2_gap'])}", "0.01"],
        [
            "FullGrad's maps, relative gap; share of the output missed (float32)",
            f"{_small(maps['relative_gap_of_maps']['float32'])}; {_small(maps['missed_share_of_output']['float32'])}",
            "1e-3; 1e-5",
        ],
        ["stopped and resumed, or trained twice: weights", "equal to the bit" if same else "not equal", "equal"],
    ]  # fmt: skip
    return as_markdown_table(["against the CPU", "measured", "asked for"], rows)


def _small(value: float) -> str:
    return re.sub(r"e-0", "e-", f"{value:.0e}") if value else "0"


@table
def gpu_rates(read: Read) -> str:
    """Images a second on the GPU."""
    parts = json.loads(read("figures/gpu.json"))["parts"]

    def of(name: str) -> str:
        return f"{parts[name]['images/s']:,.0f}; {parts[name]['ratio']:.1f} x"

    def compiled(batch: int) -> str:
        return "; ".join(f"{parts[f'compiled_{name}_{batch}']['ratio']:.2f} x" for name in ("simclr", "ciper"))

    augmented = [parts["augmentation_rate"][f"batch_{batch}"]["images/s"] for batch in (256, 1024)]
    rows = [
        ["SimCLR; ratio to a plain loop", of("training_simclr_256"), of("training_simclr_1024")],
        ["CIPER; ratio to a plain loop", of("training_ciper_256"), of("training_ciper_1024")],
        ["with `torch.compile`, ratio to without: SimCLR; CIPER", compiled(256), compiled(1024)],
        ["augmentation alone", *(f"{rate:,.0f}" for rate in augmented)],
    ]
    head = "images a second, ResNet-18, 32 x 32, bf16 (median of five)"
    return as_markdown_table([head, "batch 256", "batch 1,024"], rows)


@table
def cifar10_paper(read: Read) -> str:
    """CIFAR-10 in the paper's setting, as far as it was trained."""
    parts = json.loads(read("figures/gpu.json"))["parts"]
    papers = {"random": "", "simclr": "91.7 ± 0.1", "predictive": "53.4 ± 2.3", "ciper": "92.2 ± 0.3"}
    rows = []
    for method, paper in papers.items():
        ours = "not measured"
        if found := parts.get(f"cifar10_{method}"):
            ours = f"{100 * found['accuracy']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
        rows.append([label_of(method), ours, ours if method == "random" else "not measured", paper])
    rows.append([label_of("essl"), "not measured", "not measured", "94.1 ± 0.0, quoted"])
    epochs = f"{parts['cifar10_ciper']['epochs']} epochs"
    return as_markdown_table(["method", epochs, "800 epochs", "the paper's, 800 epochs"], rows)


@table
def cifar10_teaching(read: Read) -> str:
    """CIFAR-10 in the teaching setting, by a sweep of one_encoder."""
    found = pd.read_csv(io.StringIO(read("data/sweeps/cifar10.csv")))
    rows = []
    groups = dict(iter(found.groupby("method")))
    for method in ("random", *(name for name in methods if name in groups and name != "random")):
        runs = groups[method]
        passes = runs["metric: image_passes"].iloc[0]
        passes = "–" if method == "random" or math.isnan(passes) else f"{passes:.0f}"
        mean, low, high = over_seeds(runs["metric: category"])
        rows.append([label_of(method), f"{mean:.3f} [{low:.3f}, {high:.3f}]", passes])
    return as_markdown_table(["method", "linear accuracy", "passes"], rows)


@table
def speed(read: Read) -> str:
    """Ratios against what one would use instead, by `make bench`."""
    rows = []
    for row in json.loads(read("figures/benchmarks.json"))["rows"]:
        wanted = f"{row['theirs']:.{0 if row['theirs'] >= 10 else 3}f} {row['unit']}"
        against = wanted if row["compared with"] == "target" else row["compared with"]
        more = f" (+{row['points_above']:.2f} points of accuracy)" if "points_above" in row else ""
        ours = f"{row['ours']:,.0f}" if row["ours"] >= 10 else f"{row['ours']:.2g}"
        ratio = f"{row['ratio']:.0f}" if row["ratio"] >= 10 else f"{row['ratio']:.2g}"
        rows.append([row["what"], f"{ours} {row['unit']}", against, f"{ratio} x{more}", f"{row['target']:.2g} x"])
    return as_markdown_table(["what", "ours", "compared with", "ratio", "asked for"], rows)


@table
def waits(read: Read) -> str:
    """Controls in a browser, by `make responsiveness`."""
    found = json.loads(read("figures/responsiveness.json"))["rows"]
    rows = []
    for name in ("JupyterLab", "the page"):
        row = found[f"slider to drawn figure, {name}"]
        measured = f"median {row['median_ms']:.0f} ms, 95th percentile {row['p95_ms']:.0f} ms"
        rows.append([f"slider to drawn figure, {name}, {row['moves']} moves", measured, "150 ms, 400 ms"])
    page, ratios = found["the page"], [row["ratio"] for row in found.values() if "ratio" in row]
    rows.append(["the page", f"{page['megabytes']:.1f} MB, ready in {page['ready_s']:.1f} s", "8 MB, 3 s"])
    opened = "notebooks 01 to 05 opened and run in JupyterLab, against their batch runs on record"
    rows.append([opened, f"{min(ratios):.2f} x to {max(ratios):.2f} x", "1.2 x"])
    growth = found["growth of a kernel"]
    rows.append([f"a kernel's growth in {growth['moves']:,} moves", f"{growth['megabytes']:.2f} MB", "100 MB"])
    return as_markdown_table(["what", "measured", "asked for"], rows)


@table
def sweeps(read: Read) -> str:
    """What sweeps and folders of frames cost, by tests/sweep_benchmarks.py."""
    found = json.loads(read("figures/sweep_benchmarks.json"))["rows"]
    against, records = found["a sweep against xargs -P2"], found["a thousand records"]
    names, frames = found["CORe50's names indexed"], found["frames decoded"]
    six = f"six runs of {against['a_run_s']:.0f} s, two at a time, against `xargs -P2`"
    rows = [
        [six, f"{against['ratio']:.2f} x", "1.05 x"],
        ["table of 1,000 recorded runs", f"{records['collect_s']:.2f} s", "2 s"],
        ["finished sweep of 1,000 runs entered again", f"{records['entered_again_s']:.2f} s", "5 s"],
        ["sixteen in-process workers kept busy", f"{found['sixteen workers']['busy']:.0%}", "90%"],
        [f"CORe50's {names['names']:,} names indexed", f"{names['seconds']:.2f} s", "5 s"],
        ["128x128 frames decoded, against Pillow's loop", f"{frames['ratio']:.1f} x", "1 x"],
    ]
    return as_markdown_table(["what", "measured", "asked for"], rows)
