"""Widgets: the only ipywidgets code. What a widget does is a method that can be called, and tested, without a browser;
what it shows is the figure of a plain function in `present`."""

from ciperlib.present.controls.augmentation import AugmentationPreview
from ciperlib.present.controls.encoder import AlphaExplorer, show_report
from ciperlib.present.controls.layout import LayoutExplorer
from ciperlib.present.controls.training import TrainYourOwn

__all__ = ["AlphaExplorer", "AugmentationPreview", "LayoutExplorer", "TrainYourOwn", "show_report"]
