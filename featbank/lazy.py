"""Public names of a package that load on first use, as PyTorch takes seconds to import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def on_demand(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package; both know its submodules as well.

    Parameters
    ----------
    package
        Its ``__name__``.
    modules
        The module of each public name.
    """

    def get(name: str) -> Any:
        if name in modules:
            return getattr(import_module(modules[name]), name)
        if not name.startswith("_"):
            try:
                return import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        present = vars(sys.modules[package])
        own = [name for name in present if name.startswith("__")]
        below = [module.name for module in iter_modules(present["__path__"])]
        return sorted({*own, *present["__all__"], *(n for n in below if not n.startswith("_"))})

    return get, names
