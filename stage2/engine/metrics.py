"""What is measured of a classifier, for C configurations at once and in bounded memory.

Logits arrive in row blocks; what is kept are sums, in float64, and one bit per row. Groups are
those of `featbank.bank.GROUPS`: many / medium / few by training count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 15
"""Equal-width confidence bins (lo, hi] of ECE and MCE; confidence 0 belongs to the first."""

METRICS = {
    "top1": "accuracy, %",
    "macro": "mean per-class accuracy, %",
    "many": "mean per-class accuracy over classes with n > 100, %",
    "medium": "mean per-class accuracy over classes with 20 ≤ n ≤ 100, %",
    "few": "mean per-class accuracy over classes with n < 20, %",
    "top5": "accuracy among the five largest logits, %",
    "ece": "expected calibration error, %",
    "mce": "largest calibration error of a bin, %",
    "nll": "negative log-likelihood, nats",
    "brier": "mean squared error of the probabilities, summed over classes",
}
"""Every metric by name, with its unit."""


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
    """

    metrics: dict[str, float | None]
    per_class: np.ndarray
    correct: np.ndarray


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
    """

    def __init__(self, labels: Tensor, num_classes: int, configs: int) -> None:
        self.labels, self.num_classes, self.configs = labels, num_classes, configs
        device = labels.device
        self._row = 0
        self._correct = torch.zeros(configs, len(labels), dtype=torch.bool, device=device)
        self._sums = {
            name: torch.zeros(configs, dtype=torch.float64, device=device)
            for name in ("top5", "nll", "brier")
        }
        self._bins = torch.zeros(3, configs * BINS, dtype=torch.float64, device=device)
        self._edges = (torch.arange(1, BINS, dtype=torch.float64) / BINS).float().to(device)

    def add(self, z: Tensor) -> None:
        """Add the logits [B, C, K] of the next rows; they are overwritten."""
        rows = slice(self._row, self._row + len(z))
        self._row = rows.stop
        y = self.labels[rows]
        label = y.view(-1, 1, 1).expand(len(z), self.configs, 1)
        zy = z.gather(2, label)
        self._sums["top5"] += ((z > zy).sum(2) < 5).sum(0)
        log_p = torch.log_softmax(z, 2)
        log_py = log_p.gather(2, label).squeeze(2).double()
        self._sums["nll"] -= log_py.sum(0)
        p = log_p.exp_()
        self._sums["brier"] += ((p * p).sum(2).double() - 2 * log_py.exp() + 1).sum(0)
        confidence, prediction = p.max(2)
        correct = prediction == y[:, None]
        self._correct[:, rows] = correct.t()
        bins = torch.bucketize(confidence, self._edges)  # edges[i−1] < confidence ≤ edges[i]
        slot = (bins + BINS * torch.arange(self.configs, device=z.device)).view(-1)
        for i, values in enumerate((torch.ones_like(confidence), confidence, correct)):
            weights = values.double().view(-1)
            self._bins[i] += torch.bincount(slot, weights, minlength=self.configs * BINS)

    def evaluations(self, groups: Mapping[str, np.ndarray]) -> list[Evaluation]:
        """One evaluation per configuration, with the class groups' masks [K]."""
        assert self._row == len(self.labels)
        accuracy = per_class_accuracy(self._correct, self.labels, self.num_classes)
        per_class, rows = (t.cpu().numpy() for t in accuracy)
        correct = self._correct.cpu().numpy()
        sums = {name: total.cpu().numpy() / len(correct.T) for name, total in self._sums.items()}
        count, confidence, right = self._bins.view(3, self.configs, BINS).cpu().numpy()
        gap = np.abs(right - confidence) / np.maximum(count, 1)
        tested = rows > 0
        found = []
        for c in range(self.configs):
            metrics: dict[str, float | None] = {"top1": 100 * float(correct[c].mean())}
            for name, mask in (("macro", tested), *groups.items()):
                classes = mask & tested
                metrics[name] = float(per_class[c, classes].mean()) if classes.any() else None
            metrics["top5"] = 100 * float(sums["top5"][c])
            metrics["ece"] = 100 * float((count[c] * gap[c]).sum() / count[c].sum())
            metrics["mce"] = 100 * float(gap[c].max())
            metrics["nll"], metrics["brier"] = float(sums["nll"][c]), float(sums["brier"][c])
            finite = {
                k: v if v is not None and np.isfinite(v) else None for k, v in metrics.items()
            }
            found.append(Evaluation(finite, per_class[c], correct[c]))
        return found


def per_class_accuracy(correct: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Accuracy [C, K] in percent, NaN where a class has no row, and rows of each class [K].

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
    right = torch.zeros(num_classes, len(correct), dtype=torch.float64, device=labels.device)
    right.index_add_(0, labels, correct.t().double())
    return 100 * right.t() / rows, rows


def macro_accuracy(correct: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean per-class accuracy over the classes that have rows, [C] in percent."""
    per_class, rows = per_class_accuracy(correct, labels, num_classes)
    return per_class[:, rows > 0].mean(1)
