"""`make bench`: how this library compares with what one would use instead, as ratios measured in one run.

    python tests/benchmarks.py [--output FILE] [--only NAME]

Each pair is run in turn, A B A B ..., and the medians are compared, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression

from ciperlib.analyse.attribution.fullgrad import FullGrad
from ciperlib.analyse.equivariance.battery import measure_equivariance
from ciperlib.analyse.features import Features
from ciperlib.analyse.information.canonical_variates import assign_folds, fit_canonical_variates
from ciperlib.analyse.information.explaining_away import explaining_away
from ciperlib.analyse.information.readings import NULL_CHOICE
from ciperlib.analyse.information.vinformation import BASE_RIDGES, RANKS, RIDGES, estimate
from ciperlib.analyse.layout.layouts import fit_layout
from ciperlib.analyse.probing.probes import fit_linear_probe
from ciperlib.analyse.synthetic import lift, make_orbits, make_world
from ciperlib.config import IMAGE_STEPS, Config
from ciperlib.data import turntable
from ciperlib.data.imageset import ImageSet
from ciperlib.files import write_atomically
from ciperlib.learn.augment import Augmentation
from ciperlib.learn.devices import environment
from ciperlib.learn.encoders import make_encoder
from ciperlib.learn.encoders.vmamba import FourWayScan, Recurrence
from ciperlib.learn.methods import make_objective
from ciperlib.learn.methods.base import Batch
from ciperlib.learn.training import make_optimiser
from ciperlib.registry import methods

REPEATS = 5


def median_seconds(*functions: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Median seconds of each function, run in turn, forwards and backwards, after one warm-up each."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, seconds in list(zip(functions, times))[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def random_images(n: int = 2048, size: int = 32) -> ImageSet:
    pixels = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet("random", "train", pixels, {}, torch.arange(n), torch.arange(n))


def bench_augmentation(batch: int = 256) -> list[dict]:
    """SimCLR's augmentation of 32x32 images, parameters returned: ours, kornia's batch, torchvision on PIL images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia.augmentation as kornia
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    images = random_images()
    ours, generator = Augmentation(IMAGE_STEPS), torch.Generator().manual_seed(0)
    theirs = kornia.AugmentationSequential(
        kornia.RandomResizedCrop((32, 32), scale=(0.2, 1.0)), kornia.RandomHorizontalFlip(),
        kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), kornia.RandomGrayscale(p=0.2), data_keys=["input"],
    )  # fmt: skip
    jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
    pil = transforms.Compose([
        transforms.RandomResizedCrop(32, (0.2, 1.0)), transforms.RandomHorizontalFlip(), jitter,
        transforms.RandomGrayscale(0.2), transforms.ToTensor(),
    ])  # fmt: skip
    pictures = [to_pil_image(image) for image in images.images[:batch]]
    index = torch.arange(batch)
    a, b, c = median_seconds(
        lambda: ours(images, index, generator),
        lambda: theirs(images.floats(index)),
        lambda: torch.stack([pil(picture) for picture in pictures]),
        repeats=15,
    )
    unit = "images/s"
    return [
        row("augmentation, batch 256", batch / a, "kornia", batch / b, unit, 3),
        row("augmentation, batch 256", batch / a, "torchvision on PIL", batch / c, unit, 15),
    ]


def bench_step(batch: int = 64) -> list[dict]:
    """One SimCLR training step of ResNet-18: ours against float32, NCHW, two forwards, lightly's NT-Xent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightly.loss import NTXentLoss
    config = Config(method="simclr", architecture="resnet18", width=64, projector_width=2048, batch_size=batch)
    images, augmentation = random_images(batch), Augmentation(IMAGE_STEPS)
    plain = make_objective(config, augmentation.specs)
    optimiser = make_optimiser(config, plain)
    generator = torch.Generator().manual_seed(0)
    views = tuple(augmentation(images, torch.arange(batch), generator) for _ in range(2))
    criterion = NTXentLoss(0.5)

    def plain_step():
        z1, z2 = (plain.contrastive.projector(plain.encoder(view.images.contiguous())) for view in views)
        optimiser.zero_grad()
        criterion(z1, z2).backward()
        optimiser.step()

    a, b = median_seconds(training_step(config), plain_step)
    return [row("SimCLR step, ResNet-18, batch 64", batch / a, "plain loop", batch / b, "images/s", 2)]


def bench_turntable(n: int = 500) -> list[dict]:
    """Rendering at 32x32, four rays a pixel, with mask and depth."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(5, n, generator=generator)
    columns = (u[0] * 50).long(), (u[1] * 11).long(), 6.28 * u[2], 0.2 + u[3], 0.8 + 0.5 * u[4]
    (a,) = median_seconds(lambda: turntable.render(*columns), repeats=3)
    return [row("turntable, 32x32", n / a, "target", 200.0, "images/s", 1)]


