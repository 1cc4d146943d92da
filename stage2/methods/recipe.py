"""A recipe: one stage-2 configuration, complete, validated and hashed."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from featbank import errors
from featbank.settings import read_number, shortened
from stage2.methods.generators import GENERATORS, Generator
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.optimisers import OPTIMISERS, learning_rates
from stage2.methods.presets import PRESETS
from stage2.methods.recipe_settings import Takes, owner, settings_of
from stage2.methods.registries import settings_of_part
from stage2.methods.samplers import SAMPLERS

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
        """The views it trains a head on, each."""
        return tuple(self.settings["view"].split("+"))

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
        values = _own(self.settings, part)
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
    _require_shares(name, values)
    if "loss" in values:
        if problem := LOSSES[values["loss"]].conflict(_own(values, "loss")):
            raise errors.ConfigError(f"Recipe {name!r} {problem}")
        if OPTIMISERS[values["optimiser"]].full_batch:
            _require_convex(name, values, takes)
        else:
            _require_effect(name, values, takes)
    return values


def shares_of(weights: str) -> tuple[float, ...] | None:
    """Weights joined by + divided by their sum; None for a text that is not weights > 0."""
    words = [read_number(word, float) for word in weights.split("+")]
    values = [word for word in words if word is not None and 0 < word < math.inf]
    total = math.fsum(values)
    return tuple(value / total for value in values) if len(values) == len(words) else None


def _require_shares(name: str, values: Mapping[str, Any]) -> None:
    """Raise unless there is a weight > 0 for each view, where there are any."""
    if (text := values.get("view_weights")) is None:
        return
    views = values["view"].split("+")
    if len(shares_of(text) or ()) != len(views):
        raise errors.ConfigError(
            f"The 'view_weights' of recipe {name!r} must be {len(views)} floats > 0 joined by +, "
            f"one for each view of {values['view']}, got {shortened(text)}."
        )


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


def _require_effect(name: str, values: Mapping[str, Any], takes: Takes) -> None:
    """Raise if every step has learning rate 0, or a setting would act after the last epoch."""
    epochs = values["epochs"]
    if not learning_rates({**values, "epochs": min(epochs, 3)}, 1).any():
        raise errors.ConfigError(
            f"Recipe {name!r} cannot move: with schedule={values['schedule']} and epochs={epochs} "
            "every step has the learning rate 0. Give it epochs=2, or schedule=cosine."
        )
    for key, setting in takes.settings.items():
        if setting.role == "epoch" and values[key] >= epochs:
            raise errors.ConfigError(
                f"Recipe {name!r} ends after {epochs} epochs, before its {key}={values[key]} acts. "
                f"Give {key} below epochs, or 0."
            )


def _require_convex(name: str, values: Mapping[str, Any], takes: Takes) -> None:
    """Raise if the recipe has no single optimum for full-batch training to find."""
    loss, sampler = LOSSES[values["loss"]], SAMPLERS[values["sampler"]]
    reasons = [
        (not HEADS[values["head"]].convex, f"head {values['head']!r} is not convex"),
        (
            not loss.convex_at(_own(values, "loss")),
            f"loss {values['loss']!r} is not convex" + (" with focusing" if loss.convex else ""),
        ),
        (values["generator"] != "none", f"generator {values['generator']!r} draws anew each epoch"),
        (
            loss.changes(_own(values, "loss")),
            f"loss {values['loss']!r} changes over the epochs",
        ),
        (
            sampler.distribution(np.ones(2), _own(values, "sampler")) is None,
            f"sampler {values['sampler']!r} changes over the epochs",
        ),
        *(
            (values[key] != setting.default, f"{key} is a constraint")
            for key, setting in takes.settings.items()
            if setting.role == "constraint"
        ),
    ]
    for wrong, reason in reasons:
        if wrong:
            raise errors.ConfigError(
                f"Recipe {name!r} cannot have optimiser={values['optimiser']}: {reason}. "
                "Choose sgd or adamw."
            )


def _unknown(name: str, key: str, takes: Takes) -> errors.ConfigError:
    shared = [full for full in takes.settings if full.endswith(f".{key}")]
    if shared:
        return errors.ConfigError(
            f"Recipe {name!r} has more than one {key!r}. Write {' or '.join(shared)}."
        )
    return errors.ConfigError(
        f"Recipe {name!r} takes no setting {key!r}. {errors.closest(key, list(takes.settings))}"
    )


def _own(settings: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The values of a part's own settings; none where the recipe has no such part."""
    names = [setting.name for setting in settings_of_part(part, settings.get(part, "none"))]
    return {n: settings.get(f"{part}.{n}", settings.get(n)) for n in names}
