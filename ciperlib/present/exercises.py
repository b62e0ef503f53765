"""The exercises' checkers, which name the case that fails, and the students' copies of the notebooks."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t
from torch import Tensor

from ciperlib.analyse.features import Features
from ciperlib.analyse.layout.layouts import neighbour_overlap
from ciperlib.files import NotOursError, write_own
from ciperlib.learn.methods.losses import nt_xent

SOLUTION_TAG = "solution"
MAY_FAIL_TAG = "raises-exception"  # JupyterLab's and nbclient's: *Run All* goes on after this cell


class ExerciseError(AssertionError):
    """What is wrong with a learner's answer; in a notebook it is shown as this one sentence, for the lines of a
    traceback hold the checker's next hints."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet: {self}"]


def checker(check: Callable[..., str]) -> Callable[..., str]:
    """Makes a function of plain `assert`s a checker: whatever fails in it, or in the learner's own lines, becomes an
    `ExerciseError`."""

    @wraps(check)
    def checked(*answer: Any, **named: Any) -> str:
        try:
            return check(*answer, **named)
        except AssertionError as error:
            raise ExerciseError(str(error)) from None
        except Exception as error:
            raise ExerciseError(_said_of(error)) from None

    return checked


def _said_of(error: Exception) -> str:
    """An error of the learner's lines, with the line where it happened."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    where = f", in line {own[-1].lineno} of its cell: {own[-1].line}" if own else ""
    return f"your lines raise {type(error).__name__} ({error}){where}"


@checker
def check_nt_xent(attempt: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Checks a learner's NT-Xent loss against cases that tell the predictable mistakes apart.

    Raises:
        ExerciseError: naming the case that fails and what may be wrong.
    """
    z1, z2 = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    value = _answer(attempt(z1, z2, 0.5), (), "the loss must be one number: take the mean over rows")
    _check_ties(float(attempt(torch.ones(5, 3), torch.ones(5, 3), 0.5)))
    assert _close(attempt(3 * z1, z2, 0.5), value), "longer embeddings change the loss: normalise each row first"
    assert _close(attempt(z2, z1, 0.5), value), "exchanging the views changes the loss: the rows of both views count"
    for temperature in (0.1, 0.5, 2.0):
        got, truth = attempt(z1, z2, temperature), nt_xent(z1, z2, temperature)
        message = f"at temperature {temperature} it is {truth:.4f}, not {got:.4f}: divide the cosines by it"
        assert _close(got, truth), message
    return "Right: your loss is NT-Xent."


def _check_ties(loss: float) -> None:
    """The loss of five pairs of equal embeddings, where every candidate ties: it counts the candidates."""
    mistakes = {10: "the row itself still competes", 5: "the negatives of the same view are missing"}
    for candidates, mistake in mistakes.items():
        assert abs(loss - math.log(candidates)) > 1e-4, f"log {candidates} for N = 5 equal pairs: {mistake}"
    message = f"with N = 5 equal pairs all 2N - 1 candidates tie, so the loss is log 9 = 2.197, not {loss:.3f}"
    assert abs(loss - math.log(9)) < 1e-4, message


@checker
def check_held_out(train: Features, test: Features, factor: str) -> str:
    """Checks a learner's split that has to hold out whole values of a factor.

    Raises:
        ExerciseError: naming what is shared, or what is missing.
    """
    for part in (train, test):
        assert isinstance(part, Features), "give two Features: train and test"
        assert len(part), "one of the parts is empty"
    images = set(train.ids.tolist()) & set(test.ids.tolist())
    assert not images, f"{len(images)} images are in both parts: a probe could remember them"
    values = set(train.factors[factor].tolist()) & set(test.factors[factor].tolist())
    assert not values, f"{factor} {sorted(values)} is in both parts; hold out whole values with hold_out={factor!r}"
    objects = set(test.factors["object"].tolist()) - set(train.factors["object"].tolist())
    assert not objects, f"objects {sorted(objects)} are tested but were never trained on: keep each one in train"
    return f"Right: no {factor} of the test part was seen in training."


