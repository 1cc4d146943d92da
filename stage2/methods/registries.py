"""The registries: every part that a recipe can be made of, by the setting that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featbank.settings import Setting
from stage2.methods.generators import GENERATORS
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import OPTIMISERS
from stage2.methods.samplers import SAMPLERS

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "head": HEADS,
    "loss": LOSSES,
    "sampler": SAMPLERS,
    "generator": GENERATORS,
    "optimiser": OPTIMISERS,
}
"""Parts by kind and name. Each has a ``description``, a ``source`` and ``settings``."""


def plural(kind: str) -> str:
    """``losses`` for ``loss``."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def settings_of_part(kind: str, name: str) -> tuple[Setting, ...]:
    """The settings of a part; none for ``none``."""
    return REGISTRIES[kind][name].settings if name != "none" else ()
