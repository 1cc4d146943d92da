"""A recipe: one stage-2 configuration, complete, validated and hashed."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from featbank import errors
from featbank.bank.expressions import as_tokens, parts_of
from stage2.methods.conflicts import (
    require_convex,
    require_effect,
    require_head,
    require_shares,
    require_unit,
    shares_of,
)
from stage2.methods.generators import GENERATORS, Generator
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import OPTIMISERS
from stage2.methods.presets import PRESETS
from stage2.methods.recipe_settings import (
    UNIT,
    Takes,
    own_settings,
    owner,
    settings_of,
    uses_text,
)

MOST_RUNS = 100_000
"""Of one sweep; planning them takes ten seconds."""


class Recipe:
    """One stage-2 configuration.

    Parameters
    ----------
    name
        A preset of `stage2.methods.presets.PRESETS`.
    parameters
        Settings that differ from the preset, by the names `featbank methods` prints. A name that
        two parts share is written ``head.scale``, ``loss.scale``; with a mapping,
        ``Recipe("ldam", **{"loss.scale": 20.0})``.

    Attributes
    ----------
    settings
        Every setting, resolved. ``recipe.settings["lr"]``.
    id
        ``name-xxxxxxxx``: name and hash of all settings but the seed.

    Raises
    ------
    ConfigError
        Unknown names, with the closest match; values of a wrong type or range.

    Examples
    --------
    >>> Recipe("crt", lr=0.1).settings["sampler"]
    'class_aware'
    """

    def __init__(self, name: str, /, **parameters: Any) -> None:
        if name not in PRESETS:
            raise errors.ConfigError(
                f"Unknown recipe {name!r}. {errors.closest(name, list(PRESETS))}"
            )
        self.name = name
        self.settings = _resolve(name, parameters)

    @property
    def head(self) -> str:
        """Name of the head."""
        return self.settings["head"]

    @property
    def views(self) -> tuple[str, ...]:
        """The views it trains a head on, each; `featbank.bank.expressions`."""
        views = self.settings["view"].split("+")
        return tuple(map(as_tokens, views) if HEADS[self.head].takes_tokens else views)

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The share of each view in the average of their outputs, Σ = 1; None for equal shares."""
        text = self.settings.get("view_weights")
        return None if text is None else shares_of(text)

    @property
    def trained(self) -> bool:
        """Whether its head is trained, rather than found in closed form."""
        return HEADS[self.head].trained

    @property
    def stepped(self) -> bool:
        """Whether it is trained in steps; any other recipe gives the same result for all seeds."""
        return self.trained and not OPTIMISERS[self.settings["optimiser"]].full_batch

    @property
    def needs_classifier(self) -> bool:
        """Whether its head or loss uses the stage-1 classifier."""
        if HEADS[self.head].needs_classifier(self.part("head")):
            return True
        return self.trained and LOSSES[self.settings["loss"]].needs_classifier

    @property
    def starts_from_text(self) -> bool:
        """Whether the classifier that it starts from is that of text embeddings."""
        return self.settings.get("init") == "text"

    @property
    def on_text(self) -> bool:
        """Whether it uses text embeddings, to start from or otherwise."""
        return uses_text(self.settings)

    @property
    def feature_scale(self) -> str | None:
        """The scale of its features; None leaves it to the bank."""
        return UNIT if self.on_text else self.settings.get("feature_scale")

    @property
    def cosine_scale(self) -> float | None:
        """s of the cosine classifier that it takes as stage 1's; None for the one of the bank."""
        return HEADS[self.head].cosine_scale(self.part("head"))

    @property
    def generator(self) -> Generator | None:
        """Its feature generator, or None."""
        return GENERATORS.get(self.settings.get("generator", "none"))

    @property
    def seed(self) -> int:
        """The seed; 0 for a recipe without steps."""
        return self.settings.get("seed", 0)

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting but the seed."""
        return {name: value for name, value in self.settings.items() if name != "seed"}

    @cached_property
    def id(self) -> str:
        """Identifies the configuration, whatever its seed."""
        return f"{self.name}-{settings_hash(self.name, self.parameters)[:8]}"

    @cached_property
    def hash(self) -> str:
        """Identifies the configuration and its seed: 64 hex digits."""
        return settings_hash(self.name, self.settings)

    def part(self, part: str) -> dict[str, Any]:
        """The settings of a part alone, ``head``, ``loss``, ``sampler``, ``generator`` or
        ``optimiser``; those of a head include the seed."""
        values = own_settings(self.settings, part)
        return {**values, "seed": self.seed} if part == "head" else values

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Recipe({self.name!r}, {settings})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)


def expand(
    grids: Mapping[str, Mapping[str, Sequence[Any]]], *, seeds: Sequence[int] = (0,)
) -> list[Recipe]:
    """Every combination of every recipe's grid, for every seed.

    Settings that choose a part (``head``, ``loss``, ``generator``, …) decide which others apply; a
    combination omits those it does not take. A combination that is not trained in steps appears
    once, not once per seed.

    Parameters
    ----------
    grids
        Values to try, ``{recipe: {setting: values}}``; texts are parsed as on a command line.
    seeds
        The seeds, unless the grid itself has a ``seed``.

    Raises
    ------
    ConfigError
        As `Recipe`; for a setting that no combination of any recipe takes; and for more than
        `MOST_RUNS` runs.
    """
    for name, grid in grids.items():
        for key, values in grid.items():
            if len(values) == 0:
                raise errors.ConfigError(
                    f"The grid of {key!r} for recipe {name!r} is empty. Give it a value, or leave "
                    "it out."
                )
    check_runs(
        math.prod(map(len, grid.values())) * seed_count(grid, seeds) for grid in grids.values()
    )
    recipes: dict[Recipe, None] = {}
    taken: set[str] = set()
    known: set[str] = set()
    for name, grid in grids.items():
        for values in itertools.product(*grid.values()):
            wanted = dict(zip(grid, values, strict=True))
            takes = settings_of(name, wanted)
            known |= set(takes.aliases)
            chosen = {key: value for key, value in wanted.items() if key in takes.aliases}
            taken |= set(chosen)
            for key, value in chosen.items():
                if isinstance(value, str):
                    chosen[key] = takes.settings[takes.aliases[key]].parse(value, owner(name))
            recipes |= dict.fromkeys(with_seeds(name, chosen, takes, seeds))
    for unused in {key for grid in grids.values() for key in grid} - taken:
        raise errors.ConfigError(
            f"None of the recipes takes a setting {unused!r}. "
            f"{errors.closest(unused, sorted(known))}"
        )
    return list(recipes)


def cautions(recipes: Iterable[Recipe]) -> list[str]:
    """Warnings of the losses of recipes, each once (`Loss.caution`).

    There is none where the same recipe is there without it as well: a grid over the edge is meant.
    """
    by_name: dict[str, list[str | None]] = {}
    for recipe in recipes:
        if recipe.trained:
            line = LOSSES[recipe.settings["loss"]].caution(recipe.part("loss"))
            by_name.setdefault(recipe.name, []).append(line)
    lines = (line for found in by_name.values() if None not in found for line in found)
    return list(dict.fromkeys(line for line in lines if line))


def check_runs(counts: Iterable[int]) -> None:
    """Raise `ConfigError` if grids of these sizes have too many runs to be planned."""
    runs = sum(counts)
    if runs > MOST_RUNS:
        size = f"{runs:,}" if runs < 10**18 else f"about 1e{math.log10(runs):.0f}"
        raise errors.ConfigError(
            f"The sweep has {size} runs, at most {MOST_RUNS:,} are planned at once. Take fewer "
            "values or seeds, draw random values, or sweep in parts into the same results file."
        )


def with_seeds(
    name: str, values: Mapping[str, Any], takes: Takes, seeds: Sequence[int]
) -> list[Recipe]:
    """A configuration with every seed; once where it takes none, or has one among its values."""
    if "seed" in values or "seed" not in takes.settings:
        return [Recipe(name, **values)]
    return [Recipe(name, **values, seed=seed) for seed in seeds]


def seed_count(grid: Mapping[str, Any], seeds: Sequence[int]) -> int:
    """Number of runs of each combination of a grid."""
    return 1 if "seed" in grid else len(seeds)


def settings_hash(name: str, settings: Mapping[str, Any]) -> str:
    """The hash of a recipe with these settings: 64 hex digits."""
    return hashlib.sha256(json.dumps([name, settings], sort_keys=True).encode()).hexdigest()


def _resolve(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    takes = settings_of(name, parameters)
    for key in parameters:
        if key not in takes.aliases:
            raise _unknown(name, key, takes)
    given = {**PRESETS[name].settings, **parameters}
    values = {key: setting.default for key, setting in takes.settings.items()}
    for key, value in given.items():
        if full := takes.aliases.get(key):
            values[full] = takes.settings[full].check(value, owner(name))
    for key, setting in takes.settings.items():
        if setting.role == "head":
            values[key] = _following_head(name, values, key, setting.name)
        if setting.role == "bank" and values[key] is None:
            del values[key]
    for view in values["view"].split("+"):
        parts_of(view)
    require_shares(name, values)
    require_unit(name, values)
    if "loss" in values:
        require_head(name, values)
        if problem := LOSSES[values["loss"]].conflict(own_settings(values, "loss")):
            raise errors.ConfigError(f"Recipe {name!r} {problem}")
        if OPTIMISERS[values["optimiser"]].full_batch:
            require_convex(name, values, takes)
        else:
            require_effect(name, values, takes)
    return values


def _following_head(name: str, values: Mapping[str, Any], key: str, own: str) -> float:
    """A setting that follows the head's of the same name, such as the scale s of logits s·cos; 1 on
    a head without it.

    Raises
    ------
    ConfigError
        For another value on such a head: a margin of 30·½ is too large for plain logits.
    """
    given, of_head = values[key], values.get(f"head.{own}")
    if given is not None and of_head is None and given != 1:
        raise errors.ConfigError(
            f"Recipe {name!r} has {key}={given:g}, and head {values['head']!r} has no {own}: the "
            f"loss acts on its logits as they are. Leave {key} out, or take head=cosine."
        )
    follows = 1.0 if of_head is None else of_head
    return follows if given is None else given


def _unknown(name: str, key: str, takes: Takes) -> errors.ConfigError:
    shared = [full for full in takes.settings if full.endswith(f".{key}")]
    if shared:
        return errors.ConfigError(
            f"Recipe {name!r} has more than one {key!r}. Write {' or '.join(shared)}."
        )
    return errors.ConfigError(
        f"Recipe {name!r} takes no setting {key!r}. {errors.closest(key, list(takes.settings))}"
    )