@checker
def check_share(attempt: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Checks a learner's share of maps [B, 1, H, W] inside masks [B, H, W].

    Raises:
        ExerciseError: naming the case that fails and what may be wrong.
    """
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2] = masks[1, 0] = True
    maps = torch.ones(2, 1, 4, 4)
    maps[:, :, 0] = 5.0
    shares = _answer(attempt(maps, masks), (2,), "one share for each of the 2 images")
    area = masks.flatten(1).float().mean(1)
    assert not torch.allclose(shares.float(), area), "that is the mask's area: weigh each pixel by the map"
    expected = torch.tensor([24 / 32, 20 / 32])
    assert torch.allclose(shares.float(), expected), f"these are {expected.tolist()}, not {shares.tolist()}"
    scaled = torch.as_tensor(attempt(7 * maps, masks)).float()
    assert torch.allclose(scaled, expected), "a map seven times as strong has the same share: divide by its sum"
    return "Right: a share of the map, to be compared with the mask's area."


@checker
def check_preservation(attempt: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Checks a learner's share of common k nearest neighbours.

    Raises:
        ExerciseError: naming the case that fails and what may be wrong.
    """
    a, b = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    value = _answer(attempt(a, b, 5), (), "the share must be one number")
    assert float(value) < 0.5, f"points that have nothing to do with each other share {float(value):.3f}: count anew"
    same = float(attempt(a, 3 * a + 1, 5))
    assert abs(same - 1) < 1e-6, f"points that were only moved and scaled keep all neighbours: 1, not {same:.3f}"
    line = torch.arange(4.0)[:, None] ** 2  # 0 1 4 9: the nearest others are 1 0 1 2
    other = torch.tensor([[0.0], [9.0], [10.0], [30.0]])  # the nearest others are 1 2 1 2
    share = float(attempt(line, other, 1))
    assert abs(share - 1) > 1e-6, "an image counts as its own neighbour, which all pictures keep: leave it out"
    assert abs(share - 0.75) < 1e-6, f"with k = 1, three of these four keep their neighbour: 0.75, not {share:.3f}"
    assert _close(value, neighbour_overlap(a, b, 5)), f"it is {neighbour_overlap(a, b, 5):.3f}, not {float(value):.3f}"
    return "Right: that is the share of neighbours kept."


@checker
def check_synergy(attempt: Callable[[float, float, float, float], float]) -> str:
    """Checks a learner's reported synergy, made of I_A, I_C, H(A|Z) and H(C|Z).

    Raises:
        ExerciseError: naming the case that fails and what may be wrong.
    """
    agree = float(_answer(attempt(0.36, 0.37, 0.69, 0.69), (), "the synergy is one number"))
    assert _close(agree, 0.36), f"XOR: 0.36 and 0.37 agree, far below both entropies: 0.36, not {agree:.3f}"
    trap = float(attempt(0.675, 0.009, 0.038, 0.012))
    assert trap < 0.6, "the quadrants: who knows both variables has nothing left to be told; look at the other numbers"
    assert _close(trap, 0.009), f"the quadrants: 0.009 is the least of all that can be said, not {trap:.3f}"
    for names, case in (("H(A|Z)", (0.5, 0.4, 0.1, 0.3)), ("H(C|Z)", (0.5, 0.4, 0.3, 0.1))):
        assert _close(attempt(*case), 0.1), f"more is claimed than {names} = 0.1 leaves to be known"
    below = float(attempt(-0.02, 0.01, 0.5, 0.5))
    assert _close(below, -0.02), f"an estimate of -0.02 is shown as it is, not as {below:.3f}: its error says so"
    return "Right: the least of four numbers, and nothing hidden."


@checker
def check_interval(attempt: Callable[[list[float]], tuple[float, float]]) -> str:
    """Checks a learner's 95% interval of a mean over seeds.

    Raises:
        ExerciseError: naming the case that fails and what may be wrong.
    """
    for values in ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [1.0, 3.0], [0.4, 0.1, 0.3, 0.9, 0.2]):
        n, mean = len(values), sum(values) / len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
        low, high = attempt(list(values))
        half, right = (high - low) / 2, float(student_t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
        assert abs((low + high) / 2 - mean) < 1e-6, f"for {values} the middle must be the mean, {mean:.3f}"
        for wrong, why in (
            (right * math.sqrt(n), "that is the spread of one seed: divide by the root of their number"),
            (right * math.sqrt((n - 1) / n), "the spread divides by n - 1, not by n"),
            (
                1.96 * spread / math.sqrt(n),
                "1.96 is for many seeds; a few want Student's t with n - 1 degrees of freedom",
            ),
            (spread / math.sqrt(n), "that is one standard error, about 68%"),
        ):
            assert abs(half - wrong) > 1e-6 or abs(wrong - right) < 1e-6, f"for {values}: {why}"
        assert abs(half - right) < 1e-6, f"for {values} half the width is {right:.4f}, not {half:.4f}"
    return "Right: that is the 95% interval of the mean."


@checker
def check_encoder(attempt: Callable[[Tensor], Tensor]) -> str:
    """Checks that a learner's function is an encoder: images [B, 3, H, W] in 0..1 to [B, d], each image by itself.

    Raises:
        ExerciseError: naming the case that fails and what may be wrong.
    """
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    h = attempt(images)
    assert isinstance(h, Tensor), f"an encoder gives a tensor, not {type(h).__name__}"
    assert (h.ndim, len(h) if h.ndim else 0) == (2, 6), (
        f"six images must give [6, d], not {list(h.shape)}: one row an image"
    )
    assert (h - h[0]).abs().max() > 1e-6, "all images give the same row: nothing of the image is left"
    assert torch.allclose(attempt(images[:1]), h[:1], atol=1e-6), "an image alone gives another row: use no other image"
    assert torch.allclose(attempt(images), h), "the same images give other rows a second time: use no chance"
    return f"Right: that is an encoder of {h.shape[1]} dimensions."


@checker
def check_invariance_error(attempt: Callable[[Tensor], float]) -> str:
    """Checks a learner's E|h(tx) - h(x)|^2 / E|h(x) - h(x')|^2 of a block [N, m, d] whose level 0 is h(x).

    Raises:
        ExerciseError: naming the case that fails and what may be wrong.
    """
    h = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    still = h[:, None].expand(200, 3, 5)
    other = torch.stack((h, h.roll(1, 0), h.roll(2, 0)), 1)  # as far as another image, exactly
    value = float(_answer(attempt(still), (), "the error must be one number: take means"))
    assert abs(value) < 1e-6, f"where nothing moves it must be 0, not {value:.3f}"
    value, moved = float(attempt(other)), float((other[:, 1:] - other[:, :1]).square().sum(2).mean())
    apart = 2 * 200 / 199 * float((h - h.mean(0)).square().sum(1).mean())
    for wrong, mistake in {
        moved / apart * 2 / 3: "level 0 is compared with itself: leave it out",
        moved / apart * 200 / 199: "an image is compared with itself: leave the pairs i = j out",
    }.items():
        assert abs(value - wrong) > 1e-4, mistake
    assert abs(value - moved / apart) < 1e-4, (
        f"where each image moves to another's place it is {moved / apart:.3f}, not {value:.3f}: "
        "squared distances of pairs, moved over apart"
    )
    assert abs(float(attempt(3 * other)) - value) < 1e-4, "a larger h has a larger error: divide by how far images are"
    return "Right: that is the invariance error."


@checker
def check_orthogonality(attempt: Callable[[Tensor, Tensor], float]) -> str:
    """Checks a learner's mean of |cosine| over rows of a and b [N, K].

    Raises:
        ExerciseError: naming the case that fails and what may be wrong.
    """
    a = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    value = float(_answer(attempt(a, a), (), "the loss must be one number: take the mean over rows"))
    assert abs(value - 1) < 1e-4, f"of equal rows it is 1, not {value:.3f}: divide by both lengths"
    signs = torch.ones(50, 1)
    signs[25:] = -1
    value = float(attempt(a, a * signs))
    assert value > 1e-4, "rows of opposite signs cancel: take the absolute value of each row, not of the mean"
    assert abs(value - 1) < 1e-4, f"the sign of a row must not count: 1, not {value:.3f}"
    turned = torch.stack((-a[:, 1], a[:, 0], -a[:, 3], a[:, 2]), 1)
    assert abs(float(attempt(a, turned))) < 1e-4, "rows at right angles must give 0"
    return "Right: no sign can hide here."


def write_student_copies(notebooks: Path, output: Path) -> tuple[list[Path], list[Path]]:
    """Copies of the notebooks without their solutions and without outputs, in which *Run All* goes on after an answer
    that is not there yet.

    A copy that was edited, or that somebody else put there, is left as it is: move it away to get a fresh one.

    Returns:
        The copies that are fresh now, and those that were left.
    """
    import nbformat  # two seconds, for the students' copies alone

    fresh, left = [], []
    for source in sorted(notebooks.glob("[0-9]*.ipynb")):
        copy = output / source.name
        try:
            write_own(copy, nbformat.writes(_for_students(nbformat.read(source, as_version=4))) + "\n")
            fresh.append(copy)
        except NotOursError:
            left.append(copy)
    return fresh, left


def _for_students(notebook: Any) -> Any:
    """A notebook without solutions and outputs. The first cell that checks an answer, and what comes after, may fail:
    all that follows may build on what is not there yet."""
    notebook.cells = [cell for cell in notebook.cells if SOLUTION_TAG not in cell.metadata.get("tags", [])]
    may_fail = False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            may_fail = may_fail or any(f"{name}(" in cell.source for name in CHECKERS)
            if may_fail:
                cell.metadata.tags = [*cell.metadata.get("tags", []), MAY_FAIL_TAG]
    notebook.metadata.pop("widgets", None)
    return notebook


def _answer(value: Tensor | float | None, shape: tuple[int, ...], what: str) -> Tensor:
    """A learner's result as a tensor, once it is one and of the right shape."""
    assert value is not None, "the function returns nothing: end it with `return ...`"
    value = torch.as_tensor(value)
    assert value.shape == shape, f"{what}; this is of shape {list(value.shape)}"
    return value


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.isclose(torch.as_tensor(a), torch.as_tensor(b), atol=1e-4))


CHECKERS = tuple(name for name in globals() if name.startswith("check_"))