def bench_probe(n: int = 50_000, d: int = 512, classes: int = 10) -> list[dict]:
    """The deterministic linear probe (five strengths) against the paper's 100 epochs of SGD."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator) * torch.logspace(0, -2, d)
    centres = torch.randn(classes, d, generator=generator) * 0.12

    def features(rows: int, first: int) -> Features:
        y = torch.randint(classes, (rows,), generator=generator)
        matrix = torch.relu((centres[y] + torch.randn(rows, d, generator=generator)) @ mixing / 8)
        ids = torch.arange(rows) + first
        return Features(matrix, {"category": y}, ids, ids, name="made", encoder_fingerprint="made")

    train, test = features(n, 0), features(10_000, n)
    results = {}

    def fit(protocol: str) -> None:
        results[protocol] = fit_linear_probe(train, test, "category", protocol=protocol, resamples=0).value

    a, b = median_seconds(lambda: fit("lbfgs"), lambda: fit("sgd"), repeats=1)
    points = 100 * (results["lbfgs"] - results["sgd"])
    return [
        {**row("linear probe, 50,000 x 512", 1 / a, "SGD, 100 epochs", 1 / b, "fits/s", 1), "points_above": points},
    ]


def bench_saliency(batch: int = 16) -> list[dict]:
    """FullGrad maps of ResNet-18 at 32x32, linear layer on top: ours against grad-cam's; beside it the floor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam import FullGrad as GradCamFullGrad
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    encoder = make_encoder(Config(architecture="resnet18", width=64)).eval()
    model = torch.nn.Sequential(encoder, torch.nn.Linear(encoder.representation_size, 10)).eval()
    images = random_images(batch).floats()
    ours, theirs = FullGrad(model), GradCamFullGrad(model, [])
    targets = [ClassifierOutputTarget(3) for _ in range(batch)]

    def forward_and_backward() -> None:
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(model(leaf)[:, 3].sum(), leaf)

    a, b, c = median_seconds(
        lambda: ours.attribute(images, 3), lambda: theirs(images, targets), forward_and_backward
    )  # fmt: skip
    what = "FullGrad, ResNet-18, 32x32, batch 16"
    return [
        row(what, batch / a, "grad-cam", batch / b, "maps/s", 2.5),
        row("one forward and backward of it", batch / c, "grad-cam", batch / b, "maps/s", 2.5),
    ]


def bench_pacmap(n: int = 10_000, d: int = 128) -> list[dict]:
    """PaCMAP of 10,000 representations: `fit_layout` against the library alone, with a seed."""
    import logging

    logging.getLogger("pacmap").setLevel(logging.ERROR)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(n, d, generator=generator) + 4 * torch.randn(20, d, generator=generator)[torch.arange(n) % 20]
    ids = torch.arange(n)
    features = Features(matrix, {}, ids, ids, name="made", encoder_fingerprint="made")

    def alone() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pacmap

            pacmap.PaCMAP(n_components=2, random_state=0).fit_transform(matrix.numpy(), init="pca")

    a, b = median_seconds(lambda: fit_layout(features), alone, repeats=14)
    return [row(f"PaCMAP, {n:,} x {d}", 1 / a, "pacmap alone", 1 / b, "fits/s", 0.95)]


