"""Intersection over union of predicted and true rows, from the sums TP, FN and FP of each class."""

from __future__ import annotations

import numpy as np


def iou(right: np.ndarray, rows: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Intersection over union of each class in percent [..., K], TP / (TP + FP + FN).

    NaN for a class with neither rows nor predictions; 0 for one that is only predicted.

    Parameters
    ----------
    right, rows, predictions
        TP, TP + FN and TP + FP of each class, [..., K] or [K].
    """
    with np.errstate(invalid="ignore"):
        return 100 * right / (rows + predictions - right)


def mean_of_known(of_classes: np.ndarray) -> np.ndarray:
    """Mean over the classes [..., K] whose figure is not NaN, [...]; NaN without any.

    Of `iou`, it is over classes with rows or predictions, the rule of
    ``MulticlassJaccardIndex(average="macro")`` of torchmetrics.
    """
    known = ~np.isnan(of_classes)
    with np.errstate(invalid="ignore"):
        return np.where(known, of_classes, 0).sum(-1) / known.sum(-1)
