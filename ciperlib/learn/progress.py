"""What a training says of itself while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from ciperlib.config import Config
from ciperlib.learn.methods.base import Objective

SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Progress:
    """What `on_epoch` is given after each epoch: which one it was, its mean losses, and the objective itself."""

    epoch: int  # 1 after the first
    epochs: int
    losses: dict[str, float]
    objective: Objective


def make_reporter(style: str, config: Config, epochs: int, done: int) -> Callable[[dict[str, float]], None]:
    """A function that shows one history row, as a bar, as a line every few seconds, or not at all."""
    if style == "bar":
        from tqdm.auto import tqdm

        bar = tqdm(total=epochs, initial=done, desc=config.name, unit="epoch", file=sys.stdout)

        def advance(row: dict[str, float]) -> None:
            bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k not in ("epoch", "learning_rate", "seconds")})
            bar.update()
            if row["epoch"] == epochs:
                bar.close()

        return advance
    if style == "lines" and done:
        print(f"{config.name}  goes on after epoch {done}", flush=True)
    shown = [-SECONDS_BETWEEN_LINES]

    def line(row: dict[str, float]) -> None:
        if style == "lines" and (row["epoch"] == epochs or time.monotonic() - shown[0] >= SECONDS_BETWEEN_LINES):
            shown[0] = time.monotonic()
            terms = "  ".join(f"{k} {v:.3f}" for k, v in row.items() if k not in ("epoch", "learning_rate", "seconds"))
            print(f"{config.name}  epoch {row['epoch']}/{epochs}  {terms}  {row['seconds']:.0f} s", flush=True)

    return line
