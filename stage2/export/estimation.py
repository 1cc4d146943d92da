"""The class prior of rows without labels, estimated from a head's probabilities.

Both estimates take probabilities p that are calibrated under a known prior π_s; features of a class
are taken to be distributed as before, and only the shares of the classes to differ (label shift).

Axes: N rows, K classes, R resamples.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax, logsumexp

from featbank.characters import in_csv, visible
from featbank.files import replacing

RESAMPLES = 200
"""Resamples of the bootstrap."""

LEVEL = 95
"""Percent of the resamples that an interval holds."""

ITERATIONS = 2_000
"""Iterations at most."""

TOLERANCE = 1e-5
"""Largest change of a share in the last iteration."""


TRANSPORTED = 1e-3
"""Largest relative error of a share that `transport` stops at."""


@dataclass(frozen=True)
class EstimatedPrior:
    """A class prior that was estimated from rows without labels.

    Attributes
    ----------
    shares
        [K], Σ = 1.
    low, high
        Ends of the 95 % interval of each share [K], from a bootstrap over the rows.
    distance
        Total variation ½ Σ|π − 1/K| from a uniform prior, and the ends of its interval.
    rows
        N.
    """

    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    distance: tuple[float, float, float]
    rows: int

    def summary(self, class_names: list[str]) -> str:
        """The largest and the smallest share, and how far the prior is from a uniform one."""
        named = {"largest": int(self.shares.argmax()), "smallest": int(self.shares.argmin())}
        ends = ", ".join(
            f"{word} {class_names[k]!r} {100 * self.shares[k]:.2g} % "
            f"({100 * self.low[k]:.2g} to {100 * self.high[k]:.2g})"
            for word, k in named.items()
        )
        middle, low, high = self.distance
        return (
            f"{ends}; {100 * middle:.0f} % ({100 * low:.0f} to {100 * high:.0f}) of the rows would "
            f"have to change class for equal shares. In brackets: {LEVEL} % intervals."
        )

    def write(self, path: str | os.PathLike[str], class_names: list[str]) -> None:
        """Write a line per class as CSV: its name, share, and interval. ``--prior`` reads it back.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        with replacing(Path(path)) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["class", "prior", "low", "high"])
            columns = (self.shares, self.low, self.high)
            for name, *values in zip(class_names, *columns, strict=True):
                writer.writerow([in_csv(visible(name)), *(f"{value:.9g}" for value in values)])


def em(log_p: np.ndarray, source: np.ndarray, *, seed: int = 0) -> EstimatedPrior:
    """The prior with the largest likelihood [Saerens et al. 2002 eq. 2.6–2.9].

    EM repeats π_k ← mean over rows of p_k·π_k/π_s,k / Σ_j p_j·π_j/π_s,j. The likelihood of the rows
    is concave in π, so it ends at the largest from anywhere; it starts from equal shares.

    Parameters
    ----------
    log_p
        Log-probabilities [N, K] under `source`, N ≥ 1.
    source
        π_s [K]; a class of share 0 is estimated as if it were uniform.
    seed
        Of the bootstrap.
    """
    rows, classes = log_p.shape
    ratio = log_p - np.log(np.where(source > 0, source, 1 / classes))
    likelihood = np.exp(ratio - ratio.max(1, keepdims=True)).astype(np.float32)  # P(x|k)/max
    start = np.full((1, classes), 1 / classes)
    shares = _largest_likelihood(likelihood, np.ones((1, rows), np.float32), start)
    weights = np.random.default_rng(seed).multinomial(rows, [1 / rows] * rows, RESAMPLES)
    # From between the estimate and equal shares, as EM never leaves a share of 0.
    start = np.repeat((shares + start) / 2, RESAMPLES, 0)
    drawn = _largest_likelihood(likelihood, weights.astype(np.float32), start)
    return _estimated(shares[0], drawn, rows)


