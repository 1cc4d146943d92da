"""The part of an exported head that moving it to another class prior takes.

Axes: K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage2.methods.lbfgs import minimise

CONFUSION = "val.confusion"
"""Name of the confusion among the tensors of a head file."""

CONFUSION_CLASSES = 2_000
"""K up to which a confusion is kept: 16 MB of it."""

SPREAD = 0.5
"""Standard deviation expected of a correction, in nats."""

_FIELDS = {"source", "caveats", "class_counts", "val_rows", "calibrated", "correction"}


@dataclass(frozen=True)
class HeadPrior:
    """The class prior of a head's outputs, and what estimating another one takes.

    Attributes
    ----------
    source
        The class prior [K] that the logits are made for, Σ = 1; 0 for a class without training
        rows. See `stage2.methods.priors.implied_prior`.
    caveats
        Why it is not exact, as nouns.
    class_counts
        Training rows of each class [K] before any were held out, or counts from outside; the usual
        groups follow them.
    val_rows
        Rows of each class [K] in val, all 0 without one.
    calibrated
        Whether a calibration was fitted on rows of val that stage 1 never saw.
    correction
        What to add to the logits [K] before a prior is estimated by EM, see `fitted_correction`; 0
        where the head is not `calibrated`.
    confusion
        [K, K] float32, the mean probability of class i over the rows of val of class j; None where
        the head is not `calibrated`, a class has no row of val, or K > `CONFUSION_CLASSES`.
    """

    source: list[float]
    caveats: list[str]
    class_counts: list[int]
    val_rows: list[int]
    calibrated: bool
    correction: list[float]
    confusion: Tensor | None = field(default=None, compare=False)

    @property
    def document(self) -> dict[str, Any]:
        """The fields that JSON can carry."""
        return {name: getattr(self, name) for name in sorted(_FIELDS)}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The confusion, where there is one, by its name in a file."""
        return {} if self.confusion is None else {CONFUSION: self.confusion}


def read_head_prior(document: Any, tensors: dict[str, Tensor], classes: int) -> HeadPrior:
    """The prior of a head file; its tensor is popped from `tensors`.

    Raises
    ------
    ValueError
        For a value that is none.
    """
    if not isinstance(document, dict) or document.keys() != _FIELDS:
        raise ValueError("its prior is none")
    for name, kind in (("source", float), ("class_counts", int), ("val_rows", int)):
        values = document[name]
        numbers = isinstance(values, list) and all(type(value) is kind for value in values)
        if not numbers or len(values) != classes or not all(0 <= v < 2**63 for v in values):
            raise ValueError(f"{name} are not {classes} numbers ≥ 0")
    correction = document["correction"]
    if not isinstance(correction, list) or [type(v) for v in correction] != [float] * classes:
        raise ValueError(f"correction is not {classes} numbers")
    if not np.isfinite(correction).all():
        raise ValueError("correction is not finite")
    if not np.isclose(sum(document["source"]), 1):
        raise ValueError("source does not sum to 1")
    caveats = document["caveats"]
    if not isinstance(caveats, list) or not all(isinstance(text, str) for text in caveats):
        raise ValueError("caveats are not all text")
    if type(document["calibrated"]) is not bool:
        raise ValueError("calibrated is no bool")
    return HeadPrior(**document, confusion=_confusion(tensors.pop(CONFUSION, None), classes))


def _confusion(values: Tensor | None, classes: int) -> Tensor | None:
    if values is None:
        return None
    if values.dtype != torch.float32 or tuple(values.shape) != (classes, classes):
        raise ValueError(f"{CONFUSION} is {values.dtype} {tuple(values.shape)}")
    columns = values.sum(0)
    if not (values >= 0).all() or not torch.allclose(columns, torch.ones_like(columns), atol=1e-3):
        raise ValueError(f"the columns of {CONFUSION} are no probabilities")
    return values


def soft_confusion(z: Tensor, y: Tensor, val_rows: np.ndarray) -> Tensor | None:
    """The mean probabilities [K, K] of each class of val; None where a class has no rows, or K
    is above `CONFUSION_CLASSES`.

    Parameters
    ----------
    z, y
        Logits [N, K] and labels [N] of val.
    val_rows
        Rows of each class [K].
    """
    classes = len(val_rows)
    if classes > CONFUSION_CLASSES or not val_rows.all():
        return None
    by_class = torch.zeros(classes, classes, dtype=torch.float64)  # [true, predicted]
    by_class.index_add_(0, y, z.double().softmax(1))
    return (by_class / torch.from_numpy(val_rows)[:, None]).t().float().contiguous()


def fitted_correction(z: Tensor, y: Tensor, source: np.ndarray, val_rows: np.ndarray) -> np.ndarray:
    """b [K] with which u + b is a posterior under `source`, as far as val can tell.

    A temperature leaves some classes with too small a probability on the whole, and EM would take
    them to be rare. Moved to the class shares of val, u + b + log π_val − log π_s has the smallest
    mean negative log-likelihood, so that its mean is π_val [Alexandari et al. 2020 §3.3,
    bias-corrected temperature scaling]; b is expected to be normal with standard deviation
    `SPREAD`, which matters over few rows. A class without rows of val keeps 0.

    Parameters
    ----------
    z, y
        Calibrated logits u [N, K] and labels [N] of val.
    source
        π_s [K].
    val_rows
        Rows of each class [K].
    """
    known = (val_rows > 0) & (source > 0)
    correction = np.zeros(len(source))
    rows = torch.from_numpy(known)[y]
    u, place = z[rows].double()[:, known], torch.from_numpy(known.cumsum() - 1)[y[rows]]
    if len(u) == 0:
        return correction
    u = u + torch.from_numpy(np.log(val_rows[known] / source[known]))
    share = torch.bincount(place, minlength=u.shape[1]) / len(u)
    penalty = 1 / (2 * SPREAD**2 * len(u))

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        moved = u + point
        mean = moved.logsumexp(1).mean() - (share * point[0]).sum()  # up to a constant
        slope = moved.softmax(1).mean(0) - share + 2 * penalty * point[0]
        return (mean + penalty * point.square().sum())[None], slope[None]

    start = torch.zeros(1, u.shape[1], dtype=torch.float64)
    best = minimise(
        evaluate,
        start,
        tolerance=torch.full((1,), 1e-6, dtype=torch.float64),
        max_iterations=200,
        history=10,
    )
    correction[known] = best.point[0].numpy()
    return correction
