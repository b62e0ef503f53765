"""python -m ciperlib: what the notebooks do, from a shell."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ciperlib.config import DEFAULT_PROFILE, Config, ConfigError, profile_parameters
from ciperlib.files import project_root, write_sealed
from ciperlib.plugin import load_plugin
from ciperlib.registry import datasets

MOST_VALUES = 100_000  # of one parameter of a grid
REFUSED = 2  # exit status: the command could not be carried out as it was given


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one line, as everything here does."""

    def error(self, message: str) -> None:
        self.exit(REFUSED, f"ciperlib: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        load_plugin(getattr(options, "plugin", ""))
        options.command(options)
    except OSError as error:
        print(f"ciperlib: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return REFUSED
    except Exception as error:
        if type(error).__module__.startswith("ciperlib."):  # ours say what to do; anything else is a bug to be seen
            print(f"ciperlib: {error}", file=sys.stderr)
            return REFUSED
        raise
    except KeyboardInterrupt:
        print("\nciperlib: stopped; the same command carries on from the last saved state", file=sys.stderr)
        return 130
    return 0


def fit_command(options: argparse.Namespace) -> None:
    from ciperlib.learn.training import fit

    texts = {f.name for f in fields(Config) if f.type.startswith(("str", "tuple"))}
    parameters = {**profile_parameters(options.profile, "config"), **_parameters(options.p, texts)}
    config = Config.from_parameters(**parameters)
    run = fit(config, options.root, data_root=options.data, device=options.device)
    print(f"{run.folder}  ({run.status['seconds']:.0f} s)")


def probe_command(options: argparse.Namespace) -> None:
    from ciperlib.analyse.probing.tables import default_factors, probe_baselines, probe_run, to_metrics, to_table
    from ciperlib.data import load_images
    from ciperlib.learn.devices import find_device
    from ciperlib.learn.runs import METRICS
    from ciperlib.learn.zoo import zoo_root

    run = _find(options.run)
    config = run.config
    sizes = {"image_size": config.image_size, "root": options.data, "device": find_device(options.device)}
    train = load_images(config.dataset, "train", size=config.train_size, **sizes)
    test = load_images(config.dataset, "test", **sizes)
    factors = default_factors(test, train, options.protocol)
    protocol = {"protocol": options.protocol} if options.protocol else {}
    if protocol:
        factors = tuple(name for name in factors if name != "pose")  # which has a protocol of its own
    baselines = probe_baselines(train, test, factors, config, **protocol)
    results = probe_run(run, train, test, factors, baselines=baselines, **protocol)
    table = to_table(results, encoder=run.name)
    print(table[["factor", "metric", "value", "low", "high", "n", "unseen", *_baseline_columns(table)]].to_string())
    if run.folder.parent != zoo_root():  # the zoo's metrics are part of what was shipped
        suffix = f" ({options.protocol})" if options.protocol else ""
        metrics = {name + suffix: value for name, value in to_metrics(results).items()}
        write_sealed(run.folder / METRICS, {**run.metrics, **metrics})


def run_command(options: argparse.Namespace) -> None:
    from ciperlib.batch.pages import Neighbours
    from ciperlib.batch.runner import INDEX, page_of, publish, run, text_parameters

    asked = []
    for notebook in options.notebook:
        texts = text_parameters(Path(notebook)) if options.p else ()
        asked.append((notebook, {**_parameters(options.p, texts), **options.values}))
    pages = ["", *(page_of(notebook, values, options.profile) for notebook, values in asked), ""]
    records = []
    for number, (notebook, values) in enumerate(asked):
        ways = Neighbours(INDEX if options.publish else "", pages[number], pages[number + 2])
        where = {"output": options.output, "neighbours": ways}
        record = run(notebook, values, profile=options.profile, **where)
        page = Path(record.folder) / f"{Path(record.notebook).stem}.html"
        print(f"{record.notebook}: {record.status} in {record.seconds:.0f} s; the page is {page}", flush=True)
        records.append(record)
    if options.publish:
        left = publish(records)
        print(f"open {project_root() / 'out' / 'index.html'}; the pictures are in figures/")
        if left:
            print(f"but those of {', '.join(left)} are as they were: there is no Chrome or Chromium to draw them")


def sweep_command(options: argparse.Namespace) -> None:
    import os

    from ciperlib.batch.runner import text_parameters
    from ciperlib.batch.sweep import estimate_seconds, make_tasks, sweep

    workers = options.workers or os.cpu_count() or 1
    texts = text_parameters(Path(options.notebook))
    grid = {name: _values(text, name in texts) for name, text in _once(options.p).items()}
    limits = {"timeout": options.timeout, "gpus": options.gpus_per_run}
    tasks = make_tasks(options.notebook, grid, profile=options.profile, output=options.output, **limits)
    seconds = estimate_seconds(tasks, workers)
    if options.dry_run:
        for task in tasks:
            print("  ".join(f"{name}={value}" for name, value in task.values.items()), " ", task.folder.name)
        guess = (
            "unknown: none of them has been run" if seconds is None else f"about {seconds:.0f} s on {workers} workers"
        )
        print(f"{len(tasks)} runs; time: {guess}")
        return
    records = sweep(tasks, scheduler=options.scheduler, workers=options.workers, retries=options.retries)
    collect_command(argparse.Namespace(folder=Path(tasks[0].output)))
    if unfinished := sum(record.status not in ("done", "refused") for record in records):
        raise SystemExit(f"ciperlib: {unfinished} runs did not end well; the same command tries them again")


def collect_command(options: argparse.Namespace) -> None:
    from ciperlib.batch.collect import write_collection

    table, paths = write_collection(options.folder)
    counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
    print(f"{len(table)} runs: {counts}; " + " and ".join(map(str, paths)))


def zoo_command(options: argparse.Namespace) -> None:
    """Trains what the zoo's grid asks for and the zoo lacks, measures it, and makes the reports that the explorer
    shows; several of these commands share the training."""
    from ciperlib.analyse.report import BASELINES_FILE, EvaluationImages, file_of, measure_baselines, reported
    from ciperlib.learn.devices import find_device
    from ciperlib.learn.locks import RunBusyError
    from ciperlib.learn.zoo import configs_of, zoo_grid, zoo_root

    find_device(options.device)
    root = Path(options.root) if options.root else zoo_root()
    configs = sorted(configs_of(zoo_grid()), key=lambda config: config.seed)
    shown, evaluation = reported(), EvaluationImages(options.device)
    for number, config in enumerate(configs, 1):
        try:
            if _add_to_zoo(config, root, options.device) | _report(config, root, evaluation, config in shown):
                print(f"{number} of {len(configs)} done", flush=True)
        except RunBusyError as error:
            print(error, flush=True)
    if shown and not file_of(root, BASELINES_FILE).exists():
        write_sealed(root / BASELINES_FILE, measure_baselines(evaluation))


def _add_to_zoo(config: Config, root: Path, device: str) -> bool:
    """Trains, halves, and measures the halved encoder: the numbers are those of the file that is shipped. False where
    it was there already."""
    from ciperlib.analyse.probing.tables import probe_run, to_metrics
    from ciperlib.data import load_images
    from ciperlib.learn.training import fit
    from ciperlib.learn.zoo import export_run, find_run

    found = find_run(config, root)
    if found is not None and found.metrics:
        return False
    print(config.name, flush=True)
    run = export_run(fit(config, device=device, wait=False), root)
    sizes = {"image_size": config.image_size}
    train = load_images(config.dataset, "train", size=config.train_size, **sizes)
    results = probe_run(run, train, load_images(config.dataset, "test", **sizes))
    export_run(run, root, to_metrics(results))
    print("   ".join(f"{factor} {result.value:.3f}" for factor, result in results.items()), flush=True)
    return True


def _report(config: Config, root: Path, evaluation, wanted: bool) -> bool:
    from ciperlib.analyse.report import REPORT, file_of, read_or_make
    from ciperlib.learn.zoo import find_run

    run = find_run(config, root)
    if not wanted or run is None or file_of(run.folder, REPORT).exists():
        return False
    read_or_make(run, evaluation)
    return True


def data_command(options: argparse.Namespace) -> None:
    from ciperlib.data import load_images

    for split in ("train", "test"):
        images = load_images(options.name, split, root=options.data)
        size = "x".join(map(str, images.images.shape[2:]))
        print(f"{images.name} {split}: {len(images)} images of {size}; factors: {', '.join(images.factors)}")


def page_command(options: argparse.Namespace) -> None:
    from ciperlib.present.page import write_page

    path = write_page(options.output or project_root() / "out" / "explorer.html")
    print(f"{path}  ({path.stat().st_size / 1e6:.1f} MB); it needs nothing but a browser")


def results_command(options: argparse.Namespace) -> None:
    from ciperlib.present.results import write_results

    changed = write_results()
    print("made anew: " + ", ".join(changed) if changed else "nothing changes: all pages say what was published")


def student_command(options: argparse.Namespace) -> None:
    from ciperlib.batch.records import BatchError
    from ciperlib.present.exercises import write_student_copies

    folder = Path(options.output or project_root() / "student")
    fresh, left = write_student_copies(project_root() / "notebooks", folder)
    if not fresh and not left:
        raise BatchError(
            f"there are no notebooks in {project_root() / 'notebooks'}: they are part of the workbook's checkout"
        )
    for path in fresh:
        print(path)
    for path in left:
        print(f"{path} is left: it was edited, or is not ours; move it away to get a fresh one", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m ciperlib", description=__doc__)
    commands = parser.add_subparsers(
        required=True, metavar="fit | probe | run | sweep | collect | zoo | data | page | results | student"
    )

    fit = _command(commands, "fit", fit_command, "train one encoder: -p method ciper -p alpha 0.3 ...")
    _add_parameters(fit, "a choice of the config: " + ", ".join(f.name for f in fields(Config)))
    fit.add_argument("--root", help="folder of runs (default: runs/)")

    probe = _command(commands, "probe", probe_command, "what a trained encoder keeps, with baselines and intervals")
    probe.add_argument("run", help="a run's folder, or its name in runs/ or the zoo")
    probe.add_argument("--protocol", choices=("lbfgs", "sgd", "knn"), help="for categories (default: lbfgs)")

    run = _command(commands, "run", run_command, "run notebooks without a reader")
    run.add_argument("notebook", nargs="+", help="the .ipynb files, in order")
    _add_parameters(run, "a value for the notebook's parameters cell")
    run.add_argument("--output", help="folder for the runs (default: out/)")
    run.add_argument("--values", type=_json_object, default={}, metavar="JSON", help="more of them, as one object")
    run.add_argument("--publish", action="store_true", help="copy pictures and numbers to figures/")

    sweep = _command(commands, "sweep", sweep_command, "run a notebook over a grid: -p alpha 0,0.1,1 -p seed 0..4")
    sweep.add_argument("notebook", help="the .ipynb file")
    _add_parameters(sweep, "a parameter and its values: 0,0.1,1 or 0..4; divided by ; where values hold commas")
    sweep.add_argument("--output", help="folder for the sweep (default: out/<notebook>-sweep)")
    sweep.add_argument("--workers", type=_at_least(1), help="runs at a time here (default: one for each core)")
    sweep.add_argument("--scheduler", help="address of a Dask scheduler, instead of this machine")
    sweep.add_argument("--gpus-per-run", type=_at_least(0), default=0, help="GPUs of each run's own (default: 0)")
    sweep.add_argument("--timeout", type=_seconds, help="seconds that a run may take")
    sweep.add_argument("--retries", type=_at_least(0), default=0, help="tries more of a run that fails (default: 0)")
    sweep.add_argument("--dry-run", action="store_true", help="say what would be run, and how long it would take")

    collect = _command(commands, "collect", collect_command, "the runs of a folder as one table, table.csv")
    collect.add_argument("folder", help="of a sweep, or any folder of runs, such as out/")

    zoo = _command(commands, "zoo", zoo_command, "train what is missing of the zoo")
    zoo.add_argument("--root", help="the zoo's folder (default: CIPER_ZOO, then data/zoo)")

    data = _command(commands, "data", data_command, "load an image set: download, render or check it")
    data.add_argument("name", help=", ".join(datasets))

    for parsed in (fit, probe, zoo):
        parsed.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1")
    for parsed in (fit, probe, data):
        parsed.add_argument("--plugin", default="", metavar="FILE", help="your own methods and so on; its code is run")
        parsed.add_argument("--data", metavar="FOLDER", help="folder of image files (default: CIPER_DATA, then data/)")

    page = _command(commands, "page", page_command, "the alpha explorer as one HTML file, to be mailed to a class")
    page.add_argument("--output", help="the file (default: out/explorer.html)")

    _command(commands, "results", results_command, "tables and numbers of the pages, made anew from what was published")

    student = _command(commands, "student", student_command, "the notebooks without their solutions")
    student.add_argument("--output", help="folder for the copies (default: student/)")
    return parser


def _command(commands, name: str, function, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    return parser


def _add_parameters(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=text)
    parser.add_argument("--profile", default=DEFAULT_PROFILE, help="smoke, teaching (default) or paper")


def _parameters(pairs: Sequence[Sequence[str]], texts: Collection[str] = ()) -> dict[str, Any]:
    """-p pairs as values: numbers, true and false as such, `none` as None, anything else as text; what is among `texts`
    is text whatever it looks like, but for `none`."""
    return {name: _text(text) if name in texts else _value(text) for name, text in _once(pairs).items()}


def _once(pairs: Sequence[Sequence[str]]) -> dict[str, str]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"-p {twice[0]} is given {names.count(twice[0])} times; give each parameter once")
    return dict(pairs)


def _text(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _value(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _values(text: str, as_text: bool = False) -> list[Any]:
    """The values of one parameter of a grid: `0,0.1,1`, `0..4` (both ends), or with semicolons: `crop,flip;pose`."""
    convert = _text if as_text else _value
    first, dots, last = text.partition("..")
    if dots and first.lstrip("-").isdigit() and last.lstrip("-").isdigit():
        count = int(last) - int(first) + 1
        if count > MOST_VALUES:
            raise ConfigError(f"{text} are {count} values; a sweep takes at most {MOST_VALUES} of one parameter")
        return [convert(str(number)) for number in range(int(first), int(last) + 1)]
    return [convert(part.strip()) for part in text.split(";" if ";" in text else ",") if part.strip()]


def _at_least(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.strip().isdigit() or not low <= int(text) < 10**6:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} on")
        return int(text)

    return number


def _json_object(text: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no JSON object")
    return value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _find(name: str):
    from ciperlib.learn.runs import RunError, load_run, runs_root
    from ciperlib.learn.zoo import zoo_root

    for folder in (Path(name), runs_root() / name, zoo_root() / name):
        if folder.is_dir():
            return load_run(folder)
    raise RunError(f"there is no run {name!r} here, in {runs_root()} or in {zoo_root()}; make it with `fit`")


def _baseline_columns(table) -> list[str]:
    return [column for column in table if column.startswith("baseline: ")]


if __name__ == "__main__":
    sys.exit(main())
