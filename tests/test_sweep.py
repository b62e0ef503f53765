"""Sweeps: whatever happens to a run, a worker, the disk or the person, nothing is lost and nothing is run twice."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from conftest import wait_until

from ciperlib.__main__ import _values, main
from ciperlib.batch import sweep as sweeping
from ciperlib.batch import task as watching
from ciperlib.batch.collect import collect, write_collection
from ciperlib.batch.locks import claim_gpus, lock
from ciperlib.batch.records import BatchError, read_record
from ciperlib.batch.runner import folder_name
from ciperlib.batch.sweep import estimate_seconds, make_tasks, sweep
from ciperlib.batch.task import is_finished, run_task

# What `ciperlib run` does to the outside, in a few milliseconds: a folder, a record, and a line in a ledger.
RUNNER = """
    import hashlib, json, os, signal, sys, time
    notebook, output, values = sys.argv[1], sys.argv[5], json.loads(sys.argv[7])
    text = json.dumps([values, os.path.dirname(os.path.realpath(notebook))], sort_keys=True)
    stem = os.path.splitext(os.path.basename(notebook))[0]
    folder = f"{output}/{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    os.makedirs(folder, exist_ok=True)
    record = dict(notebook=os.path.basename(notebook), parameters=values, profile="teaching", status="running",
                  folder=folder, seconds=0.0, metrics={}, versions={}, last_lines=[])
    def write():
        with open(folder + "/part", "w") as file: json.dump(record, file)
        os.replace(folder + "/part", folder + "/status.json")
    write()
    case = values.get("case", "fine")
    if case == "sleep": time.sleep(60)
    if case == "short": time.sleep(0.3)
    if case == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if case == "once" and not os.path.exists(output + "/tried"):
        open(output + "/tried", "w").close(); print("a first try"); sys.exit(1)
    with open(output + "/ledger", "a") as file: file.write(json.dumps(values) + "\\n")
    if case == "raises": record.update(status="failed", last_lines=["ValueError: planted"]); write(); sys.exit(2)
    record.update(status="done", seconds=0.5, versions={"device": "cpu"})
    record["metrics"]["accuracy"] = values.get("seed", 0) / 10
    write()
"""


@pytest.fixture
def notebook(tmp_path):
    """A notebook with the parameters case and seed, which trains nothing."""
    cells = [
        nbformat.v4.new_code_cell(
            'case = "fine"  # what happens\nseed = 0  # a number', metadata={"tags": ["parameters"]}
        ),
        nbformat.v4.new_code_cell(
            "import os, signal\n"
            "from pathlib import Path\n"
            "from ciperlib.config import Config\n"
            "from ciperlib.present.notebook import record_metrics\n"
            'if case == "raises": raise ValueError("planted")\n'
            'if case == "kernel": os.kill(os.getpid(), signal.SIGKILL)\n'
            'if case == "config": Config(method="simclr", alpha=3)\n'
            "record_metrics(accuracy=seed / 10)"
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path / "tried.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def tasks(notebook, tmp_path):
    """tasks(case=..., seed=...) with the quick runner."""
    runner = tmp_path / "runner.py"
    runner.write_text(textwrap.dedent(RUNNER))

    def make(output="out", **grid):
        options = {name: grid.pop(name) for name in ("timeout", "gpus") if name in grid}
        return make_tasks(notebook, grid, output=tmp_path / output, command=(sys.executable, str(runner)), **options)

    return make


def ledger(folder):
    path = Path(folder) / "ledger"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def quiet(_text):
    """No report."""


@pytest.fixture(scope="module")
def cluster():
    """The address of a Dask scheduler with two workers, as a cluster of one's own would have it."""
    from dask.distributed import LocalCluster

    options = dict(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50, memory_limit=None
    )
    with LocalCluster(**options) as cluster:
        yield cluster.scheduler_address


# --- the grid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "values"), [
    ("0,0.1,1", [0, 0.1, 1]), ("0..4", [0, 1, 2, 3, 4]), ("-1..1", [-1, 0, 1]),
    ("crop,flip;pose", ["crop,flip", "pose"]),
    ("0,1,2;", ["0,1,2"]), ("true,none,x", [True, None, "x"]), ("3", [3]),
])  # fmt: skip
def test_values_of_a_grid(text, values):
    assert _values(text) == values


