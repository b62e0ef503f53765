"""Train an encoder from a notebook's page, in the background."""

from __future__ import annotations

import threading
import time
from typing import Any

import ipywidgets as widgets
import pandas as pd

from ciperlib.config import STEPS, Config
from ciperlib.learn.progress import Progress
from ciperlib.learn.runs import Run, read_state, runs_root
from ciperlib.learn.training import TrainingError, fit
from ciperlib.present.controls.elements import NARROW, STYLE, WRAPPED, Control, LiveFigure, make_box, make_list
from ciperlib.present.controls.encoder import AlphaExplorer
from ciperlib.present.plotting import plot_history


class StoppedError(Exception):
    """A reader stopped the training."""


class TrainYourOwn(Control):
    """Train an encoder in the background, watch its losses, stop it where you like; it is found again and goes on.

    Args:
        explorer: gets to know the new encoder when it is done.
        static: where plotly's widget cannot load.
        choices: of the config; what has a control here is its first value.
    """

    aftermath = ""
    running: TrainYourOwn | None = None  # one training at a time in a kernel

    def __init__(self, explorer: AlphaExplorer | None = None, *, static: bool = False, **choices: Any) -> None:
        config = Config(**choices)
        self.choices, self.explorer = choices, explorer
        self.alpha = widgets.FloatText(config.alpha, description="alpha", style=STYLE, layout=NARROW)
        self.epochs = widgets.IntText(config.epochs, description="epochs", style=STYLE, layout=NARROW)
        self.dataset = make_list("images", ["turntable", "turntable_sessions", "cifar10"], config.dataset)
        self.steps = {step: make_box(step, step in config.augmentations) for step in STEPS}
        self.train = widgets.Button(description="train", button_style="primary")
        self.stop = widgets.Button(description="stop", disabled=True)
        self.bar = widgets.FloatProgress(value=0, min=0, max=1, description="0 %", layout=widgets.Layout(width="400px"))
        nothing = pd.DataFrame({"epoch": [], "contrastive": [], "predictive": []})
        self.view = LiveFigure(plot_history({config.method: nothing}), static)
        self.run: Run | None = None
        self._stopping, self._thread = threading.Event(), None
        rows = [[self.alpha, self.epochs, self.dataset], list(self.steps.values()), [self.train, self.stop, self.bar]]
        super().__init__(*(widgets.HBox(row, layout=WRAPPED) for row in rows), self.view, static=static)
        self.on(self.start, self.train)
        self.on(self.halt, self.stop)

    def config(self) -> Config:
        """What the controls say.

        Raises:
            ConfigError: a value that cannot be.
        """
        steps = [step for step, box in self.steps.items() if box.value]
        own = dict(alpha=self.alpha.value, epochs=self.epochs.value, dataset=self.dataset.value, augmentations=steps)
        return Config.from_parameters(**{**self.choices, **own})

    def start(self) -> None:
        """Starts the training, or goes on with it where it was stopped.

        Raises:
            ConfigError: a value that cannot be.
            TrainingError: another training runs in this notebook.
        """
        config = self.config()
        if TrainYourOwn.running is not None:
            raise TrainingError("another training runs in this notebook; stop it, or wait for its end")
        self._stopping.clear()
        TrainYourOwn.running, self.run = self, None
        self.train.disabled, self.stop.disabled = True, False
        self._thread = threading.Thread(target=self._work, args=(config,), daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """Asks the running training to stop after its epoch; its state is kept. Asking twice is the same.

        Raises:
            TrainingError: no training runs.
        """
        if TrainYourOwn.running is None:
            raise TrainingError("no training runs")
        TrainYourOwn.running._stopping.set()
        TrainYourOwn.running.bar.description = "stopping"

    def wait(self, seconds: float | None = None) -> None:
        """Returns when the training has ended."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self, config: Config) -> None:
        try:
            self.attempt(lambda: self._train(config), "Finished epochs are kept; train goes on from there.")
        finally:
            TrainYourOwn.running = None
            self.train.disabled, self.stop.disabled = False, True

    def _train(self, config: Config) -> str:
        """Trains, and says how it ended."""
        state = read_state(runs_root() / config.name)
        rows, begun = list(state[1]["history"]) if state else [], time.monotonic()
        first = len(rows)

        def on_epoch(progress: Progress) -> None:
            rows.append(progress.losses)
            left = (time.monotonic() - begun) / (len(rows) - first) * (progress.epochs - len(rows))
            self._report(config, rows, f"{left:.0f} s left")
            if self._stopping.is_set() and progress.epoch < progress.epochs:
                raise StoppedError

        self.say(f"Goes on after epoch {first}." if first else "The images are loaded ...")
        try:
            self.run = fit(config, on_epoch=on_epoch, progress="none", save_every=0, wait=False)
        except StoppedError:
            self.bar.description = f"{self.bar.value:.0%}"
            return f"Stopped after epoch {len(rows)} of {config.epochs}; train goes on from there."
        self._report(config, self.run.history.to_dict("records"), "done")
        if self.explorer is None:
            return f"Done: {config.name}, in runs/."
        self.say("Trained; the explorer looks at it ...")
        self.explorer.refresh()
        self.explorer.own.value = str(self.run.folder)
        return f"Done: {config.name}, in runs/. The explorer shows it, under encoder."

    def _report(self, config: Config, rows: list[dict[str, float]], text: str) -> None:
        self.bar.value, self.bar.description = len(rows) / config.epochs, text
        self.view.show(plot_history({config.method: pd.DataFrame(rows)}))
