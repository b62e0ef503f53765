"""Which part of an image an encoder reads, asked in two ways: of its saliency map, and by experiment on the pixels.

A map alone proves little: it can follow edges, or look the same for a network that has learned nothing (Adebayo et al.
2018, arXiv 1810.03292). So every share stands next to the mask's area, and a verdict needs map and experiment to agree.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from scipy.stats import rankdata
from torch import Tensor, nn

from ciperlib.analyse.attribution.fullgrad import TOLERANCE, FullGrad, FullGradients, SaliencyError, saliency_map
from ciperlib.analyse.attribution.targets import read_out, target_of
from ciperlib.analyse.features import extract_features
from ciperlib.analyse.fingerprints import fingerprint
from ciperlib.analyse.keys import recipe
from ciperlib.analyse.results import ProbeResult
from ciperlib.analyse.statistics import bootstrap_interval
from ciperlib.data.imageset import ImageSet

BATCH = 64
LARGEST_GAP = 0.1  # of a map that counts as evidence
EDGES, RANDOM_WEIGHTS = "edges on the object", "random weights on the object"
OTHER_PLACE, PLAIN, HIDDEN = "background exchanged", "background plain", "object hidden"


@dataclass(frozen=True)
class SaliencyTests:
    """What one encoder reads for one probe.

    Attributes:
        table: one row a measure: measure, value, low, high (mean over images, 95% bootstrap over their groups), n.
        verdict: "object", "surroundings", "nothing" or "unresolved", see `verdict_of`; reason: why.
    """

    table: pd.DataFrame
    verdict: str
    reason: str = ""

    def __getitem__(self, measure: str) -> float:
        return float(self.table.set_index("measure")["value"][measure])


@recipe(2)
def run_saliency_tests(
    encoder: nn.Module, probe: ProbeResult, images: ImageSet, *, maps: int = 200, seed: int = 0,
    exchanged: Mapping[str, ImageSet] | None = None,
) -> SaliencyTests:  # fmt: skip
    """Maps of a probe's own answers, and what becomes of these answers when object or background are exchanged.

    Measures: `accuracy` of the probe on these images; `area` of the object; the shares of the map's parts that lie on
    the object (see `shares_inside`) and `coordinates of the map`, the part's share of the whole; what an edge detector
    has there, and the pixels' part of the same encoder with weights drawn again (the floors); `accuracy` and `kept`
    (share of answers that stay) after each of the `counterfactuals`.

    Args:
        encoder: frozen, any that `FullGrad` takes; where it is not exact, `gap of the map` says by how much.
        probe: fitted on this encoder's features of a categorical factor.
        images: with masks; unseen by the probe.
        maps: maps are drawn for the first so many images; the experiments are done on all.
        seed: of the backgrounds that are exchanged.
        exchanged: of `counterfactuals(images, seed)`, where they are there already.

    Raises:
        SaliencyError: images without masks, a probe of another encoder, a regression probe.
    """
    if images.masks is None:
        raise SaliencyError(f"{images.name} has no masks of the objects, so no share of a map can be taken")
    truth = images.factors[probe.factor].cpu()
    answers = _answer(encoder, probe, images)
    first = images.subset(slice(maps))
    columns = {"accuracy": (answers == truth).double(), "area": first.masks.flatten(1).double().mean(1).cpu()}
    columns |= _map_columns(encoder, probe, first, answers[:maps])
    columns[EDGES] = share_inside(edge_map(first.floats()), first.masks)
    blank = randomised(encoder)
    of_blank = replace(probe, encoder_fingerprint=fingerprint(blank))  # the same probe, on purpose
    columns[RANDOM_WEIGHTS] = _map_columns(blank, of_blank, first, answers[:maps])["pixels on the object"]
    for name, changed in (exchanged or counterfactuals(images, seed)).items():
        new = _answer(encoder, probe, changed)
        columns |= {f"accuracy, {name}": (new == truth).double(), f"kept, {name}": (new == answers).double()}
    table = pd.DataFrame([summary(name, column, images.groups[: len(column)]) for name, column in columns.items()])
    return SaliencyTests(table, *verdict_of(table, probe.details["majority"]))


def draw_maps(encoder: nn.Module, probe: ProbeResult, images: ImageSet, *, rescale: bool = True) -> Tensor:
    """FullGrad maps of what a probe says for each image's true category: [N, 1, H, W], see `saliency_map`. Of a network
    that FullGrad does not treat exactly they are an approximation."""
    return draw_maps_with_gap(encoder, probe, images, rescale=rescale)[0]


def draw_maps_with_gap(
    encoder: nn.Module, probe: ProbeResult, images: ImageSet, *, rescale: bool = True
) -> tuple[Tensor, float]:
    """`draw_maps`, and by how much their terms miss the output at most, as a share of the terms' size: 0 where FullGrad
    is exact."""
    parts = [terms for _, terms in _decomposed(encoder, probe, images, images.factors[probe.factor])]
    gap = max(float(_gap(terms).max()) for terms in parts)
    return torch.cat([saliency_map(terms, rescale=rescale) for terms in parts]), gap


def _gap(terms: FullGradients) -> Tensor:
    """The terms' gap [B], without what is rounding."""
    gap = terms.gap()
    return gap * (gap > TOLERANCE[terms.input.dtype])


