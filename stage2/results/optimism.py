r"""The cost of choosing the best of many configurations, from the rows each classifies correctly.

Row i of class k weighs w_i = 1/(K·m_k), with m_k rows of its class, so that θ_j = Σ_i w_i c_ij is
the macro accuracy of configuration j; c_ij is the share of its seeds that classify row i correctly.
A star marks the same of rows drawn with replacement, their weights divided by their sum.

**The correction.** The best of many figures is too high: it is the best partly by chance. A
bootstrap repeats the choice. In each resample another configuration may win; it is measured on the
rows that the resample left out. The mean of these figures estimates what the winner reaches on new
rows [Tsamardinos et al. 2018, algorithm 5].

**The tied set.** Configuration j stays in the set while max_i θ_i − θ_j is at most the 95 %
quantile of max_i Δ_i − Δ_j with Δ_i = θ*_i − θ_i. The truly best one leaves it only by an error in
that quantile's 5 %, however many were tried: if j is best, max_i θ_i − θ_j exceeds the truth by at
most max_i Δ_i − Δ_j of the sample [Hsu 1984].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stage2.results.significance import LEVEL

RESAMPLES = 200

_BLOCK = 1 << 12
"""Rows whose correctness is held in float32 at once."""


@dataclass(frozen=True)
class Optimism:
    """The cost of a choice.

    Attributes
    ----------
    winner
        Index of the configuration with the best macro accuracy; the first of equal ones.
    figure, corrected
        Its macro accuracy on the rows that chose it, and an estimate for new rows, which is
        not above it; percent. NaN where no resample leaves a row out.
    tied
        Whether each configuration may be the best one, [R] bool.
    """

    winner: int
    figure: float
    corrected: float
    tied: np.ndarray = field(compare=False)


def optimism(
    correct: np.ndarray,
    labels: np.ndarray,
    *,
    seeds: np.ndarray | int = 1,
    resamples: int = RESAMPLES,
    random: int = 0,
) -> Optimism:
    """Correct the figure of the best of R configurations, and find those that tie with it.

    Parameters
    ----------
    correct
        Seeds of each configuration that classify each row correctly, [R, N] uint8.
    labels
        Classes of the rows [N].
    seeds
        Seeds of each configuration, [R] or one number for all.
    resamples
        Of the bootstrap.
    random
        Seed of its random numbers.

    Returns
    -------
    Optimism
    """
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weight = (1 / (len(sizes) * sizes[classes])).astype(np.float32)
    drawn = _drawn(len(labels), resamples, np.random.default_rng(random))
    weights = np.vstack([weight, drawn * weight])  # the sample's, and those of each resample
    scores = 100 * _weighted(correct, weights) / np.reshape(seeds, (-1, 1))  # [R, 1 + resamples]
    observed, resampled = scores[:, 0], scores[:, 1:]
    winner = int(observed.argmax())
    left_out = np.where(drawn == 0, weight, np.float32(0))
    winners, all_seeds = resampled.argmax(0), np.broadcast_to(seeds, len(correct))
    out_of_bag = [
        100 * (rows @ correct[place].astype(np.float32)) / all_seeds[place] / rows.sum()
        for place, rows in zip(winners, left_out, strict=True)
        if rows.any()  # of a few rows a resample may take all
    ]
    shift = resampled - observed[:, None]
    distance = np.percentile(shift.max(0) - shift, LEVEL, axis=1)
    figure = float(observed[winner])
    corrected = min(figure, float(np.mean(out_of_bag))) if out_of_bag else np.nan
    return Optimism(winner, figure, corrected, figure - observed <= distance)


def _drawn(rows: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Draw rows with replacement: how often each is in each resample, [resamples, rows]."""
    drawn = np.empty((resamples, rows), np.float32)
    for resample in drawn:
        resample[:] = np.bincount(random.integers(rows, size=rows), minlength=rows)
    return drawn


def _weighted(correct: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means of the rows of `correct` [R, N] under each of `weights` [M, N]: [R, M] float64."""
    total = np.zeros((len(correct), len(weights)))
    for start in range(0, weights.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        total += correct[:, block].astype(np.float32) @ weights[:, block].T
    return total / weights.sum(1, dtype=np.float64)