def bench_information(n: int = 5000, nulls: int = 100) -> list[dict]:
    """`explaining_away` without networks on 5,000 x 4 rows of 128 dimensions, 10 classes, 100 null draws; against the
    same regressions by scikit-learn in a loop, of a quarter, a half and all of the images: one fold of each kind is
    timed, and multiplied by how many there are. What bounds the entropies alone is left out of the loop."""
    orbits = lift(make_world("modular", n), 128).orbits
    parts = ((n // 4, 0), (n // 2, 0), (n, nulls))  # images, of which the last alone is asked for a p-value
    seconds = sum(_loop_of_scikit_learn(orbits.subset(slice(4 * part)), draws) for part, draws in parts)
    start = time.perf_counter()
    explaining_away(orbits, "category", networks=False, null_samples=nulls)
    ours = time.perf_counter() - start
    what = "explaining-away, 5,000 x 4 x 128, no networks"
    return [row(what, 1 / ours, "scikit-learn loop, extrapolated", 1 / seconds, "calls/s", 10)]


def _loop_of_scikit_learn(orbits: Features, nulls: int) -> float:
    """Seconds that the regressions of one number of images would take."""
    level, category, folds = orbits.factors["level"], orbits.factors["category"], assign_folds(orbits.groups, 5, 0)
    summaries = fit_canonical_variates(orbits.matrix, level * 10 + category, 40, folds)
    seconds, fitted = 0.0, folds != 0
    for y, k, given, g, draws in ((level, 4, category, 10, nulls + 2), (category, 10, level, 4, 0)):
        rank, _ = sorted(estimate(summaries, y, k, given, g).chosen)[2]
        drawn_rank, _ = NULL_CHOICE
        bases = [summaries.values[0, :, :r] for r in RANKS]
        crossed = [_interactions(x, given) for x in bases]
        # each fold: every choice, then the chosen one twice, for choosing temperatures and for the answer
        for inputs, choices, more in ((bases, len(BASE_RIDGES), 0), (crossed, len(RIDGES), draws)):
            each = [_seconds_of_scikit_learn(x[fitted], y[fitted]) for x in inputs]
            seconds += 5 * (choices * sum(each) + 2 * each[RANKS.index(rank)] + more * each[RANKS.index(drawn_rank)])
    return seconds


def bench_kin(batch: int = 128) -> list[dict]:
    """A training step of CIPER's kin in the teaching setting, per image equivalent (a pass of a whole image through the
    encoder), against CIPER's. CLeVER, whose teacher is a second network, is left out."""
    names = {"essl": "E-SSL", "augself": "AugSelf", "equimod": "EquiMod", "sie": "SIE"}
    configs = [Config(method=method, batch_size=batch) for method in ("ciper", *names)]
    seconds = median_seconds(*(training_step(config) for config in configs), repeats=15)
    ciper, *kin = (methods[c.method].build.passes_per_image * batch / each for c, each in zip(configs, seconds))
    return [row(f"{n} step", rate, "CIPER's", ciper, "passes/s", 0.9) for n, rate in zip(names.values(), kin)]


def bench_equivariant(batch: int = 128) -> list[dict]:
    """A SimCLR step of the C4 ResNet against the plain one's, both with 128 dimensions."""
    fixed = dict(method="simclr", coordinates=False, batch_size=batch)
    steps = [training_step(Config(architecture=name, **fixed)) for name in ("c4_resnet10", "resnet10")]
    c4, plain = median_seconds(*steps, repeats=9)
    return [row("C4 ResNet-10 step, batch 128", batch / c4, "plain ResNet-10", batch / plain, "images/s", 1 / 4.5)]


def bench_scan(batch: int = 16, channels: int = 128, side: int = 16) -> list[dict]:
    """A four-way scan, forward and backward, against an attention layer on as many tokens; and its recurrence against
    the plain loop that autograd follows step by step."""
    scan, attention = FourWayScan(channels), torch.nn.MultiheadAttention(channels, channels // 64, batch_first=True)
    x = torch.randn(batch, channels, side, side)
    tokens = x.flatten(2).transpose(1, 2).contiguous()
    a, b = (torch.rand(batch, 4, channels, 1, side * side, requires_grad=True) for _ in range(2))

    def loop() -> torch.Tensor:
        h, states = torch.zeros_like(b[..., 0]), []
        for t in range(b.shape[-1]):
            h = a[..., t] * h + b[..., t]
            states.append(h)
        return torch.stack(states, -1)

    layer, attend, parallel, naive = median_seconds(
        lambda: scan(x).sum().backward(), lambda: attention(tokens, tokens, tokens)[0].sum().backward(),
        lambda: Recurrence.apply(a, b).sum().backward(), lambda: loop().sum().backward(),
    )  # fmt: skip
    size = f"{batch} x {side * side} x {channels}"
    return [
        row(f"four-way scan, {size}", batch / layer, "attention layer", batch / attend, "images/s", 1 / 400),
        row(f"its recurrence, {size}", batch / parallel, "plain loop", batch / naive, "images/s", 1),
    ]


def training_step(config: Config) -> Callable[[], None]:
    """One step of the config's objective on fixed random views, as the training loop does it."""
    images, augmentation = random_images(config.batch_size), Augmentation(IMAGE_STEPS)
    objective = make_objective(config, augmentation.specs).to(memory_format=torch.channels_last)
    generator, index = torch.Generator().manual_seed(0), torch.arange(config.batch_size)
    drawn = [augmentation(images, index, generator) for _ in objective.crops]
    views = tuple(v._replace(images=v.images.contiguous(memory_format=torch.channels_last)) for v in drawn)
    batch, optimiser = Batch(index, views[0].images, views), make_optimiser(config, objective)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(batch).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def bench_battery(n: int = 2000, m: int = 16, d: int = 128) -> list[dict]:
    """All measures of equivariance of 2,000 images at 16 levels."""
    orbits = make_orbits("additive", n, m=m, d=d, noise=0.5)
    (a,) = median_seconds(lambda: measure_equivariance(orbits), repeats=1)
    return [row(f"battery of equivariance, {n:,} x {m} x {d}", 1 / a, "target", 1 / 60, "calls/s", 1)]


def _interactions(x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    code = torch.nn.functional.one_hot(given).double()
    return torch.cat([x, code, (x[:, :, None] * code[:, None]).flatten(1)], 1)


def _seconds_of_scikit_learn(x: torch.Tensor, y: torch.Tensor) -> float:
    """Of one regression, the mean over a weak and a strong penalty."""
    start = time.perf_counter()
    for ridge in (1e-3, 1e-1):
        LogisticRegression(C=1 / (ridge * len(y)), max_iter=1000).fit(x.numpy(), y.numpy())
    return (time.perf_counter() - start) / 2


def row(what: str, ours: float, other: str, theirs: float, unit: str, target: float) -> dict:
    return {
        "what": what, "unit": unit, "ours": ours, "compared with": other, "theirs": theirs, "ratio": ours / theirs,
        "target": target,
    }  # fmt: skip


BENCHMARKS = {
    "augmentation": bench_augmentation,
    "step": bench_step,
    "turntable": bench_turntable,
    "probe": bench_probe,
    "saliency": bench_saliency,
    "pacmap": bench_pacmap,
    "information": bench_information,
    "kin": bench_kin,
    "equivariant": bench_equivariant,
    "battery": bench_battery,
    "scan": bench_scan,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--only", choices=BENCHMARKS, nargs="+", help="run some of them; the file keeps the others")
    options = parser.parse_args()
    rows = []
    for name, bench in BENCHMARKS.items():
        if name in (options.only or BENCHMARKS):
            for result in bench():
                rows.append(result)
                ratio = f"{result['ratio']:.2f} x {result['compared with']} (target {result['target']} x)"
                extra = f"  {result['points_above']:+.2f} points" if "points_above" in result else ""
                print(f"{result['what']:36} {result['ours']:10.3g} {result['unit']:9} {ratio}{extra}", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.output:
        if options.only and options.output.exists():
            new = {result["what"] for result in rows}
            known = json.loads(options.output.read_text())["rows"]
            rows = [result for result in known if result["what"] not in new] + rows
        text = json.dumps({"environment": environment(device), "rows": rows}, indent=2)
        write_atomically(options.output, text + "\n")
        print(f"written to {options.output}")


if __name__ == "__main__":
    main()
