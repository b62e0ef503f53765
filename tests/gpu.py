"""All that wants a GPU, in one command; called again, it goes on with what is left.

    python tests/gpu.py [--minutes 9] [--output figures/gpu.json] [--only PART ...] [--rehearse]

The CPU against the GPU, trainings that must be repeatable to the bit, rates, and CIPER on CIFAR-10. It needs no
package but those of `fit` (FullGrad's part is skipped without captum); without an installation, PYTHONPATH=. before it.
Each part is kept as soon as it is measured, with its device and versions, and not measured again on these unless
`--only` names it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ciperlib.analyse.features import Features, extract_features
from ciperlib.analyse.information.explaining_away import explaining_away
from ciperlib.analyse.probing.probes import fit_linear_probe, fit_regression_probe
from ciperlib.analyse.synthetic import CLASS, lift, make_world
from ciperlib.config import IMAGE_STEPS, Config, profile_parameters
from ciperlib.data import cifar10, turntable
from ciperlib.data.imageset import ImageSet, data_root, load_images
from ciperlib.files import project_root, write_json
from ciperlib.learn.augment import Augmentation, View
from ciperlib.learn.devices import environment
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.encoders.base import Encoder
from ciperlib.learn.methods import make_objective
from ciperlib.learn.methods.base import Batch, Objective
from ciperlib.learn.methods.losses import standardise
from ciperlib.learn.progress import Progress
from ciperlib.learn.runs import ENCODER, HEADS, STATE, Run
from ciperlib.learn.seeds import seeded
from ciperlib.learn.training import Trainer, fit, make_optimiser

CPU = torch.device("cpu")
PUBLISHED = project_root() / "figures" / "gpu.json"
VERSIONS = ("device", "ciperlib", "python", "torch", "torchvision")  # on another of these it is measured again
METHODS, BATCHES = ("simclr", "ciper"), (256, 1024)
LEAST_EPOCHS, PROBE_SECONDS = 10, 45  # of a training on CIFAR-10: fewer say nothing; kept for its probe
TINY = dict(dataset="turntable", train_size=64, architecture="resnet10", width=8, projector_width=16, epochs=3)


class Here(NamedTuple):
    """Where a part runs, and what it may know."""

    device: torch.device  # what is compared with the CPU
    scratch: Path  # a folder for what need not stay
    until: float  # when this call shall end, on the clock of `time.monotonic`
    known: dict[str, dict[str, Any]]  # the parts that were measured on this device with these versions
    rehearsal: bool  # all is tiny, and rates and accuracies may be anything

    def some(self, n: int) -> int:
        return max(1, n // 32) if self.rehearsal else n

    def config(self, method: str = "ciper", **choices: Any) -> Config:
        """The paper's, but for `choices`."""
        paper = {**profile_parameters("paper", "config"), "batch_size": self.some(256), "method": method}
        return Config.from_parameters(**{**paper, **(TINY if self.rehearsal else {}), **choices})


class OutOfTimeError(Exception):
    """Raised out of a training to stop it; its state is saved."""


# (1) The CPU against the GPU


def compare_render(here: Here) -> dict:
    columns = random_poses(here.some(512))
    ours, theirs = (turntable.render(*(column.to(device) for column in columns)) for device in (CPU, here.device))
    near = (ours.images.int() - theirs.images.cpu().int()).abs().amax(1) <= 1
    share, masks = float(near.float().mean()), float((ours.masks == theirs.masks.cpu()).float().mean())
    return {"ok": min(share, masks) >= 0.999, "pixels_within_1_of_255": share, "masks_equal": masks}


def compare_augmentation(here: Here) -> dict:
    """Drawn on both devices from one CPU generator, and drawn on the CPU and replayed on the device."""
    images, augmentation = random_images(here.some(512)), Augmentation(IMAGE_STEPS)
    ours, theirs = (
        augmentation(images.to(device), torch.arange(len(images)), torch.Generator().manual_seed(0))
        for device in (CPU, here.device)
    )
    replayed = augmentation.replay(images.images.to(here.device), ours.parameters)
    pixels = float((replayed.cpu() - ours.images).abs().max())
    drawn = float((theirs.parameters.cpu() - ours.parameters).abs().max())
    return {"ok": pixels <= 1 / 255 and drawn <= 1e-5, "largest_pixel_gap": pixels, "largest_parameter_gap": drawn}