def occlusion_map(model: nn.Module, images: Tensor, target: int | Tensor, *, size: int = 8) -> Tensor:
    """How far a patch in the image's mean colour moves the target, for patches all over the image (captum's Occlusion,
    half overlapping): |change| [B, 1, H, W]. No gradient is asked, so it can disagree with a saliency map."""
    plain = images.mean((2, 3), keepdim=True).expand_as(images)
    windows = {"sliding_window_shapes": (3, size, size), "strides": (3, size // 2, size // 2)}
    with torch.no_grad():
        change = Occlusion(model).attribute(images, baselines=plain, target=target, **windows)
    return change[:, :1].abs()  # the same in all three channels


def verdict_of(table: pd.DataFrame, chance: float) -> tuple[str, str]:
    """Which part of the images a probe's answers come from, and why; map and experiment have to say the same.

    "nothing" where the accuracy's interval reaches down to chance. "object" where the share of the map's pixels on the
    object lies above the object's area, above what an edge detector has there and above what random weights have there,
    *and* the answers survive an exchanged background better than a hidden object; "surroundings" where the share lies
    below the area and below that of random weights, and the experiment is the other way round; else "unresolved". Above
    and better mean with the whole interval. A map whose terms miss the output by more than a tenth says nothing.
    """
    rows = table.set_index("measure")
    if not rows.low["accuracy"] > chance:
        return "nothing", f"the probe's accuracy may be {rows.low['accuracy']:.2f}, and chance is {chance:.2f}"
    if (gap := rows.value.get("gap of the map", 0.0)) > LARGEST_GAP:
        return "unresolved", f"the map's terms miss the output by {gap:.0%}"
    pixels, floors = rows.loc["pixels on the object"], rows.value[["area", EDGES, RANDOM_WEIGHTS]]
    swapped, hidden = rows.loc[f"kept, {OTHER_PLACE}"], rows.loc[f"kept, {HIDDEN}"]
    if not (swapped.low > hidden.high or swapped.high < hidden.low):
        return "unresolved", "answers survive an exchanged background as well as a hidden object"
    experiment = "object" if swapped.low > hidden.high else "surroundings"
    if experiment == "object" and pixels.low > floors.max():
        return "object", f"map ({pixels.value:.2f} on the object; any floor at most {floors.max():.2f}) and experiment"
    outside = floors[["area", RANDOM_WEIGHTS]].min()
    if experiment == "surroundings" and pixels.high < outside:
        return "surroundings", f"map ({pixels.value:.2f} on the object; floors {outside:.2f}) and experiment"
    said = ", ".join(f"{name.removesuffix(' on the object')} {value:.2f}" for name, value in floors.items())
    return "unresolved", f"the experiment says {experiment}; the map's {pixels.value:.2f} does not ({said})"


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with all weights drawn again, in eval mode: a map that shows what was *learned* must not survive this."""
    fresh = copy.deepcopy(module).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in fresh.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return fresh


def shares_inside(terms: FullGradients, masks: Tensor) -> dict[str, Tensor]:
    """The share of each part of the map that lies inside masks bool [B, H, W]: part -> float [B].

    Parts, all of raw absolute values: `map` (everything), `pixels` (gradient * colour, the colour counted from black),
    `coordinates` (where the encoder has them) and `biases` (the normalisation's shift among them).
    """
    rest = {name: term for name, term in terms.constants.items() if name != "coordinates"}
    nothing = torch.zeros_like(terms.input[:, :1])
    parts = {
        "map": terms,
        "pixels": replace(terms, constants={}),
        "coordinates": replace(terms, input=terms.constants.get("coordinates", nothing), constants={}),
        "biases": replace(terms, input=nothing, constants=rest),
    }
    if "coordinates" not in terms.constants:
        del parts["coordinates"]
    return {name: share_inside(saliency_map(part, rescale=False), masks) for name, part in parts.items()}


def share_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of maps [B, 1, H, W], not negative, inside masks bool [B, H, W]: [B]. An empty map counts as an even one.

    Raises:
        SaliencyError: maps and masks of different sizes.
    """
    if maps.shape[0] != masks.shape[0] or maps.shape[2:] != masks.shape[1:]:
        raise SaliencyError(f"maps {list(maps.shape)} and masks {list(masks.shape)} are not of the same images")
    flat, inside = maps.flatten(1).double(), masks.flatten(1).to(maps.device).double()
    total = flat.sum(1)
    share = (flat * inside).sum(1) / total.where(total > 0, 1.0)
    return share.where(total > 0, inside.mean(1))


def counterfactuals(images: ImageSet, seed: int = 0) -> dict[str, ImageSet]:
    """The same images with one part replaced: the experiments that a map is compared with.

    The background exchanged (the turntable: the same view rendered in another place, its object pasted in; other
    images: the plain background of another one), the background plain (its own mean colour), and the object hidden
    (the box around it plain, so that no outline is left).
    """
    mask = images.masks[:, None]
    plain = _mean_colour(images, ~images.masks)
    box = _boxes(images.masks)[:, None]
    return {
        OTHER_PLACE: replace(images, images=torch.where(mask, images.images, _other_places(images, plain, seed))),
        PLAIN: replace(images, images=torch.where(mask, images.images, plain)),
        HIDDEN: replace(images, images=torch.where(box, plain, images.images)),
    }


def edge_map(images: Tensor) -> Tensor:
    """What a map would be if it were only an edge detector: Sobel's gradient length, [B, 3, H, W] -> [B, 1, H, W]."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=grey.dtype, device=grey.device)
    filters = torch.stack([across, across.T])[:, None] / 4
    return F.conv2d(grey, filters).square().sum(1, keepdim=True).sqrt()


def map_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of maps [B, 1, H, W] with others, image by image: [B]; 0 for a constant map."""
    ranks = [torch.from_numpy(rankdata(x.flatten(1).cpu().numpy(), axis=1)).double() for x in (a, b)]
    centred = [rank - rank.mean(1, keepdim=True) for rank in ranks]
    norms = centred[0].norm(dim=1) * centred[1].norm(dim=1)
    return (centred[0] * centred[1]).sum(1) / norms.where(norms > 0, 1.0)


def perturbation_curves(
    model: nn.Module, images: Tensor, maps: Tensor, target: int | Tensor, *, steps: int = 16
) -> Mapping[str, Tensor]:
    """Deletion and insertion (Petsiuk et al. 2018, arXiv 1806.07421): the target's probability as the pixels that a map
    calls important go (into the image's mean colour), or come, most important first.

    Args:
        model: images float [B, 3, H, W] to logits [B, K].
        maps: [B, 1, H, W]; ties go in order of place.
        target: an output, or one for each image.
        steps: equal shares of the pixels.

    Returns:
        "deletion" and "insertion", each [B, steps + 1]; with a good map the first falls fast and the second rises fast.
    """
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1)
    plain = images.mean((2, 3), keepdim=True)
    index = torch.as_tensor(target, device=images.device).long().reshape(-1, 1).expand(len(images), 1)
    curves: dict[str, list[Tensor]] = {"deletion": [], "insertion": []}
    for step in range(steps + 1):
        first = (rank < round(step * order.shape[1] / steps)).view(len(images), 1, *images.shape[2:])
        for name, kept in (("deletion", ~first), ("insertion", first)):
            with torch.no_grad():
                logits = model(torch.where(kept, images, plain))
            curves[name].append(logits.softmax(1).gather(1, index)[:, 0])
    return {name: torch.stack(curve, 1) for name, curve in curves.items()}


def summary(measure: str, values: Tensor, groups: Tensor) -> dict[str, float | int | str]:
    """Mean of values [n] with its 95% bootstrap interval over groups, as one row of a table."""
    values = values.double().cpu()
    terms = torch.stack([values, torch.ones_like(values)], 1)
    low, high = bootstrap_interval(groups.cpu(), terms, lambda sums: sums[:, 0] / sums[:, 1])
    return {"measure": measure, "value": float(values.mean()), "low": low, "high": high, "n": len(values)}


def _map_columns(encoder: nn.Module, probe: ProbeResult, images: ImageSet, answers: Tensor) -> dict[str, Tensor]:
    """Shares inside the masks, for maps of the probe's own answers."""
    parts = []
    for rows, terms in _decomposed(encoder, probe, images, answers):
        inside = shares_inside(terms, images.masks[rows])
        columns = {f"{name} on the object": share for name, share in inside.items()}
        columns["gap of the map"] = _gap(terms)
        if "coordinates" in inside:
            part = replace(terms, input=terms.constants["coordinates"], constants={})
            sizes = [saliency_map(t, rescale=False).flatten(1).sum(1) for t in (part, terms)]
            columns["coordinates of the map"] = sizes[0] / sizes[1]
        parts.append(columns)
    columns = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    return columns if columns["gap of the map"].any() else {n: c for n, c in columns.items() if n != "gap of the map"}


def _decomposed(
    encoder: nn.Module, probe: ProbeResult, images: ImageSet, categories: Tensor
) -> Iterator[tuple[slice, FullGradients]]:
    """What a probe says for `categories` [N], taken apart a batch at a time."""
    explain = FullGrad(read_out(encoder, probe), approximate=None)
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        yield rows, explain.decompose(images.floats(rows), target_of(probe, categories[rows]))


def _answer(encoder: nn.Module, probe: ProbeResult, images: ImageSet) -> Tensor:
    """The probe's categories, int64 [N]."""
    if probe.model is None or "values" not in probe.details:
        raise SaliencyError(f"the probe of {probe.factor} ({probe.protocol}) gives no linear logits of categories")
    matrix = extract_features(encoder, images).matrix
    return probe.details["values"][probe.model(matrix.double()).argmax(1)]


def _other_places(images: ImageSet, plain: Tensor, seed: int) -> Tensor:
    """uint8 [N, 3, H, W]: for each image a background that is not its own."""
    generator = torch.Generator().manual_seed(seed)
    if images.renderer is None:
        shift = int(torch.randint(1, max(2, len(images)), (1,), generator=generator))
        return plain.roll(shift, 0).expand_as(images.images)
    places = len(images.labels["session"])
    move = torch.randint(1, places, (len(images),), generator=generator).to(images.device)
    return images.rerender(session=(images.factors["session"] + move) % places).images


def _mean_colour(images: ImageSet, where: Tensor) -> Tensor:
    """Mean colour of each image inside `where` bool [N, H, W]: uint8 [N, 3, 1, 1]."""
    weight = where[:, None].float()
    total = (images.images * weight).sum((2, 3), keepdim=True)
    return (total / weight.sum((2, 3), keepdim=True).clamp_min(1)).round().byte()


def _boxes(masks: Tensor) -> Tensor:
    """The smallest upright boxes around masks [N, H, W], one pixel wider on each side: bool [N, H, W]."""
    wide = F.max_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0] > 0
    rows, columns = wide.any(2), wide.any(1)
    between = [seen.cummax(1).values & seen.flip(1).cummax(1).values.flip(1) for seen in (rows, columns)]
    return between[0][:, :, None] & between[1][:, None, :]
