"""The bound on the norm of a row of W that a configuration sets [LTWB]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stage2.methods.heads.interface import Context, Settings


def norm_limit(settings: Settings, context: Context) -> float:
    """Upper bound on the norm of a row of W in one configuration."""
    if (absolute := settings.get("max_norm")) is not None:
        return absolute
    if (fraction := settings.get("max_norm_fraction")) is None:
        return math.inf
    shortest, longest = context.row_lengths
    return shortest + fraction * (longest - shortest)
