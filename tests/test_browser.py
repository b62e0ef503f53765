"""Every notebook in a real JupyterLab, its controls operated by keyboard, and the exported page from the file system.

What is asserted is the data inside the figures: that a picture is there proves nothing about a callback.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from lab import (
    PLAIN,
    artefact,
    changes,
    copy_notebook,
    figure_of,
    find_browser,
    open_browser,
    open_notebook,
    run_all,
    serve_lab,
)
from playwright.sync_api import expect

from ciperlib.batch import runner
from ciperlib.files import project_root
from ciperlib.present import exercises, explorer
from ciperlib.present import page as exported
from ciperlib.present.explorer import encoder_parts, find_report, map_parts
from ciperlib.present.notebook import PLOTLY
from ciperlib.present.page import write_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="needs a browser: Debian's package chromium, or Chrome"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # playwright's own sockets
]
OVERLAPS = """() => { const parts = [...document.querySelectorAll('.ciper-control')].flatMap(control =>
    [...control.querySelectorAll('input, select, button, .js-plotly-plot')])
    .map(e => [e, e.getBoundingClientRect()]).filter(([, r]) => r.width && r.height);
  const found = [];
  parts.forEach(([a, p], i) => { parts.slice(i + 1).forEach(([b, q]) => {
    if (!a.contains(b) && Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 &&
        Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1)
      found.push(a.outerHTML.slice(0, 80) + ' and ' + b.outerHTML.slice(0, 80)) });
    const area = a.closest('.jp-OutputArea-output').getBoundingClientRect();
    if (p.right > area.right + 1) found.push('too wide: ' + a.outerHTML.slice(0, 80)) });
  return found }"""
NAMELESS = """() => [...document.querySelectorAll('.ciper-control :is(input, select, button)')].filter(e =>
    !e.getAttribute('aria-label') && !e.textContent.trim() && !e.labels?.length && !e.closest('label'))
    .map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A running JupyterLab over copies of the notebooks: address of a notebook by name."""
    folder = tmp_path_factory.mktemp("lab")
    for path in (project_root() / "notebooks").glob("[0-9]*.ipynb"):
        copy_notebook(path, folder)
    nbformat.write(broken_notebook(), folder / "broken.ipynb")
    nbformat.write(student_s_copy(), folder / "student.ipynb")
    nbformat.write(nasty_notebook(), folder / "nasty.ipynb")
    nbformat.write(figure_notebook(), folder / "figures.ipynb")
    (folder / "start.md").write_text((project_root() / "notebooks" / "start.md").read_text())
    with serve_lab(folder) as url:
        yield url.format


@pytest.fixture
def page():
    with open_browser() as page:
        yield page


def press(locator, *keys):
    locator.focus()
    for key in keys:
        locator.page.keyboard.press(key)


def type_in(locator, text):
    press(locator, "Control+a")
    locator.page.keyboard.type(text)
    locator.page.keyboard.press("Enter")


def run(page, url, name):
    """Opens a notebook, runs all of it, and looks at its controls as a whole, in two windows."""
    open_notebook(page, url)
    run_all(page)
    figure_of(page, "synergy")
    assert page.evaluate(NAMELESS) == []
    for width in (1920, 1280):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_timeout(500)
        assert page.evaluate(OVERLAPS) == []
        page.locator(".ciper-control").last.scroll_into_view_if_needed()
        page.screenshot(path=artefact(f"{name}-{width}.png"))


def finish(page):
    assert page.problems == []
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def trace(figure, name):
    return next(t for t in figure["data"] if t["name"] == name)


def slider(page, name):
    return page.get_by_role("slider", name=name, exact=True).last


def choices(page, name):
    return page.get_by_label(name, exact=True).last


def numbers(**choice):
    return encoder_parts(find_report(**choice))["encoder"]["x"]


def move_alpha(page):
    """From 1 to 0.1, and the figure shows that encoder's numbers."""
    _, after = changes(page, "synergy", lambda: press(slider(page, "alpha"), "ArrowLeft"))
    assert trace(after, "encoder")["x"] == pytest.approx(numbers(alpha=0.1))


def test_the_start_page_leads_to_the_notebooks_in_order(lab, page):
    page.goto(lab("start.md"))
    links = page.locator(".jp-MarkdownViewer li a")
    links.first.wait_for(timeout=60_000)
    found = [link.get_attribute("href") for link in links.all()]
    names = [path.name for path in sorted((project_root() / "notebooks").glob("[0-9]*.ipynb"))]
    assert [re.search(r"[^/]+\.ipynb", href).group() for href in found] == names
    assert page.problems == []


