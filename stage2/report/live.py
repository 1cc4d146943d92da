"""Logits of exported heads that the page moves: by τ, to another prior, and by a temperature.

Axes: N rows, K classes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.bank import Bank

if TYPE_CHECKING:
    from stage2.export.headfile import LoadedHead, LoadedHeads

BYTES = 2_000_000
"""Logits of all heads together: in base64 a third more, which a page of 6 MB has room for."""

TAUS = np.linspace(0, 2, 21)
"""Values of τ that the page offers."""


def live_of(heads: Sequence[LoadedHead | LoadedHeads], bank: Bank) -> dict[str, Any] | None:
    """Labels and float16 logits of rows of the split that is reported, in base64.

    Where there are more rows than `BYTES` have room for, they are drawn evenly over the rows in the
    order of their classes. Logits are those minus the largest of the row.

    Parameters
    ----------
    heads
        Heads of the bank's classes in their order.
    bank
        Their bank, open.

    Returns
    -------
    With ``logPrior`` [K], the log shares of the training counts, 0 for a class without rows; and of
    each head ``temperatures``, those that suit z − τ·log π on val best, by τ, or None without a
    val beside the split. None where no split but train has rows.
    """
    from stage2.export.prediction import predict_bank

    if not bank.evaluated:
        return None
    split = bank.evaluated[-1]
    labels = np.asarray(bank.labels(split))
    counts = bank.train_counts if bank.outside_counts is None else bank.outside_counts
    shares = np.where(counts > 0, counts, counts.sum()) / counts.sum()
    order = np.argsort(labels, kind="stable")
    most = max(1, BYTES // (2 * bank.num_classes * len(heads)))
    kept = order[
        np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))
    ]
    made = []
    for head in heads:
        z = predict_bank(head, bank, split=split).logits[kept]
        z = (z - z.max(1, keepdims=True)).astype("<f2")
        val = "val" if "val" in bank.evaluated and split != "val" else None
        fitted = None if val is None else temperatures(head, bank, np.log(shares))
        made.append({"logits": in_base64(z), "temperatures": fitted})
    return {
        "split": split,
        "total": len(labels),
        "labels": in_base64(labels[kept].astype("<u4")),
        "logPrior": np.log(shares).round(4).tolist(),
        "taus": TAUS.round(1).tolist(),
        "heads": made,
    }


def temperatures(head: LoadedHead | LoadedHeads, bank: Bank, log_prior: np.ndarray) -> list[float]:
    """The temperature that suits z − τ·log π best on the rows of val, for each of `TAUS`."""
    import torch

    from stage2.engine.temperature import fit_temperature
    from stage2.export.prediction import predict_bank

    z = torch.from_numpy(predict_bank(head, bank, split="val").logits)
    y = torch.from_numpy(np.asarray(bank.labels("val"), np.int64))
    shift = torch.from_numpy(log_prior).float()
    scales = [float(fit_temperature((z - tau * shift)[:, None], y).scale) for tau in TAUS]
    return [float(f"{1 / scale:.4g}") for scale in scales]


def in_base64(values: np.ndarray) -> str:
    """The bytes of an array."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
