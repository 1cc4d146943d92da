r"""What choosing the best of many configurations cost, from which rows each classifies correctly.

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

LEVEL = 95
"""Probability in percent with which the tied set holds the best configuration."""

RESAMPLES = 200

_BLOCK = 1 << 12
"""Rows whose correctness is held in float32 at once."""


@dataclass(frozen=True)
class Optimism:
    """What choosing cost.

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
    weight = 1 / (len(sizes) * sizes[classes])
    drawn = _drawn(len(labels), resamples, np.random.default_rng(random))
    columns = np.column_stack([weight, (drawn * weight).T / (drawn @ weight)])
    scores = _products(correct, columns) / np.reshape(seeds, (-1, 1)) * 100  # [R, 1 + resamples]
    observed, resampled = scores[:, 0], scores[:, 1:]
    winner = int(observed.argmax())
    left_out = (drawn == 0) * weight
    useful = left_out.any(1)  # of a few rows a resample may take all
    winners = resampled.argmax(0)[useful]
    shares = correct[winners] / np.broadcast_to(seeds, len(correct))[winners, None]
    corrected = np.average(shares, axis=1, weights=left_out[useful]) if useful.any() else np.nan
    shift = resampled - observed[:, None]
    distance = np.percentile(shift.max(0) - shift, LEVEL, axis=1)
    tied = observed.max() - observed <= distance
    figure = float(observed[winner])
    return Optimism(winner, figure, float(np.minimum(figure, 100 * np.mean(corrected))), tied)


def _drawn(rows: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """How often each row is in each resample, [resamples, rows] float32."""
    places = random.integers(rows, size=(resamples, rows))
    return np.stack([np.bincount(each, minlength=rows) for each in places]).astype(np.float32)


def _products(correct: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``correct @ columns`` in float32, [R, N] × [N, M], in float64 over blocks of rows."""
    total = np.zeros((len(correct), columns.shape[1]))
    for start in range(0, len(columns), _BLOCK):
        block = slice(start, start + _BLOCK)
        total += correct[:, block].astype(np.float32) @ columns[block].astype(np.float32)
    return total