def test_training_studio_and_explorer(lab, page):
    run(page, lab("01_training.ipynb"), "01")
    # the augmentation studio
    for name in ("crop", "flip", "jitter", "grayscale", "pose", "session"):
        changes(page, "heatmap", lambda name=name: press(page.get_by_role("checkbox", name=name).first, "Space"))
    for name in ("crop", "flip", "jitter", "grayscale", "pose"):
        changes(page, "heatmap", lambda name=name: press(page.get_by_role("checkbox", name=name).first, "Space"))
    changes(page, "heatmap", lambda: press(page.get_by_role("button", name="draw again"), "Enter"))
    for name in ("smallest crop", "flips", "jitter", "grey views"):
        changes(page, "heatmap", lambda name=name: press(slider(page, name), "End"))
    before, after = changes(page, "heatmap", lambda: press(choices(page, "change by hand"), "b"))  # brightness
    assert before["images"][:18] == after["images"][:18] != before["images"]
    assert before["data"] == after["data"]
    changes(page, "heatmap", lambda: press(slider(page, "to"), "End"))
    # training: a value out of range, stopped twice, carried on, and done
    alpha, epochs = (page.get_by_role("spinbutton", name=name, exact=True).first for name in ("alpha", "epochs"))
    train, stop = (page.get_by_role("button", name=name, exact=True) for name in ("train", "stop"))
    own = page.locator(".ciper-control").filter(has=train)
    type_in(alpha, "-1")
    press(train, "Enter")
    expect(own.get_by_role("alert")).to_contain_text("out of range")
    type_in(alpha, "0.5")
    type_in(epochs, "200")
    changes(page, "CIPER", lambda: press(train, "Enter"), 60)
    press(stop, "Enter", "Enter")
    expect(own.get_by_role("status")).to_contain_text("Stopped after epoch", timeout=30_000)
    _, stopped = figure_of(page, "CIPER"), trace(figure_of(page, "CIPER"), "CIPER")["x"]
    changes(page, "CIPER", lambda: press(train, "Enter"), 60)
    assert trace(figure_of(page, "CIPER"), "CIPER")["x"][: len(stopped)] == stopped  # not from the beginning
    press(stop, "Enter")
    expect(own.get_by_role("status")).to_contain_text("Stopped after epoch", timeout=30_000)
    type_in(epochs, "2")
    changes(page, "synergy", lambda: press(train, "Enter"), 180)
    expect(own.get_by_role("status")).to_contain_text("Done", timeout=60_000)
    expect(choices(page, "encoder")).not_to_have_value("of the zoo")
    # back to the zoo
    changes(page, "synergy", lambda: press(choices(page, "encoder"), "Home"))
    move_alpha(page)
    page.screenshot(path=artefact("01-after.png"))
    finish(page)


def test_every_control_of_the_explorer(lab, page):
    run(page, lab("02_linear_probing.ipynb"), "02")
    plain = page.locator(".js-plotly-plot").count()
    move_alpha(page)
    _, after = changes(page, "synergy", lambda: press(slider(page, "seed"), "ArrowRight"))
    assert trace(after, "encoder")["x"] == pytest.approx(encoder_parts(find_report(alpha=0.1, seed=1))["encoder"]["x"])
    _, after = changes(page, "synergy", lambda: type_in(page.get_by_label("or type alpha"), "10"))
    expected = find_report(alpha=10, seed=1)
    assert trace(after, "layout")["x"] == pytest.approx(encoder_parts(expected)["layout"]["x"].tolist(), rel=1e-5)
    before, after = changes(page, "synergy", lambda: press(choices(page, "look at"), "ArrowDown"))
    assert trace(after, "map")["z"] == map_parts(expected, 1)["map"]["z"].tolist()
    assert before["images"] != after["images"]
    before, after = changes(page, "synergy", lambda: press(choices(page, "colour by"), "End"))
    assert trace(before, "layout")["colour"] != trace(after, "layout")["colour"]
    assert trace(before, "layout")["x"] == trace(after, "layout")["x"]
    _, after = changes(page, "synergy", lambda: press(choices(page, "views"), "ArrowDown"))
    assert trace(after, "encoder")["x"] == pytest.approx(numbers(alpha=10, seed=1, augmentations="pose"))
    changes(page, "synergy", lambda: press(choices(page, "method"), "ArrowDown"))  # prediction alone
    # what the zoo does not hold is said, and the figure stays
    shown = figure_of(page, "synergy")
    press(choices(page, "method"), "ArrowDown")
    expect(page.get_by_role("alert")).to_contain_text("the zoo has only")
    assert figure_of(page, "synergy") == shown
    changes(page, "synergy", lambda: press(choices(page, "method"), "Home"))
    type_in(page.get_by_label("or type alpha"), "-3")
    expect(page.get_by_role("alert")).to_contain_text("out of range")
    type_in(page.get_by_label("or type alpha"), "0.7")
    expect(page.get_by_role("alert")).to_contain_text("train your own")
    changes(page, "synergy", lambda: press(slider(page, "alpha"), "Home"))
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.locator(".js-plotly-plot").count() == plain  # none was added or lost
    page.screenshot(path=artefact("02-after.png"))
    finish(page)


