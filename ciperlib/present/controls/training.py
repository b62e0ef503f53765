"""Train an encoder from a notebook's page, in the background."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import pandas as pd

from ciperlib.config import Config
from ciperlib.labels import labels
from ciperlib.learn.devices import find_device
from ciperlib.learn.progress import Progress
from ciperlib.learn.runs import Run, read_state, runs_root
from ciperlib.learn.training import TrainingError, fit, settle
from ciperlib.present.controls.elements import NARROW, STYLE, WRAPPED, Control, LiveFigure, make_box, make_list
from ciperlib.present.controls.encoder import AlphaExplorer
from ciperlib.present.plotting import plot_history
from ciperlib.registry import datasets, methods, steps

Rows = list[dict[str, float]]


class StoppedError(Exception):
    """A reader stopped the training."""


class Training:
    """One training in the background, whoever watches it.

    Attributes:
        asked: what the controls said. config: the same, once its precision is settled.
        rows: of the history so far; `first` of them were there before.
        run: when it is done. error: when it was stopped, or failed.
        stopping: set by whoever wants it to end after its epoch.
    """

    running: Training | None = None  # one at a time in a kernel, for they share its cores

    def __init__(self, config: Config) -> None:
        self.asked = self.config = config
        self.rows: Rows = []
        self.first = 0
        self.run: Run | None = None
        self.error: Exception | None = None
        self.stopping = threading.Event()
        self.watcher: TrainYourOwn | None = None
        self.begun, self.thread = time.monotonic(), None

    def start(self, watcher: TrainYourOwn) -> None:
        """Begins, or goes on where it was stopped."""
        Training.running, self.watcher = self, watcher
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def tell(self, say: Callable[[TrainYourOwn], None]) -> None:
        """Tells the watcher something. What fails in a picture must not end the training."""
        try:
            say(self.watcher)
        except Exception as error:
            traceback.print_exception(error, file=sys.stderr)

    def _work(self) -> None:
        try:
            self._train()
        except Exception as error:
            self.error = error
        Training.running = None
        self.tell(lambda watcher: watcher.finish(self))

    def _train(self) -> None:
        self.config, _ = settle(self.config, find_device("auto"))
        state = read_state(runs_root() / self.config.name)
        self.rows = list(state[1]["history"]) if state else []
        self.first, self.begun = len(self.rows), time.monotonic()
        text = f"Goes on after epoch {self.first}." if self.first else "The images are loaded ..."
        self.tell(lambda watcher: watcher.say(text))
        self.run = fit(self.config, on_epoch=self._on_epoch, progress="none", save_every=0, wait=False)
        self.rows = self.run.history.to_dict("records")

    def _on_epoch(self, progress: Progress) -> None:
        self.rows = [*self.rows, progress.losses]
        self.tell(lambda watcher: watcher.report(self))
        if self.stopping.is_set() and progress.epoch < progress.epochs:
            raise StoppedError

    @property
    def seconds_left(self) -> float:
        """An estimate, from the epochs that were trained so far."""
        each = (time.monotonic() - self.begun) / max(1, len(self.rows) - self.first)
        return each * (self.config.epochs - len(self.rows))


class TrainYourOwn(Control):
    """Train an encoder in the background, watch its losses, stop it where you like; it is found again and goes on.

    The curves of the training before stay, dotted. Shown a second time while it trains (its cell was run again), the
    new control takes the running training over.

    Args:
        explorer: gets to know the new encoder when it is done.
        static: where plotly's widget cannot load.
        choices: of the config; what has a control here is its first value.
    """

    aftermath = ""

    def __init__(self, explorer: AlphaExplorer | None = None, *, static: bool = False, **choices: Any) -> None:
        config = Config(**choices)
        self.choices, self.explorer = choices, explorer
        self.alpha = widgets.FloatText(config.alpha, description="alpha", style=STYLE, layout=NARROW)
        self.alpha.disabled = methods[choices.get("method", "ciper")].alpha is None
        self.epochs = widgets.IntText(config.epochs, description="epochs", style=STYLE, layout=NARROW)
        self.dataset = make_list("images", _datasets(config), config.dataset)
        self.steps = {step: make_box(step, step in config.augmentations) for step in steps}
        self.train = widgets.Button(description="train", button_style="primary")
        self.stop = widgets.Button(description="stop", disabled=True)
        self.bar = widgets.FloatProgress(value=0, min=0, max=1, description="0 %", layout=widgets.Layout(width="400px"))
        self.training: Training | None = None
        self.before: dict[str, pd.DataFrame] = {}
        self.view = LiveFigure(plot_history({config.method: pd.DataFrame({"epoch": [], "total": []})}), static)
        rows = [[self.alpha, self.epochs, self.dataset], list(self.steps.values()), [self.train, self.stop, self.bar]]
        super().__init__(*(widgets.HBox(row, layout=WRAPPED) for row in rows), shown=[self.view], static=static)
        self.on(self.start, self.train)
        self.on(self.halt, self.stop)
        if Training.running is not None:
            self._take_over(Training.running)

    @property
    def run(self) -> Run | None:
        """The run that this control trained last, once it is done."""
        return self.training.run if self.training else None

    def config(self) -> Config:
        """What the controls say.

        Raises:
            ConfigError: a value that cannot be.
        """
        steps = [step for step, box in self.steps.items() if box.value]
        own = dict(epochs=self.epochs.value, dataset=self.dataset.value, augmentations=steps)
        alpha = {} if self.alpha.disabled else {"alpha": self.alpha.value}
        return Config.from_parameters(**{**self.choices, **own, **alpha})

    def start(self) -> None:
        """Starts the training, or goes on with it where it was stopped.

        Raises:
            ConfigError: a value that cannot be.
            TrainingError: another training runs in this notebook, or there is nothing to be trained.
        """
        config = self.config()
        if not methods[config.method].trained:
            raise TrainingError("a random encoder is not trained; choose another method")
        if Training.running is not None:
            raise TrainingError("another training runs in this notebook; stop it, or wait for its end")
        self._keep_curves(config)
        self.training = Training(config)
        self.train.disabled, self.stop.disabled = True, False
        self.training.start(self)

    def halt(self) -> None:
        """Asks the running training to stop after its epoch; its state is kept. Asking twice is the same.

        Raises:
            TrainingError: no training runs.
        """
        training = Training.running
        if training is None:
            raise TrainingError("no training runs")
        training.stopping.set()
        training.tell(lambda watcher: setattr(watcher.bar, "description", "stopping"))

    def wait(self, seconds: float | None = None) -> None:
        """Returns when the training has ended."""
        if self.training is not None and self.training.thread is not None:
            self.training.thread.join(seconds)

    def report(self, training: Training) -> None:
        """Shows how far a training is."""
        stops = "stopping" if training.stopping.is_set() else f"{training.seconds_left:.0f} s left"
        self._show(training, stops)

    def finish(self, training: Training) -> None:
        """Says how a training ended."""
        self.train.disabled, self.stop.disabled = False, True
        self.attempt(lambda: self._say_end(training), "Finished epochs are kept; train goes on from there.")

    def _say_end(self, training: Training) -> str:
        if isinstance(training.error, StoppedError):
            self.bar.description = f"{self.bar.value:.0%}"
            done, epochs = len(training.rows), training.config.epochs
            return f"Stopped after epoch {done} of {epochs}; train goes on from there."
        if training.error is not None:
            raise training.error
        self._show(training, "done")
        done = f"Done: {training.run.name}, in {training.run.folder.parent.name}/."
        return done if self.explorer is None else f"{done} {self._show_in_explorer(training.run)}"

    def _show_in_explorer(self, run: Run) -> str:
        self.say("Trained; the explorer looks at it ...")
        self.explorer.refresh()
        if str(run.folder) not in [folder for _, folder in self.explorer.own.options]:
            return "It is one of the zoo's, among which the explorer has it."
        self.explorer.own.value = str(run.folder)
        return "The explorer shows it, under encoder."

    def _take_over(self, training: Training) -> None:
        """Watches a training that another control began, and can stop it; that control says so."""
        other, training.watcher, self.training = training.watcher, self, training
        self.train.disabled, self.stop.disabled, self.before = True, False, other.before
        other.train.disabled, other.stop.disabled = False, True
        other.say("This training is watched by the control that was made after this one.")
        self.say(f"Watches the training that runs: {training.config.name}.")
        if training.rows:
            self.report(training)
        if Training.running is not training:  # it ended meanwhile
            self.finish(training)

    def _keep_curves(self, config: Config) -> None:
        """The curves of another training stay in the figure, for comparison."""
        last = self.training
        if last is not None and last.rows and last.asked != config:
            self.before = {f"before: {labels([last.config, config])[0]}": pd.DataFrame(last.rows)}

    def _show(self, training: Training, text: str) -> None:
        self.bar.value, self.bar.description = len(training.rows) / training.config.epochs, text
        histories = {training.config.method: pd.DataFrame(training.rows)}
        self.view.show(plot_history(histories, before=self.before))


def _datasets(config: Config) -> list[str]:
    """What can be trained on without a name of the user's own, and what the config says."""
    return list(dict.fromkeys([*(name for name, known in datasets.items() if not known.named), config.dataset]))
