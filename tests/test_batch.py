"""Batches harm nothing: what is edited or somebody else's stays, text stays text, what is not whole is not done."""

import json
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from ciperlib.__main__ import REFUSED, main
from ciperlib.batch import pages, runner
from ciperlib.batch.collect import collect, write_collection
from ciperlib.batch.pages import Neighbours, write_page
from ciperlib.batch.records import Record, read_record, write_record
from ciperlib.batch.runner import BatchError, publish, run, text_parameters
from ciperlib.batch.sweep import make_tasks, sweep
from ciperlib.batch.task import run_task
from ciperlib.files import project_root


def write_notebook(path: Path, declared: str, *cells: str, kernel: str = "python3") -> Path:
    parts = [nbformat.v4.new_code_cell(declared, metadata={"tags": ["parameters"]})]
    spec = {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[*parts, *map(nbformat.v4.new_code_cell, cells)], metadata=spec)
    nbformat.write(notebook, path)
    return path


RECORD = "from ciperlib.present.notebook import record_metrics\n"


@pytest.fixture
def notebook(tmp_path):
    declared = 'seeds = "0,1"  # a text\nnumber = 0  # a number\nnothing = None  # anything'
    cell = RECORD + "record_metrics(seeds=repr(seeds), number=repr(number), nothing=repr(nothing))"
    return write_notebook(tmp_path / "said.ipynb", declared, cell)


def test_a_text_that_looks_like_a_number_stays_a_text(notebook, tmp_path, capsys):
    """Also on its way to a child, as `seeds: "0"` of a profile is."""
    assert text_parameters(notebook) == {"seeds"}
    pairs = ["-p", "seeds", "0.10", "-p", "number", "3", "-p", "nothing", "none"]
    assert main(["run", str(notebook), *pairs, "--output", str(tmp_path / "out")]) == 0
    (task,) = make_tasks(notebook, {"seeds": ["1e3"], "nothing": ["0"], "number": [2]}, output=tmp_path / "sweep")
    assert run_task(task)["status"] == "done"
    found = {m["number"]: m for p in tmp_path.glob("*/said-*/status.json") if (m := read_record(p.parent).metrics)}
    assert found["3"] == dict(seeds="'0.10'", number="3", nothing="None")
    assert found["2"] == dict(seeds="'1e3'", number="2", nothing="'0'")
    assert read_record(task.folder).parameters == task.values


def test_a_sweep_of_every_notebook_asks_children_for_its_own_folders():
    """The folder that `run` makes of a task's values is the one that the sweep looks into."""
    for path in sorted((project_root() / "notebooks").glob("[0-9o]*.ipynb")):
        for profile in ("smoke", "teaching", "paper"):
            (task,) = make_tasks(path, {}, profile=profile, output="out")
            values = json.loads(json.dumps(task.values))
            assert runner.folder_name(path, values) == task.folder.name


def test_a_parameter_given_twice_is_refused(notebook, capsys):
    assert main(["run", str(notebook), "-p", "number", "1", "-p", "number", "2"]) == REFUSED
    assert "-p number is given 2 times" in capsys.readouterr().err


def test_a_notebook_saved_under_another_kernel_s_name_runs(tmp_path):
    saved = write_notebook(tmp_path / "other.ipynb", "a = 1  # one", "print(a)", kernel="conda-env-mine-py")
    assert run(saved, output=tmp_path / "out").status == "done"


def test_what_a_reader_edited_or_added_is_kept_when_the_notebook_is_run_again(notebook, tmp_path):
    folder = Path(run(notebook, output=tmp_path / "out").folder)
    executed = folder / "said.ipynb"
    executed.write_text(executed.read_text().replace("a text", "my own words"))
    (folder / "notes.md").write_text("mine")
    (folder / "figures" / "mine.png").write_bytes(b"mine")
    run(notebook, output=tmp_path / "out")
    assert "my own words" in (folder / "said.edited-1.ipynb").read_text()
    assert "my own words" not in executed.read_text()
    assert (folder / "notes.md").read_text() == "mine"
    assert (folder / "figures" / "mine.png").read_bytes() == b"mine"
    assert "notes.md" not in read_record(folder).files
    assert {"said.ipynb", "said.html", "metrics.json"} <= read_record(folder).files.keys()


def test_only_a_run_s_own_pictures_are_published(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "project_root", lambda: tmp_path)
    folder = tmp_path / "out" / "n"
    (folder / "figures").mkdir(parents=True)
    for name in ("ours", "somebody-s"):
        (folder / "figures" / f"{name}.png").write_bytes(b"png")
    caption = "<script>alert(1)</script> [x](javascript:1) *a*"
    (folder / "captions.json").write_text(json.dumps({"ours": caption}))
    publish([Record("n.ipynb", {}, "smoke", "<b>done", str(folder))], tmp_path / "figures")
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == ["n_ours.png"]
    assert publish([Record("1.ipynb", {}, "smoke", "<b>done", str(folder))], tmp_path / "figures") == []
    gallery = (tmp_path / "figures" / "README.md").read_text()
    assert "&lt;script&gt;" in gallery
    assert r"\[x\](javascript:1) \*a\*" in gallery
    assert "&lt;b&gt;done" in (tmp_path / "out" / "index.html").read_text()
    (folder / "captions.json").write_text("{}")
    assert publish([Record("2.ipynb", {}, "smoke", "done", str(folder))], tmp_path / "figures") == ["2.ipynb"]
    assert not (tmp_path / "figures" / "2.json").exists()


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_folder_that_no_run_made_is_left(command, notebook, tmp_path):
    (task,) = make_tasks(notebook, {"number": [0]}, output=tmp_path / "out")
    for content in ("thesis.txt", "status.json"):
        task.folder.mkdir(parents=True, exist_ok=True)
        (task.folder / content).write_text('{"mine": 1}')
        if command == "run":
            with pytest.raises(BatchError, match="not a run of ours"):
                run(notebook, {"number": 0}, output=tmp_path / "out")
        else:
            (record,) = sweep([task], report=lambda _: None)
            assert record.status == "failed"
            assert "not a run of ours" in record.last_lines[0]
        assert (task.folder / content).read_text() == '{"mine": 1}'


