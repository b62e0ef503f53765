"""`make validate`: do explaining-away and the battery find what is known, asked as the notebooks ask it?

    python tests/validate.py [--seeds 0:20] [--worlds NAME,NAME] [--p 0] [--battery 0]

Ten worlds seen in 128 dimensions, five of which no linear map can express; each seed is a draw of its own, of 10,000
images at 4 levels. A draw takes one to three minutes and is kept in data/sweeps/worlds.csv as it is made; what is there
is not made again, and two commands with other seeds may run side by side. The battery is asked of planted codes, of
two and four levels, with more and more noise. Then figures/validation.json is written from all draws. `make test`
runs a thin slice.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import time

import pandas as pd
import torch

from ciperlib.analyse.equivariance.battery import measure_equivariance
from ciperlib.analyse.information.explaining_away import explaining_away
from ciperlib.analyse.synthetic import CLASS, LINEAR, ORBITS, World, lift, make_orbits, make_world
from ciperlib.files import project_root, write_atomically
from ciperlib.learn.devices import environment

IMAGES, DIMENSIONS, NULLS = 10_000, 128, 19  # as in notebook 05
CODES = 2000  # images of a planted code, as in notebook 08
UNTOUCHED = {0.05: "invariant", 0.5: "unresolved", 1.0: "lost"}  # by the rule's words, of h that only noise is added to
WORLDS: dict[str, tuple[str, dict[str, float]]] = {  # 10 classes, 4 levels
    "modular": ("modular", {}), "faint": ("modular", {"noise": 0.5}), "modular_plain": ("modular_plain", {}),
    "copy": ("copy", {}), "noise": ("noise", {}), "cells": ("cells", {}), "warped": ("warped", {}),
    "checkers": ("checkers", {}), "half_products": ("half_products", {}), "quadrants": ("quadrants", {}),
}  # fmt: skip
DRAWS = project_root() / "data" / "sweeps" / "worlds.csv"
SUMMARY = project_root() / "figures" / "validation.json"
WORTH_NATS = 0.1  # from which a synergy must be found
ROUNDED = 0.001  # nats: where all is known to a millionth, the interval is narrower than its numbers are right


def draw(name: str, seed: int, images: int = IMAGES, d: int = DIMENSIONS) -> dict:
    """One world, drawn and asked."""
    source, options = WORLDS[name]
    start = time.perf_counter()
    world: World = lift(make_world(source, images, seed=seed, **options), d, seed=seed)
    found = explaining_away(world.orbits, CLASS, null_samples=NULLS, seed=seed)
    row = {"world": name, "seed": seed, "d": d, "truth_nats": world.truth_nats, **found.to_row()}
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def summary(draws: pd.DataFrame) -> pd.DataFrame:
    """Of each world, of those that linear maps can express and of the others, and of those with and without synergy:
    draws, answers (present or absent), those whose interval holds the truth, the median width of theirs, right and
    wrong verdicts. By the seeds of which all worlds are drawn, lest some count more than others."""
    inside = {name for name, (source, _) in WORLDS.items() if source in LINEAR}
    draws = draws[draws.groupby("seed")["world"].transform("nunique") == len(WORLDS)]
    draws = draws.assign(
        family=draws["world"].isin(inside).map({True: "linear", False: "curved"}),
        answered=draws["verdict"].isin(["present", "absent"]),
        holds=draws["truth_nats"].between(draws["low_nats"] - ROUNDED, draws["high_nats"] + ROUNDED),
        width=draws["high_nats"] - draws["low_nats"],
    )
    shared = draws["truth_nats"] >= WORTH_NATS
    draws["right"] = draws["verdict"].eq("present").where(shared, draws["verdict"].eq("absent"))
    draws["wrong"] = draws["verdict"].eq("absent").where(shared, draws["verdict"].eq("present"))
    parts = [("world", name, rows) for name, rows in draws.groupby("world", sort=False)]
    parts += [("family", name, rows) for name, rows in draws.groupby("family", sort=False)]
    parts += [("synergy", "some", draws[shared]), ("synergy", "none", draws[~shared]), ("all", "all", draws)]
    rows = []
    for kind, name, part in parts:
        told = part[part["answered"]]
        counts = {column: int(part[column].sum()) for column in ("answered", "right", "wrong")}
        row = {"of": kind, "name": name, "draws": len(part), **counts, "holds": int(told["holds"].sum())}
        truth = {"truth_nats": float(part["truth_nats"].iloc[0])} if kind == "world" else {}
        rows.append(row | {"width_nats": float(told["width"].median()), **truth})
    return pd.DataFrame(rows)


def p_values(repeats: int, images: int = 1000) -> dict:
    """How often N2's p-value is at most 5% where its model of q(c|z) is right and there is no synergy."""
    worlds = (make_world("modular_plain", images, seed=seed).orbits for seed in range(repeats))
    hits = sum(
        explaining_away(world, CLASS, networks=False, null_samples=59, seed=seed).p_value <= 0.05
        for seed, world in enumerate(worlds)
    )
    return {"repeats": repeats, "images": images, "at_most_0.05": hits}


