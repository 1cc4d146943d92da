"""Stage 2: from a bank of frozen features to results.

``methods`` says what is compared, ``engine`` trains it, ``results`` keeps and shows what came out;
`stage2.sweep` is the road through them.
"""

from stage2.methods.recipe import Recipe
from stage2.sweep import SweepResults, sweep

__all__ = ["Recipe", "SweepResults", "sweep"]
