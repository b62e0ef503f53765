"""Walk through an embedding: images behind the points, orbits through them."""

from __future__ import annotations

import math

import ipywidgets as widgets
import plotly.graph_objects as go

from ciperlib.analyse.layout.layouts import Layout, orbit_trail
from ciperlib.data.imageset import ImageSet
from ciperlib.present.controls.elements import Control, Text, make_slider
from ciperlib.present.pictures import add_trail, as_png, plot_layouts

ANGLES = ("azimuth", "elevation")


class LayoutExplorer(Control):
    """An embedding to be walked through: a point that is pointed at shows its image, one that is clicked its orbit; the
    slider and the button do the same from the keyboard.

    Args:
        embedding: of the images' features.
        images: in the same order.
        factor: that colours the points.
        trail: the factor whose images are joined by a click, in order of azimuth.
    """

    def __init__(self, embedding: Layout, images: ImageSet, factor: str = "object", trail: str = "object") -> None:
        self.embedding, self.images, self.trail = embedding, images, trail
        figure = plot_layouts({"": embedding}, [factor], size=6).update_layout(width=560, height=560)
        self.figure = go.FigureWidget(figure.update_traces(hoverinfo="none"))
        self.picture = widgets.Image(format="png", width=192)
        self.text = Text("Point at a dot to see its image; click it to see its object turn.")
        self.row = make_slider("image", [str(i) for i in images.ids.tolist()])
        self.turn = widgets.Button(description="join its orbit")
        self.figure.data[0].on_hover(lambda _trace, points, _state: self.attempt(lambda: self.show(points.point_inds)))
        self.figure.data[0].on_click(lambda _trace, points, _state: self.attempt(lambda: self.join(points.point_inds)))
        keys = widgets.HBox([self.row, self.turn])
        super().__init__(keys, shown=[widgets.HBox([self.figure, widgets.VBox([self.picture, self.text])])])
        self.on(lambda: self.show([self.row.index]), self.row)
        self.on(lambda: self.join([self.row.index]), self.turn)

    def show(self, rows: list[int]) -> None:
        """Shows the image of the first of `rows` and what is known of it; nothing for an empty list."""
        if rows:
            self.picture.value = as_png(self.images.images[rows[0]], 6)
            self.text.show(*(f"{name}: {self._value(name, rows[0])}" for name in self.images.factors))

    def join(self, rows: list[int]) -> None:
        """Draws the trail through the images that share the first row's object, instead of the trail before."""
        if rows:
            value = int(self.images.factors[self.trail][rows[0]])
            with self.figure.batch_update():
                self.figure.data = self.figure.data[:1]
                add_trail(self.figure, orbit_trail(self.embedding, self.trail, value), self._value(self.trail, rows[0]))
            self.show(rows)

    def _value(self, name: str, row: int) -> str:
        value = self.images.factors[name][row].item()
        if name in self.images.labels:
            return self.images.labels[name][value]
        return f"{math.degrees(value):.0f}°" if name in ANGLES else f"{value:.2f}"