def _largest_likelihood(
    likelihood: np.ndarray, weights: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Shares [R, K] with the largest likelihood of rows with `weights` [R, N], starting from
    `shares`."""
    shares = shares.astype(np.float32)
    total = weights.sum(1, keepdims=True)

    def step(shares: np.ndarray) -> np.ndarray:
        density = np.maximum(shares @ likelihood.T, np.finfo(np.float32).tiny)  # [R, N]
        return shares * ((weights / density) @ likelihood) / total

    for _ in range(ITERATIONS):
        one = step(shares)
        if np.abs(one - shares).max() < TOLERANCE:
            break
        # SQUAREM [Varadhan & Roland 2008, S3]: a step of EM repeated, extrapolated.
        two = step(one)
        first, bend = one - shares, two - 2 * one + shares
        lengths = [np.linalg.norm(v, axis=1, keepdims=True) for v in (first, bend)]
        far = np.maximum(lengths[0] / np.maximum(lengths[1], 1e-12), 1)
        ahead = shares + 2 * far * first + far**2 * bend
        shares = step(np.where(ahead > 0, ahead, two))  # EM never leaves a share of 0
    result = shares.astype(np.float64)
    return result / result.sum(1, keepdims=True)


def bbse(
    p: np.ndarray, confusion: np.ndarray, val_rows: np.ndarray, *, seed: int = 0
) -> EstimatedPrior:
    """The prior under which the mean probabilities are as observed [Lipton et al. 2018 §3].

    With C_ij the mean probability of class i over the rows of val of class j (the soft confusion)
    and μ the mean probabilities of the new rows, it solves Cπ = μ. Over few rows that has negative
    shares; here π minimises ‖Cπ − μ‖² over all priors.

    The bootstrap draws the new rows, and the rows of val as well: class j's part of μ is that of
    `val_rows` draws with the probabilities C_·j, at least as spread as mean probabilities are.

    Parameters
    ----------
    p
        Probabilities [N, K] under the prior of C's, N ≥ 1.
    confusion
        C [K, K].
    val_rows
        Rows of each class of val [K], all ≥ 1.
    seed
        Of the bootstrap.
    """
    rows = len(p)
    shares = _least_squares(confusion, p.mean(0, dtype=np.float64)[None])[0]
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(rows, [1 / rows] * rows, RESAMPLES)
    means = weights.astype(p.dtype) @ p / rows
    columns = confusion.T.astype(np.float64)
    columns /= columns.sum(1, keepdims=True)
    for share, column, m in zip(shares, columns, val_rows, strict=True):
        if share > 0:
            means = means + share * (rng.multinomial(m, column, RESAMPLES) / m - column)
    return _estimated(shares, _least_squares(confusion, means), rows)


def _least_squares(confusion: np.ndarray, means: np.ndarray) -> np.ndarray:
    """π [R, K] on the simplex with the smallest ‖Cπ − μ‖², for `means` μ [R, K], by accelerated
    projected gradients [Beck & Teboulle 2009]."""
    matrix = confusion.astype(np.float64)
    gram, target = matrix.T @ matrix, means @ matrix
    step = 1 / np.linalg.norm(gram, 2)
    shares = ahead = np.full_like(target, 1 / target.shape[1])
    momentum = 1.0
    for _ in range(ITERATIONS):
        new = _on_simplex(ahead - step * (ahead @ gram - target))
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / faster * (new - shares)
        change, shares, momentum = np.abs(new - shares).max(), new, faster
        if change < TOLERANCE:
            break
    return shares


def _on_simplex(points: np.ndarray) -> np.ndarray:
    """The closest priors to points [R, K] [Duchi et al. 2008, figure 1]."""
    falling = -np.sort(-points, 1)
    excess = (falling.cumsum(1) - 1) / np.arange(1, points.shape[1] + 1)
    last = (falling > excess).sum(1, keepdims=True) - 1
    return np.maximum(points - np.take_along_axis(excess, last, 1), 0)


def transport(logits: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The shift v [K] of logits z [N, K] under which the mean of softmax(z + v) over the rows is
    `shares` [K]: the optimal transport of rows to classes of these sizes at entropy 1 and cost
    −log softmax(z), by Sinkhorn's iterations [Peng et al. 2022 algorithm 1].

    Mean 0 over the classes with a share; a class without one gets the log of the smallest float32.
    """
    given = shares > 0
    z = logits[:, given].astype(np.float64)
    wanted, shift = np.log(shares[given]), np.zeros(given.sum())
    for _ in range(ITERATIONS):
        means = logsumexp(log_softmax(z + shift, 1), 0) - np.log(len(z))
        shift += wanted - means
        if np.abs(np.expm1(means - wanted)).max() < TRANSPORTED:
            break
    result = np.full(len(shares), np.log(np.finfo(np.float32).tiny))
    result[given] = shift - shift.mean()
    return result


def _estimated(shares: np.ndarray, drawn: np.ndarray, rows: int) -> EstimatedPrior:
    """An estimate [K] with the intervals of its resamples [R, K]."""
    tails = (50 - LEVEL / 2, 50 + LEVEL / 2)
    low, high = np.percentile(drawn, tails, axis=0)
    distances = np.abs(np.vstack([shares, drawn]) - 1 / len(shares)).sum(1) / 2
    ends = np.percentile(distances[1:], tails)
    return EstimatedPrior(
        shares,
        np.minimum(low, shares),
        np.maximum(high, shares),
        (float(distances[0]), float(min(ends[0], distances[0])), float(max(ends[1], distances[0]))),
        rows,
    )