def battery(draws: int, images: int = CODES, d: int = DIMENSIONS) -> list[dict]:
    """Verdicts on codes of which it is known what the transformation does: a row for each kind, number of levels and
    noise (against 1 between images). An untouched code moves with the noise: it is nothing for sure, and lost where
    a quarter of h at most could be predicted, as is so of noise 1."""
    rows = []
    for kind, levels, noise in itertools.product(ORBITS, (2, 4), UNTOUCHED):
        codes = (make_orbits(kind, images, m=levels, d=d, noise=noise, seed=seed) for seed in range(draws))
        said = [measure_equivariance(code, seed=seed).verdict for seed, code in enumerate(codes)]
        right = ORBITS[kind] if kind != "invariant" else UNTOUCHED[noise]
        counts = {"right": said.count(right), "undecided": said.count("unresolved") * (right != "unresolved")}
        wrong = draws - sum(counts.values())
        rows.append({"kind": kind, "levels": levels, "noise": noise, "draws": draws, **counts, "wrong": wrong})
    return rows


def keep(row: dict) -> None:
    """Adds a draw to the file, whoever else writes to it."""
    with DRAWS.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pd.DataFrame([row]).to_csv(file, index=False, header=file.tell() == 0)


def kept() -> pd.DataFrame:
    return pd.read_csv(DRAWS) if DRAWS.exists() else pd.DataFrame(columns=["world", "seed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0:20", help="START:STOP")
    parser.add_argument("--worlds", default=",".join(WORLDS), help="divided by commas")
    parser.add_argument("--p", type=int, default=0, help="worlds of which the p-value is asked; 0: as it was found")
    parser.add_argument("--battery", type=int, default=0, help="draws of each planted code; 0: as it was found")
    options = parser.parse_args()
    done = set(zip(*(kept()[column] for column in ("world", "seed"))))
    for seed in range(*map(int, options.seeds.split(":"))):
        for name in options.worlds.split(","):
            if (name, seed) not in done:
                row = draw(name, seed)
                keep(row)
                shown = f"{row['value_nats']:.3f} [{row['low_nats']:.3f}, {row['high_nats']:.3f}]"
                print(
                    f"{name:14} {seed:3}: {row['truth_nats']:.3f}, found {shown}, {row['verdict']}  {row['seconds']} s",
                    flush=True,
                )
    old = json.loads(SUMMARY.read_text()) if SUMMARY.exists() else {}
    chance = p_values(options.p) if options.p else old.get("p_values")
    rows = json.loads(summary(kept()).to_json(orient="records"))
    codes = battery(options.battery) if options.battery else old.get("battery")
    content = {"environment": environment(torch.device("cpu")), "rows": rows, "p_values": chance, "battery": codes}
    write_atomically(SUMMARY, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