def test_the_folder_of_another_notebook_s_run_is_left(notebook, tmp_path):
    folder = tmp_path / "out" / runner.folder_name(notebook, {})
    folder.mkdir(parents=True)
    write_record(Record("another.ipynb", {}, "smoke", "done", str(folder)))
    with pytest.raises(BatchError, match="not a run of ours"):
        run(notebook, output=tmp_path / "out")


def test_a_damaged_record_is_said_and_nothing_is_removed(notebook, tmp_path):
    folder = Path(run(notebook, output=tmp_path / "out").folder)
    text = (folder / "status.json").read_text()
    (folder / "status.json").write_text(text.replace('"seconds": ', '"seconds": 1'))
    with pytest.raises(BatchError, match="checksum"):
        run(notebook, output=tmp_path / "out")
    assert (folder / "said.html").exists()
    table = collect(tmp_path / "out")
    assert table["status"].tolist() == ["damaged"]
    assert table["folder"].tolist() == [folder.name]


@pytest.mark.parametrize("place", ["said.html", "metrics.json", "environment.json", "said.ipynb"])
def test_a_disk_that_is_full_anywhere_ends_in_not_done(place, tmp_path, notebook, monkeypatch):
    cells = "from ciperlib.present.notebook import record_metrics, setup\nsetup(False)\nrecord_metrics(a=1)"
    full = (
        f"import ciperlib.files as f\nbefore = f.os.replace\ndef replace(a, b):\n    if str(b).endswith({place!r}):\n"
    )
    full += "        raise OSError(28, 'No space left on device', str(b))\n    before(a, b)\nf.os.replace = replace\n"
    saved = write_notebook(tmp_path / "said.ipynb", "a = 1  # one", full + cells)
    before = pages.write_atomically

    def write(path, content):
        if path.name == place:
            raise OSError(28, "No space left on device", str(path))
        before(path, content)

    monkeypatch.setattr(pages, "write_atomically", write)
    if place == "said.ipynb":  # papermill's own writing
        monkeypatch.setattr(
            "papermill.execute.write_ipynb", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full"))
        )
    with pytest.raises(BatchError):
        run(saved, output=tmp_path / "out")
    record = read_record(tmp_path / "out" / runner.folder_name(saved, {}))
    assert record.status == "failed"
    assert record.last_lines


def test_a_record_keeps_what_an_earlier_try_left(notebook, tmp_path):
    """A run that is ended in its second try: the first one's files are still known as ours, and tidied."""
    (task,) = make_tasks(notebook, {"number": [0]}, output=tmp_path / "out")
    assert run_task(task)["status"] == "done"
    first = read_record(task.folder)
    write_record(replace(first, status="killed"))
    slow = replace(task, timeout=0.2)
    assert run_task(slow)["status"] == "timed out"
    assert run_task(task)["status"] == "done"
    assert not list(task.folder.glob("*edited*"))


def test_the_table_of_failures_shows_texts_as_they_are(tmp_path):
    script = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    folder = tmp_path / "one"
    write_record(Record("n.ipynb", {script: script}, "smoke", script, str(folder), last_lines=[script]))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "status.json").write_text('{"notebook": "' + script.replace('"', "'"))
    write_collection(tmp_path)
    page = (tmp_path / "failed.html").read_text()
    assert page.count("&lt;script&gt;") >= 4
    assert not re.search("<(script|img)", page)


def test_pages_show_no_code_first_and_lead_to_one_another(tmp_path):
    executed = tmp_path / "a b" / "a b.ipynb"
    executed.parent.mkdir()
    nb = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("secret = 1"), nbformat.v4.new_markdown_cell("# Why?")]
    )
    nbformat.write(nb, executed)
    write_page(executed, Neighbours("index.html", "", "c/c&d.html"))
    page = executed.with_suffix(".html").read_text()
    assert re.findall(r'<a href="([^"]+)">(all notebooks|back|next)</a>', page) == [
        ("../index.html", "all notebooks"), ("../c/c%26d.html", "next"),
    ]  # fmt: skip
    assert "body:not(.ciper-code) .jp-CodeCell .jp-Cell-inputWrapper{display:none}" in page
    assert page.index("<body") < page.index('<nav class="ciper-ways">') < page.index("Why?")
    assert "secret" in page
