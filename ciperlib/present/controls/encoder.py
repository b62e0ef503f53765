"""Choose alpha, views, method and seed, and see at once what the encoder keeps."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
from IPython.display import display

from ciperlib.analyse.report import EvaluationImages, read_or_make
from ciperlib.config import IMAGE_STEPS
from ciperlib.labels import label
from ciperlib.learn.runs import STATUS, RunError, load_run, runs_root
from ciperlib.present import explorer
from ciperlib.present.controls.elements import NARROW, STYLE, Control, LiveFigure, Text, make_list, make_slider
from ciperlib.present.notebook import is_live, save_figure


class AlphaExplorer(Control):
    """Choose an encoder of the zoo, or one of your own, and see all that is known of it; one choice moves all panels.

    Args:
        alpha, augmentations, method, seed: the first choice, as for `find_encoder`.
        image: which image's saliency, by category. colouring: of the layout, one of `COLOURINGS`.
        static: where plotly's widget cannot load.
    """

    def __init__(
        self, alpha: float = 1.0, augmentations: str | Sequence[str] = IMAGE_STEPS, method: str = "ciper",
        seed: int = 0, *, image: int = 0, colouring: str = "category", static: bool = False,
    ) -> None:  # fmt: skip
        config = explorer.find_encoder(alpha, augmentations, method, seed)
        self.report = explorer.load_report(config)
        alphas, seeds, things = explorer.choices()
        at = alphas.index(f"{config.alpha:g}") if method == "ciper" else 0
        views = [(name, key) for key, name in explorer.VIEWS.items()]
        self.alpha = make_slider("alpha", alphas, at, static)
        self.typed = widgets.FloatText(alpha, description="or type alpha", style=STYLE, layout=NARROW)
        self.seed = make_slider("seed", seeds, seeds.index(str(seed)), static)
        self.views = make_list("views", views, ",".join(config.augmentations))
        self.method = make_list("method", [(name, key) for key, name in explorer.method_names().items()], method)
        things = [(name, i) for i, name in enumerate(things)]
        self.image = make_list("look at", things, image)
        self.colouring = make_list("colour by", list(explorer.COLOURINGS), colouring)
        self.own = make_list("encoder", [("of the zoo", "")], "")
        self.view = LiveFigure(explorer.plot_report(self.report, image, colouring), static)
        self.about = Text(explorer.describe(self.report))
        left = self.method, self.views, self.alpha, self.typed
        right = self.own, self.seed, self.image, self.colouring
        inputs = widgets.HBox([widgets.VBox(left), widgets.VBox(right)])
        super().__init__(inputs, shown=[self.view, self.about], static=static)
        self.refresh()
        self.on(self.choose, self.alpha, self.seed, self.views, self.method, self.own)
        self.on(self.type_alpha, self.typed)
        self.on(self.look, self.image)
        self.on(self.colour, self.colouring)

    def choose(self) -> None:
        """Shows the encoder that the controls say; where there is none, the error says what there is."""
        if self.own.value:
            self.report = read_or_make(load_run(self.own.value), EvaluationImages("auto"), self.tell)
        else:
            choice = dict(method=self.method.value, augmentations=self.views.value, seed=int(self._at(self.seed)))
            self.report = explorer.find_report(alpha=float(self._at(self.alpha)), **choice)
        for part in (self.alpha, self.typed, self.seed, self.views, self.method):
            part.disabled = bool(self.own.value) or (part in (self.alpha, self.typed) and self.method.value != "ciper")
        self.typed.value = float(self._at(self.alpha))
        parts = explorer.encoder_parts(self.report) | explorer.map_parts(self.report, self.image.value)
        self.view.exchange(parts | explorer.name_parts(self.report, self.colouring.value))
        self.about.show(explorer.describe(self.report))

    def look(self) -> None:
        """Shows the map of another image."""
        image = self.image.value
        self.view.exchange(
            explorer.map_parts(self.report, image) | explorer.outline_parts(image), [explorer.picture(image)]
        )

    def colour(self) -> None:
        """Colours the layout by another factor."""
        factor = self.colouring.value
        self.view.exchange(explorer.name_parts(self.report, factor) | explorer.colour_parts(factor))

    def refresh(self) -> None:
        """Looks again for encoders that were trained here; one that is damaged is named."""
        names, chosen, damaged = [("of the zoo", "")], self.own.value, []
        for folder in sorted(path.parent for path in runs_root().glob(f"*/{STATUS}")):
            try:
                c = load_run(folder).config
            except RunError as error:
                damaged.append(str(error))
                continue
            if c.method != "random":
                names.append((f"{label(c)}, seed {c.seed}", str(folder)))
        self.own.options = names
        self.own.value = chosen
        self.say(" ".join(damaged), warning=bool(damaged))

    def type_alpha(self) -> None:
        """Takes an alpha that was typed, if the zoo has it; says so where it has not."""
        text = f"{self.typed.value:g}"
        if text not in self.alpha.options:
            explorer.find_encoder(self.typed.value, self.views.value, "ciper", int(self._at(self.seed)))
        self.alpha.index = list(self.alpha.options).index(text)

    def tell(self, step: str) -> None:
        """What is computed live says so."""
        self.say(f"Computed now, for the first time: {step} ...")

    @staticmethod
    def _at(slider) -> str:
        return slider.options[slider.index]


def show_report(alpha: float = 1.0, augmentations: str | Sequence[str] = IMAGE_STEPS) -> None:
    """All of one encoder of the zoo at once: with its controls for a reader, as a figure in a batch.

    Args:
        alpha, augmentations: which one, as for `find_encoder`.
    """
    if is_live():
        display(AlphaExplorer(alpha, augmentations))
    else:
        report = explorer.find_report(alpha=alpha, augmentations=augmentations)
        save_figure(explorer.plot_report(report), "explorer", explorer.describe(report))
