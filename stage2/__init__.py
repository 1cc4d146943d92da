"""Stage 2: from a bank of frozen features to results.

``methods`` says what is compared, ``engine`` trains it, ``results`` keeps and shows what came out;
`stage2.sweep` is the road through them. `load_head` makes a module of an exported head, and
`LongTailClassifier` is every recipe as a scikit-learn estimator.
"""

from typing import TYPE_CHECKING, Any

from stage2.export.headfile import load_head
from stage2.methods.recipe import Recipe
from stage2.specification import Specification, read_specification, ready_specifications
from stage2.sweep import SweepResults, sweep

if TYPE_CHECKING:
    from stage2.estimator import LongTailClassifier

__all__ = [
    "LongTailClassifier",
    "Recipe",
    "Specification",
    "SweepResults",
    "load_head",
    "read_specification",
    "ready_specifications",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """`LongTailClassifier`, when it is asked for: scikit-learn takes a second to import."""
    if name == "LongTailClassifier":
        from stage2.estimator import LongTailClassifier

        return LongTailClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
