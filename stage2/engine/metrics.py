"""What is measured of a classifier, for C configurations at once and in bounded memory.

Logits arrive in row blocks; what is kept are sums, in float64, and one byte per row and
configuration. A block takes one temporary of its own size. Groups are those of
`featbank.bank.GROUPS`: many / medium / few by training count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from featbank import errors
from featbank.bank import GROUPS, class_groups

BINS = 15
"""Equal-width confidence bins (lo, hi] of ECE and MCE; confidence 0 belongs to the first."""

CONFIDENCE_BINS = 50
"""Equal-width confidence bins (lo, hi] of the histograms."""

CONFUSIONS = 200
"""Pairs of classes whose confusions are kept."""

_PENDING = 1 << 16
"""Rows × configurations whose statistics join the sums at once: enough to spread the cost of an
operation, few enough to stay in cache."""

SHIFT_RATIOS = (2, 5, 10, 25, 50)
"""Imbalance ratios of the shifted test priors [SADE]."""

METRICS = {
    "top1": "accuracy, %",
    "macro": "mean per-class accuracy, %",
    "many": "mean per-class accuracy over classes with n > 100, %",
    "medium": "mean per-class accuracy over classes with 20 ≤ n ≤ 100, %",
    "few": "mean per-class accuracy over classes with n < 20, %",
    "top5": "accuracy among the five largest logits, %",
    "ece": "expected calibration error, %",
    "mce": "largest calibration error of a bin, %",
    "ece_many": "expected calibration error over rows of classes with n > 100, %",
    "ece_medium": "expected calibration error over rows of classes with 20 ≤ n ≤ 100, %",
    "ece_few": "expected calibration error over rows of classes with n < 20, %",
    "nll": "negative log-likelihood, nats",
    "brier": "mean squared error of the probabilities, summed over classes",
}
"""Every metric by name, with its unit."""

UNCALIBRATED = "macro_uncalibrated"
"""Beside the metrics of val where a calibration was fitted to it: macro accuracy before, %."""

DETAILS = {
    "reliability": "rows, mean confidence in %, accuracy in % of each bin [3, 15]",
    **{
        f"reliability_{name}": f"the same over rows of classes with {GROUPS[name]}"
        for name in GROUPS
    },
    "logit_magnitude": "L_k = E[z_k|y=k] − E[z_k|y≠k] of each class [K] [LOS]",
    "logit_deviation": "std(z_k|y=k) / L_k of each class [K] [LOS]",
    "shift_forward": "accuracy under long-tailed test priors by `SHIFT_RATIOS` [5], % [SADE]",
    "shift_backward": "the same with the order of the classes reversed",
    "weight_norm": "‖w_k‖ of each class [K], where the head has a weight per class",
    "confidence": "rows by group, wrong or right, and bin of the confidence [3, 2, 50]",
    "confusions": "the most frequent (class, predicted class, rows) that are wrong [≤ 200, 3]",
}
"""Every array of `Evaluation.details` by name; NaN where there is nothing to average."""


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
        Whether each row was classified correctly [N] bool.
    details
        Arrays by the names of `DETAILS`; float32 where they have an entry per class. ``confidence``
        and ``confusions`` are only kept where they are asked for.
    """

    metrics: dict[str, float | None]
    per_class: np.ndarray
    correct: np.ndarray
    details: dict[str, np.ndarray] = field(default_factory=dict)