def compare_features(here: Here) -> dict:
    images = world(here, "test", here.some(512))
    encoder, gaps = used_encoder(here), {}
    reference = extract_features(encoder, images).matrix
    for arithmetic in ("float32", "TF32"):
        with convolutions(arithmetic):
            gaps[arithmetic] = gap(extract_features(encoder, images, device=here.device).matrix, reference)
    return {"ok": gaps["float32"] <= 1e-4 and gaps["TF32"] <= 1e-2, "relative_gap": gaps}


def compare_step(here: Here) -> dict:
    """Loss and gradient of CIPER's first step. What bfloat16 costs on the CPU is the measure of what it may cost."""
    loss, gradient = first_step(here, CPU, "float32")
    losses, gradients = {}, {}
    cases = [(CPU, "bf16"), *((here.device, arithmetic) for arithmetic in ("float32", "TF32", "bf16"))]
    for name, case in zip(("bf16 on the CPU", "float32", "TF32", "bf16"), cases):
        found = first_step(here, *case)
        losses[name], gradients[name] = abs(found[0] / loss - 1), gap(found[1], gradient)
    allowed = {"float32": 0.03, "TF32": gradients["bf16 on the CPU"], "bf16": 1.5 * gradients["bf16 on the CPU"]}
    close = all(gradients[name] <= most for name, most in allowed.items())
    exact = losses["float32"] <= 1e-5 and max(losses.values()) <= 2e-2
    return {"ok": close and exact, "relative_gap_of_gradient": gradients, "relative_gap_of_loss": losses}


def compare_probes(here: Here) -> dict:
    """Probes of what an encoder says on the CPU, and of what it says on the GPU."""
    parts = [world(here, split, here.some(1024)) for split in ("train", "test")]
    encoder, found = used_encoder(here), []
    for device in (CPU, here.device):
        train, test = (extract_features(encoder, part, device=device) for part in parts)
        category, pose = fit_linear_probe(train, test, "category"), fit_regression_probe(train, test, "pose")
        found.append((category.value, pose.value))
    accuracy, r2 = (abs(ours - theirs) for ours, theirs in zip(*found))
    gaps, solved = {"accuracy_gap": accuracy, "R2_gap": r2}, {"solved_on": str(category.model.weight.device)}
    return {"ok": max(accuracy, r2) <= 0.01, **gaps, "on_CPU_and_GPU": found, **solved}


def compare_fullgrad(here: Here) -> dict:
    """Maps, and whether their terms add up to the output as closely as FullGrad asks for."""
    try:
        from ciperlib.analyse.attribution.fullgrad import TOLERANCE, FullGrad, saliency_map
    except ModuleNotFoundError as error:
        return {"ok": None, "skipped": f"{error.name.split('.')[0]} is not installed"}
    encoder, images = used_encoder(here), world(here, "test", 16).floats()
    with seeded(0, "classifier"):
        model = nn.Sequential(encoder, nn.Linear(encoder.representation_size, 10)).eval()
    reference, maps, gaps = saliency_map(FullGrad(model).decompose(images, 3)), {}, {}
    for arithmetic in ("float32", "TF32"):
        with convolutions(arithmetic):
            terms = FullGrad(model.to(here.device), approximate=True).decompose(images.to(here.device), 3)
        maps[arithmetic], gaps[arithmetic] = gap(saliency_map(terms), reference), float(terms.gap().max())
    close = maps["float32"] <= 1e-3 and max(gaps.values()) <= TOLERANCE[torch.float32]
    return {"ok": close, "relative_gap_of_maps": maps, "missed_share_of_output": gaps}


