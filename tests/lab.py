"""JupyterLab in a real browser: a server of its own, a Chromium, and what a test wants to know of a page."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Page, sync_playwright

from ciperlib.batch import runner
from ciperlib.files import project_root

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SETTINGS = {  # on top of the workbook's own
    "notebook-extension/tracker": '{"windowingMode": "none"}',  # else cells out of sight are not in the page
}
CONNECTED = """() => { const k = window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel;
  return k && k.connectionStatus === 'connected' && k.status === 'idle' }"""
EXECUTED = """() => { const cells = window.jupyterapp.shell.currentWidget.content.model.cells;
  for (let i = 0; i < cells.length; i++) { const c = cells.get(i);
    if (c.type === 'code' && (c.executionCount === null || c.executionState === 'running')) {
      if (i > 0 && failed(cells)) return true; return false } } return true;
  function failed(cells) { for (let i = 0; i < cells.length; i++) { const o = cells.get(i).outputs;
    for (let j = 0; o && j < o.length; j++) if (o.get(j).type === 'error') return true } return false } }"""
ERRORS = """() => { const found = [], cells = window.jupyterapp.shell.currentWidget.content.model.cells;
  for (let i = 0; i < cells.length; i++) { const o = cells.get(i).outputs;
    for (let j = 0; o && j < o.length; j++) { const out = o.get(j).toJSON();
      if (out.output_type === 'error') found.push(cells.get(i).id + ': ' + out.ename + ': ' + out.evalue) } }
  return found }"""
# The last figure of a control (or of a page without Jupyter) that has a trace of this name, or nameless of this type.
DATA = """name => { const all = [...document.querySelectorAll('.ciper-control .js-plotly-plot, body > .js-plotly-plot')]
    .filter(e => e.data && e.data.some(t => (t.name ?? t.type) === name));
  if (!all.length) return null; const figure = all[all.length - 1];
  const plain = v => v === undefined || v === null ? null
    : ArrayBuffer.isView(v) ? Array.from(v) : Array.isArray(v) ? v.map(plain) : v._inputArray ? plain(v._inputArray)
    : typeof v === 'object' && v.bdata ? v.bdata : v;
  return { data: figure.data.map(t => ({ name: t.name, x: plain(t.x), y: plain(t.y), z: plain(t.z),
      text: plain(t.text), colour: plain(t.marker?.color) })),
    images: (figure.layout.images ?? []).map(i => i.source) } }"""

# Every plain figure: whether it is live or still its PNG, whether there is anything in it, and how wide it is.
PLAIN = """() => [...document.querySelectorAll('.jp-RenderedPlotly')].map(e => {
    const picture = e.querySelector('img.plot-img');
    const live = [...e.querySelectorAll('.plot-container')].some(p => p.style.display !== 'none');
    return { live, drawn: live ? e.querySelectorAll('.trace, .main-svg image').length > 0 : picture.naturalWidth > 0,
             width: live ? Number(e.querySelector('.main-svg').getAttribute('width')) : picture.width } })"""
# Every figure of a control: what has points shows some, and what has none yet (a training's) has its axes.
LIVE = """() => [...document.querySelectorAll('.ciper-control .js-plotly-plot')].map(e => {
    const values = v => v?.length ?? v?._inputArray?.length ?? 0;
    const full = (e.data ?? []).some(t => values(t.x) || values(t.y) || values(t.z));
    return { drawn: !!e.querySelector('.main-svg') && e.data?.length > 0 &&
             (!full || e.querySelectorAll('.trace, .points path, .hm image, .main-svg image').length > 0) } })"""
# How many figures there must be: outputs of plotly's mimetype, and widgets as the kernel counts them.
EXPECTED = """async () => {
  const cells = window.jupyterapp.shell.currentWidget.content.model.cells; let plain = 0;
  for (let i = 0; i < cells.length; i++) { const o = cells.get(i).outputs;
    for (let j = 0; o && j < o.length; j++)
      if (o.get(j).toJSON().data?.['application/vnd.plotly.v1+json']) plain++ }
  const code = 'import ipywidgets, plotly.graph_objects as go';
  const count = "sum(isinstance(w, go.FigureWidget) for w in ipywidgets.widgets.widget._instances.values())";
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const reply = await kernel.requestExecute(
    { code, silent: true, store_history: false, user_expressions: { count } }).done;
  return { plain, live: Number(reply.content.user_expressions.count.data['text/plain']) } }"""


def find_browser() -> str | None:
    """A Chromium of the system's packages, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def open_browser(width: int = 1280, height: int = 900, **options) -> Iterator[Page]:
    """A page that can reach nothing but this machine. `page.problems` collects errors of the page and its console, and
    whatever tried to leave."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(f"page error: {error}"))
        page.on("console", lambda message: message.type == "error" and page.problems.append(f"console: {message.text}"))

        def gate(route) -> None:
            url = route.request.url
            if url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "file:")):
                route.continue_()
            else:
                page.problems.append(f"request: {url}")
                route.abort()

        page.route("**/*", gate)
        yield page
        browser.close()


@contextmanager
def serve_lab(folder: Path) -> Iterator[str]:
    """JupyterLab over `folder`, with a token, on a free port of this machine; yields a format of its addresses."""
    port, token = _free_port(), secrets.token_hex(16)
    for name, text in SETTINGS.items():
        path = folder / ".settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = {"CONFIG_DIR": ".config", "DATA_DIR": ".data", "RUNTIME_DIR": ".runtime"}
    environment = os.environ | {f"JUPYTER_{name}": str(folder / path) for name, path in own.items()}
    environment |= {"JUPYTER_CONFIG_PATH": str(project_root() / "notebooks")}  # as `make lab` does it
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"), "IPYTHONDIR": str(folder / ".ipython")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"), "JUPYTER_PLATFORM_DIRS": "1"}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?reset&token={token}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def copy_notebook(path: Path, folder: Path, profile: str = "smoke") -> str:
    """A copy with a profile's parameters, for Lab must never write in the workbook; its name."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = parameterize_notebook(load_notebook_node(str(path)), runner.profile_parameters(profile, path.stem))
    nbformat.write(notebook, folder / path.name)
    return path.name


