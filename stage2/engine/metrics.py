"""The metrics of a classifier on one split, a row for each.

Tables, filters, comparisons, figures, the report and the loggers derive all that they know of a
metric from its row in `METRICS`; the arrays kept beside them are in `stage2.engine.details`. Rows
compute their values from `Totals`, which `stage2.engine.tally` collects: N rows of the split, K
classes, C configurations. Class groups go by the keys of `featbank.bank.GROUPS`;
`stage2.results.classes.metrics_of` gives metrics the names and rules of a bank's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.bank import GROUPS
from stage2.engine.overlap import iou, mean_of_known
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

BINS = 15
"""Equal-width confidence bins (lo, hi] of ECE and MCE; confidence 0 belongs to the first."""


@dataclass(frozen=True)
class Totals:
    """Sums over the rows of a split, from which metrics and details are computed.

    Attributes
    ----------
    labels
        [N].
    rows
        Rows of each class [K].
    counts, groups
        Full training counts [K] of the bank, and the classes [K] bool of each group; None and empty
        where they are unknown.
    correct
        Correctly classified rows [C, N] bool; of a split with parts those of each [C, M] int32.
    per_class
        Accuracy of each class in percent [C, K], NaN for a class without rows.
    right, predictions
        Right rows of each class (TP), and rows predicted as it (TP + FP), [C, K].
    top5, nll, brier
        Means over the rows [C].
    bins
        Rows, Σ confidence and correct rows of each bin [3, C, 15]: of all rows under ``""``, and of
        each group.
    logits, label_logits, label_squares
        Σ z_k over all rows, and Σ z_k and Σ z_k² over those of class k, [C, K].
    weight_norm
        ‖w_k‖ [C, K] of heads that have a weight per class.
    temperature, tempered_nll, tempered_losses
        T fitted to these rows, the class-balanced negative log-likelihood at T [C], and that of
        each row [C, N]; None for rows that nothing is fitted to.
    shifted
        Right rows by class under each shifted prior, known to the classifier [11, C, K], as of
        `stage2.engine.shifting.ShiftTally`; None unless asked for.
    confidence, predicted
        Rows by group, wrong or right, and bin of the confidence [C, 3, 2, 50], and the predicted
        class of each row [C, N]; None unless asked for.
    confusion
        Rows by class and predicted class [C, K, K], in place of `predicted` where there are parts.
    """

    labels: np.ndarray
    rows: np.ndarray
    counts: np.ndarray | None
    groups: Mapping[str, np.ndarray]
    correct: np.ndarray
    per_class: np.ndarray
    right: np.ndarray
    predictions: np.ndarray
    top5: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    bins: Mapping[str, np.ndarray]
    logits: np.ndarray
    label_logits: np.ndarray
    label_squares: np.ndarray
    weight_norm: np.ndarray | None = None
    temperature: np.ndarray | None = None
    tempered_nll: np.ndarray | None = None
    tempered_losses: np.ndarray | None = None
    shifted: np.ndarray | None = None
    confidence: np.ndarray | None = None
    predicted: np.ndarray | None = None
    confusion: np.ndarray | None = None


@dataclass(frozen=True)
class Metric:
    """A row of `METRICS`.

    Attributes
    ----------
    label
        Title of its column.
    meaning
        A phrase for people, without the unit.
    of
        Computes it from `Totals` [C]; None or NaN where there is nothing to average.
    unit
        ``%``, ``nats``, or none.
    lower_is_better
        Its direction.
    columns
        The tables that show it unless asked for more: ``leaderboard``, ``report``. JSON, CSV,
        filters, plots and loggers take all metrics.
    of_pixels
        Whether these tables show it only of banks whose rows are pixels.
    each_epoch
        Its columns show the last and the selected epoch side by side, others the one that ranks.
    weights
        For metrics that are a weighted mean of the classes' accuracies: the weights [K], Σ = 1,
        from the rows of each class and the groups; None where there is nothing to average.
        `stage2.results.compare` compares these.
    """

    label: str
    meaning: str
    of: Callable[[Totals], np.ndarray | None]
    unit: str = "%"
    lower_is_better: bool = False
    columns: tuple[str, ...] = ()
    of_pixels: bool = False
    each_epoch: bool = False
    weights: Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray | None] | None = None

    @property
    def description(self) -> str:
        """Meaning and unit."""
        return f"{self.meaning}, {self.unit}" if self.unit else self.meaning

    def is_in(self, table: str, about: Mapping[str, Any]) -> bool:
        """Whether a table shows it of a bank, given by its record in the results."""
        return table in self.columns and (not self.of_pixels or bool(about.get("pixels")))

    @property
    def decimals(self) -> int:
        """Decimals that tables show."""
        return 1 if self.unit == "%" else 3

    @property
    def tie(self) -> float:
        """Difference up to which two values count as equal; see `stage2.results.ranking`."""
        return 1e-3 if self.unit == "%" else 1e-4


_BOTH = ("leaderboard", "report")


def _tested(
    group: str | None, rows: np.ndarray, groups: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """The classes [K] bool of a group, or of all, that have rows; None where none has."""
    tested = rows > 0
    if group is not None:
        tested = tested & groups.get(group, False)
    return tested if tested.any() else None


def _class_mean(group: str | None, label: str, columns: tuple[str, ...]) -> Metric:
    """The mean accuracy of the classes of a group, or of all."""

    def of(totals: Totals) -> np.ndarray | None:
        tested = _tested(group, totals.rows, totals.groups)
        return None if tested is None else totals.per_class[:, tested].mean(1)

    def weights(rows: np.ndarray, groups: Mapping[str, np.ndarray]) -> np.ndarray | None:
        tested = _tested(group, rows, groups)
        return None if tested is None else tested / tested.sum()

    over = f" over classes with {GROUPS[group]}" if group else ""
    return Metric(label, f"mean per-class accuracy{over}", of, columns=columns, weights=weights)


def _group_ece(group: str) -> Metric:
    """Expected calibration error over the rows of a group's classes."""

    def of(totals: Totals) -> np.ndarray | None:
        return ece(totals.bins[group]) if group in totals.bins else None

    meaning = f"expected calibration error over rows of classes with {GROUPS[group]}"
    return Metric(f"ECE {group}", meaning, of, lower_is_better=True)