def test_duplicates_are_run_once_and_unknown_names_are_refused_before_anything_starts(notebook, tmp_path):
    assert len(make_tasks(notebook, {"seed": [0, 1, 0, 1]}, output=tmp_path / "o")) == 2
    with pytest.raises(BatchError, match="did you mean 'seed'"):
        make_tasks(notebook, {"sed": [0]}, output=tmp_path / "o")
    with pytest.raises(BatchError, match="no values"):
        make_tasks(notebook, {"seed": []}, output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_the_quick_runner_names_folders_as_the_real_one_does(tasks, notebook):
    for task in tasks(case=["fine", "x"], seed=[0, 3]):
        run_task(task)
        assert task.folder.name == folder_name(notebook, task.values)
        assert read_record(task.folder).status == "done"


def test_a_dry_run_says_what_and_how_long(tasks, notebook, tmp_path, capsys):
    command = [
        "sweep",
        str(notebook),
        "-p",
        "seed",
        "0..3",
        "--output",
        str(tmp_path / "out"),
        "--dry-run",
        "--workers",
        "2",
    ]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "4 runs; time: unknown" in out
    assert not (tmp_path / "out").exists()
    grid = tasks(seed=[0, 1, 2, 3])
    run_task(grid[0])
    assert estimate_seconds(grid, 2) == pytest.approx(0.75)  # three to go, half a second each, two at a time
    assert main(command) == 0
    assert "about 1 s on 2 workers" in capsys.readouterr().out


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_runs_one_of_which_raises_one_loses_its_kernel_one_is_refused(notebook, tmp_path, cluster):
    cases = ["fine", "raises", "kernel", "config"]
    found = sweep(make_tasks(notebook, {"case": cases}, output=tmp_path / "out"), scheduler=cluster, report=quiet)
    assert [record.status for record in found] == ["done", "failed", "failed", "refused"]
    assert "ValueError: planted" in found[1].last_lines[-1]
    assert "died" in " ".join(found[2].last_lines)
    assert "ConfigError" in found[3].last_lines[-1]
    table, (_, page) = write_collection(tmp_path / "out")
    assert table["status"].tolist().count("done") == 1
    assert table.set_index("case")["metric: accuracy"]["fine"] == 0
    assert "ValueError: planted" in page.read_text()
    assert "3 of 4 runs did not end well" in page.read_text()


@pytest.mark.parametrize("where", ["this machine", "a scheduler"])
def test_a_failure_is_recorded_and_tried_again_if_asked(tasks, cluster, where):
    grid, scheduler = tasks(case=["raises", "killed", "fine"]), cluster if where == "a scheduler" else None
    statuses = {record.parameters["case"]: record.status for record in sweep(grid, scheduler=scheduler, report=quiet)}
    assert statuses == {"raises": "failed", "killed": "killed", "fine": "done"}
    assert len(ledger(grid[0].output)) == 2
    (record,) = sweep(tasks(output="again", case=["once"]), scheduler=scheduler, retries=1, report=quiet)
    assert record.status == "done"


def test_a_try_that_says_nothing_is_not_told_by_the_one_before(tasks):
    (task,) = tasks(case=["raises"])
    assert "ValueError: planted" in run_task(task)["last_lines"][-1]
    broken = replace(task, command=(sys.executable, "-c", "import nothing_of_this_name"))
    found = run_task(broken)
    assert found["status"] == "failed"
    assert "nothing_of_this_name" in found["last_lines"][-1]
    assert read_record(task.folder).last_lines == found["last_lines"]


def test_what_is_done_stays_done_whatever_happens_to_the_process_afterwards(tasks):
    """`ciperlib run` writes its page when its record says done."""
    (task,) = tasks(case=["fine"], timeout=2)
    code = Path(task.command[1]).read_text() + "\ntime.sleep(60)\n"
    found = run_task(replace(task, command=(sys.executable, "-c", code)))
    assert (found["status"], found["metrics"]) == ("done", {"accuracy": 0.0})
    assert is_finished(task)


def test_a_log_that_ends_within_a_letter(tasks):
    (task,) = tasks(case=["fine"])
    code = "import os, signal; os.write(1, 'é'.encode()[:1]); os.kill(os.getpid(), signal.SIGKILL)"
    assert run_task(replace(task, command=(sys.executable, "-c", code)))["status"] == "killed"


def test_each_run_has_its_share_of_the_cores(tasks, monkeypatch, tmp_path):
    code = f"import os; open({str(tmp_path / 'threads')!r}, 'w').write(os.environ['OMP_NUM_THREADS'])"

    def threads(**options):
        (task,) = tasks(case=["fine"])
        sweep([replace(task, command=(sys.executable, "-c", code), **options)], report=quiet)
        return (tmp_path / "threads").read_text()

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert threads() == "6"  # one run at a time
    assert threads(threads=3) == "3"
    assert sweeping._threads(4) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads() == "2"


def test_a_finished_sweep_starts_nothing(tasks, cluster, monkeypatch):
    grid = tasks(seed=[0, 1, 2])
    sweep(grid, scheduler=cluster, report=quiet)
    before = ledger(grid[0].output)
    monkeypatch.setattr(sweeping, "_client", lambda *_: pytest.fail("a cluster was started"))
    assert [record.status for record in sweep(grid, report=quiet)] == ["done"] * 3
    assert ledger(grid[0].output) == before


def test_a_run_that_takes_too_long_is_ended_with_all_its_children(tasks, cluster):
    (task,) = tasks(case=["sleep"], timeout=0.5)
    begun = time.monotonic()
    (record,) = sweep([task], scheduler=cluster, report=quiet)
    assert record.status == "timed out"
    assert time.monotonic() - begun < 20
    assert children(task.output) == []


def children(output):
    """Processes of this machine that run for this sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "runner.py" in line and str(output) in line:
            found.append(line)
    return found


@pytest.mark.parametrize("when", ["while it runs", "after it has finished"])
def test_a_worker_that_is_killed(tasks, when):
    from dask.distributed import Client, LocalCluster

    grid = tasks(case=["short"], seed=[0, 1, 2, 3])
    local = LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50, memory_limit=None
    )
    with local as cluster, Client(cluster) as client:
        address = cluster.scheduler_address
        pids = client.run(os.getpid)
        found = []
        thread = threading.Thread(target=lambda: found.extend(sweep(grid, scheduler=address, report=quiet)))
        thread.start()
        if when == "while it runs":
            wait_until(lambda: children(grid[0].output))
        else:
            wait_until(lambda: ledger(grid[0].output))
        os.kill(next(iter(pids.values())), signal.SIGKILL)
        thread.join(60)
    assert [record.status for record in found] == ["done"] * 4
    lines = ledger(grid[0].output)
    assert len(lines) == len(set(lines)) == 4  # none twice
    assert children(grid[0].output) == []


SWEEPER = """
import sys
from pathlib import Path
from ciperlib.batch.sweep import make_tasks, sweep
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tasks = make_tasks(folder / "tried.ipynb", {"case": [sys.argv[2]], "seed": list(range(int(sys.argv[3])))},
                       output=folder / "out", command=(sys.executable, str(folder / "runner.py")))
    sweep(tasks, workers=2)
"""


def start(tmp_path, case, seeds):
    script = tmp_path / "sweeper.py"
    script.write_text(SWEEPER)
    command = [sys.executable, str(script), str(tmp_path), case, str(seeds)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True
    )


@pytest.mark.slow
def test_ctrl_c_ends_every_child_and_the_same_command_carries_on(tasks, tmp_path, cluster):
    grid = tasks(case=["short"], seed=list(range(30)))  # never all done when the signal comes
    process = start(tmp_path, "short", 30)
    wait_until(lambda: ledger(tmp_path / "out"))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0, said
    wait_until(lambda: not children(tmp_path / "out"), 10)
    assert len(ledger(tmp_path / "out")) < 30
    assert not list((tmp_path / "out").glob(".stop*"))
    assert [record.status for record in sweep(grid, scheduler=cluster, report=quiet)] == ["done"] * 30
    lines = ledger(tmp_path / "out")
    assert len(lines) == len(set(lines)) == 30


@pytest.mark.slow
def test_ctrl_c_begins_nothing_more_of_a_long_sweep(notebook, tasks, tmp_path):
    tasks(case=["sleep"])  # writes the runner
    process = start(tmp_path, "sleep", 300)
    wait_until(lambda: len(children(tmp_path / "out")) == 2)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0, said
    assert time.monotonic() - begun < 15
    assert len(list((tmp_path / "out" / ".logs").glob("*.log"))) == 2
    assert len(list((tmp_path / "out").glob("*/status.json"))) == 2
    assert children(tmp_path / "out") == []
    assert not list((tmp_path / "out").glob(".stop*"))


@pytest.mark.slow
def test_two_people_start_the_same_sweep(tasks, tmp_path):
    grid = tasks(case=["short"], seed=list(range(8)))
    both = [start(tmp_path, "short", 8) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0], [process.stdout.read() for process in both]
    for process in both:
        process.stdout.close()
    assert all(read_record(task.folder).status == "done" for task in grid)
    lines = ledger(tmp_path / "out")
    assert len(lines) == len(set(lines)) == 8


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_table(tasks, tmp_path, cluster):
    reference = tasks(output="reference", case=["short"], seed=list(range(24)))
    sweep(reference, scheduler=cluster, report=quiet)
    grid, draw = tasks(case=["short"], seed=list(range(24))), random.Random(0)
    kills = 0
    while kills < 20 and not all(is_finished(task) for task in grid):
        process = start(tmp_path, "short", 24)
        time.sleep(draw.uniform(0.2, 1.4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    sweep(grid, scheduler=cluster, report=quiet)
    wait_until(lambda: not children(tmp_path / "out"))
    assert kills >= 10
    left, right = (collect(tmp_path / name).drop(columns="seconds").to_csv() for name in ("out", "reference"))
    assert left == right
    lines = ledger(tmp_path / "out")
    assert len(lines) == len(set(lines)) == 24


def test_a_full_disk_stops_no_other_run_and_is_made_up_for(tasks, monkeypatch, capsys):
    def full(record):
        if record.parameters["seed"] == 1:
            raise OSError(28, "No space left on device")
        original(record)

    original = watching.write_record
    monkeypatch.setattr(watching, "write_record", full)
    grid = tasks(case=["killed"], seed=[0, 1, 2])
    statuses = [run_task(task)["status"] for task in grid]
    assert statuses == ["killed"] * 3
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    assert read_record(grid[1].folder).status == "running"  # as the run left it: it counts as not done
    assert not is_finished(grid[1])


@pytest.mark.parametrize("module", ["ciperlib.batch.task", "ciperlib.batch.sweep", "ciperlib.__main__"])
def test_watching_and_asking_import_nothing_that_takes_long(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pandas", "plotly", "papermill"} & set(loaded)


def test_gpus_are_claimed_one_run_each(tasks, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with claim_gpus(1) as first, claim_gpus(1) as second:
        assert sorted(first + second) == [0, 1]
    with claim_gpus(2) as both:
        assert both == [0, 1]
    (task,) = tasks(gpus=3)
    found = run_task(task)
    assert found["status"] == "failed"
    assert "3 GPUs, and torch sees 2" in found["last_lines"][-1]


def test_two_runs_that_want_two_gpus_do_not_wait_for_each_other(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    had = []

    def run():
        with claim_gpus(2) as numbers:
            had.append(numbers)

    for _ in range(3):
        threads = [threading.Thread(target=run, daemon=True) for _ in range(3)]
        with claim_gpus(1):  # they all wait, and see the other one free
            for thread in threads:
                thread.start()
            time.sleep(0.3)
        for thread in threads:
            thread.join(20)
    assert had == [[0, 1]] * 9


def test_who_waits_for_a_folder_or_a_gpu_sees_that_the_sweep_was_stopped(tasks, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    stop, found = tmp_path / ".stop-1", []
    for gpus, held in ((0, lambda task: lock(task.output / ".logs" / f"{task.folder.name}.lock")),
                       (1, lambda task: claim_gpus(1))):  # fmt: skip
        (task,) = tasks(case=["fine"], gpus=gpus)
        waiting = threading.Thread(target=lambda t=task: found.append(run_task(replace(t, stop=str(stop)))))
        with held(task):
            waiting.start()
            time.sleep(0.5)
            assert waiting.is_alive()
            stop.touch()
            waiting.join(5)
        assert not waiting.is_alive()
        assert not task.folder.exists()
        stop.unlink()
    assert [record["status"] for record in found] == ["stopped"] * 2
    assert ledger(task.output) == []


def test_sixteen_workers_have_something_to_do(tasks):
    """In-process workers and sleeping tasks: what Dask and the bookkeeping cost."""
    from dask.distributed import Client, LocalCluster

    grid = tasks(seed=list(range(160)))
    local = LocalCluster(
        n_workers=16, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit=None
    )
    with local as cluster, Client(cluster) as client:
        begun = time.monotonic()
        sweeping._follow(client, grid, _sleep, 0, 0, quiet)
        seconds = time.monotonic() - begun
    assert 10 * 0.5 / seconds > 0.5  # a loaded machine; measured alone by benchmarks.py


def _sleep(_task):
    time.sleep(0.5)
    return {"status": "done"}


# --- the table -------------------------------------------------------------------------------------------------------


def test_a_thousand_records_make_one_tidy_table(tmp_path):
    for i in range(1000):
        folder = tmp_path / f"one-{i:04d}"
        folder.mkdir()
        facts = dict(notebook="one.ipynb", profile="teaching", status="done", folder=str(folder), seconds=i / 10)
        record = facts | dict(
            parameters={"alpha": i % 7, "seed": i}, metrics={"object": i / 1000}, versions={"torch": "2"}
        )
        (folder / "status.json").write_text(json.dumps(record | {"last_lines": []}))
    (tmp_path / "one-0500" / "status.json").write_text("{half a rec")
    table = collect(tmp_path)
    assert len(table) == 1000
    assert table.loc[500, ["status", "folder"]].tolist() == ["damaged", "one-0500"]
    table = table.drop(500)
    about = ["notebook", "profile", "status", "seconds", "folder"]
    assert list(table.columns) == [*about, "alpha", "seed", "metric: object", "version: torch"]
    assert table["folder"].is_monotonic_increasing
    assert table["metric: object"].sum() == pytest.approx(sum(i / 1000 for i in range(1000)) - 0.5)


def test_an_empty_folder_is_said(tmp_path, capsys):
    assert main(["collect", str(tmp_path)]) == 2
    assert "there are no runs" in capsys.readouterr().err
