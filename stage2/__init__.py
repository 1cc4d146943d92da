"""Stage 2: from a bank of frozen features to results.

``methods`` says what is compared, ``engine`` trains it, ``results`` keeps and shows what came out;
`stage2.sweep` is the road through them. `load_head` makes a module of an exported head, and
`LongTailClassifier` is every recipe as a scikit-learn estimator.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage2.estimator import LongTailClassifier
    from stage2.export.headfile import load_head
    from stage2.methods.recipe import Recipe
    from stage2.specification import Specification, read_specification, ready_specifications
    from stage2.sweep import SweepResults, sweep

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

_MODULES = {
    "LongTailClassifier": "stage2.estimator",
    "Recipe": "stage2.methods.recipe",
    "Specification": "stage2.specification",
    "SweepResults": "stage2.sweep",
    "load_head": "stage2.export.headfile",
    "read_specification": "stage2.specification",
    "ready_specifications": "stage2.specification",
}


def __getattr__(name: str) -> Any:
    """A public name, when it is asked for: PyTorch comes with it."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    """The package; its `sweep` stays the function when the module of that name is imported."""

    @property
    def sweep(self) -> Any:
        """`stage2.sweep.sweep`."""
        return import_module("stage2.sweep").sweep

    @sweep.setter
    def sweep(self, module: ModuleType) -> None:
        """Ignore the module, which Python puts here once it is imported."""


sys.modules[__name__].__class__ = _Package