def first_step(here: Here, device: torch.device, arithmetic: str) -> tuple[float, Tensor]:
    """Loss and gradient [parameters] of a fresh objective on views drawn on the CPU."""
    images, augmentation = world(here, "train", here.some(256)), Augmentation(IMAGE_STEPS)
    objective = make_objective(here.config(), augmentation.specs)
    objective.encoder.normalise_with(images.images)
    objective.to(device, memory_format=torch.channels_last)
    index, generator = torch.arange(len(images)), torch.Generator().manual_seed(0)
    drawn = [augmentation(images, index, generator) for _ in objective.crops]
    views = tuple(View(*(tensor.to(device) for tensor in view)) for view in drawn)
    batch = Batch(index.to(device), images.floats().to(device), views)
    with convolutions(arithmetic):
        with torch.autocast(device.type, torch.bfloat16, enabled=arithmetic == "bf16"):
            loss = objective(batch).total
        loss.backward()
    return loss.item(), torch.cat([p.grad.flatten().cpu() for p in objective.parameters() if p.grad is not None])


# (2) Trainings that must be repeatable


def check_resume(here: Here) -> dict:
    whole, folder = small_run(here, "whole"), here.scratch / "parts"
    with contextlib.suppress(OutOfTimeError):
        small_run(here, "parts", on_epoch=stop_at(0.0), save_every=0)
    stopped = (folder / whole.name / STATE).exists()
    found = apart(whole, small_run(here, "parts"))
    return {"ok": stopped and found["equal"], "stopped_after_epoch_1": stopped, **found}


def check_determinism(here: Here) -> dict:
    """Two trainings as they are, and two for which cuDNN may choose deterministic algorithms only."""
    found = apart(small_run(here, "first"), small_run(here, "second"))
    with changed(torch.backends.cudnn, "deterministic", True):
        forced = apart(small_run(here, "third"), small_run(here, "fourth"))
    return {"ok": found["equal"], **found, "with_cudnn_deterministic": forced}


def small_run(here: Here, folder: str, **options: Any) -> Run:
    config = here.config(dataset="turntable", train_size=here.some(2048), epochs=3)
    options |= {"data_root": here.scratch, "device": here.device.type, "progress": "none"}
    return fit(config, here.scratch / folder, **options)


def apart(first: Run, second: Run) -> dict:
    """Whether two runs' weights and buffers are equal to the bit; else how many are not, and by how much."""
    ours, theirs = ({f: load_file(run.folder / f) for f in (ENCODER, HEADS)} for run in (first, second))
    pairs = [(tensor, theirs[f][name]) for f in ours for name, tensor in ours[f].items()]
    gaps = [float((a.double() - b.double()).abs().max()) for a, b in pairs if not torch.equal(a, b)]
    return {"equal": not gaps, "tensors": len(pairs), "different": len(gaps), "largest_gap": max(gaps, default=0.0)}


# (3) to (5) Rates


def measure_products(here: Here) -> dict:
    """Products of square bfloat16 matrices: the most that the chip does, for all other rates to be related to."""
    side = here.some(8192)
    a, b = (torch.randn(side, side, device=here.device, dtype=torch.bfloat16) for _ in range(2))
    (seconds,) = time_in_turn(here, lambda: [a @ b for _ in range(20)])
    return {"ok": True, "side": side, **rate("TFLOP/s", 20 * 2 * side**3 / 1e12, seconds)}


def measure_training(here: Here, method: str, batch: int) -> dict:
    """Epochs of the training loop, augmentation and all, against the plain loop's."""
    trainer = make_trainer(here, method, batch)
    with FlopCounterMode(display=False) as counter:
        trainer.train_epoch()
    gigaflop = counter.get_total_flops() / len(trainer.images) / 1e9
    found = against(here, len(trainer.images), trainer.train_epoch, "plain_loop", plain_loop(trainer))
    return {**found, "TFLOP/s": found["images/s"] * gigaflop / 1e3, "images": trainer.images.name}


