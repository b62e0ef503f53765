"""What controls are made of: a slider with a name, a figure that changes in place, callbacks that never fail unseen."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets

from ciperlib.markup import as_html
from ciperlib.present.notebook import show_figure

_SLIDER = """
function render({ model, el }) {
  const label = document.createElement("label"), name = document.createElement("span");
  const input = document.createElement("input"), shown = document.createElement("output");
  input.type = "range"; input.min = 0; input.step = 1;
  label.append(name, input, shown); el.append(label); el.classList.add("ciper-slider");
  const draw = () => {
    const options = model.get("options"), index = model.get("index");
    name.textContent = model.get("description");
    input.max = options.length - 1; input.value = index; input.disabled = model.get("disabled");
    shown.textContent = options[index] ?? "";
    input.setAttribute("aria-label", model.get("description"));
    input.setAttribute("aria-valuetext", options[index] ?? "");
  };
  input.addEventListener("input", () => { model.set("index", Number(input.value)); model.save_changes(); });
  ["change:index", "change:options", "change:disabled", "change:description"].forEach(e => model.on(e, draw));
  draw();
}
export default { render };
"""
_CSS = """
.ciper-slider label { display: flex; align-items: center; gap: 8px; color: var(--jp-ui-font-color1, inherit);
  font-family: var(--jp-ui-font-family, sans-serif); font-size: var(--jp-ui-font-size1, 13px); margin: 2px; }
