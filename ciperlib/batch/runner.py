"""Notebooks without a reader: run one with parameters, keep its pictures, numbers and page in a folder of its own."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ciperlib.batch.pages import ALONE, Neighbours, write_page
from ciperlib.batch.records import (
    OUTPUT_VARIABLE,
    RECORD,
    BatchError,
    Record,
    check_folder,
    last_lines_of,
    read_record,
    write_record,
)
from ciperlib.config import nearest, profile_parameters
from ciperlib.files import project_root, sha256, write_atomically, write_json
from ciperlib.markup import as_html, as_markdown
from ciperlib.plugin import find_plugin

KERNEL = "python3"  # this environment's own, whatever name the notebook was saved under
INDEX = "index.html"  # of what was published
LEFT_OVER = ("*.ipynb", "*.html", "metrics.json", "captions.json", "environment.json", "figures/*.png")


def run(
    notebook: str | Path, parameters: Mapping[str, Any] | None = None, *, profile: str = "teaching",
    output: str | Path | None = None, timeout: int | None = None, neighbours: Neighbours = ALONE,
) -> Record:  # fmt: skip
    """Runs a notebook from its first cell to its last, in a folder of its own.

    The folder gets the executed notebook, an HTML page of it, figures/, metrics.json and status.json; the notebook
    itself is not touched.

    Args:
        notebook: the .ipynb file.
        parameters: values for names that its `parameters` cell declares.
        profile: notebooks/profiles/<profile>.yml, whose values for this notebook come before `parameters`.
        output: folder that gets the run's folder; default `out/` of the checkout.
        timeout: seconds that one cell may take.
        neighbours: the pages that this one's shall lead to.

    Raises:
        BatchError: no such notebook or profile, a parameter that the notebook does not declare, or a failing cell
            (the record is on disk then, with its last lines).
    """
    notebook = Path(notebook)
    values = {**profile_parameters(profile, notebook.stem), **(parameters or {})}
    declared = check_names(notebook, values)
    folder = Path(output or project_root() / "out") / folder_name(notebook, values)
    record = Record(str(notebook.name), dict(values), profile, "running", str(folder))
    if values.get("plugin"):
        values["plugin"] = str(find_plugin(values["plugin"]))  # wherever the kernel runs
    kept = _prepare(folder, notebook.name)
    write_record(record)
    start = time.monotonic()
    try:
        _execute(notebook, folder, {**values, **({"interactive": False} if "interactive" in declared else {})}, timeout)
        write_page(folder / notebook.name, neighbours)
        record.status = "done"
    except Exception as error:
        record.status = "refused" if getattr(error, "ename", "") == "ConfigError" else "failed"
        record.last_lines = _last_lines(error)
        with suppress(OSError):  # where the disk is full, the record says enough
            write_page(folder / notebook.name, neighbours)
        raise BatchError(
            f"{notebook.name} {record.status}; its last lines:\n" + "\n".join(record.last_lines)
        ) from error
    except BaseException:
        record.status, record.last_lines = "failed", ["interrupted"]
        raise
    finally:
        record.seconds = round(time.monotonic() - start, 2)
        record.metrics, record.versions = _read(folder / "metrics.json"), _read(folder / "environment.json")
        record.files = {name: sha256(folder / name) for name in sorted(_files(folder) - kept)}
        write_record(record)
    return record


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Name -> papermill's description of it, of each name in the notebook's `parameters` cell.

    Raises:
        BatchError: no such notebook, one that cannot be read, or one that declares none.
    """
    from papermill import inspect_notebook

    if not notebook.is_file() or notebook.suffix != ".ipynb":
        raise BatchError(f"there is no notebook {notebook}; the workbook's are in notebooks/")
    try:
        declared = inspect_notebook(str(notebook))
    except Exception as error:  # of json, nbformat, papermill or the file system, each with classes of its own
        raise BatchError(f"{notebook} cannot be read as a notebook ({last_lines_of(str(error))[:1]})") from error
    if not declared:
        raise BatchError(f"{notebook.name} has no cell tagged `parameters`, so nothing in it can be set")
    return declared


def check_names(notebook: Path, names: Iterable[str]) -> dict[str, Any]:
    """The notebook's declared parameters; BatchError for a name that is not among them."""
    declared = declared_parameters(notebook)
    for name in names:
        if name not in declared:
            raise BatchError(f"{notebook.name} has no parameter named {name!r}{nearest(name, declared)}")
    return declared


def text_parameters(notebook: Path) -> set[str]:
    """The parameters whose declared value is a text: "0" is one, and stays one, though it looks like a number."""

    def is_text(source: str) -> bool:
        try:
            return isinstance(ast.literal_eval(source), str)
        except (ValueError, SyntaxError):
            return False

    return {name for name, about in declared_parameters(notebook).items() if is_text(about["default"])}


def page_of(notebook: str | Path, values: Mapping[str, Any], profile: str) -> str:
    """Where the page of a run will be, as folder/page in the output folder; values and profile as for `run`."""
    notebook = Path(notebook)
    return f"{folder_name(notebook, {**profile_parameters(profile, notebook.stem), **values})}/{notebook.stem}.html"