def open_notebook(page: Page, url: str) -> None:
    """Opens a notebook and waits until its kernel listens: "run all" before that is lost."""
    page.goto(url, wait_until="domcontentloaded")
    page.locator("#jupyterlab-splash").wait_for(state="detached", timeout=60_000)
    page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for(timeout=60_000)
    page.wait_for_function(CONNECTED, timeout=60_000)


def run_all(page: Page, seconds: float = 300, may_fail: bool = False) -> float:
    """Runs all cells from the menu, as a reader does; the seconds that it took. A cell that fails is an error, unless
    it may: then all the others must have been run."""
    start = time.monotonic()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        EXECUTED.replace("failed(cells)", "false", 1) if may_fail else EXECUTED, timeout=1000 * seconds
    )
    assert may_fail or not page.evaluate(ERRORS), page.evaluate(ERRORS)
    return time.monotonic() - start


def figure_of(page: Page, trace: str) -> dict:
    """Data and pictures of a control's figure, found by the name of a trace (or, where it has none, its type)."""
    page.wait_for_function(DATA, arg=trace, timeout=30_000)
    return page.evaluate(DATA, trace)


def changes(page: Page, trace: str, act, seconds: float = 20) -> tuple[dict, dict]:
    """The figure before and after `act`.

    Raises:
        AssertionError: nothing in its data changes.
    """
    before = figure_of(page, trace)
    act()
    until = time.monotonic() + seconds
    while (after := figure_of(page, trace)) == before and time.monotonic() < until:
        page.wait_for_timeout(50)
    assert after != before, "the control was operated, and the figure's data did not change"
    return before, after


def count_figures(page: Page, seconds: float = 60) -> dict[str, int]:
    """How many figures there must be, and how many are drawn, plain ones and those of controls, once all are or the
    time is over."""
    expected, until = page.evaluate(EXPECTED), time.monotonic() + seconds
    while True:
        drawn = {name: sum(f["drawn"] for f in page.evaluate(js)) for name, js in (("plain", PLAIN), ("live", LIVE))}
        if drawn == expected or time.monotonic() > until:
            return {"expected": sum(expected.values()), "drawn": sum(drawn.values())}
        page.wait_for_timeout(200)


def artefact(name: str) -> Path:
    """Where a screenshot is kept: out/browser/."""
    folder = project_root() / "out" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(url: str, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError(log.read_text())
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
    raise TimeoutError(log.read_text())
