"""The search of ``featbank sweep``: its options, what it will do, trials that Optuna chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.options import Integer
from featbank.cli.planning import (
    allowed_recipes,
    already_there,
    describe,
    parse_recipes,
    parse_setting,
    tell_estimate,
)
from featbank.cli.terminal import say
from featbank.errors import ConfigError, closest
from featbank.wording import number

if TYPE_CHECKING:
    from featbank.bank import Bank
    from stage2.methods.recipe import Recipe
    from stage2.search import Halving, Sampling, Search
    from stage2.specification import Specification
    from stage2.specification.space import Space

OPTIONS = {"eta": "halving", "trials": "optuna"}
"""Settings of a search that are options, and whose."""


def search_options(command: Callable) -> Callable:
    """``--search`` and the settings that are options as well."""
    options = (
        click.option(
            "--search",
            type=click.Choice(["none", "halving", "optuna"]),
            help="halving: of every fused group the better third goes on after epochs 1, 3, 9, …; "
            "optuna: trials chosen by what others reached. Both by val. Default: what the "
            "specification says, else none.",
        ),
        click.option("--eta", type=Integer(), help="Halving: one in so many goes on. Default: 3."),
        click.option("--trials", type=Integer(), help="Optuna: configurations tried. Default: 60."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def asked_search(method: str | None, settings: dict[str, Any]) -> Search | None:
    """The search that the options ask for."""
    from stage2.search import make_search

    check_options(method, settings)
    return make_search(method, settings) if method and method != "none" else None


def check_options(method: str | None, settings: dict[str, Any]) -> None:
    """Raise a `ConfigError` for settings of another search, or of none."""
    for name in settings:
        if method != OPTIONS[name]:
            raise ConfigError(
                f"--{name} is for --search {OPTIONS[name]}. Add that, or leave it out."
            )


def parse_space(
    bank: Bank,
    names: Sequence[str],
    settings: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
) -> Space:
    """The recipes `names` with the choices of ``--set`` texts, as a space on a bank.

    Raises
    ------
    ConfigError
        As `featbank.cli.planning.parse_recipes`.
    """
    from stage2.specification.grids import Entry, Problems, Values, recipes_of
    from stage2.specification.space import Space, seed_problem, tried

    grids: dict[str, dict[str, Values]] = {name: {} for name in names}
    shared: dict[str, set[str]] = {name: set() for name in names}
    for text in settings:
        target, key, values = parse_setting(text)
        if target and target not in grids:
            raise ConfigError(
                f"--set {text}: {target!r} is not swept. {closest(target, list(grids))}"
            )
        for name in [target] if target else grids:
            grids[name][key] = Values(tuple(values), (0,) * len(values), 0, "text")
            (shared[name].discard if target else shared[name].add)(key)
    entries = [Entry(name, 0, grid, frozenset(shared[name])) for name, grid in grids.items()]
    problems = Problems("--set")
    if problem := seed_problem(entries):
        problems.add(*problem)
    recipes_of(tried(entries, sampling), seeds, problems, bank)
    problems.check()
    return Space.on(bank, entries, seeds)


def what_to_sweep(
    bank: Bank,
    specification: Specification | None,
    search: Search | None,
    *,
    names: Sequence[str],
    settings: Sequence[str],
    seeds: Sequence[int],
) -> list[Recipe] | Space:
    """What there is to sweep on a bank: recipes, or where Optuna is to look."""
    from stage2.search import Sampling

    sampled = search if isinstance(search, Sampling) else None
    if specification:
        return specification.space(bank) if sampled else specification.on(bank)
    names = names or allowed_recipes(bank)
    if sampled:
        return parse_space(bank, names, settings, seeds, sampled)
    return parse_recipes(bank, names, settings, seeds)


def known_recipes(bank: Bank, what: list[Recipe] | Space, search: Search | None) -> list[Recipe]:
    """The recipes of a sweep; of one that Optuna chooses those it asks for first.

    Raises
    ------
    ConfigError
        Where a search has no val to go by, or Optuna is not installed.
    """
    from stage2.adaptive import asking
    from stage2.search import Sampling
    from stage2.search.rounds import val_problem

    if search and (problem := val_problem(bank)):
        raise ConfigError(problem)
    if isinstance(what, list):
        return what
    assert isinstance(search, Sampling)
    with asking(what, search) as (_, ask):
        _, asked = ask(search.batches[0])
    return list(dict.fromkeys(recipe for recipes in asked for recipe in recipes))


def tell_search(what: list[Recipe] | Space, search: Search | None) -> None:
    """Print what a search does, in a line."""
    from stage2.search import Halving

    if isinstance(search, Halving):
        rungs = ", ".join(map(str, search.rungs(search.first * search.eta**2 + 1)))
        say(
            f"halving, with the first seed: of each group one configuration in {search.eta} goes "
            f"on after epochs {rungs}, …"
        )
    elif search:
        assert not isinstance(what, list)
        batches, seeds = search.batches, len(what.seeds)
        several = f"{len(batches)} batches of {batches[0]}" if len(batches) > 1 else "one batch"
        trials = number(search.trials, "trial")
        say(
            f"optuna ({search.sampler}, seed {search.seed}): {trials} in {several}, "
            f"each with {number(seeds, 'seed')}; the first batch:"
        )


def tell_other_batches(search: Search | None) -> None:
    """Print what follows the first batch of trials."""
    from stage2.search import Sampling

    if isinstance(search, Sampling) and (others := len(search.batches) - 1):
        follow = "1 more batch follows" if others == 1 else f"{others} more batches follow"
        say(f"{follow}, in about that time each")


def tell_halving(
    bank: Bank,
    recipes: Sequence[Recipe],
    halving: Halving,
    statuses: Mapping[str, str],
    *,
    device: str,
    memory: int | None,
    workers: int,
) -> None:
    """Print every group that halving has still to go through, its rungs, memory and time.

    `statuses` are those of the runs that the results hold, by the hashes of their recipes.
    """
    from stage2.search.rounds import by_first_seed, others_left, shares
    from stage2.sweep import plan_bank

    def planned(some: Sequence[Recipe]) -> list:
        return plan_bank(bank, some, device=device, memory=memory, workers=workers)

    first, others = by_first_seed(recipes)
    known = {recipe.id: statuses.get(recipe.hash) for recipe in first}
    if count := sum(status is not None for status in known.values()):
        say(already_there(count, "of the runs with the first seed"))
    groups = planned([recipe for recipe in first if known[recipe.id] is None])
    for group in groups:
        rungs = halving.rungs(group.stream.epochs)
        counts = halving.counts(len(group.recipes), group.stream.epochs)
        steps = [f"{n} after {rung}" for n, rung in zip(counts[1:], rungs, strict=True)]
        told = f"; go on: {', '.join(steps)}" if steps else ""
        say(f"  {describe(group)}{told}")
    waiting = [recipe for recipe in others if recipe.hash not in statuses]
    left = [recipe for recipe in waiting if known[recipe.id] == "done"]
    open_ = [recipe for recipe in waiting if known[recipe.id] is None]
    if left or open_:
        count = len(left) + others_left(halving, groups, open_)
        say(f"  then what is left, with the other seeds: {number(count, 'run')}")
    later, sure = planned(open_), planned(left)
    if groups or sure:
        tell_estimate(
            bank,
            [*groups, *later, *sure],
            device=device,
            memory=memory,
            workers=workers,
            shares=[*shares(halving, groups, later), *[1.0] * len(sure)],
        )
