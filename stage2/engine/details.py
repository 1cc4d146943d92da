"""The arrays kept beside the metrics of an evaluation, a row for each.

Results files, means over seeds and plots derive all that they know of an array from its row in
`DETAILS`. N rows of the split, K classes, C configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from featbank import errors
from featbank.bank import GROUPS
from stage2.engine.metrics import BINS, Totals, magnitude, spread

CONFIDENCE_BINS = 50
"""Equal-width confidence bins (lo, hi] of the histograms."""

CONFUSIONS = 200
"""Pairs of classes whose confusions are kept."""

SHIFT_RATIOS = (2, 5, 10, 25, 50)
"""Imbalance ratios of the shifted test priors [SADE]."""

Axis = Collection[int] | str
"""Allowed sizes of an axis, ``K`` or ``N``."""

LOSS_ROWS = 50_000
"""Rows up to which each one's loss is kept. The more there are, the less they say by chance, and
each takes two bytes."""


def mean(runs: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several runs' arrays."""
    return np.mean(runs, axis=0)


def total(runs: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of several runs' arrays."""
    return np.sum(runs, axis=0)


@dataclass(frozen=True)
class Detail:
    """A row of `DETAILS`.

    Attributes
    ----------
    label
        Its name for people, in the plural.
    meaning
        A phrase for people.
    of
        Computes it from `stage2.engine.metrics.Totals`, an array for each of C configurations; None
        where there is none.
    shape
        Allowed sizes of its axes.
    dtype
        As it is stored; ``i4`` counts rows.
    over_seeds
        Combines the arrays of several runs.
    """

    label: str
    meaning: str
    of: Callable[[Totals], Sequence[np.ndarray] | np.ndarray | None]
    shape: tuple[Axis, ...] = ("K",)
    dtype: str = "f4"
    over_seeds: Callable[[Sequence[np.ndarray]], np.ndarray] = mean

    @property
    def counts_rows(self) -> bool:
        """Whether it counts rows; such arrays are kept of one split and epoch alone."""
        return self.dtype == "i4"

    def expected_shape(self, shape: Sequence[int], num_classes: int, rows: int) -> tuple[int, ...]:
        """The allowed shape that is next to a shape."""
        sizes = [*shape, *[-1] * len(self.shape)]
        known = {"K": num_classes, "N": rows}
        axes = [(known[axis],) if isinstance(axis, str) else axis for axis in self.shape]
        return tuple(n if n in axis else max(axis) for n, axis in zip(sizes, axes, strict=False))


def _reliability(group: str, totals: Totals) -> np.ndarray | None:
    return reliability(totals.bins[group]) if group in totals.bins else None


def _shift(direction: str, totals: Totals) -> np.ndarray | None:
    if totals.counts is None:
        return None
    per_class, counts = totals.per_class, totals.counts
    return np.stack([shifted_accuracy(per_class, counts, r, direction) for r in SHIFT_RATIOS], 1)


def _known_shift(direction: str, totals: Totals) -> np.ndarray | None:
    if totals.counts is None or totals.shifted is None:
        return None
    with np.errstate(invalid="ignore"):
        by_level = 100 * totals.shifted / totals.rows  # [11, C, K], backward to forward
    away = 1 if direction == "forward" else -1
    middle = len(SHIFT_RATIOS)
    return np.stack(
        [
            shifted_accuracy(by_level[middle + away * i], totals.counts, ratio, direction)
            for i, ratio in enumerate((1, *SHIFT_RATIOS))
        ],
        1,
    )


def _losses(totals: Totals) -> np.ndarray | None:
    return None if len(totals.labels) > LOSS_ROWS else totals.tempered_losses


def _predictions(totals: Totals) -> np.ndarray | None:
    return None if totals.confidence is None else totals.predictions


def _confusions(totals: Totals) -> list[np.ndarray] | None:
    if totals.confusion is not None:
        return [frequent_pairs(rows) for rows in totals.confusion]
    if totals.predicted is None:
        return None
    num_classes = len(totals.rows)
    labels = totals.labels.astype(np.int32)  # of half the size: sorting takes half as long
    return [confusions(labels, predicted, num_classes) for predicted in totals.predicted]


def reliability(bins: np.ndarray) -> np.ndarray:
    """Rows, mean confidence and accuracy in percent of each bin [C, 3, 15]; NaN in an empty bin.

    Parameters as of `stage2.engine.metrics.ece`.
    """
    rows, confidence, right = bins
    with np.errstate(invalid="ignore"):
        return np.stack([rows, 100 * confidence / rows, 100 * right / rows], 1)


def merged_reliability(runs: Sequence[np.ndarray]) -> np.ndarray:
    """The diagram of the rows of several [3, bins], weighted by the rows of each bin."""
    rows, *averages = np.stack(runs, 1)
    with np.errstate(invalid="ignore"):
        means = [np.nansum(rows * values, axis=0) / rows.sum(0) for values in averages]
    return np.stack([rows.sum(0), *means])


def confusions(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """The most frequent pairs of classes [≤ 200, 3]: class, predicted class, rows.

    Pairs of as many rows stand in the order of their classes.

    Parameters
    ----------
    labels, predicted
        Labels and predicted classes of all rows [N]; right ones are not counted.
    num_classes
        K.
    """
    index = np.dtype(np.int32 if num_classes**2 < 1 << 31 else np.int64)
    # To sort the right rows as well takes less time than to leave them out.
    keys = np.sort(labels.astype(index, copy=False) * num_classes + predicted)
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    pairs, rows = keys[starts], np.diff(starts, append=len(keys))
    rows[pairs % (num_classes + 1) == 0] = 0  # of a class and itself
    least = 1
    if len(rows) > CONFUSIONS:  # sort no more than may be among the first
        least = max(least, -np.partition(-rows, CONFUSIONS - 1)[CONFUSIONS - 1])
    frequent = rows >= least
    pairs = np.column_stack(np.divmod(pairs[frequent], num_classes))
    return _most_frequent(pairs, rows[frequent])


def frequent_pairs(confusion: np.ndarray) -> np.ndarray:
    """`confusions` of rows by class and predicted class [K, K]."""
    rows = confusion.copy()
    np.fill_diagonal(rows, 0)
    pairs = np.argwhere(rows)
    return _most_frequent(pairs, rows[rows > 0])


def merged_confusions(runs: Sequence[np.ndarray]) -> np.ndarray:
    """The most frequent pairs of several runs together, as of `confusions`."""
    *pair, rows = np.concatenate(runs).astype(np.int64).T
    pairs, place = np.unique(np.column_stack(pair), axis=0, return_inverse=True)
    summed = np.zeros(len(pairs), np.int64)
    np.add.at(summed, place.ravel(), rows)
    return _most_frequent(pairs, summed)


def _most_frequent(pairs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The first of `pairs` [M, 2], in order, by their `rows` [M]."""
    first = np.argsort(-rows, kind="stable")[:CONFUSIONS]
    return np.column_stack([pairs[first], rows[first]])


def class_places(counts: np.ndarray) -> np.ndarray:
    """Place of each class [K], from 0 for the most to 1 for the fewest training samples; classes of
    one count keep their order."""
    place = np.empty(len(counts))
    place[np.argsort(-np.asarray(counts), kind="stable")] = np.linspace(0, 1, len(counts))
    return place


def shifted_accuracy(
    per_class: np.ndarray, counts: np.ndarray, ratio: float, direction: str
) -> np.ndarray:
    """Accuracy in percent [...] under a long-tailed test prior [SADE].

    The class at place i of the K classes, ordered by training count, is tested with a share
    ∝ ratio^(−i/(K−1)): test rows are weighted, where SADE draws ⌊·⌋ of them. Classes of one count
    keep their order. Ratio 1 is macro accuracy.

    Parameters
    ----------
    per_class
        Accuracy of each class in percent [..., K], NaN for a class without test rows: it is left
        out.
    counts
        Training counts [K].
    ratio
        Share of the most over that of the least tested class, ≥ 1.
    direction
        ``forward``: classes of many training samples are tested most; ``backward``: least.

    Raises
    ------
    ConfigError
        For another direction or a ratio below 1.
    """
    if direction not in {"forward", "backward"}:
        raise errors.ConfigError(
            f"The direction of a shift is {direction!r}. Choose from: forward, backward."
        )
    if not ratio >= 1:
        raise errors.ConfigError(f"The ratio of a shift must be a float ≥ 1, got {ratio}.")
    place = class_places(counts)
    share = ratio ** -(place if direction == "forward" else 1 - place)
    absent = np.isnan(per_class)
    if absent.any():
        share, per_class = np.where(absent, 0, share), np.nan_to_num(per_class)
    return (share * per_class).sum(-1) / share.sum(-1)


DETAILS: dict[str, Detail] = {
    **{
        f"reliability_{group}" if group else "reliability": Detail(
            "reliability diagrams",
            "rows, mean confidence in %, accuracy in % of each bin"
            + (f", over rows of classes with {GROUPS[group]}" if group else ""),
            partial(_reliability, group),
            ((3,), (BINS,)),
            "f8",
            merged_reliability,
        )
        for group in ("", *GROUPS)
    },
    "logit_magnitude": Detail(
        "logit magnitudes", "L_k = E[z_k|y=k] − E[z_k|y≠k] of each class [LOS]", magnitude
    ),
    "logit_deviation": Detail(
        "logit deviations",
        "std(z_k|y=k) / L_k of each class [LOS]",
        lambda totals: spread(totals) / magnitude(totals),
    ),
    **{
        f"shift_{direction}": Detail(
            "accuracies under shifted priors",
            f"accuracy in % by `SHIFT_RATIOS` where {more} training samples are tested most [SADE]",
            partial(_shift, direction),
            ((len(SHIFT_RATIOS),),),
            "f8",
        )
        for direction, more in (("forward", "classes of many"), ("backward", "classes of few"))
    },
    **{
        f"shift_{direction}_known": Detail(
            "accuracies under known shifted priors",
            f"accuracy in % by ratio, 1 and `SHIFT_RATIOS`, where {more} training samples are "
            "tested most and logits are moved to that prior",
            partial(_known_shift, direction),
            ((len(SHIFT_RATIOS) + 1,),),
            "f8",
        )
        for direction, more in (("forward", "classes of many"), ("backward", "classes of few"))
    },
    "weight_norm": Detail(
        "weight norms",
        "‖w_k‖ of each class, where the head has a weight per class",
        lambda totals: totals.weight_norm,
    ),
    "losses": Detail(
        "losses",
        "negative log-likelihood of each row at the temperature fitted to them, of which NLL,T is "
        f"the mean; NaN for rows of classes without training rows. Of val and folds with at most "
        f"{LOSS_ROWS:,} rows",
        _losses,
        ("N",),
        "f2",
    ),
    "confidence": Detail(
        "confidences",
        "rows by group, wrong or right, and bin of the confidence",
        lambda totals: totals.confidence,
        ((1, 3), (2,), (CONFIDENCE_BINS,)),
        "i4",
        total,
    ),
    "predictions": Detail(
        "predictions",
        "rows predicted as each class",
        _predictions,
        dtype="i4",
        over_seeds=total,
    ),
    "confusions": Detail(
        "confusions",
        "the most frequent (class, predicted class, rows) that are wrong",
        _confusions,
        (range(CONFUSIONS + 1), (3,)),
        "i4",
        merged_confusions,
    ),
}
"""Every array of `Evaluation.details` by name; NaN where there is nothing to average."""
