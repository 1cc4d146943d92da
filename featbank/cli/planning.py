"""What a sweep is to run, from options, and how its plan is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank.cli.terminal import say
from featbank.errors import ConfigError, FeatbankError, closest
from featbank.settings import shortened
from featbank.wording import number

if TYPE_CHECKING:
    from featbank.bank import Bank
    from stage2.engine.plan import Group
    from stage2.methods.recipe import Recipe


def banks_and_specification(places: Sequence[str]) -> tuple[list[Path], str | None]:
    """The arguments of ``featbank sweep``: bank files, and at most one specification.

    A specification is a ``.toml`` file, or a bare name that is no file.
    """
    banks: dict[Path, None] = {}
    specifications = []
    for place in places:
        if not place:
            raise ConfigError("The name of a bank is empty. Name a file.")
        bare = re.fullmatch(r"[\w-]+", place) and not Path(place).exists()
        if bare or place.endswith(".toml"):
            specifications.append(place)
        else:
            banks[Path(place)] = None
    if len(specifications) > 1:
        raise ConfigError(
            f"One specification at a time, got {' and '.join(specifications)}. "
            "Sweep them one after another into the same results file."
        )
    return list(banks), specifications[0] if specifications else None


def parse_recipes(
    bank: Bank, names: Sequence[str], settings: Sequence[str], seeds: Sequence[int]
) -> list[Recipe]:
    """The recipes `names`, over the grids of ``--set`` texts, with their views on a bank.

    Raises
    ------
    ConfigError
        For an unknown recipe, a setting that none of them takes, or a value it does not allow.
    """
    from stage2.features.experts import averaged
    from stage2.methods.recipe import Recipe, expand

    grids: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for text in settings:
        target, key, values = parse_setting(text)
        if target and target not in grids:
            raise ConfigError(
                f"--set {text}: {target!r} is not swept. {closest(target, list(grids))}"
            )
        for name in [target] if target else grids:
            grids[name][key] = values
    for name, grid in grids.items():  # first, as an average of views has settings of its own
        views = grid.get("view", [Recipe(name).settings["view"]])
        grid["view"] = [averaged(bank, view) for view in views]
    return expand(grids, seeds=seeds)


def parse_setting(text: str) -> tuple[str, str, list[str]]:
    """``RECIPE:KEY=V1,V2`` as (recipe or empty, key, values)."""
    match = re.fullmatch(r"(?:([^:=]+):)?([^:=]+)=(.+)", text)
    if not match:
        raise ConfigError(
            f"--set {shortened(text)[1:-1]} is not KEY=V1,V2. Write --set lr=0.1,0.2, for example."
        )
    target, key, values = match.groups()
    return target or "", key.strip(), [value.strip() for value in values.split(",")]


def parse_seeds(text: str) -> list[int]:
    """The seeds of a list such as ``0,1,2``, each once; recipes check their range."""
    number = r"\s*-?[0-9]{1,99}\s*"
    if not re.fullmatch(f"{number}(,{number})*", text):
        raise ConfigError(
            f"--seeds {shortened(text)[1:-1]} is not a list of integers. Write --seeds 0,1,2."
        )
    return list(dict.fromkeys(map(int, text.split(","))))


def allowed_recipes(bank: Bank) -> list[str]:
    """Every preset but the variants, less those the bank has no view or sample for."""
    from stage2.features.experts import resolved
    from stage2.features.requirements import check_bank
    from stage2.methods.presets import PRESETS
    from stage2.methods.recipe import Recipe

    allowed = []
    for name, preset in PRESETS.items():
        if preset.variant:
            continue
        try:
            check_bank(bank, resolved(bank, [Recipe(name)]))
            allowed.append(name)
        except FeatbankError as error:
            say(f"Left out {name}: {error}")
    return allowed


def tell_plan(
    bank: Bank,
    recipes: Sequence[Recipe],
    groups: Sequence[Group],
    *,
    device: str,
    memory: int | None,
) -> None:
    """Print how many configurations and groups there are, and what is special about them."""
    from stage2.features.probe import probed_views

    configurations = len({recipe.id for recipe in recipes})
    say(
        f"{number(configurations, 'configuration')}, {number(len(recipes), 'run')} with "
        f"{'its seed' if len(recipes) == 1 else 'their seeds'}, "
        f"in {number(len(groups), 'fused group')} on {device}"
    )
    if probed := probed_views(bank, recipes):
        views = " and ".join(map(repr, probed))
        say(
            f"{bank.path} has no stage-1 classifier for {views}: recipes that need one start "
            "from a linear probe"
        )
    for view in dict.fromkeys(view for group in groups for view in group.stream.views):
        if streamed := _streamed(bank, view, device=device, memory=memory):
            say(f"{view}: {streamed} streamed from the bank in shuffled blocks")


def already_there(count: int, of: str) -> str:
    """How many `of` some runs need not be trained."""
    return f"{count} {of} {'is' if count == 1 else 'are'} in the results already"


def tell_costs(
    bank: Bank,
    recipes: Sequence[Recipe],
    finished: set[str],
    *,
    device: str,
    memory: int | None,
    workers: int,
) -> None:
    """Print every group that is still to run, the memory they take, and for how long."""
    from stage2.sweep import plan_bank

    todo = [recipe for recipe in recipes if recipe.hash not in finished]
    if len(todo) < len(recipes):
        say(already_there(len(recipes) - len(todo), "of the runs"))
    groups = plan_bank(bank, todo, device=device, memory=memory, workers=workers)
    for group in groups:
        say(f"  {describe(group)}")
    if groups:
        tell_estimate(bank, groups, device=device, memory=memory, workers=workers)


def tell_estimate(bank: Bank, groups: Sequence[Group], **options: Any) -> None:
    """Print the memory that groups take, and the time; `options` of the estimate."""
    from stage2.cost.estimate import estimate

    cost = estimate(bank, groups, **options)
    say(
        f"memory: {_mebibytes(cost.features)} of features, up to {_mebibytes(cost.group)} for "
        "a fused group"
    )
    say(f"time: {cost}")


def _mebibytes(size: int) -> str:
    return f"{max(1, round(size / 2**20)):,} MiB"


def _streamed(bank: Bank, view: str, *, device: str, memory: int | None) -> str:
    """Splits of a view that do not fit in memory, with their sizes."""
    from stage2.features.views import view_budget, view_bytes

    budgets = view_budget(bank, view, device=device, memory=memory)
    return ", ".join(
        f"{split} ({view_bytes(bank, split, view) / 2**30:.2f} GiB)"
        for split, budget in budgets.items()
        if budget is not None
    )


def describe(group: Group) -> str:
    """A group in a line: what it sees, how it trains, which heads."""
    from stage2.features.experts import short_name

    stream = group.stream
    counts: dict[str, int] = {}
    for tile in group.tiles:
        counts[tile.kind.head] = counts.get(tile.kind.head, 0) + len(tile.recipes)
    heads = ", ".join(f"{count} × {head}" for head, count in counts.items())
    views = short_name("+".join(stream.views))
    if stream.sampler is None:
        return f"{views}: {heads} (nothing to train)"
    if not stream.epochs:
        return f"{views}, {stream.sampler}, to the optimum: {heads}"
    made = f" + {stream.generator}" if stream.generator else ""
    length = f"{number(stream.epochs, 'epoch')} of {number(stream.steps, 'step')}"
    return (
        f"{views}, {stream.sampler}{made}, batch {stream.batch_size}, {length}, "
        f"seed {stream.seed}: {heads}"
    )
