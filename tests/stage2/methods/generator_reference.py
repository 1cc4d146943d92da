"""The Gaussian generators for ONE source sample: plain, slow, float64 NumPy.

Written from METHODS.md §6 [GLAG §4.2, DC, TailCalibX]; shares nothing with the implementation but
the names of settings. Axes as everywhere: N rows, D features, K classes; S the support of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Gaussian:
    """N(mean [D], covariance [D, D])."""

    mean: np.ndarray
    covariance: np.ndarray


def tukey(x: np.ndarray, power: float) -> np.ndarray:
    """sign(x)|x|^λ."""
    return np.sign(x) * np.abs(x) ** power


def moments(rows: np.ndarray) -> Gaussian:
    """μ and Σ of a class's rows [n, D], Σ with 1/(n−1) and 0 for a single row."""
    mean = rows.mean(0)
    away = rows - mean
    return Gaussian(mean, away.T @ away / max(1, len(rows) - 1))


def normalised(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length > 0, length, 1)


class Classes:
    """μ_k, Σ_k and n_k of the classes of rows `x` [N, D] with labels `y` [N]."""

    def __init__(self, x: np.ndarray, y: np.ndarray, classes: int) -> None:
        self.counts = np.bincount(y, minlength=classes)
        self.own = {k: moments(x[y == k]) for k in range(classes) if self.counts[k]}

    def larger(self, k: int) -> list[int]:
        """Classes with strictly more rows than class k."""
        return [j for j in self.own if self.counts[j] > self.counts[k]]

    def nearest(self, point: np.ndarray, among: list[int], size: int) -> list[int]:
        """The classes `among` whose means are nearest, at most `size`, ties to the lower class."""
        return sorted(among, key=lambda j: (np.linalg.norm(point - self.own[j].mean), j))[:size]

    def shares(self, point: np.ndarray, support: list[int]) -> list[float]:
        """ω_j = n_j/d_j over their sum; means at the point itself share all of it by n_j."""
        distances = [np.linalg.norm(point - self.own[j].mean) for j in support]
        counts = [float(self.counts[j]) for j in support]
        if 0.0 in distances:
            raw = [n if d == 0 else 0.0 for n, d in zip(counts, distances, strict=True)]
        else:
            raw = [n / d for n, d in zip(counts, distances, strict=True)]
        return [value / sum(raw) for value in raw]


def calibrated(
    name: str, s: Settings, x: np.ndarray, y: np.ndarray, source: int, beta: float = 1.0
) -> Gaussian:
    """What rows made from the training row `source` are drawn from, in Tukey space."""
    if name == "afg":
        return afg(s, x, y, source, beta)
    return {"dc": dc, "tailcalib": tailcalib}[name](s, x, y, source)


def afg(s: Settings, x: np.ndarray, y: np.ndarray, source: int, beta: float) -> Gaussian:
    """mean (1−β)x̂ + βΣω_jμ_j, covariance (1−β)²Σ_y + β²Σω_jΣ_j + γI or γ11ᵀ [GLAG eq. 8–9].

    β = 0 where no class has more rows.
    """
    point, k, classes = tukey(x[source], s["tukey"]), y[source], _classes(s, x, y)
    support = classes.nearest(point, classes.larger(k), s["support"])
    shares = classes.shares(point, support)
    beta = beta if support else 0.0
    form = {"diagonal": np.eye, "full": lambda dim: np.ones((dim, dim))}[s["gamma_form"]]
    mean = (1 - beta) * point
    covariance = (1 - beta) ** 2 * classes.own[k].covariance + s["gamma"] * form(x.shape[1])
    for share, j in zip(shares, support, strict=True):
        mean = mean + beta * share * classes.own[j].mean
        covariance = covariance + beta**2 * share * classes.own[j].covariance
    return Gaussian(mean, covariance)


def dc(s: Settings, x: np.ndarray, y: np.ndarray, source: int) -> Gaussian:
    """mean (x̂ + Σμ_j)/(|S|+1), covariance ΣΣ_j/|S| + α11ᵀ over larger classes [DC eq. 4–6]."""
    point, classes = tukey(x[source], s["tukey"]), _classes(s, x, y)
    return _pooled(s, point, classes, classes.larger(y[source]))


def tailcalib(s: Settings, x: np.ndarray, y: np.ndarray, source: int) -> Gaussian:
    """The same over all classes and + 1e-4·I, of rows of length 1 [TailCalibX eq. 7–8].

    As in the release only x̂ goes through Tukey's transform, and not the class statistics.
    """
    rows = normalised(x)
    classes = Classes(rows, y, int(y.max()) + 1)
    found = _pooled(s, tukey(rows[source], s["tukey"]), classes, list(classes.own))
    return Gaussian(found.mean, found.covariance + 1e-4 * np.eye(x.shape[1]))


def _classes(s: Settings, x: np.ndarray, y: np.ndarray) -> Classes:
    rows = tukey(x, s["tukey"]) if s["statistics"] == "tukey" else x
    return Classes(rows, y, int(y.max()) + 1)


def _pooled(s: Settings, point: np.ndarray, classes: Classes, among: list[int]) -> Gaussian:
    support = classes.nearest(point, among, s["support"])
    means = [point, *(classes.own[j].mean for j in support)]
    covariances = [classes.own[j].covariance for j in support]
    return Gaussian(np.mean(means, 0), np.mean(covariances, 0) + s["alpha"])
