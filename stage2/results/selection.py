r"""The rule that selects, which puts one configuration before another, on the split that selects.

Accuracy counts rows, so with few of them it can hardly tell close configurations apart; the
negative log-likelihood uses every row in full, but its optimum is not quite that of accuracy. The
rule ``1se`` takes the best of both: macro accuracy finds the top, and of the configurations that
are within one standard error of the best, the one with the lowest class-balanced negative
log-likelihood at its own temperature (NLL,T) is first. docs/protocol.md has the measurements.

Row i of class k weighs w_i = 1/(K·m_k), with m_k rows of its class, so that θ_j = Σ_i w_i c_ij is
the macro accuracy of configuration j; c_ij is the share of its seeds that classify row i correctly.
The standard error is that of a *paired* difference, d_i = c_ib − c_ij::

    SE² = Σ_i w_i² (d_i − d̄)²,    d̄ = Σ_i w_i d_i

Where rows come from source groups g, such as images, the units are groups with w_g = Σ_{i∈g} w_i
and c_gj = Σ_{i∈g} w_i c_ij / w_g. Both formulas hold of these as they stand: θ_j does not change,
and SE² is the cluster-robust Σ_g (Σ_{i∈g} w_i (d_i − d̄))².
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from stage2.engine.metrics import METRICS, RANKING
from stage2.results.ranking import in_order

NLL = "nll_t"
"""The metric of the rules ``nll`` and ``1se``."""

RULES = {
    "1se": "macro accuracy, within one standard error NLL,T",
    "macro": "macro accuracy",
    "nll": "NLL,T",
}
"""Rules by name, the default first."""

_BLOCK = 1 << 12
"""Rows whose correctness is held in float32 at once."""


@dataclass(frozen=True)
class Correctness:
    """The rows that R configurations classify correctly.

    Attributes
    ----------
    correct
        Seeds of each configuration that classify each row correctly, [R, N] uint8; where units are
        source groups, the mean over their rows, float32.
    weight
        w of the units [N] float32, Σ = 1: of classes alike, whatever their rows.
    seeds
        Seeds of each configuration, [R] or one number for all.
    """

    correct: np.ndarray
    weight: np.ndarray
    seeds: np.ndarray | int = 1

    @classmethod
    def of(
        cls,
        correct: np.ndarray,
        labels: np.ndarray,
        seeds: np.ndarray | int = 1,
        groups: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> Correctness:
        """The correctness of rows with `labels` [N], or of their source `groups` [N], 0 … G − 1, of
        which each entry may be a part of `rows` [N], with the right ones of these as `correct`."""
        weight = row_weights(labels, rows)
        if groups is None:
            return cls(correct, weight, seeds)
        whole = weight if rows is None else weight * rows
        sums = np.bincount(groups, whole)
        return cls(group_means(correct, weight, groups, sums), sums.astype(np.float32), seeds)

    @cached_property
    def of_seeds(self) -> np.ndarray:
        """Seeds of each configuration, [R, 1] float32."""
        shape = len(self.correct), 1
        return np.broadcast_to(np.reshape(self.seeds, (-1, 1)), shape).astype(np.float32)

    def means(self, weights: np.ndarray) -> np.ndarray:
        """Accuracy in percent under each of several weights of rows [M, N], [R, M] float64."""
        sums = self._products(weights)
        return 100 * sums / weights.sum(1, dtype=np.float64)

    def among(self, places: Sequence[int]) -> Correctness:
        """Some of the configurations, in their order."""
        if len(places) == len(self.correct):
            return self
        return Correctness(self.correct[places], self.weight, self.of_seeds[places, 0])

    def errors(self, best: Sequence[int]) -> np.ndarray:
        """Paired standard errors of the distance from each of B configurations, points [B, R]."""
        w = self.weight
        rows = self.correct[list(best)] / self.of_seeds[list(best)]
        # Σ w²c_b c_j, Σ w²c_j, Σ w c_j; and Σ w²c_j², which is not linear in c
        products = self._products(np.vstack([w * w * rows, w * w, w]))
        both, single, macro = products[:, : len(rows)].T, products[:, -2], products[:, -1]
        # of rows and one seed c² is c
        one = self.of_seeds.max(initial=1) == 1 and self.correct.dtype.kind != "f"
        squares = single if one else self._products(w[None] ** 2, squared=True)[:, 0]
        own = list(best)
        gap = macro[own, None] - macro
        spread = squares[own, None] - 2 * both + squares
        mean = gap * (single[own, None] - single)
        variance = spread - 2 * mean + gap**2 * float(w.astype(np.float64) @ w)
        return 100 * np.sqrt(np.clip(variance, 0, None))

    def _products(self, weights: np.ndarray, *, squared: bool = False) -> np.ndarray:
        """Σ_i weights_mi c_ji, or c_ji², [R, M] float64."""
        sums = weighted_sums(self.correct, weights, squared=squared)
        return sums / self.of_seeds ** (2 if squared else 1)


@dataclass(frozen=True)
class Ranking:
    """The order of configurations under a rule.

    Attributes
    ----------
    rule
        One of `RULES`; None where nothing selects.
    keys
        By id, what orders equal configurations and those without a figure.
    macro, nll
        By id, macro accuracy in percent and NLL,T of configurations that have them.
    ids, correctness
        The configurations whose rows are compared, and their rows; None where fewer than two can
        be.
    published
        Ids of presets as they are published.
    """

    rule: str | None
    keys: Mapping[str, Any]
    macro: Mapping[str, float]
    nll: Mapping[str, float] = field(default_factory=dict)
    ids: Sequence[str] = ()
    correctness: Correctness | None = None
    published: frozenset[str] = frozenset()

    @cached_property
    def _places(self) -> dict[str, int]:
        """The place of each configuration whose rows are compared."""
        return {id_: place for place, id_ in enumerate(self.ids)}

    def order(self, ids: Sequence[str]) -> list[str]:
        """Sort configurations, the best first."""
        if len(ids) < 2:
            return list(ids)
        near = self._near(ids)
        first = [id_ for id_ in ids if id_ in near]
        rest = [id_ for id_ in ids if id_ not in near]
        return [
            *self._sorted(first, NLL),
            *self._sorted(rest, NLL if self.rule == "nll" else RANKING),
        ]

    def best(self, ids: Sequence[str]) -> list[str]:
        """The best of some configurations of a recipe. Where nothing selects: its preset as it is
        published, or all where that was not tried."""
        if self.rule is not None:
            return self.order(ids)[:1]
        return [id_ for id_ in ids if id_ in self.published] or list(ids)

    def _sorted(self, ids: Sequence[str], metric: str) -> list[str]:
        values = {} if self.rule is None else self.nll if metric == NLL else self.macro
        row = METRICS[metric]
        return in_order(
            ids, values.get, self.keys.__getitem__, tie=row.tie, ascending=row.lower_is_better
        )

    def _near(self, ids: Sequence[str]) -> set[str]:
        """Those within one standard error of the best macro accuracy, under the rule ``1se``; and
        of those whose rows are not compared, with vector scaling, any that are no worse."""
        known = [id_ for id_ in ids if id_ in self._places and id_ in self.macro]
        if self.rule != "1se" or self.correctness is None or not known:
            return set()
        best = max(known, key=self.macro.__getitem__)
        compared = sorted(known, key=self._places.__getitem__)
        of = self.correctness.among([self._places[id_] for id_ in compared])
        (errors,) = of.errors([compared.index(best)])
        allowed = dict(zip(compared, errors, strict=True))
        return {
            id_
            for id_ in ids
            if id_ in self.macro and self.macro[best] - self.macro[id_] <= allowed.get(id_, 0)
        }


def row_weights(labels: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """w [N] float32 of a row with each of `labels` [N]: 1/(K·m_k), with m_k rows of its class, of
    parts with so many `rows` [N]."""
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if rows is not None:
        sizes = np.bincount(classes, rows)
    return (1 / (len(sizes) * sizes[classes])).astype(np.float32)


def group_means(
    values: np.ndarray, weight: np.ndarray, groups: np.ndarray, sums: np.ndarray
) -> np.ndarray:
    """Weighted sums of values [R, N] over the rows of each source group, over `sums` [G] of the
    weights: [R, G] float32; 0 for a group without weight."""
    total = np.where(sums == 0, 1, sums)
    return np.stack([np.bincount(groups, weight * row) / total for row in values]).astype(
        np.float32
    )


def weighted_sums(values: np.ndarray, weights: np.ndarray, *, squared: bool = False) -> np.ndarray:
    """Σ_i weights_mi v_ji of values [R, N] of any type, or of their squares, [R, M] float64."""
    total = np.zeros((len(values), len(weights)))
    for start in range(0, weights.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        rows = values[:, block].astype(np.float32)
        total += (rows * rows if squared else rows) @ weights[:, block].T
    return total


def chosen(rule: str, scores: np.ndarray, nll: np.ndarray, of: Correctness) -> np.ndarray:
    """The configuration that a rule puts first, in each of several samples of the rows [M].

    Parameters
    ----------
    rule
        One of `RULES`.
    scores
        Macro accuracy in each sample, [R, M].
    nll
        NLL,T in each sample, [R, M], or in all of them, [R].
    of
        The configurations.
    """
    nll = nll[:, None] if nll.ndim == 1 else nll
    if rule == "nll":
        return np.broadcast_to(nll, scores.shape).argmin(0)
    top = scores.argmax(0)
    if rule == "macro":
        return top
    tops, which = np.unique(top, return_inverse=True)
    errors = of.errors(tops.tolist())[which].T  # [R, M]
    near = scores[top, np.arange(len(top))] - scores <= errors
    return np.where(near, nll, np.inf).argmin(0)