@pytest.mark.long
@pytest.mark.parametrize("name", ["03_saliency", "05_explaining_away"])
def test_the_explorer_in_the_other_notebooks(lab, page, name):
    run(page, lab(f"{name}.ipynb"), name[:2])
    move_alpha(page)
    finish(page)


def test_embeddings_and_both_explorers(lab, page):
    run(page, lab("04_embeddings.ipynb"), "04")
    move_alpha(page)
    walk = page.locator(".ciper-control").filter(has=page.get_by_role("button", name="join its orbit"))
    shown = walk.locator("img").first.get_attribute("src")
    press(walk.get_by_role("slider", name="image"), "ArrowRight", "ArrowRight")
    expect(walk.locator("img").first).not_to_have_attribute("src", shown or "")
    traces = "() => document.querySelectorAll('.ciper-control .js-plotly-plot')[0].data.length"
    assert page.evaluate(traces) == 1
    press(walk.get_by_role("button", name="join its orbit"), "Enter")
    page.wait_for_function(f"() => ({traces})() === 3")
    finish(page)


def make_notebook(*sources):
    """A notebook of these cells; the first one is that of the parameters."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in ("interactive = True  # live", *sources)]
    cells[0].metadata.tags = ["parameters"]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def broken_notebook():
    """An explorer whose callback fails."""
    source = (
        "from ciperlib.present.controls import AlphaExplorer\n"
        "def choose(self): raise RuntimeError('planted')\n"
        "AlphaExplorer.choose = choose\n"
        "AlphaExplorer()"
    )
    return make_notebook(source)


def test_a_broken_callback_fails_these_tests(lab, page):
    """Without this, `move_alpha` could be passing for another reason."""
    open_notebook(page, lab("broken.ipynb"))
    run_all(page)
    with pytest.raises(AssertionError, match="did not change"):
        changes(page, "synergy", lambda: press(slider(page, "alpha"), "ArrowLeft"), seconds=5)
    expect(page.get_by_role("alert")).to_contain_text("RuntimeError: planted")
    finish(page)


def test_a_control_whose_kernel_was_restarted_says_that_it_is_dead(lab, page):
    open_notebook(page, lab("broken.ipynb"))
    run_all(page)
    control = page.locator(".ciper-control").last
    said = "e => getComputedStyle(e, '::before').content"
    assert "restarted" not in control.evaluate(said)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    expect(control).to_have_class(re.compile("jupyter-widgets-disconnected"), timeout=30_000)
    assert "kernel was restarted: run this cell again" in control.evaluate(said)
    assert (
        control.evaluate(
            "e => getComputedStyle(e.querySelector('.js-plotly-plot').closest('.ciper-control > *')).opacity"
        )
        == "0.4"
    )
    page.screenshot(path=artefact("dead-control.png"))
    finish(page)


def student_s_copy():
    """As `make student` writes it: the exercise is not done yet."""
    book = make_notebook(
        "from ciperlib.present.exercises import check_synergy",
        "def answer(i_a, i_c, h_a, h_c):\n    return i_a",
        "print(check_synergy(answer))",
        "print('and goes on')",
    )
    return exercises._for_students(book)


def test_run_all_goes_on_after_an_exercise_that_is_not_done_and_shows_no_further_hint(lab, page):
    open_notebook(page, lab("student.ipynb"))
    run_all(page, may_fail=True)
    shown = page.locator(".jp-OutputArea-output").all_inner_texts()
    assert [text.strip() for text in shown if text.strip()] == [
        "Not yet: the quadrants: who knows both variables has nothing left to be told; look at the other numbers",
        "and goes on",
    ]
    finish(page)


# --- figures without a kernel ----------------------------------------------------------------------------------------


def figure_notebook():
    """A figure with a PNG beside it, and one without: as where no browser is found to draw it."""
    return make_notebook(
        "import plotly.graph_objects as go\n"
        "from ciperlib.present import drawing\n"
        "from ciperlib.present.notebook import save_figure, setup\n"
        "setup(interactive)\n"
        "figure = go.Figure(go.Scatter(y=[1, 3, 2]), layout=dict(width=600, height=300))",
        "save_figure(figure, 'with', 'With a PNG.')",
        "drawing._session = drawing._Session(tries=drawing.TRIES, said=True)\n"
        "save_figure(figure, 'without', 'Without a PNG.')",
    )


def test_figures_survive_saving_and_reopening_without_a_kernel(lab, page, tmp_path_factory):
    open_notebook(page, lab("figures.ipynb"))
    run_all(page)
    page.wait_for_function(f"() => ({PLAIN})().every(f => f.drawn && f.width === 600)", timeout=20_000)
    assert [figure["live"] for figure in page.evaluate(PLAIN)] == [False, True]
    page.locator("img.plot-img").first.dispatch_event("mouseenter")  # and the picture comes to life
    page.wait_for_function(f"() => ({PLAIN})().every(f => f.live && f.drawn)", timeout=20_000)
    save(page)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for(timeout=60_000)
    page.wait_for_function(f"() => ({PLAIN})().filter(f => f.drawn).length === 2", timeout=30_000)
    page.screenshot(path=artefact("figures-reopened.png"))
    assert page.problems == []
    saved = saved_notebook(page)
    bundles = [o["data"] for c in saved["cells"] for o in c.get("outputs", []) if PLOTLY in o.get("data", {})]
    assert len(bundles) == 2
    assert all("image/png" in bundle for bundle in bundles)  # where we draw none JupyterLab adds its own
    assert "widgets" not in saved["metadata"]
    assert len(json.dumps(saved)) < 300_000


def save(page):
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")


def saved_notebook(page):
    """The open notebook's file, as the server has it."""
    return page.evaluate(
        "async () => (await window.jupyterapp.serviceManager.contents.get("
        "window.jupyterapp.shell.currentWidget.context.path)).content"
    )


