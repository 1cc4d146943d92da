"""A preset: the settings of a named recipe, their origin, and figures to stand beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class RecipePreset:
    """A row of `stage2.methods.presets.PRESETS`: a named recipe.

    Attributes
    ----------
    settings
        Settings it fixes; ``head`` and, for a trained head, ``loss`` among them.
    description
        One line.
    source
        Citation key.
    variant
        Whether it is another preset at the settings of one data set; variants are left out when a
        sweep names no recipe.
    origin, place
        Whether its settings are those of the paper, of its released code, or ours; and where they
        stand there, or what is different.
    same_as
        A preset with the same settings, where there is one.
    reported
        Top-1 by benchmark, by the citation key of the paper that reports it.
    """

    settings: Mapping[str, Any]
    description: str
    source: str
    variant: bool = False
    origin: Literal["paper", "release", "ours"] = "ours"
    place: str = ""
    same_as: str = ""
    reported: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def provenance(self) -> str:
        """The origin of its settings, in one line: ``paper, Table 6``."""
        same = f"the same as {self.same_as}" if self.same_as else ""
        return ", ".join(filter(None, (self.origin, self.place, same)))