def _mean_iou(group: str | None) -> Metric:
    """mIoU over the classes of a group, or over all."""

    def of(totals: Totals) -> np.ndarray | None:
        members = slice(None) if group is None else totals.groups.get(group)
        if members is None:
            return None
        return mean_of_known(iou(totals.right, totals.rows, totals.predictions)[:, members])

    over = f" with {GROUPS[group]}" if group else ""
    return Metric(
        f"mIoU {group}" if group else "mIoU",
        f"mean intersection over union of classes{over} that have rows or predictions",
        of,
        columns=_BOTH,
        of_pixels=True,
    )


def magnitude(totals: Totals) -> np.ndarray:
    """L_k = E[z_k|y=k] − E[z_k|y≠k] of each class [C, K], NaN for a class without rows [LOS]."""
    others = totals.logits - totals.label_logits
    return totals.label_logits / totals.rows - others / (totals.rows.sum() - totals.rows)


def spread(totals: Totals) -> np.ndarray:
    """std(z_k|y=k) of each class [C, K], over n; NaN for a class without rows [LOS]."""
    variance = totals.label_squares / totals.rows - (totals.label_logits / totals.rows) ** 2
    return np.sqrt(np.maximum(variance, 0))


def _mean_magnitude(totals: Totals) -> np.ndarray:
    """‖L‖₁ over the number of classes that have rows [C]; NaN where there is one such class."""
    return np.abs(magnitude(totals)[:, totals.rows > 0]).mean(1)


def _mean_deviation(totals: Totals) -> np.ndarray:
    """Σ std(z_k|y=k) / ‖L‖₁ [C]: the mean of the classes' deviations, weighted by |L_k|, as a class
    with L_k ≈ 0 would decide the plain mean."""
    return spread(totals)[:, totals.rows > 0].mean(1) / _mean_magnitude(totals)