# --- texts that come from elsewhere ----------------------------------------------------------------------------------

NASTY = (
    '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>"><svg onload=window.pwned=1>'
    '</script><script>window.pwned=1</script><!-- <b>b</b> <a href="javascript:window.pwned=1">a</a>'
    " [x](javascript:window.pwned=1) $x$ %{y} *i*"
)
SAFE = """() => { if (window.pwned !== undefined) return 'a script of the data ran';
    const places = [...document.querySelectorAll('a')].map(a => a.getAttribute('href') ?? '');
    if (places.some(p => p.includes('pwned'))) return 'a link of the data';
    const made = [...document.querySelectorAll('img, svg, script')].map(e => e.outerHTML.split('>')[0]);
    return made.find(e => e.includes('pwned')) ?? '' }"""


def nasty_notebook():
    """Whatever can hold a text from elsewhere, holding one that is HTML, Markdown, a script, a formula, a template."""
    return make_notebook(
        f"NASTY = {NASTY!r}\n"
        "from dataclasses import replace\n"
        "import pandas as pd\n"
        "import torch\n"
        "from IPython.display import display\n"
        "from ciperlib.analyse.results import ProbeResult\n"
        "from ciperlib.analyse.layout.layouts import fit_layout\n"
        "from ciperlib.analyse.features import as_features\n"
        "from ciperlib.data import load_images\n"
        "from ciperlib.present import drawing, explorer\n"
        "from ciperlib.present.controls import AlphaExplorer, LayoutExplorer\n"
        "from ciperlib.present.notebook import save_figure, setup\n"
        "from ciperlib.present.pictures import plot_images\n"
        "from ciperlib.present.plotting import plot_scores\n"
        "setup(interactive)\n"
        "drawing._session = drawing._Session(tries=drawing.TRIES, said=True)  # figures are drawn by the page",
        "ProbeResult(NASTY, NASTY, .5, .4, .6, 9, 3, .3, NASTY, NASTY, baselines={NASTY: .1})",
        "row = dict(encoder=NASTY, method='external', factor=NASTY, metric=NASTY, seed=0, value=.5, low=.4, high=.6)\n"
        "save_figure(plot_scores(pd.DataFrame([row]), [NASTY], baselines={NASTY: {NASTY: .2}}), 'scores', NASTY)",
        "images = load_images('turntable', 'test', size=60)\n"
        "save_figure(plot_images(images.images[:4], [NASTY] * 4), 'images', NASTY)",
        "own = explorer.find_report()\n"
        "own = replace(own, name=NASTY, synergy=own.synergy | {'verdict': NASTY})\n"
        "explorer.load_report = lambda config: own\n"
        "save_figure(explorer.plot_report(own), 'report', explorer.describe(own))",
        "labels = {name: (NASTY,) * 60 for name in ('object', 'category', 'session')}\n"
        "images = replace(images, labels=labels)\n"
        "laid_out = fit_layout(as_features(torch.randn(60, 3), images, 'made'), 'pca')\n"
        "if interactive:\n"
        "    control = AlphaExplorer()\n"
        "    control.own.options = [('of the zoo', ''), (NASTY, NASTY)]\n"
        "    control.say(NASTY, warning=True)\n"
        "    walk = LayoutExplorer(laid_out, images)\n"
        "    display(control, walk)\n"
        "    walk.join([0])",
    )