.ciper-slider span { width: 120px; text-align: right; }
.ciper-slider input { width: 150px; }
.ciper-slider output { min-width: 50px; }
"""


# JupyterLab takes arrow keys, space and enter for itself, unless what has the focus says that it wants them.
_KEYS = """
function render({ el }) {
  const want = ({ target }) => { if (target.closest(".ciper-control")) target.dataset.lmSuppressShortcuts = "true"; };
  el.style.display = "none";
  document.addEventListener("focusin", want);
  return () => document.removeEventListener("focusin", want);
}
export default { render };
"""

# After a restart of the kernel nothing answers any more; JupyterLab marks that, but its controls look as before.
_DEAD = """
.ciper-control.jupyter-widgets-disconnected > * { opacity: 0.4; pointer-events: none; }
.ciper-control.jupyter-widgets-disconnected::before { content: "The kernel was restarted: run this cell again.";
  font: inherit; color: inherit; border-left: 4px solid #D55E00; padding-left: 8px; }
"""

STYLE = {"description_width": "120px"}
WIDE = widgets.Layout(width="340px")
NARROW = widgets.Layout(width="230px")
WRAPPED = widgets.Layout(flex_flow="row wrap", align_items="center")


class Slider(anywidget.AnyWidget):
    """A slider over a list of texts: the browser's own, which has an accessible name, keys, and the page's theme."""

    _esm, _css = _SLIDER, _CSS
    description = traitlets.Unicode().tag(sync=True)
    options = traitlets.List(traitlets.Unicode()).tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)


class _Keys(anywidget.AnyWidget):
    """Invisible: gives the keys to the control that it is part of, and lets it say when nobody answers any more."""

    _esm, _css = _KEYS, _DEAD


def make_slider(
    description: str, options: list[str], index: int = 0, static: bool = False
) -> Slider | widgets.Dropdown:
    """A slider over `options`, or a list to choose from where anywidget cannot load."""
    if static:
        return widgets.Dropdown(description=description, options=options, index=index, style=STYLE)
    return Slider(description=description, options=options, index=index)


def make_list(description: str, options: list, value: Any) -> widgets.Dropdown:
    """A list to choose from; options are texts, or pairs of a text and a value."""
    return widgets.Dropdown(description=description, options=options, value=value, style=STYLE, layout=WIDE)


def make_box(description: str, value: bool) -> widgets.Checkbox:
    """A box to tick."""
    layout = widgets.Layout(width="max-content", margin="0 12px 0 0")
    return widgets.Checkbox(value, description=description, indent=False, layout=layout)


class Text(widgets.HTML):
    """Words, shown as they are: what is quoted in them cannot become markup."""

    def __init__(self, *lines: str) -> None:
        super().__init__()
        self.show(*lines)

    def show(self, *lines: str) -> None:
        """Shows other words, one line below the other."""
        self.value = "<br>".join(as_html(line) for line in lines)


class LiveFigure(widgets.Box):
    """A figure that changes in place.

    Args:
        figure: the first one.
        static: redraw a picture in a plain Output instead, where plotly's widget cannot load.
    """

    def __init__(self, figure: go.Figure, static: bool = False) -> None:
        self.static = static
        super().__init__()
        self._replace(figure)

    def show(self, figure: go.Figure) -> None:
        """Shows another figure; where it has the same traces and pictures, only what differs is sent."""
        same = len(figure.data) == len(self.figure.data) and len(figure.layout.images) == len(self.figure.layout.images)
        if self.static or not same:
            self._replace(figure)
            return
        with self.figure.batch_update():
            for old, new in zip(self.figure.data, figure.data):
                old.update(new.to_plotly_json(), overwrite=True)
            self.figure.layout.update(figure.layout.to_plotly_json(), overwrite=True)

    def exchange(self, parts: dict[str, dict[str, Any]], images: list[str] = ()) -> None:
        """Gives named traces new values, and the layout's pictures new sources; what is the same is not sent."""
        with self.figure.batch_update():
            for name, part in parts.items():
                next(self.figure.select_traces({"name": name})).update(part)
            for picture, source in zip(self.figure.layout.images, images):
                picture.source = source
        if self.static:
            self._draw()

    def _replace(self, figure: go.Figure) -> None:
        before = self.children
        self.figure = figure if self.static else go.FigureWidget(figure)
        self.children = (widgets.Output(),) if self.static else (self.figure,)
        if self.static:
            self._draw()
        for child in before:
            child.close()

    def _draw(self) -> None:
        output = self.children[0]
        with output:
            output.clear_output(wait=True)
            show_figure(self.figure)


class Control(widgets.VBox):
    """What all controls share: what goes wrong is said in a sentence, and what was shown before stays.

    Args:
        inputs: what is operated.
        shown: what follows from it. The sentence stands between them, above the figure, where it is seen.
        static: where anywidget cannot load.
    """

    aftermath = "The choice before is still shown."

    def __init__(
        self, *inputs: widgets.Widget, shown: Sequence[widgets.Widget] = (), static: bool = False
    ) -> None:  # fmt: skip
        self.message = widgets.HTML(layout=widgets.Layout(min_height="28px"))  # of one line: the figure does not jump
        self.error: Exception | None = None
        self._attempts = 0
        super().__init__([*inputs, self.message, *shown, *([] if static else [_Keys()])])
        self.add_class("ciper-control")

    def on(self, act: Callable[[], str | None], *parts: widgets.Widget) -> None:
        """Calls `act`, safely, whenever a button is pressed or another control's choice changes."""
        for part in parts:
            if isinstance(part, widgets.Button):
                part.on_click(lambda button: self.attempt(act))
            else:
                part.observe(lambda change: self.attempt(act), "index" if isinstance(part, Slider) else "value")

    def attempt(self, act: Callable[[], str | None], aftermath: str | None = None) -> None:
        """Calls `act` and says what it returns; an error becomes a sentence: inside a callback nobody would see it.

        Args:
            aftermath: a second sentence after an error: what became of all else. Default: the class's.
        """
        self._attempts += 1
        this = self._attempts
        try:
            text = act()
        except Exception as error:
            ours = type(error).__module__.startswith("ciperlib.") or isinstance(error, ValueError)
            text = str(error) if ours else f"this control failed ({type(error).__name__}: {error})"
            self.say(f"{text.rstrip('.')}. {self.aftermath if aftermath is None else aftermath}", warning=True)
            self.error = error
            if not ours:
                traceback.print_exception(error, file=sys.stderr)
        else:
            if text or self._attempts == this:  # else one choice made another, which has had its say
                self.error = None
                self.say(text or "")

    def say(self, text: str, warning: bool = False) -> None:
        """A sentence between the inputs and what they show."""
        role = "alert" if warning else "status"
        style = "border-left: 4px solid #D55E00; padding-left: 8px" if warning else ""
        self.message.value = f'<div role="{role}" style="{style}">{as_html(text)}</div>' if text else ""
