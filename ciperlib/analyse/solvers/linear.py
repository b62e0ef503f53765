"""The numerical work under the probes: functions of tensors on the CPU, deterministic for a number of threads."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROUNDINGS = 4 * torch.finfo(torch.float32).eps  # four of float32, relative: what moves by less is not known to move


@dataclass(frozen=True, eq=False)
class Linear:
    """outputs = x @ weight.T + bias: weight [outputs, d], bias [outputs]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight.to(x.dtype).T + self.bias.to(x.dtype)

    def unscaled(self, mean: Tensor, scale: Tensor) -> Linear:
        """The same function of the raw x, for a map of (x - mean) / scale."""
        weight = self.weight.double() / scale
        return Linear(weight, self.bias.double() - weight @ mean)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns of [N, d], float64 [d]; the deviation of a constant column is called
    infinite: divided by it, the column is 0 in any part, and a weight of it is 0 when it is `unscaled`.

    Constant is what deviates by no more than `ROUNDINGS` of its largest value: a dead channel is not quite the same in
    batches of several sizes, and divided by that it would be noise as large as any signal.
    """
    variance, mean = torch.var_mean(x.double(), dim=0, correction=0)
    deviation = variance.sqrt()
    constant = deviation <= ROUNDINGS * x.abs().amax(dim=0).double()
    return mean, torch.where(constant, math.inf, deviation)


def fit_ridge(x: Tensor, y: Tensor, regularisation: tuple[float, ...]) -> list[Linear]:
    """Ridge regressions, one a strength: least mean over rows of |y - x W' - b|^2 plus strength * |W|^2, b free.

    Args:
        x: float64 [N, d]. y: float64 [N, m].
    """
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - x_mean, y - y_mean
    spectrum, basis = torch.linalg.eigh(x.T @ x / len(x))
    target = basis.T @ (x.T @ y / len(x))
    fits = []
    for strength in regularisation:
        weight = (basis @ (target / (spectrum.clamp(min=0) + strength)[:, None])).T
        fits.append(Linear(weight, y_mean - weight @ x_mean))
    return fits


class LogisticProblem:
    """Multinomial logistic regression: least mean cross-entropy in nats plus strength / 2 * |W|^2, bias free.

    L-BFGS in coordinates in which the Hessian is near the identity. The Hessian of the cross-entropy lies below
    (I - 11'/K) / 2 (x) X'X / N (Boehning 1992, doi:10.1007/BF00048682); with the fitted mean curvature in place of
    that 1/2, the change of variables takes an eigendecomposition of X'X / N, once for all strengths. The search along
    a line needs no product with X, because the logits are linear in the weights.

    Args:
        x: float32 [N, d], columns near mean 0. y: int64 [N] in 0 ... K - 1. classes: K.
        like: a problem with nearly the same X'X / N, whose eigendecomposition will do.
    """

    def __init__(self, x: Tensor, y: Tensor, classes: int, like: LogisticProblem | None = None) -> None:
        self.x, self.y, self.classes = x, y, classes
        if like is None:
            spectrum, self.basis = torch.linalg.eigh((x.T @ x / len(x)).double())
            self.spectrum = spectrum.clamp(min=0)
        else:
            self.spectrum, self.basis = like.spectrum, like.basis

    def solve(
        self, strength: float, start: Linear | None = None, tolerance: float = 1e-8, limit: int = 500, memory: int = 10
    ) -> tuple[Linear, bool]:
        """The minimiser and whether it converged: estimated distance to the minimum below `tolerance` of the minimum.

        Args:
            strength: above 0. start: a first guess, for instance the solution of a neighbouring strength.
            limit: of iterations. memory: pairs that L-BFGS remembers.
        """
        k, d = self.classes, self.x.shape[1]
        weight = start.weight @ self.basis if start else self.x.new_zeros(k, d, dtype=torch.float64)
        u = torch.cat([weight, start.bias[:, None] if start else weight.new_zeros(k, 1)], dim=1)  # (K, d + 1)
        penalty = torch.full((d + 1,), strength, dtype=torch.float64)
        penalty[-1] = 0
        logits = self._logits(u)
        value, probability = self._value(logits)
        scale = self._scale(probability, strength)
        gradient = scale * (self._gradient(probability) + penalty * u)
        pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=memory)
        for _ in range(limit):
            total = value + 0.5 * float((penalty * u * u).sum())
            if float((gradient * gradient).sum()) <= 2 * tolerance * total:
                return self._linear(u), True
            direction = -_inverse_hessian_times(gradient, pairs)
            slope, du = float((gradient * direction).sum()), scale * direction
            if slope > -1e-16:  # float32 knows no way down from here
                return self._linear(u), True
            step, logits, value, probability = self._search(logits, self._logits(du), slope, u, du, penalty)
            u = u + step * du
            previous, gradient = gradient, scale * (self._gradient(probability) + penalty * u)
            change, bend = step * direction, gradient - previous
            if (curvature := float((change * bend).sum())) > 0:
                pairs.append((change, bend, curvature))
        return self._linear(u), False

    def _scale(self, probability: Tensor, strength: float) -> Tensor:
        """[d + 1]: one over the root of the Hessian's diagonal in the eigenbasis, at the mean curvature."""
        spread = float((1 - probability.square().sum(dim=1)).mean(dtype=torch.float64)) / (self.classes - 1)
        spread = max(spread, 1e-3 / self.classes)
        return torch.cat([spread * self.spectrum + strength, torch.full((1,), spread).double()]).rsqrt()

    def _linear(self, u: Tensor) -> Linear:
        return Linear(u[:, :-1] @ self.basis.T, u[:, -1])

    def _logits(self, u: Tensor) -> Tensor:
        return self._linear(u)(self.x)

    def _value(self, logits: Tensor) -> tuple[float, Tensor]:
        """Mean cross-entropy, and the probabilities [N, K]."""
        log_probability = logits.log_softmax(dim=1)
        value = -log_probability.gather(1, self.y[:, None]).mean(dtype=torch.float64)
        return float(value), log_probability.exp_()

    def _gradient(self, probability: Tensor) -> Tensor:
        """Of the mean cross-entropy in the eigenbasis, float64 [K, d + 1]; consumes `probability`."""
        residual = probability
        residual[torch.arange(len(self.y)), self.y] -= 1
        weight = (residual.T @ self.x).double() @ self.basis
        return torch.cat([weight, residual.sum(dim=0, dtype=torch.float64)[:, None]], dim=1) / len(self.y)

    def _search(
        self, logits: Tensor, direction: Tensor, slope: float, u: Tensor, du: Tensor, penalty: Tensor
    ) -> tuple[float, Tensor, float, Tensor]:
        """Newton's method, kept inside a bracket, for where `slope` has fallen to 0.4 of its size along a line.

        Returns (step, logits there, cross-entropy there, probabilities there).
        """
        pull, stiffness = float((penalty * u * du).sum()), float((penalty * du * du).sum())
        at_label = float(direction.gather(1, self.y[:, None]).mean(dtype=torch.float64))
        enough, low, high, step = 0.4 * abs(slope), 0.0, float("inf"), 1.0
        for _ in range(30):
            here = logits + step * direction
            value, probability = self._value(here)
            weighted = probability * direction
            mean = weighted.sum(dim=1)
            slope = float(mean.mean(dtype=torch.float64)) - at_label + pull + step * stiffness
            if abs(slope) <= enough:
                break
            low, high = (step, high) if slope < 0 else (low, step)
            bend = float(((weighted * direction).sum(dim=1) - mean.square()).mean(dtype=torch.float64)) + stiffness
            newton = step - slope / bend if bend > 0 else low
            step = newton if low < newton < high else (low + high) / 2 if high < float("inf") else 4 * low
        return step, here, value, probability


def _inverse_hessian_times(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
    """L-BFGS's two loops (Nocedal and Wright, algorithm 7.4)."""
    q, factors = gradient.clone(), []
    for change, bend, curvature in reversed(pairs):
        factors.append(float((change * q).sum()) / curvature)
        q -= factors[-1] * bend
    if pairs:
        _, bend, curvature = pairs[-1]
        q *= curvature / float((bend * bend).sum())
    for (change, bend, curvature), factor in zip(pairs, reversed(factors)):
        q += change * (factor - float((bend * q).sum()) / curvature)
    return q


def fit_sgd(
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    epochs: int = 100,
    batch_size: int = 256,
    rate: float = 1.0,
    weight_decay: float = 1e-6,
    seed: int = 0,
) -> tuple[Linear, float]:
    """A linear layer by SGD, Nesterov momentum 0.9, the rate divided by 3.33 every 10 epochs (CIPER, section 4.1).

    Args:
        x: float32 [N, d], as the encoder made them. y: int64 [N].
        seed: of the first weights and of the batches.

    Returns:
        The layer after the last epoch, and the last epoch's mean cross-entropy in nats.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = nn.utils.skip_init(nn.Linear, x.shape[1], classes)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(x.shape[1] ** -0.5), x.shape[1] ** -0.5, generator=generator)
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=1 / 3.33)
    loss_sum = torch.zeros(())
    for _ in range(epochs):
        loss_sum.zero_()
        for index in torch.randperm(len(x), generator=generator).split(batch_size):
            loss = nn.functional.cross_entropy(layer(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += len(index) * loss.detach()
        schedule.step()
    return Linear(layer.weight.detach().double(), layer.bias.detach().double()), float(loss_sum) / len(x)
