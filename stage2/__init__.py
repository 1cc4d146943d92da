"""Stage 2: from a bank of frozen features to results.

``methods`` says what is compared, ``engine`` trains it, ``results`` keeps and shows what came out;
`stage2.sweep` is the road through them. `load_head` makes a module of an exported head, and
`LongTailClassifier` is every recipe as a scikit-learn estimator.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from featbank.lazy import on_demand

if TYPE_CHECKING:
    from stage2.estimator import LongTailClassifier
    from stage2.export.exporting import export_head
    from stage2.export.headfile import load_head
    from stage2.methods.recipe import Recipe
    from stage2.plots import plot, plot_bank
    from stage2.results.results import Results
    from stage2.specification import Specification, read_specification, ready_specifications
    from stage2.sweep import SweepResults, sweep

__all__ = [
    "LongTailClassifier",
    "Recipe",
    "Results",
    "Specification",
    "SweepResults",
    "export_head",
    "load_head",
    "plot",
    "plot_bank",
    "read_specification",
    "ready_specifications",
    "sweep",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "LongTailClassifier": "stage2.estimator",
        "Recipe": "stage2.methods.recipe",
        "Results": "stage2.results.results",
        "Specification": "stage2.specification",
        "SweepResults": "stage2.sweep",
        "export_head": "stage2.export.exporting",
        "load_head": "stage2.export.headfile",
        "plot": "stage2.plots",
        "plot_bank": "stage2.plots",
        "read_specification": "stage2.specification",
        "ready_specifications": "stage2.specification",
    },
)


class _Package(ModuleType):
    """The package; its `sweep` stays the function when the module of that name is imported."""

    @property
    def sweep(self) -> Any:
        """`stage2.sweep.sweep`, or what took its place."""
        return vars(self).get("_sweep") or import_module("stage2.sweep").sweep

    @sweep.setter
    def sweep(self, value: Any) -> None:
        """Take the place of the function; Python itself puts the module here as it imports it."""
        if not isinstance(value, ModuleType):
            vars(self)["_sweep"] = value

    @sweep.deleter
    def sweep(self) -> None:
        vars(self).pop("_sweep", None)


sys.modules[__name__].__class__ = _Package
