"""Draw views, see the parameters that made them, and change one by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ipywidgets as widgets

from ciperlib.config import IMAGE_STEPS, Config
from ciperlib.data.imageset import ImageSet
from ciperlib.learn.augment import Augmentation
from ciperlib.present.controls.elements import WRAPPED, Control, LiveFigure, make_box, make_list, make_slider
from ciperlib.present.preview import changeable, make_preview_augmentation, plot_preview
from ciperlib.registry import steps as all_steps

STRENGTHS = {  # a keyword of make_preview_augmentation: name, choices, first choice
    "smallest_crop": ("smallest crop", [0.08, 0.2, 0.4, 0.6, 0.8, 1.0], 1),
    "flip_probability": ("flips", [0.0, 0.25, 0.5, 0.75, 1.0], 2),
    "jitter_strength": ("jitter", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 2),
    "grayscale_probability": ("grey views", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 1),
}
UNCHANGED = "nothing"


class AugmentationPreview(Control):
    """Draw views, see the parameters that made them, and change one by hand.

    Args:
        images: the anchors are the first of them; dataset steps look for positives in all.
        augmentations: the steps that are on at first.
        seed: of the first draw.
        static: where plotly's widget cannot load.
    """

    def __init__(
        self, images: ImageSet, augmentations: str | Sequence[str] = IMAGE_STEPS, seed: int = 0, *, static: bool = False
    ) -> None:
        steps = Config(method="random", augmentations=augmentations).augmentations
        self.images, self.draw, self._settles = images, seed, False
        known = [step for step, own in all_steps.items() if set(own.needs) <= images.factors.keys()]
        self.steps = {step: make_box(step, step in steps) for step in known}
        self.strengths = {
            key: make_slider(name, [f"{value:g}" for value in values], at, static)
            for key, (name, values, at) in STRENGTHS.items()
        }
        self.again = widgets.Button(description="draw again")
        self.change = make_list("change by hand", [UNCHANGED], UNCHANGED)
        self.value = make_slider("to", [""], 0, static)
        self.augmentation = self._make_augmentation()
        self.view = LiveFigure(plot_preview(images, self.augmentation, seed=seed), static)
        strengths = list(self.strengths.values())
        columns = [widgets.VBox(part) for part in (strengths[:2], strengths[2:], [self.change, self.value])]
        boxes = widgets.HBox([*self.steps.values(), self.again], layout=WRAPPED)
        super().__init__(boxes, widgets.HBox(columns, layout=WRAPPED), shown=[self.view], static=static)
        self._offer()
        self.on(self.redraw, *self.steps.values(), *self.strengths.values(), self.value)
        self.on(self.start_change, self.change)
        self.on(self.draw_again, self.again)

    def draw_again(self) -> None:
        """Other views of the same images."""
        self.draw += 1
        self.redraw()

    def redraw(self) -> None:
        """Shows what the controls say: the same draw, unless `draw_again` was called."""
        if self._settles:
            return
        self.augmentation = self._make_augmentation()
        self._offer()
        name = self.change.value
        change = None if name == UNCHANGED else (name, float(self.value.options[self.value.index]))
        self.view.show(plot_preview(self.images, self.augmentation, seed=self.draw, change=change))

    def _make_augmentation(self) -> Augmentation:
        strengths = {key: float(part.options[part.index]) for key, part in self.strengths.items()}
        return make_preview_augmentation(self.images, [s for s, box in self.steps.items() if box.value], **strengths)

    def _offer(self) -> None:
        """The parameters that can be changed now; the one that is being changed stays if it can."""
        names = (UNCHANGED, *(spec.name for spec in changeable(self.augmentation)))
        if names != tuple(self.change.options):
            chosen = self.change.value
            with self._settling():
                self.change.options = names
                self.change.value = chosen if chosen in names else UNCHANGED
        self.value.disabled = self.change.value == UNCHANGED

    @contextmanager
    def _settling(self) -> Iterator[None]:
        """While lists are exchanged their choices jump; nobody chose that."""
        self._settles = True
        try:
            yield
        finally:
            self._settles = False

    def start_change(self) -> None:
        """The slider gets the range of the parameter that is to be changed, and stands in its middle."""
        if self._settles:
            return
        spec = next((s for s in changeable(self.augmentation) if s.name == self.change.value), None)
        if spec is not None:
            steps = 2 if spec.kind == "binary" else 21
            options = [f"{spec.low + (spec.high - spec.low) * i / (steps - 1):.3g}" for i in range(steps)]
            with self._settling():
                self.value.options = options
                self.value.index = steps // 2
        self.redraw()