def literal(page, words, drawn):
    """The text is shown as it is at least so often: in words and lists, and in figures."""
    shown = page.evaluate(
        """() => [...document.querySelectorAll('p, td, th, em, option, [role=alert], .widget-html-content, #about')]
        .map(e => e.textContent).join(' ')"""
    )
    assert shown.replace("\xa0", " ").count(NASTY) >= words
    assert " ".join(page.locator("svg text").all_text_contents()).count(NASTY) >= drawn


def test_texts_from_elsewhere_are_shown_as_they_are_in_jupyterlab(lab, page):
    open_notebook(page, lab("nasty.ipynb"))
    run_all(page)
    figure_of(page, "synergy")
    page.wait_for_function(f"() => ({PLAIN})().length === 3 && ({PLAIN})().every(f => f.drawn)")
    for plot in page.locator(".js-plotly-plot .nsewdrag").all():
        plot.hover(force=True)  # hover texts are texts, too
        page.wait_for_timeout(200)
    literal(page, words=14, drawn=10)
    assert page.evaluate(SAFE) == ""
    page.screenshot(path=artefact("nasty-lab.png"))
    finish(page)


def test_texts_from_elsewhere_are_shown_as_they_are_in_a_batch_s_page(tmp_path):
    nbformat.write(nasty_notebook(), tmp_path / "nasty.ipynb")
    record = runner.run(tmp_path / "nasty.ipynb", output=tmp_path / "out")
    with open_browser() as page:
        page.goto((tmp_path / "out" / Path(record.folder).name / "nasty.html").as_uri())
        page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length >= 3")
        literal(page, words=8, drawn=9)
        assert page.evaluate(SAFE) == ""
        page.screenshot(path=artefact("nasty-runner.png"), full_page=True)


def test_texts_from_elsewhere_are_shown_as_they_are_in_the_exported_page(tmp_path, monkeypatch):
    own, (alphas, seeds, things) = find_report(), explorer.choices()
    nasty = replace(own, name=NASTY, synergy=own.synergy | {"verdict": NASTY})
    monkeypatch.setattr(explorer, "load_report", lambda config: replace(nasty, config=config))
    monkeypatch.setattr(exported, "load_report", explorer.load_report)
    monkeypatch.setattr(explorer, "choices", lambda: (alphas, seeds, [NASTY] * len(things)))
    path = write_page(tmp_path / "explorer.html")
    with open_browser() as page:
        page.goto(path.as_uri())
        changes(page, "synergy", lambda: press(page.get_by_label("look at"), "ArrowDown"))
        literal(page, words=len(things) + 1, drawn=1)
        assert page.evaluate(SAFE) == ""
        assert page.problems == []
        page.screenshot(path=artefact("nasty-page.png"))


# --- the exported page -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def explorer_page(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "explorer.html")


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_from_the_file_system(explorer_page, width, scheme):
    with open_browser(width, 1000, color_scheme=scheme) as page:
        page.goto(explorer_page.as_uri())
        _, after = changes(page, "synergy", lambda: press(page.get_by_label("alpha", exact=True), "ArrowLeft"))
        assert trace(after, "encoder")["x"] == pytest.approx(numbers(alpha=0.1))
        changes(page, "synergy", lambda: press(page.get_by_label("seed"), "ArrowRight"))
        changes(page, "synergy", lambda: press(page.get_by_label("look at"), "ArrowDown"))
        changes(page, "synergy", lambda: press(page.get_by_label("colour by"), "ArrowDown"))
        changes(page, "synergy", lambda: press(page.get_by_label("views"), "ArrowDown"))
        about = page.locator("#about").inner_text()
        assert "CIPER 0.1, pose aug., seed 1" in about
        press(page.get_by_label("method"), "End")
        expect(page.get_by_role("alert")).to_contain_text("still shown")
        assert page.locator("#about").inner_text() == about
        page.screenshot(path=artefact(f"page-{width}-{scheme}.png"))
        assert page.problems == []
