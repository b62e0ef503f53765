"""The training loop: a config in, a finished run out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ciperlib.config import RECIPE, Config
from ciperlib.data.imageset import ImageSet, TrainedOn, load_images
from ciperlib.learn.augment import View, make_augmentation
from ciperlib.learn.devices import environment, find_device, has_fast_bf16, memory_format
from ciperlib.learn.encoders.base import Encoder
from ciperlib.learn.locks import locked
from ciperlib.learn.methods import make_objective
from ciperlib.learn.methods.base import Batch, Objective
from ciperlib.learn.parallel import processes, rank, wait_for_all, world_size
from ciperlib.learn.progress import Progress, make_reporter
from ciperlib.learn.runs import (
    ENCODER,
    HEADS,
    STATE,
    STATUS,
    Run,
    begin_run,
    load_run,
    read_state,
    runs_root,
    write_run,
    write_state,
)
from ciperlib.learn.seeds import derived_seed
from ciperlib.learn.zoo import find_run, zoo_root
from ciperlib.registry import dataset_of, methods

OPTIMISER_STATE = ("momentum_buffer", "step", "exp_avg", "exp_avg_sq")  # of SGD and AdamW, for each weight
CHECKED_IMAGES = 256  # behind the check of the finished encoder
CALIBRATION_DRAWS = 20_000  # parameter rows behind the fixed standardisation


class TrainingError(RuntimeError):
    """A training that cannot go on; the message says where it stopped and what to change."""


def fit(
    config: Config,
    root: str | Path | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: str = "lines",
    save_every: float = 15.0,
    wait: bool = True,
) -> Run:
    """Finds the finished run of this config, or trains it; a run that was stopped goes on where it was.

    A resumed run ends with the same weights, to the bit, on the same device, library versions and thread count.
    Under `torchrun` the processes share each batch and the first one writes.

    Args:
        config: what to train.
        root: the folder of runs, where alone a finished one is looked for; default `runs/` of the checkout, and then
            the zoo of encoders that come with it.
        on_epoch: called after each epoch with a `Progress`; it must not change the objective.
        data_root: where image files are; default `CIPER_DATA`, then `data/`.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        progress: "bar", "lines" (one every few seconds) or "none".
        save_every: seconds between saved states; 0 saves after every epoch.
        wait: where another process trains this run, wait for its result.

    Raises:
        RunError: the folder cannot be written, or another process trains this run and `wait` is False.
        TrainingError: the loss became infinite or not a number, or the images are not those that the config names.
        DataError: the images cannot be loaded.

    Example:
        >>> run = fit(Config(method="simclr"), progress="none")  # in the zoo, so nothing is trained
        >>> run.name, len(run.history)
        ('simclr-image-turntable-s0-36dddcc4', 30)
    """
    if config.recipe != RECIPE:
        raise TrainingError(f"this version trains by recipe {RECIPE}; {config.recipe} can be loaded, not trained")
    if config.recipes:
        raise TrainingError(f"this version trains by newer recipes; {config.recipes} can be loaded, not trained")
    find_device(device)  # refused before anything is looked for
    roots = [runs_root(root), *([zoo_root()] if root is None else [])]
    found = find_run(config, *roots)
    if found is not None:
        return found
    with processes(device):
        here = find_device(device)
        config, images = settle(config, here, data_root)
        found = find_run(config, *roots)
        if found is None:
            folder = roots[0] / config.name
            with locked(folder, wait) if rank() == 0 else nullcontext():
                _train(config, folder, here, images, data_root, on_epoch, progress, save_every)
            wait_for_all()
    return found or load_run(folder)


def settle(config: Config, device: torch.device, data_root: str | Path | None = None) -> tuple[Config, ImageSet | None]:
    """The config of a new training there, under the name that it will have; and its images, where they had to be read.

    What was left open is settled: the precision, where bf16 was not asked for and is slow (one line says so); and the
    content of image files that may change.

    Raises:
        TrainingError: the config names the content of other images than are there.
    """
    if config.precision is None and methods[config.method].trained and not has_fast_bf16(device):
        config = replace(config, precision="float32")
        if rank() == 0:
            print(f"this device is slow at bf16: trained in float32, as {config.name} (precision='bf16' insists)")
    if dataset_of(config.dataset).fixed:
        return config, None
    images = _load(config, device, data_root)
    content = images.content()
    if config.content not in ("", content):
        raise TrainingError(
            f"the images of {config.dataset} are others now ({content}) than those this run was named after "
            f"({config.content}): put these back, or leave content out to train on what is there"
        )
    return replace(config, content=content), images


def _load(config: Config, device: torch.device, data_root: str | Path | None) -> ImageSet:
    size = {"size": config.train_size, "image_size": config.image_size, "root": data_root}
    return load_images(config.dataset, "train", **size, device=device)


def _train(config, folder, device, images, data_root, on_epoch, progress, save_every) -> None:
    """Loads, resumes, loops over epochs, and writes the finished run (on rank 0)."""
    if (folder / STATUS).exists():  # finished by another process while this one waited to begin
        return
    first = rank() == 0
    if first:
        begin_run(folder, config)
    trainer = Trainer(config, images if images is not None else _load(config, device, data_root), device)
    epochs = config.epochs if methods[config.method].trained else 0
    trainer.resume(folder)
    report = make_reporter(progress if first else "none", config, epochs, len(trainer.history))
    saved = time.monotonic()
    while len(trainer.history) < epochs:
        row = trainer.train_epoch()
        last = len(trainer.history) == epochs
        if first and not last and time.monotonic() - saved >= save_every:
            write_state(folder, *trainer.state())
            saved = time.monotonic()
        report(row)
        if on_epoch is not None and first:
            on_epoch(Progress(row["epoch"], epochs, row, trainer.objective))
    trainer.check_encoder()
    if first:
        tensors = {ENCODER: trainer.objective.encoder.state_dict(), HEADS: trainer.heads()}
        history = pd.DataFrame(trainer.history, columns=None if trainer.history else ["epoch", "total"])
        write_run(folder, tensors, history, trainer.status())
        (folder / STATE).unlink(missing_ok=True)


class Trainer:
    """One training's moving parts: objective, optimiser, schedule, and the seeds of every epoch.

    Nothing random outlives an epoch: each epoch's order and augmentation are seeded by (seed, epoch). So the weights,
    the optimiser's averages and the number of epochs done are all there is to save.
    """

    def __init__(self, config: Config, images: ImageSet, device: torch.device):
        self.config, self.images, self.device = config, images, device
        self.augmentation = make_augmentation(config, images)
        kinds = {name: column for name, column in images.factors.items() if not column.is_floating_point()}
        levels = {name: int(column.max()) + 1 for name, column in kinds.items()}
        self.objective = make_objective(config, self.augmentation.specs, levels)
        scales = set(self.objective.crops)
        self.augmentations = {scale: make_augmentation(config, images, scale) for scale in scales}
        for encoder in self.objective.modules():  # a teacher's, too
            if isinstance(encoder, Encoder):
                encoder.normalise_with(images.images.cpu())
        self.format = memory_format(self.objective, device)
        self.objective = self.objective.to(device, memory_format=self.format)
        self._calibrate()
        self.model = self._parallel(self.objective)
        self.optimiser = make_optimiser(config, self.objective)
        self.steps = len(images) // config.batch_size  # of an epoch; what is left over waits for the next order
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0

    def _calibrate(self) -> None:
        head = getattr(self.objective, "predictive", None)
        if head is None or self.config.standardisation != "fixed":
            return
        generator = torch.Generator(self.device).manual_seed(derived_seed(self.config.seed, "calibration"))
        index = torch.randint(len(self.images), (CALIBRATION_DRAWS,), generator=generator, device=self.device)
        head.calibrate(self.augmentation(self.images, index, generator).parameters)

    def _parallel(self, objective: Objective) -> nn.Module:
        if world_size() == 1:
            return objective
        if objective.adversarial:
            raise TrainingError("an adversary is trained by one process; leave out torchrun")
        if self.config.batch_size % world_size():
            raise TrainingError(f"batch_size={self.config.batch_size} cannot be shared by {world_size()} processes")
        if self.device.type == "cuda":
            objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
        elif any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in objective.modules()):
            raise TrainingError("BatchNorm cannot be shared by processes on CPUs; choose norm='group', or one process")
        return DistributedDataParallel(objective)

    def train_epoch(self) -> dict[str, float]:
        """Trains one epoch and returns its row of the history.

        Raises:
            TrainingError: a loss that is not finite.
        """
        start, epoch = time.monotonic(), len(self.history)
        self.objective.train()
        sums: dict[str, Tensor] = {}
        for step, batch in enumerate(self._batches(epoch)):
            rate = self._set_rate(epoch * self.steps + step)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision != "float32"):
                losses = self.model(batch)
            if (self.device.type == "cpu" or step == self.steps - 1) and not losses.total.isfinite():
                self._refuse(epoch, losses.terms)
            # data parallel averages; the gradient's parts want a sum
            self._step(losses.total * world_size())
            if losses.adversary is not None:
                self._step(losses.adversary)
            self.objective.after_step((epoch * self.steps + step + 1) / (self.steps * self.config.epochs))
            for name, value in {"total": losses.total, **losses.terms}.items():
                sums[name] = sums.get(name, 0) + value.detach()
        means = {name: float(value) / self.steps for name, value in sums.items()}
        if not (all(map(math.isfinite, means.values())) and self._is_sound()):
            self._refuse(epoch, means)
        self.seconds += time.monotonic() - start
        self.history.append({"epoch": epoch + 1, **means, "learning_rate": rate, "seconds": round(self.seconds, 3)})
        return self.history[-1]

    def _step(self, loss: Tensor) -> None:
        """Moves the parameters that the loss reaches; the others, and their momentum, stay as they are."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    def _batches(self, epoch: int) -> Iterator[Batch]:
        """The epoch's batches: the same on every process up to the slice it takes."""
        generator = torch.Generator(self.device).manual_seed(derived_seed(self.config.seed, "epoch", epoch))
        order = torch.randperm(len(self.images), generator=generator, device=self.device)
        share = self.config.batch_size // world_size()
        mine = slice(rank() * share, (rank() + 1) * share)
        for index in order[: self.steps * self.config.batch_size].split(self.config.batch_size):
            drawn = [self.augmentations[scale](self.images, index, generator) for scale in self.objective.crops]
            views = tuple(View(self._lay(v.images[mine]), v.parameters[mine], v.source[mine]) for v in drawn)
            factors = {name: column[index[mine]] for name, column in self.images.factors.items()}
            yield Batch(index[mine], self._lay(self.images.floats(index[mine])), views, factors)

    def _lay(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self.format)

    def _set_rate(self, step: int) -> float:
        """Cosine from the config's rate to 0 over all steps (paper, section 4.1)."""
        done = step / (self.steps * self.config.epochs)
        rate = self.config.learning_rate * (1 + math.cos(math.pi * done)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _is_sound(self) -> bool:
        """Whether every weight and buffer is finite, and so is its square: the last step may have undone them."""
        norms = [tensor.float().norm() for tensor in self.objective.state_dict().values()]
        return bool(torch.stack(norms).isfinite().all())

    def _refuse(self, epoch: int, terms: dict[str, Any]) -> None:
        shown = ", ".join(f"{name} = {torch.as_tensor(value).item():g}" for name, value in terms.items())
        raise TrainingError(
            f"the loss or the weights are not finite in epoch {epoch + 1} ({shown}). The last saved state is kept. "
            "Lower learning_rate or alpha, or train with precision='float32'"
        )

    def check_encoder(self) -> None:
        """Raises TrainingError for an encoder whose output, in eval mode, is not finite: it must not pass for a run.

        Weights and losses can all be finite and the running statistics of a BatchNorm still be beyond float32's range.
        """
        encoder = self.objective.encoder.eval()
        with torch.no_grad():
            h = encoder(self._lay(self.images.floats(slice(0, CHECKED_IMAGES))))
        encoder.train()
        if not h.isfinite().all():
            raise TrainingError(
                "the trained encoder's output is not finite, so no run is kept; lower learning_rate or alpha, or train "
                "with precision='float32'"
            )

    def heads(self) -> dict[str, Tensor]:
        """All weights but the encoder's."""
        state = self.objective.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata from which `resume` goes on."""
        tensors = {f"model/{name}": tensor for name, tensor in self.objective.state_dict().items()}
        for name, parameter in self.objective.named_parameters():
            for kind, tensor in self.optimiser.state[parameter].items():
                if tensor is not None:
                    tensors[f"{kind}/{name}"] = tensor
        images = {"images": self.images.digest(), "content": self.config.content, "plugins": self.config.plugins}
        return tensors, {"history": self.history, "environment": environment(self.device), **images}

    def resume(self, folder: Path) -> None:
        """Takes up the state saved in `folder`, if there is one; says so if it comes from another environment.

        Raises:
            TrainingError: the state is of a training on other images.
        """
        found = read_state(folder)
        if found is None:
            return
        tensors, metadata = found
        if (metadata["images"], metadata["content"]) != (self.images.digest(), self.config.content):
            raise TrainingError(f"{folder} was begun with other images; bring them back, or remove its {STATE}")
        if metadata.get("plugins", {}) != self.config.plugins:
            raise TrainingError(
                f"{folder} was begun with another version of your {' and '.join(self.config.plugins)}: bring that file "
                f"back, raise its `recipe`, or remove {STATE}"
            )
        here = environment(self.device)
        for what, begun in metadata["environment"].items():
            if here.get(what) != begun and rank() == 0:
                print(f"resuming with {what} {here.get(what)}, begun with {begun}: the weights may differ in last bits")
        weights = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model/")}
        self.objective.load_state_dict(weights)
        for name, parameter in self.objective.named_parameters():
            for kind in OPTIMISER_STATE:
                if f"{kind}/{name}" in tensors:
                    saved = tensors[f"{kind}/{name}"]
                    like = torch.empty_like(parameter) if saved.shape == parameter.shape else torch.empty_like(saved)
                    self.optimiser.state[parameter][kind] = like.copy_(saved)
        self.history = metadata["history"]
        self.seconds = self.history[-1]["seconds"]

    def status(self) -> dict[str, Any]:
        """What the run's record says: versions, seconds, what it was trained on, and which plugins had a part in it."""
        return {
            "versions": {**environment(self.device)},
            "seconds": round(self.seconds, 2),
            "compute": self.objective.passes_per_image,
            "trained_on": asdict(TrainedOn.of(self.images)),
            "training_ids": self.images.digest(),
            **({"plugins": plugins} if (plugins := self.config.plugins) else {}),
        }


def make_optimiser(config: Config, objective: Objective) -> torch.optim.Optimizer:
    """The config's optimiser of everything that has a gradient, weight decay on all of it (paper, section 4.1)."""
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, config.learning_rate, config.momentum, weight_decay=config.weight_decay)
