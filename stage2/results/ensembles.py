"""An ensemble of a sweep as results files hold it: a run named ``ensemble`` whose settings are its
members."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from featbank import errors
from stage2.methods.recipe import settings_hash

ENSEMBLE = "ensemble"
"""The name of the run."""

_HEAD = re.compile(r"(\S+) seed (\d{1,10}) ×(\d{1,4}) T=(\d\S*)")

_TYPES = {"pool": int, "folds": int, "view": str, "stage1": bool}


@dataclass(frozen=True)
class Member:
    """A head of an ensemble.

    Attributes
    ----------
    id, seed
        Configuration and seed of its run.
    count
        The number of times it was chosen: its weight, relative to those of the other members.
    temperature
        T > 0, by which its logits are divided.
    """

    id: str
    seed: int
    count: int
    temperature: float

    def __str__(self) -> str:
        return f"{self.id} seed {self.seed} ×{self.count} T={self.temperature!r}"


@dataclass(frozen=True)
class EnsembleRecipe:
    """An ensemble where the store takes a recipe; it has one result for all seeds.

    Attributes
    ----------
    members
        Its heads.
    pool
        The number of configurations that they were chosen from.
    folds
        Folds of val that its figures on val come from.
    view
        Its views, joined by ``+``.
    stage1
        Whether a member starts from the stage-1 classifier.
    """

    members: tuple[Member, ...]
    pool: int
    folds: int
    view: str
    stage1: bool

    name = ENSEMBLE
    seed = 0

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> EnsembleRecipe:
        """The ensemble with these `parameters`, which may come from anyone's results file.

        Raises
        ------
        ConfigError
            Where they are not those of an ensemble.
        """
        try:
            heads = [_HEAD.fullmatch(text) for text in parameters["heads"].split("; ")]
            made = cls(
                tuple(Member(h[1], int(h[2]), int(h[3]), float(h[4])) for h in heads if h),
                *(parameters[name] for name in _TYPES),
            )
            same = made.parameters == parameters and all(
                type(parameters[name]) is kind for name, kind in _TYPES.items()
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            same = False
        if not same or any(not 0 < each.temperature < float("inf") for each in made.members):
            raise errors.ConfigError(
                "The stored ensemble is not one that this version of featbank makes. "
                "Run `featbank ensemble` again."
            )
        return made

    @property
    def views(self) -> tuple[str, ...]:
        """Its views."""
        return tuple(self.view.split("+"))

    @property
    def parameters(self) -> dict[str, Any]:
        """Its settings, as results files hold them."""
        return {
            "members": len(self.members),
            "pool": self.pool,
            "folds": self.folds,
            "view": self.view,
            "stage1": self.stage1,
            "heads": "; ".join(map(str, self.members)),
        }

    @cached_property
    def id(self) -> str:
        """``ensemble-xxxxxxxx``."""
        return f"{self.name}-{self.hash[:8]}"

    @cached_property
    def hash(self) -> str:
        """The hash of its settings: 64 hex digits."""
        return settings_hash(self.name, self.parameters)


def summary(parameters: Mapping[str, Any]) -> str:
    """The settings of an ensemble that a table has room for."""
    return " ".join(f"{name}={parameters.get(name)}" for name in ("members", "pool"))