def measure_compiled(here: Here, method: str, batch: int) -> dict:
    """Epochs with the objective compiled, which must come to the same loss, against those without. Whether it is the
    faster one is the question; training does not compile."""
    torch.compiler.reset()
    eager, compiled = (make_trainer(here, method, batch) for _ in range(2))
    backend = "eager" if here.rehearsal else "inductor"  # which on a CPU takes minutes
    compiled.model = torch.compile(compiled.objective, dynamic=False, backend=backend)
    start = time.perf_counter()
    loss = compiled.train_epoch()["total"]
    about = {"first_epoch_seconds": time.perf_counter() - start, "backend": backend}
    off = abs(loss / eager.train_epoch()["total"] - 1)
    found = against(here, len(eager.images), compiled.train_epoch, "eager", eager.train_epoch)
    return {**found, **about, "ok": off <= 1e-2, "relative_gap_of_loss": off}


def measure_renderer(here: Here) -> dict:
    columns = [column.to(here.device) for column in random_poses(here.some(20_000))]
    (seconds,) = time_in_turn(here, lambda: turntable.render(*columns))
    return {"ok": True, **rate("images/s", len(columns[0]), seconds)}


def measure_augmentation(here: Here) -> dict:
    augmentation, generator = Augmentation(IMAGE_STEPS), torch.Generator(here.device).manual_seed(0)
    found: dict[str, Any] = {"ok": True}
    for batch in BATCHES:
        images = random_images(here.some(batch)).to(here.device)
        index = torch.arange(len(images), device=here.device)
        call = partial(augmentation, images, index, generator)
        (seconds,) = time_in_turn(here, lambda call=call: [call() for _ in range(20)])
        found[f"batch_{batch}"] = rate("images/s", 20 * len(images), seconds)
    return found