METRICS: dict[str, Metric] = {
    "top1": Metric(
        "top-1",
        "accuracy",
        lambda totals: 100 * (totals.right.sum(1) / len(totals.labels)),
        columns=_BOTH,
        each_epoch=True,
        weights=lambda rows, groups: rows / rows.sum(),
    ),
    "macro": _class_mean(None, "macro", ("report",)),
    **{group: _class_mean(group, group, _BOTH) for group in GROUPS},
    "top5": Metric(
        "top-5",
        "accuracy among the five largest logits",
        lambda totals: 100 * totals.top5,
        columns=("report",),
    ),
    "miou": _mean_iou(None),
    **{f"miou_{group}": _mean_iou(group) for group in GROUPS},
    "ece": Metric(
        "ECE",
        "expected calibration error",
        lambda totals: ece(totals.bins[""]),
        lower_is_better=True,
        columns=_BOTH,
    ),
    "mce": Metric(
        "MCE",
        "largest calibration error of a bin",
        lambda totals: mce(totals.bins[""]),
        lower_is_better=True,
    ),
    **{f"ece_{group}": _group_ece(group) for group in GROUPS},
    "nll": Metric(
        "NLL",
        "negative log-likelihood",
        lambda totals: totals.nll,
        unit="nats",
        lower_is_better=True,
        columns=("report",),
    ),
    "nll_t": Metric(
        "NLL,T",
        "negative log-likelihood at the temperature fitted to these rows, of val or held out by "
        "each fold, every class weighted alike",
        lambda totals: totals.tempered_nll,
        unit="nats",
        lower_is_better=True,
    ),
    "fitted_temperature": Metric(
        "T",
        "temperature fitted on val, or the mean over folds",
        lambda totals: totals.temperature,
        unit="",
    ),
    "brier": Metric(
        "Brier",
        "mean squared error of the probabilities, summed over classes",
        lambda totals: totals.brier,
        unit="",
        lower_is_better=True,
    ),
    "logit_magnitude": Metric(
        "magnitude",
        "logit magnitude: mean over classes of |L_k|, L_k = E[z_k|y=k] − E[z_k|y≠k]",
        _mean_magnitude,
        unit="",
        columns=("report",),
    ),
    "logit_deviation": Metric(
        "deviation",
        "regularised deviation: sum over classes of std(z_k|y=k) over that of |L_k|",
        _mean_deviation,
        unit="",
        lower_is_better=True,
        columns=("report",),
    ),
}
"""Every metric by its name in JSON, CSV, filters and results files, in the order of tables."""

RANKING = "macro"
"""The metric that ranks, on the split that selects; elsewhere it is called ``selection``."""

UNCALIBRATED = f"{RANKING}_uncalibrated"
"""Beside the metrics of val where a calibration was fitted to it: the ranking metric before, %."""


@dataclass(frozen=True)
class Evaluation:
    """One configuration on one split.

    Attributes
    ----------
    metrics
        By the names of `METRICS`; None where there is nothing to average.
    per_class
        Accuracy of each class in percent [K], NaN for a class without rows.
    correct
        Correctly classified rows [N] bool, or of each part [M] int32.
    details
        Arrays by the names of `stage2.engine.details.DETAILS`.
    """

    metrics: dict[str, float | None]
    per_class: np.ndarray
    correct: np.ndarray
    details: dict[str, np.ndarray] = field(default_factory=dict)


def ece(bins: np.ndarray) -> np.ndarray:
    """Expected calibration error in percent [C], NaN without rows.

    Parameters
    ----------
    bins
        Rows, Σ confidence and correct rows of each bin [3, C, 15].
    """
    rows, confidence, right = bins
    with np.errstate(invalid="ignore"):
        return (100 * np.abs(right - confidence)).sum(1) / rows.sum(1)


def mce(bins: np.ndarray) -> np.ndarray:
    """Largest calibration error of a bin in percent [C]; parameters as of `ece`."""
    rows, confidence, right = bins
    return (100 * np.abs(right - confidence) / np.maximum(rows, 1)).max(1)


def epoch_accuracy(per_class: Tensor) -> Tensor:
    """Macro accuracy [C] of accuracies by class [C, K] that chooses epochs.

    It has nine decimals, so that epochs with equal macro accuracy have the same number, and the
    first is chosen, whatever is summed beside them.
    """
    return per_class.nanmean(1).round(decimals=9)


def class_accuracy(correct: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Accuracy of each class, [C, K] float64 in percent; NaN for a class without rows.

    Parameters
    ----------
    correct
        Correctly classified rows [C, N] bool.
    labels
        [N] int64.
    num_classes
        K.
    """
    # Counts as floats, exact below 2²⁴: a host does not wait for them, as it does for a bincount.
    rows = torch.zeros(num_classes, device=labels.device)
    rows.index_add_(0, labels, torch.ones(len(labels), device=labels.device))
    right = torch.zeros(num_classes, len(correct), device=labels.device)
    for block, y in zip(correct.split(1024, 1), labels.split(1024), strict=True):
        right.index_add_(0, y, block.t().float())
    return (100 * right.double() / rows[:, None]).t()
