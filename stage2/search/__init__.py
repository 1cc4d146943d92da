"""Searching beyond grids: successive halving, and Optuna in batches that train fused.

What a sweep should look for is a `Halving` or a `Sampling`; `stage2.sweep.sweep` takes the one,
`stage2.adaptive.search` the other. Neither ever looks at test.
"""

from stage2.engine.halving import Halving
from stage2.search.methods import SEARCHES, Sampling, Search, make_search

__all__ = ["SEARCHES", "Halving", "Sampling", "Search", "make_search"]