def publish(records: list[Record], figures: Path | None = None) -> list[str]:
    """Copies pictures and numbers of finished runs to figures/, and writes the gallery there and out/index.html.

    Returns:
        The notebooks of which figures/ is left as it is, because no browser drew pictures.
    """
    figures, left = figures or project_root() / "figures", []
    for record in records:
        stem, folder = Path(record.notebook).stem, Path(record.folder)
        captions = _read(folder / "captions.json")
        pictures = [path for name in captions if (path := folder / "figures" / f"{name}.png").exists()]
        if not pictures:
            left.append(record.notebook)
            continue
        for picture in pictures:
            write_atomically(figures / f"{stem}_{picture.name}", picture.read_bytes())
        facts = {name: getattr(record, name) for name in ("parameters", "profile", "seconds", "metrics", "versions")}
        write_json(figures / f"{stem}.json", {**facts, "captions": captions})
    if figures.is_dir():
        write_atomically(figures / "README.md", _gallery(figures))
    write_atomically(project_root() / "out" / INDEX, _index(records))
    return left


def _gallery(figures: Path) -> str:
    lines = ["# Figures", "", "Made by `make run` and `make workbook`; the numbers are in the .json files.", ""]
    for path in sorted(figures.glob("[0-9]*.json")):
        facts = _read(path)
        lines += [f"## {path.stem}", "", f"Profile {facts['profile']}, {facts['versions'].get('device', '')}.", ""]
        for name, caption in facts["captions"].items():
            picture = f"{path.stem}_{name}.png"
            if (figures / picture).exists():
                lines += [f"![{as_markdown(name)}]({picture})", "", as_markdown(caption), ""]
    return "\n".join(lines)


def _index(records: list[Record]) -> str:
    items = []
    for record in records:
        stem, folder = Path(record.notebook).stem, Path(record.folder)
        link = f'<a href="{as_html(quote(f"{folder.name}/{stem}.html"))}">{as_html(stem)}</a>'
        items.append(f"<li>{link}: {as_html(record.status)}, {record.seconds:.0f} s</li>")
    style = "<style>body{font:18px/1.6 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}</style>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>The CIPER workbook</title>{style}'
        f"<h1>The CIPER workbook</h1><ul>{''.join(items)}</ul></html>\n"
    )


def folder_name(notebook: Path, values: Mapping[str, Any]) -> str:
    """The notebook's stem, and a hash of what was set if anything was, and of its place if it is not the workbook's.

    A plugin counts with what is in it: once it has changed, its runs are others.

    Raises:
        PluginError: a plugin that is missing.
    """
    ours = notebook.resolve().parent == project_root() / "notebooks"
    if not values and ours:
        return notebook.stem
    if values.get("plugin"):
        values = {**values, "plugin": [values["plugin"], sha256(find_plugin(values["plugin"]))]}
    text = json.dumps([values, "" if ours else str(notebook.resolve().parent)], sort_keys=True, default=str)
    return f"{notebook.stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _prepare(folder: Path, notebook: str) -> set[str]:
    """Clears a folder of what an earlier run left there: its pictures must not be taken for this one's. Returns the
    names of what stays: files that no run made, or that were edited since, which are put aside.

    Raises:
        BatchError: the folder cannot be written, or holds anything but an earlier run of this notebook.
    """
    check_folder(folder, notebook)
    before = read_record(folder)
    try:
        for name in _made(folder, before) if before else ():
            _remove(folder / name, before.files.get(name))
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BatchError(f"cannot write in {folder}: {error.strerror}; choose another folder with --output") from error
    return _files(folder)


def _made(folder: Path, before: Record) -> set[str]:
    """The files that an earlier run says it left; of one that was killed before that, those that every run makes."""
    if before.files:
        return set(before.files) & _files(folder)
    return {path.relative_to(folder).as_posix() for pattern in LEFT_OVER for path in folder.glob(pattern)}


def _remove(path: Path, digest: str | None) -> None:
    if digest in (None, sha256(path)):
        path.unlink()
        return
    number = next(n for n in range(1, 10**6) if not path.with_name(f"{path.stem}.edited-{n}{path.suffix}").exists())
    path.rename(path.with_name(f"{path.stem}.edited-{number}{path.suffix}"))


def _files(folder: Path) -> set[str]:
    """The files in a run's folder, but for its record."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {RECORD}


def _execute(notebook: Path, folder: Path, values: dict[str, Any], timeout: int | None) -> None:
    from papermill import execute_notebook

    with _environment(**{OUTPUT_VARIABLE: str(folder.resolve())}):
        execute_notebook(
            str(notebook), str(folder / notebook.name), values, cwd=str(project_root()), progress_bar=False,
            store_widget_state=False, execution_timeout=timeout, kernel_name=KERNEL,
        )  # fmt: skip


@contextmanager
def _environment(**values: str):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _last_lines(error: Exception) -> list[str]:
    return last_lines_of(str(error) or "".join(traceback.format_exception_only(error)))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
