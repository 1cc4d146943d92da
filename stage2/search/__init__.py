"""Searching beyond grids: successive halving, and Optuna in batches that train fused.

A search is a `Halving`, for `stage2.sweep.sweep`, or a `Sampling`, for `stage2.adaptive.search`.
Neither ever looks at test.
"""

from stage2.engine.halving import Halving
from stage2.search.methods import SEARCHES, Sampling, Search, make_search

__all__ = ["SEARCHES", "Halving", "Sampling", "Search", "make_search"]
