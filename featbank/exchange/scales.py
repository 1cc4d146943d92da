"""Hints of an import on the scale of its features, from a sample of training rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from featbank.bank.checks import as_copies
from featbank.exchange.arrays import Arrays

PUBLISHED_NORM = 10.6
"""That of `stage2.methods.recipe_settings`: norm of the features that presets were made for."""

FAR = 3.0
"""Factor from `PUBLISHED_NORM` beyond which learning rates of presets do not fit."""

ONE_LENGTH = 2e-3
"""Relative deviation of the lengths of rows that were normalised, in float16."""

_BLOCKS, _ROWS = 8, 128


def scale_hints(arrays: Arrays) -> Iterator[str]:
    """Views of rows of one length, and views whose norm no recipe's default makes up for."""
    for view, x in arrays.features["train"].items():
        lengths = _lengths(as_copies(x, "train", view)[0])
        if not lengths.size or not 0 < lengths.mean() < np.inf:
            continue
        norm = float(np.sqrt(np.square(lengths).mean()))
        one_length = _is_one_length(lengths)
        if one_length and not arrays.text:
            yield (
                f"the rows of {view} have one length, {norm:.3g}, as those of image–text models; "
                "if text of the classes is at hand, give --text"
            )
        far = max(norm / PUBLISHED_NORM, PUBLISHED_NORM / norm) > FAR
        if far and view not in arrays.default_scale and _is_trained(arrays, view):
            remedy = "unit" if one_length else f"{PUBLISHED_NORM / norm:.3g}"
            yield (
                f"the rows of {view} have norm {norm:.3g}, presets were made for "
                f"{PUBLISHED_NORM}, and beside a stage-1 classifier recipes leave features as they "
                f"are, so that SGD may stop far from its optimum; add --scale {remedy}"
            )
    for view, (weight, bias) in arrays.classifier.items():
        if not arrays.text and not np.any(bias) and _is_one_length(_lengths(weight)):
            yield (
                f"the rows of W of {view} have one length and no bias, as text has; if they are "
                "text, give them as --text: the train split has left no prior in them"
            )


def _is_trained(arrays: Arrays, view: str) -> bool:
    """Whether recipes take a view as stage 1's own, so that the bank records no norm."""
    views = arrays.features["train"]
    own = {
        name
        for name, (weight, _) in arrays.classifier.items()
        if name in (view, "instance") and weight.shape[-1] == views[view].shape[-1]
    }
    seen = arrays.seen.get("train")
    return bool(own) or (bool(np.any(seen)) if seen is not None else bool(arrays.classifier))


def _lengths(rows: Any) -> np.ndarray:
    """Lengths of some rows (of tokens, of each), from blocks spread evenly."""
    step = max(_ROWS, len(rows) // _BLOCKS)
    starts = range(0, len(rows), step)
    sample = [np.asarray(rows[start : start + _ROWS], np.float64) for start in starts]
    lengths = [np.sqrt(np.square(block).sum(axis=-1)).ravel() for block in sample]
    return np.concatenate(lengths) if lengths else np.zeros(0)


def _is_one_length(lengths: np.ndarray) -> bool:
    return lengths.size > 1 and bool(lengths.std() < ONE_LENGTH * lengths.mean())