def measure_probe(here: Here) -> dict:
    """The default linear probe (five strengths) of the features of tests/benchmarks.py."""
    generator, n, d = torch.Generator().manual_seed(0), here.some(50_000), here.some(512)
    y = torch.randint(10, (n + n // 5,), generator=generator)
    mixing = torch.randn(d, d, generator=generator) * torch.logspace(0, -2, d)
    noisy = 0.12 * torch.randn(10, d, generator=generator)[y] + torch.randn(len(y), d, generator=generator)
    made = Features(torch.relu(noisy @ mixing / 8), {"category": y}, *[torch.arange(len(y))] * 2)
    fit_one = partial(fit_linear_probe, made.subset(slice(n)), made.subset(slice(n, None)), "category", resamples=0)
    results: list[Any] = []
    (seconds,) = time_in_turn(here, lambda: results.append(fit_one()), repeats=3)
    about = {"rows": n, "dimensions": d, "solved_on": str(results[0].model.weight.device)}
    return {"ok": all(one.details["converged"] for one in results), **rate("fits/s", 1, seconds), **about}


def measure_explaining_away(here: Here) -> dict:
    """One call without networks on images x 4 rows of 128 dimensions, 100 null draws; the truth is known."""
    made, results = lift(make_world("modular", here.some(5000)), 128), []
    call = partial(explaining_away, made.orbits, CLASS, networks=False, null_samples=here.some(100))
    (seconds,) = time_in_turn(here, lambda: results.append(call()), repeats=1)
    error = results[0].value - made.truth_nats
    return {"ok": here.rehearsal or abs(error) <= 0.06, "seconds_per_call": seconds[0], "error_nats": error}


def make_trainer(here: Here, method: str, batch: int) -> Trainer:
    """Of ten batches of 1,024 images in all: CIFAR-10's if they are at hand, else noise; the rate is the same."""
    config = here.config(method, batch_size=here.some(batch))
    count = config.batch_size * max(2, here.some(10 * 1024 // batch))
    images = random_images(count) if photographs() is None else photographs().subset(slice(count))
    return Trainer(config, images.to(here.device), here.device)


def plain_loop(trainer: Trainer) -> Callable[[], None]:
    """An epoch as one would write it: NCHW, no autocast, a forward for each view, a written-out loss that is read after
    each step. The augmentation is ours, so that only the steps are compared."""
    images, augmentation = trainer.images, trainer.augmentation
    objective = make_objective(trainer.config, augmentation.specs).to(images.device)
    optimiser, generator = make_optimiser(trainer.config, objective), torch.Generator(images.device).manual_seed(0)

    def epoch() -> None:
        for index in torch.randperm(len(images), device=images.device).split(trainer.config.batch_size):
            views = [augmentation(images, index, generator) for _ in range(2)]
            loss = plain_loss(objective, images.floats(index), views)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()

    return epoch


def plain_loss(objective: Objective, anchor: Tensor, views: list[View]) -> Tensor:
    h = [objective.encoder(view.images) for view in views]
    z = F.normalize(torch.cat([objective.contrastive.projector(part) for part in h]))
    logits = (z @ z.T / objective.config.temperature).fill_diagonal_(-torch.inf)
    loss = F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z) // 2))
    if objective.config.method == "ciper":
        head, h0 = objective.predictive, objective.encoder(anchor)
        for part, view in zip(h, views):
            loss = loss + F.mse_loss(head.predictor(h0 - part), standardise(view.parameters[:, head.columns]))
    return loss


# (6) Trainings for the minutes that remain


def train_on_cifar10(here: Here, method: str) -> dict:
    """The paper's setting but for the epochs, as many as fit, and a linear probe. What is stopped goes on next time."""
    if not here.rehearsal and photographs() is None:
        return {"ok": None, "skipped": f"no CIFAR-10 files in {data_root()}"}
    epochs = 1 if method == "random" else known_epochs(here)
    if method != "random" and epochs < min(LEAST_EPOCHS, here.config().epochs):
        return {"ok": None, "unfinished": f"only {epochs} epochs would fit into the time left"}
    root, stop = here.scratch if here.rehearsal else None, stop_at(here.until - PROBE_SECONDS)
    try:
        run = fit(here.config(method, epochs=epochs), root, stop, data_root=root, device=here.device.type)
    except OutOfTimeError as stopped:
        return {"ok": None, "epochs": epochs, "unfinished": f"{stopped} of {epochs} epochs done"}
    floor = here.known.get("cifar10_random", {}).get("accuracy", 0.1)
    found = {"epochs": epochs, "floor": floor, "run": run.name, **probe_run(here, run, root)}
    return {"ok": here.rehearsal or method == "random" or found["low"] > floor, **found}


def probe_run(here: Here, run: Run, root: Path | None) -> dict:
    encoder, name, size = run.load_encoder(here.device), run.config.dataset, run.config.train_size
    parts = [load_images(name, split, size=n, root=root) for split, n in (("train", size), ("test", size // 5))]
    train, test = (extract_features(encoder, part, trained_on=run.trained_on) for part in parts)
    result = fit_linear_probe(train, test, "category")
    about = {"n": result.n, "seconds_of_training": run.status["seconds"]}
    return {"accuracy": result.value, "low": result.low, "high": result.high, **about}


def known_epochs(here: Here) -> int:
    """Those that either training has begun with, else those that fit into four fifths of the time left for both."""
    for method in METHODS:
        if epochs := here.known.get(f"cifar10_{method}", {}).get("epochs"):
            return epochs
    trainers = [make_trainer(here, method, 256) for method in METHODS]
    times = time_in_turn(here, *(trainer.train_epoch for trainer in trainers))
    each = sum(statistics.median(seconds) for seconds in times) / len(trainers[0].images) * here.config().train_size
    left = here.until - time.monotonic() - len(METHODS) * PROBE_SECONDS
    return max(0, min(here.config().epochs, int(0.8 * left / each)))


def stop_at(moment: float) -> Callable[[Progress], None]:
    def on_epoch(progress: Progress) -> None:
        if time.monotonic() > moment and progress.epoch < progress.epochs:
            raise OutOfTimeError(progress.epoch)

    return on_epoch


# What the parts share


def random_poses(n: int) -> tuple[Tensor, ...]:
    """Columns of `turntable.render`, each [n]."""
    u = torch.rand(5, n, generator=torch.Generator().manual_seed(0))
    return (u[0] * 50).long(), (u[1] * 11).long(), 2 * math.pi * u[2], 0.2 + u[3], 0.8 + 0.5 * u[4]


def random_images(n: int) -> ImageSet:
    pixels = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet("random", "train", pixels, {}, torch.arange(n), torch.arange(n))


def world(here: Here, split: str, size: int) -> ImageSet:
    return load_images("turntable", split, size=size, root=here.scratch)


def used_encoder(here: Here) -> Encoder:
    """In eval mode, with the statistics of a batch in its BatchNorms: fresh ones would add no constants."""
    encoder, images = make_encoder(here.config()), world(here, "train", 64)
    encoder.normalise_with(images.images)
    with torch.no_grad():
        encoder(images.floats())
    return encoder.eval().requires_grad_(False)


@cache
def photographs() -> ImageSet | None:
    """CIFAR-10's training images where its files are at hand: nothing is downloaded."""
    return load_images("cifar10", "train") if (data_root() / cifar10.FOLDER).is_dir() else None


def gap(found: Tensor, reference: Tensor) -> float:
    """Length of the difference as a share of the reference's."""
    found, reference = (tensor.detach().cpu().double() for tensor in (found, reference))
    return float((found - reference).norm() / reference.norm())


@contextlib.contextmanager
def changed(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


def convolutions(arithmetic: str) -> contextlib.AbstractContextManager:
    """A GPU's convolutions in full float32 for "float32", else as torch has them: rounded to TF32."""
    precision = "ieee" if arithmetic == "float32" else "tf32"
    return changed(torch.backends.cudnn.conv, "fp32_precision", precision)


def time_in_turn(here: Here, *functions: Callable[[], object], repeats: int = 5) -> list[list[float]]:
    """Seconds of each call of each function, run in turn, forwards and backwards, after one warm-up each."""
    wait = torch.cuda.synchronize if here.device.type == "cuda" else lambda: None
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(here.some(repeats) + 1):
        for function, seconds in list(zip(functions, times))[:: 1 if turn % 2 else -1]:
            wait()
            start = time.perf_counter()
            function()
            wait()
            if turn:
                seconds.append(time.perf_counter() - start)
    return times


def rate(unit: str, amount: float, seconds: list[float]) -> dict[str, float]:
    """Amount a second: of the median time, the longest and the shortest."""
    times = {unit: statistics.median(seconds), "lowest": max(seconds), "highest": min(seconds)}
    return {name: amount / value for name, value in times.items()}


def against(here: Here, n: int, ours: Callable, other: str, theirs: Callable) -> dict[str, Any]:
    """Images a second of two ways to train on n images; ours shall not be the slower one."""
    first, second = time_in_turn(here, ours, theirs)
    ratio = statistics.median(second) / statistics.median(first)
    rates = {**rate("images/s", n, first), other: rate("images/s", n, second)}
    return {"ok": here.rehearsal or ratio >= 1, "ratio": ratio, **rates}


class Part(NamedTuple):
    measure: Callable[[Here], dict[str, Any]]
    seconds: float  # about how long, guessed: it is left for the next call where there is less time


PAIRS = [(method, batch) for method in METHODS for batch in BATCHES]
PARTS = {
    "render": Part(compare_render, 5),
    "augmentation": Part(compare_augmentation, 5),
    "features": Part(compare_features, 15),
    "step": Part(compare_step, 30),
    "probes": Part(compare_probes, 30),
    "fullgrad": Part(compare_fullgrad, 10),
    "resume": Part(check_resume, 20),
    "determinism": Part(check_determinism, 30),
    "products": Part(measure_products, 5),
    **{f"training_{m}_{b}": Part(partial(measure_training, method=m, batch=b), 25) for m, b in PAIRS},
    "renderer_rate": Part(measure_renderer, 10),
    "augmentation_rate": Part(measure_augmentation, 5),
    "probe_rate": Part(measure_probe, 30),
    "explaining_away": Part(measure_explaining_away, 40),
    **{f"compiled_{m}_{b}": Part(partial(measure_compiled, method=m, batch=b), 75) for m, b in PAIRS},
    **{f"cifar10_{m}": Part(partial(train_on_cifar10, method=m), 90) for m in ("random", *METHODS)},
}


# The command


def main(arguments: list[str] | None = None) -> int:
    """0 if every check held, 1 if one did not, 2 where there is nothing to run on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9, help="how long this call may take (default: 9)")
    parser.add_argument("--output", type=Path, help="JSON file (default: figures/gpu.json)")
    parser.add_argument("--only", choices=PARTS, nargs="+", metavar="PART", help="these, even if they are known")
    parser.add_argument("--rehearse", action="store_true", help="all parts, tiny, on the CPU: no measurement")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("torch sees no GPU here, so nothing was measured; --rehearse tries all parts on the CPU", file=sys.stderr)
        return 2
    output = options.output or (Path(tempfile.mkdtemp()) / "rehearsal.json" if options.rehearse else PUBLISHED)
    report = json.loads(output.read_text()) if output.exists() else {"hardware": {}, "parts": {}}
    parts = report["parts"]
    rehearsed = {entry.get("rehearsal", False) for entry in parts.values()} - {options.rehearse}
    if rehearsed or (options.rehearse and output.resolve() == PUBLISHED):
        parser.error(f"{output} is not for both measurements and rehearsals; choose another --output")
    with tempfile.TemporaryDirectory() as scratch:
        run_parts(options, report, output, Path(scratch))
    print_table(parts)
    print(f"in {output}")
    return int(any(entry["ok"] is False for entry in parts.values()))


def run_parts(options: argparse.Namespace, report: dict[str, Any], output: Path, scratch: Path) -> None:
    """Runs what is wanted, not known and fits into the time; the report is written after each part."""
    until, device = time.monotonic() + 60 * options.minutes, CPU if options.rehearse else torch.device("cuda")
    parts, on = report["parts"], {name: environment(device)[name] for name in VERSIONS}
    report["hardware"][on["device"]] = hardware(device)
    for name in options.only or PARTS:
        known = {key: entry for key, entry in parts.items() if entry["on"] == on}
        if not options.only and name in known and not {"skipped", "unfinished"} & set(known[name]):
            continue
        if PARTS[name].seconds > until - time.monotonic():
            print(f"{name}: left for the next call", flush=True)
            continue
        found = run_part(name, Here(device, scratch, until, known, options.rehearse))
        parts[name] = {**found, "on": on, **({"rehearsal": True} if options.rehearse else {})}
        write_json(output, report)
        print(f"{name}: {verdict(found)}, {found['seconds']:.1f} s", flush=True)


def run_part(name: str, here: Here) -> dict[str, Any]:
    start = time.monotonic()
    try:
        found = PARTS[name].measure(here)
    except Exception as error:
        traceback.print_exc()
        found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:1000]}
    torch.cuda.empty_cache()  # which does nothing without a GPU
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {**found, "seconds": round(time.monotonic() - start, 2), "date": date}


def hardware(device: torch.device) -> dict[str, Any]:
    here = {"cpu_cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device.type == "cpu":
        return here
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    here |= {"memory_GiB": round(memory, 1), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if command := shutil.which("nvidia-smi"):
        asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
        here["driver"] = subprocess.run(asked, capture_output=True, text=True).stdout.split("\n")[0]
    return here


def verdict(entry: dict[str, Any]) -> str:
    told = entry.get("error") or entry.get("skipped") or entry.get("unfinished")
    return {True: "holds", False: "FAILS", None: "open"}[entry["ok"]] + (f" ({told})" if told else "")


def print_table(parts: dict[str, dict[str, Any]]) -> None:
    for name in PARTS:
        entry = parts.get(name, {})
        inner = {f"{key} {k}": v for key, value in entry.items() if isinstance(value, dict) for k, v in value.items()}
        numbers = {k: v for k, v in {**entry, **inner}.items() if isinstance(v, float) and k != "seconds"}
        shown = "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        print(f"{name:22} {verdict(entry) if entry else 'not run':8} {shown}")


if __name__ == "__main__":
    sys.exit(main())