class Tally:
    """Collects the logits of a split block by block.

    Parameters
    ----------
    labels
        Labels [N] of the split, on the device of the logits.
    num_classes
        K.
    configs
        C.
    counts
        Full training counts [K] of the bank, which make the groups and order the shifted priors;
        without them there is nothing by group and no shift.
    closer
        Keep ``confidence`` and ``confusions`` as well. It takes another two bytes per row and
        configuration, and half as long again as everything else that is done to a row's logits.
    """

    def __init__(
        self,
        labels: Tensor,
        num_classes: int,
        configs: int,
        counts: np.ndarray | None = None,
        *,
        closer: bool = False,
    ) -> None:
        self.labels, self.num_classes, self.configs = labels, num_classes, configs
        self.counts, self.closer = counts, closer
        self.groups = {} if counts is None else class_groups(counts)
        group_of = np.zeros(num_classes, np.int64)
        for i, mask in enumerate(self.groups.values()):
            group_of[mask] = i
        device = labels.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._row = self._digested = 0
        self._pending: list[tuple[Tensor, ...]] = []
        self._group = torch.from_numpy(group_of).to(device)[labels]  # [N]
        self._config = torch.arange(configs, device=device)
        self._correct = torch.zeros(configs, len(labels), dtype=torch.bool, device=device)
        self._sums = zeros(3, configs)  # top 5, NLL, Brier
        self._logits = zeros(configs, num_classes)  # Σ z_k over all rows
        self._own = zeros(3, num_classes * configs)  # correct, Σ z_y and Σ z_y² by class
        cells = configs * max(len(self.groups), 1)
        self._bins = zeros(3, cells * BINS)  # rows, Σ1/P, correct
        if closer:
            self._histogram = zeros(cells * 2 * CONFIDENCE_BINS)
            index = torch.int16 if num_classes < 1 << 15 else torch.int32
            self._predicted = torch.zeros(configs, len(labels), dtype=index, device=device)

    def next_labels(self, rows: int) -> Tensor:
        """The labels [B] of the next rows."""
        return self.labels[self._row : self._row + rows]

    def add(self, z: Tensor) -> None:
        """Add the float32 logits [B, C, K] of the next rows; they are overwritten."""
        y = self.next_labels(len(z))
        # Σ of a block in float32, pairwise: it errs less than the logits themselves do.
        self._logits += z.sum(0)
        if self.closer:
            self._predicted[:, self._row : self._row + len(z)] = z.argmax(2).t()
        self._pending.append((*label_rank(z, y), *_softmax_sums(z)))
        self._row += len(z)
        if (self._row - self._digested) * self.configs >= _PENDING:
            self._digest()

    def _digest(self) -> None:
        """Add what is known of the pending rows to the sums."""
        rows = slice(self._digested, self._row)
        self._digested = self._row
        rank, zy, top, partition, norm = map(torch.cat, zip(*self._pending, strict=True))
        self._pending.clear()
        nll = (top - zy).add_(partition.log())
        brier = (norm / partition).square_() - 2 * nll.neg().exp_() + 1  # Σp² − 2p_y + 1
        correct = rank == 0
        self._correct[:, rows] = correct.t()
        for total, values in zip(self._sums, (rank < 5, nll, brier.clamp_min_(0)), strict=True):
            total.add_(values.sum(0, dtype=torch.float64))
        cell = (self.labels[rows, None] * self.configs + self._config).view(-1)
        right, zy = correct.double(), zy.double()
        for total, values in zip(self._own, (right, zy, zy * zy), strict=True):
            total.scatter_add_(0, cell, values.view(-1))
        own = self._config * max(len(self.groups), 1) + self._group[rows, None]
        slot = (own * BINS).add(_bin(partition, BINS)).view(-1)
        if self.closer:
            fine = (own * 2 + correct) * CONFIDENCE_BINS + _bin(partition, CONFIDENCE_BINS)
            self._histogram += torch.bincount(fine.view(-1), minlength=len(self._histogram))
        confidence = partition.double().reciprocal_()
        for total, values in zip(
            self._bins, (torch.ones_like(right), confidence, right), strict=True
        ):
            total.scatter_add_(0, slot, values.view(-1))

    def evaluations(self, *, weight_norm: Tensor | None = None) -> list[Evaluation]:
        """One evaluation per configuration.

        Parameters
        ----------
        weight_norm
            ‖w_k‖ [C, K] of heads that have a weight per class.
        """
        assert self._row == len(self.labels)
        if self._pending:
            self._digest()
        rows = torch.bincount(self.labels, minlength=self.num_classes).cpu().numpy()
        per_class, details = self._by_class(rows)
        top5, nll, brier = self._sums.cpu().numpy() / len(self.labels)
        correct = self._correct.cpu().numpy()
        metrics = {"top1": 100 * correct.mean(1), "top5": 100 * top5, "nll": nll, "brier": brier}
        for name, mask in {"macro": rows > 0, **self.groups}.items():
            classes = mask & (rows > 0)
            if classes.any():
                metrics[name] = per_class[:, classes].mean(1)
        for name, bins in self._bins_of_groups().items():
            end = f"_{name}" if name else ""
            diagram, metrics[f"ece{end}"], metrics[f"mce{end}"] = calibration(bins)
            details[f"reliability{end}"] = diagram
        if self.counts is not None:
            for direction in ("forward", "backward"):
                details[f"shift_{direction}"] = np.stack(
                    [shifted_accuracy(per_class, self.counts, r, direction) for r in SHIFT_RATIOS],
                    axis=1,
                )
        if weight_norm is not None:
            details["weight_norm"] = weight_norm.float().cpu().numpy()
        if self.closer:
            shape = self.configs, -1, 2, CONFIDENCE_BINS
            details["confidence"] = self._histogram.view(shape).cpu().numpy().astype(np.int32)
            labels, predicted = self.labels.cpu().numpy(), self._predicted.cpu().numpy()
            confused = [
                confusions(labels[~right], own[~right], self.num_classes)
                for right, own in zip(correct, predicted, strict=True)
            ]
        return [
            Evaluation(
                {name: _finite(metrics[name][c]) if name in metrics else None for name in METRICS},
                per_class[c],
                correct[c],
                {name: values[c] for name, values in details.items()}
                | ({"confusions": confused[c]} if self.closer else {}),
            )
            for c in range(self.configs)
        ]

    def _by_class(self, rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Accuracy in percent [C, K] and what is known of each class's logits."""
        own_sums = self._own.view(3, self.num_classes, self.configs).transpose(1, 2)
        sums = own_sums.contiguous().cpu().numpy()  # [3, C, K]
        with np.errstate(invalid="ignore", divide="ignore"):
            right, own, square = sums / rows
            others = (self._logits.cpu().numpy() - sums[1]) / (rows.sum() - rows)
            magnitude = own - others
            deviation = np.sqrt(np.maximum(square - own**2, 0)) / magnitude
        logits = {"logit_magnitude": magnitude, "logit_deviation": deviation}
        return 100 * right, {name: values.astype(np.float32) for name, values in logits.items()}

    def _bins_of_groups(self) -> dict[str, np.ndarray]:
        """Rows, Σ confidence and correct rows of each bin, [3, C, 15]: of all rows under ``""``."""
        bins = self._bins.view(3, self.configs, -1, BINS).cpu().numpy()
        return {"": bins.sum(2), **{name: bins[:, :, i] for i, name in enumerate(self.groups)}}


def label_rank(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How many classes stand before the true one, [B, C], and the true one's logit [B, C].

    Equal logits stand in the order of the classes, so rank 0 is ``z.argmax(2) == y`` in less time.
    NaN stands before every number.

    Parameters
    ----------
    z
        Logits [B, C, K].
    y
        Labels [B] int64.
    """
    batch, configs, classes = z.shape
    zy = z.gather(2, y.view(batch, 1, 1).expand(batch, configs, 1))
    # z_k − z_y < 0 before the label and ≤ 0 from it on, as one comparison: with 0 and the least
    # positive normal number. Written as floats, which sum faster than truth values.
    index = torch.arange(classes, dtype=z.dtype, device=z.device)
    bound = torch.ge(index, y[:, None].to(z.dtype), out=z.new_empty(batch, classes))
    bound.mul_(torch.finfo(z.dtype).tiny)
    gap = z - zy
    not_before = torch.lt(gap, bound[:, None], out=gap).sum(2)
    return classes - not_before, zy.squeeze(2)


def _softmax_sums(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """max z, P = Σe and ‖e‖ with e_k = exp(z_k − max z), each [B, C]; `z` is overwritten.

    They give all that is asked of the probabilities e/P, which are never formed: −log p_y is
    log P + max z − z_y, the confidence 1/P, and Σp² is (‖e‖/P)².
    """
    top = z.amax(2, keepdim=True)
    exponential = z.sub_(top).exp_()
    return top.squeeze(2), exponential.sum(2), torch.linalg.vector_norm(exponential, dim=2)


def _bin(partition: Tensor, bins: int) -> Tensor:
    """The equal-width bin (lo, hi] of each confidence 1/P: 1/P ≤ k/bins exactly where bins/P ≤ k.

    NaN falls anywhere, in sums of its own.
    """
    return (bins / partition).ceil_().long().sub_(1).clamp_(0, bins - 1)


def confusions(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """The most frequent pairs of classes, [≤ 200, 3] int32: class, predicted class, rows.

    Pairs of as many rows stand in the order of their classes.

    Parameters
    ----------
    labels, predicted
        Of the rows that are wrong [N].
    num_classes
        K.
    """
    pairs, rows = np.unique(labels * num_classes + predicted, return_counts=True)
    first = np.argsort(-rows, kind="stable")[:CONFUSIONS]
    return np.column_stack([*np.divmod(pairs[first], num_classes), rows[first]]).astype(np.int32)


def calibration(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reliability diagram, expected and maximum calibration error in percent.

    Parameters
    ----------
    bins
        Rows, Σ confidence and correct rows of each bin [3, C, 15].

    Returns
    -------
    Rows, mean confidence and accuracy of each bin [C, 3, 15], NaN in an empty bin; ECE [C], NaN
    without rows; MCE [C].
    """
    rows, confidence, right = bins
    with np.errstate(invalid="ignore"):
        diagram = np.stack([rows, 100 * confidence / rows, 100 * right / rows], 1)
        gap = 100 * np.abs(right - confidence)
        return diagram, gap.sum(1) / rows.sum(1), (gap / np.maximum(rows, 1)).max(1)


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
    place = np.empty(len(counts))
    place[np.argsort(-np.asarray(counts), kind="stable")] = np.linspace(0, 1, len(counts))
    share = ratio ** -(place if direction == "forward" else 1 - place)
    share = np.where(np.isnan(per_class), 0, share)
    return (share * np.nan_to_num(per_class)).sum(-1) / share.sum(-1)


def class_accuracy(correct: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Accuracy of each class, [C, K] float64 in percent; NaN for a class without rows.

    Parameters
    ----------
    correct
        Whether each configuration classified each row correctly, [C, N] bool.
    labels
        [N] int64.
    num_classes
        K.
    """
    rows = torch.bincount(labels, minlength=num_classes)
    right = torch.zeros(num_classes, len(correct), device=labels.device)  # exact below 2²⁴
    for some, y in zip(correct.split(1024, 1), labels.split(1024), strict=True):
        right.index_add_(0, y, some.t().float())
    return (100 * right.double() / rows[:, None]).t()


def _finite(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
