r"""The cost of choosing the best of many configurations, from the rows each classifies correctly.

θ_j is the macro accuracy of configuration j, as in `stage2.results.selection`. A star marks the
same of rows drawn with replacement, their weights divided by their sum. Where rows come from source
groups, such as images, whole groups are drawn, and whole groups are dealt to nested folds.

**The correction.** The best of many figures is too high: it is the best partly by chance. A
bootstrap repeats the choice. In each resample another configuration may win; it is measured on the
rows that the resample left out. The mean of these figures estimates what the winner reaches on new
rows [Tsamardinos et al. 2018, algorithm 5]. **Nested folds** repeat the choice on four fifths of
the rows and measure it on the rest, five times.

**The tied set.** Configuration j stays in the set while max_i θ_i − θ_j is at most the 95 %
quantile of max_i Δ_i − Δ_j with Δ_i = θ*_i − θ_i. The truly best one leaves it only by an error in
that quantile's 5 %, however many were tried: if j is best, max_i θ_i − θ_j exceeds the truth by at
most max_i Δ_i − Δ_j of the sample [Hsu 1984].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from featbank.bank.source_groups import deal_groups
from stage2.results.selection import (
    Correctness,
    chosen,
    group_means,
    row_weights,
    weighted_sums,
)
from stage2.results.significance import LEVEL

RESAMPLES = 200


@dataclass(frozen=True)
class Optimism:
    """The cost of a choice.

    Attributes
    ----------
    winner
        Index of the configuration that the rule puts first; the first of equal ones.
    figure, corrected
        Its macro accuracy on the rows that chose it, and an estimate for new rows, which is
        not above it; percent. NaN where no resample leaves a row out.
    tied
        Whether each configuration may be the best one, [R] bool.
    nested
        Whether nested folds corrected it, rather than the bootstrap.
    """

    winner: int
    figure: float
    corrected: float
    tied: np.ndarray = field(compare=False)
    nested: bool = False


def optimism(
    correct: np.ndarray,
    labels: np.ndarray,
    *,
    seeds: np.ndarray | int = 1,
    groups: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    rule: str = "macro",
    nll: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    nested: bool = False,
    resamples: int = RESAMPLES,
    random: int = 0,
) -> Optimism:
    """Correct the figure of the best of R configurations, and find those that tie with it.

    Parameters
    ----------
    correct, labels, seeds, groups, rows
        As of `stage2.results.selection.Correctness.of`.
    rule, nll
        The rule that chooses, and NLL,T of each [R] for rules that need it.
    losses
        Losses of the rows [R, N], whose class-balanced mean is NLL,T; NaN for rows that do not
        count. Without them a resample has the NLL,T of all rows.
    nested
        Correct by nested folds instead of the bootstrap.
    resamples
        Of the bootstrap.
    random
        Seed of its random numbers.

    Returns
    -------
    Optimism
    """
    of = Correctness.of(correct, labels, seeds, groups, rows)
    weight = of.weight
    drawn = _drawn(len(weight), resamples, np.random.default_rng(random))
    kept = _others(labels, groups, rows) if nested else drawn
    scores = of.means(np.vstack([weight, drawn * weight, *([kept * weight] if nested else [])]))
    observed, resampled = scores[:, 0], scores[:, 1 : 1 + resamples]
    choices = np.column_stack([observed, scores[:, -len(kept) :]])
    criterion = np.zeros(len(correct)) if nll is None else nll
    if losses is not None and rule != "macro":
        means = _means(losses, kept, row_weights(labels), groups)
        criterion = np.column_stack([criterion, means])
    first, *winners = chosen(rule, choices, criterion, of)
    left_out = np.where(kept == 0, weight, np.float32(0))
    out_of_bag = [
        100 * (units @ of.correct[place].astype(np.float32)) / of.of_seeds[place, 0] / units.sum()
        for place, units in zip(winners, left_out, strict=True)
        if units.any()  # of a few units a resample may take all
    ]
    shift = resampled - observed[:, None]
    distance = np.percentile(shift.max(0) - shift, LEVEL, axis=1)
    figure = float(observed[first])
    corrected = min(figure, float(np.mean(out_of_bag))) if out_of_bag else np.nan
    return Optimism(int(first), figure, corrected, observed.max() - observed <= distance, nested)


def _others(labels: np.ndarray, groups: np.ndarray | None, rows: np.ndarray | None) -> np.ndarray:
    """The units that each fold leaves, [folds, units] bool."""
    import torch  # for nested folds alone

    from stage2.engine.calibration import FOLDS, val_folds

    if groups is None:
        folds = val_folds(torch.as_tensor(labels, dtype=torch.int64)).numpy()
    else:
        folds = deal_groups(labels, groups, FOLDS, rows)
    return np.stack([folds != fold for fold in range(FOLDS)])


def _means(
    losses: np.ndarray, kept: np.ndarray, weight: np.ndarray, groups: np.ndarray | None
) -> np.ndarray:
    """NLL,T [R, M] of losses [R, N] with weights [N], where units are kept so often [M, units];
    infinite where no row counts."""
    counts = ~np.isnan(losses[0])
    if groups is not None:
        counted = np.where(counts, weight, np.float32(0))
        sums = np.bincount(groups, counted)
        losses = group_means(np.where(counts, losses, 0), counted, groups, sums)
        weights = kept * sums.astype(np.float32)
    else:
        weights = kept * weight
        if not counts.all():
            losses, weights = losses[:, counts], weights[:, counts]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = weighted_sums(losses, weights) / weights.sum(1, dtype=np.float64)
    return np.where(np.isnan(means), np.inf, means)


def _drawn(units: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Draw units with replacement: how often each is in each resample, [resamples, units]."""
    drawn = np.empty((resamples, units), np.float32)
    for resample in drawn:
        resample[:] = np.bincount(random.integers(units, size=units), minlength=units)
    return drawn
