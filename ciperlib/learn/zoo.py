"""The zoo: trained encoders that come with the workbook, a folder of runs; what it shall hold, and who is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ciperlib.config import Config
from ciperlib.files import place, project_root, write_json, write_sealed
from ciperlib.learn.runs import CONFIG, METRICS, PACKED, STATUS, Run, find_runs, load_run, runs_root, write_run
from ciperlib.registry import dataset_of

SEEDS = (0, 1, 2)  # that every kind of run has in the zoo; some have more


def zoo_root() -> Path:
    """Where the trained encoders that come with the workbook are: `CIPER_ZOO`, else `data/zoo` of the checkout."""
    return place(None, "CIPER_ZOO", "data/zoo")


def zoo_grid(part: str | None = None) -> list[dict[str, Any]]:
    """What the zoo shall hold, or one part of it: the choices of each kind of run, and under "seeds" its seeds."""
    grid = yaml.safe_load((project_root() / "data" / "zoo" / "grid.yml").read_text())
    parts = (kinds for name, kinds in grid.items() if part in (None, name))
    return [{"seeds": SEEDS, **kind} for kinds in parts for kind in kinds]


def configs_of(kinds: Sequence[Mapping[str, Any]], seeds: Sequence[int] | None = None, **choices: Any) -> list[Config]:
    """The configs of kinds of runs, each once.

    Args:
        kinds: choices of a config, as `zoo_grid` gives them.
        seeds: of every kind; None for a kind's own, under "seeds", or else `SEEDS`.
        choices: of all configs, where a kind does not say otherwise.
    """
    configs = []
    for kind in kinds:
        own = {**choices, **kind}
        named = own.pop("seeds", SEEDS)
        configs += [Config(**{**own, "seed": seed}) for seed in (named if seeds is None else seeds)]
    return list(dict.fromkeys(configs))


def find_run(config: Config, *roots: str | Path) -> Run | None:
    """The finished run of this config in the first of `roots` (the zoo, then `runs/`) that has it, else None.

    Images of files that may change are known by their content: without it, no run is taken for theirs.

    Example:
        >>> run = find_run(Config(method="ciper", augmentations="pose", seed=1))
        >>> run.config.seed, run.load_encoder().representation_size
        (1, 128)
        >>> find_run(Config(seed=12345)) is None
        True
    """
    if not dataset_of(config.dataset).fixed and not config.content:
        return None
    for root in roots or (zoo_root(), runs_root()):
        if (Path(root) / config.name / STATUS).exists():
            return load_run(Path(root) / config.name)
    return None


def find_longer_run(config: Config) -> Run | None:
    """The zoo's run that differs from `config` by more training alone (epochs, training images), else None."""
    for run in find_runs(zoo_root(), method=config.method, seed=config.seed):
        longer = replace(config, epochs=run.config.epochs, train_size=run.config.train_size)
        size = config.epochs * config.train_size
        if longer.name == run.name and size < run.config.epochs * run.config.train_size:
            return run
    return None


def export_run(run: Run, root: str | Path, metrics: dict[str, Any] | None = None) -> Run:
    """Copies a run's encoder into another folder of runs in float16 (buffers stay float32), packed, without heads.

    This is how a run enters the zoo: two fifths of the size, ready to be read by `load_run`.
    """
    folder = Path(root) / run.name
    encoder = run.load_encoder()
    buffers = {name for name, _ in encoder.named_buffers()}
    tensors = {name: t if name in buffers else t.half() for name, t in encoder.state_dict().items()}
    write_json(folder / CONFIG, run.config.to_dict())
    if metrics is not None:
        write_sealed(folder / METRICS, metrics)
    write_run(folder, {PACKED: tensors}, run.history, {k: v for k, v in run.status.items() if k != "files"})
    return load_run(folder)
