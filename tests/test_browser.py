"""Every notebook in a real JupyterLab, its controls operated by keyboard, and the exported page from the file system.

What is asserted is the data inside the figures: that a picture is there proves nothing about a callback.
"""

import re

import nbformat
import pytest
from lab import (
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

from ciperlib.files import home
from ciperlib.present.explorer import encoder_parts, find_portrait, map_parts
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
    for path in (home() / "notebooks").glob("[0-9]*.ipynb"):
        copy_notebook(path, folder)
    nbformat.write(broken_notebook(), folder / "broken.ipynb")
    (folder / "start.md").write_text((home() / "notebooks" / "start.md").read_text())
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
    return encoder_parts(find_portrait(**choice))["encoder"]["x"]


def move_alpha(page):
    """From 1 to 0.1, and the figure shows that encoder's numbers."""
    _, after = changes(page, "synergy", lambda: press(slider(page, "alpha"), "ArrowLeft"))
    assert trace(after, "encoder")["x"] == pytest.approx(numbers(alpha=0.1))


def test_the_start_page_leads_to_the_notebooks_in_order(lab, page):
    page.goto(lab("start.md"))
    links = page.locator(".jp-MarkdownViewer li a")
    links.first.wait_for(timeout=60_000)
    found = [link.get_attribute("href") for link in links.all()]
    names = [path.name for path in sorted((home() / "notebooks").glob("[0-9]*.ipynb"))]
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
    assert trace(after, "encoder")["x"] == pytest.approx(
        encoder_parts(find_portrait(alpha=0.1, seed=1))["encoder"]["x"]
    )
    _, after = changes(page, "synergy", lambda: type_in(page.get_by_label("or type alpha"), "10"))
    expected = find_portrait(alpha=10, seed=1)
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


def broken_notebook():
    """An explorer whose callback fails."""
    source = (
        "from ciperlib.present.controls import AlphaExplorer\n"
        "def choose(self): raise RuntimeError('planted')\n"
        "AlphaExplorer.choose = choose\n"
        "AlphaExplorer()"
    )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source)]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_a_broken_callback_fails_these_tests(lab, page):
    """Without this, `move_alpha` could be passing for another reason."""
    open_notebook(page, lab("broken.ipynb"))
    run_all(page)
    with pytest.raises(AssertionError, match="did not change"):
        changes(page, "synergy", lambda: press(slider(page, "alpha"), "ArrowLeft"), seconds=5)
    expect(page.get_by_role("alert")).to_contain_text("RuntimeError: planted")
    finish(page)


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
