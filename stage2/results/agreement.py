"""Agreement of two trainings of a run, as far as rounding allows.

Other processors and numbers of threads round differently: a row on the border of two classes may
tip over, and the likelihood changes in its last digits.
"""

from __future__ import annotations

import numpy as np

ROWS = 0.005
"""Share of a split's rows that two trainings may classify differently, or a single row."""

NLL = 1e-3
"""Allowed difference of the mean negative log-likelihood, absolute and relative."""


def agree(
    correct: tuple[np.ndarray, np.ndarray], nll: tuple[float | None, float | None], rows: int
) -> tuple[bool, int]:
    """Compare two evaluations of a run on a split.

    Parameters
    ----------
    correct
        The rows that each classified correctly, [N] bool, or the right rows of each part [M].
    nll
        The mean negative log-likelihood of each; None where there is none.
    rows
        N.

    Returns
    -------
    Whether they agree, and the number of rows that they classify differently, of parts at least.
    """
    first, second = correct
    changed = int(np.abs(first.astype(np.int64) - second).sum())
    before, now = nll
    if before is None or now is None:
        same = before is now
    else:
        same = abs(now - before) <= NLL * max(1, abs(before))
    return same and changed <= max(1, ROWS * rows), changed
