"""The plan of a sweep, as it is printed: configurations, groups, memory and time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from featbank.cli.terminal import say
from featbank.wording import listed, number
from stage2.methods.precisions import PRECISION, in_words

if TYPE_CHECKING:
    from featbank.bank import Bank
    from stage2.engine.plan import FusedGroup
    from stage2.executors import Site
    from stage2.executors.shards import Part, Shard
    from stage2.methods.recipe import Recipe
    from stage2.search import Halving, Search
    from stage2.specification import Specification
    from stage2.specification.space import Space


@dataclass(frozen=True)
class Job:
    """A bank, and the part of a specification that is swept on it.

    Attributes
    ----------
    bank
        The bank, open.
    recipes
        The recipes; of trials that Optuna chooses, the first batch.
    search
        How it searches, or None.
    space
        The space that Optuna searches, or None.
    left_out
        Recipes that the bank does not allow, with the reason.
    folds
        The number of folds that rank, or None.
    part
        The part that a shard trains, which has the `recipes`; None for a whole sweep.
    whole
        The recipes of the whole sweep.
    """

    bank: Bank
    recipes: list[Recipe]
    search: Search | None
    space: Space | None
    left_out: Mapping[str, str]
    folds: int | None = None
    part: Part | None = None
    whole: Sequence[Recipe] = ()

    @staticmethod
    def on(bank: Bank, specification: Specification, shard: Shard | None = None) -> Job:
        """The part of a specification that is swept on a bank, or of a shard of it."""
        from stage2.adaptive import asking
        from stage2.search import Sampling

        search, left_out = specification.search, specification.left_out(bank)
        if not isinstance(search, Sampling):
            recipes, folds = specification.on(bank), specification.folds
            job = Job(bank, recipes, search, None, left_out, folds, whole=recipes)
            return job.of(shard) if shard else job
        space = specification.space(bank)
        with asking(space, search) as (_, ask):
            _, asked = ask(search.batches[0])
        first = list(dict.fromkeys(recipe for recipes in asked for recipe in recipes))
        return Job(bank, first, search, space, left_out)

    def of(self, shard: Shard) -> Job:
        """The part of a shard."""
        from stage2.executors.shards import part_of
        from stage2.features.experts import resolved
        from stage2.search import Halving

        halving = self.search if isinstance(self.search, Halving) else None
        wanted = resolved(self.bank, self.whole)
        part = part_of(self.bank, wanted, shard, halving=halving, folds=self.folds)
        return replace(self, recipes=list(part.recipes), part=part)


def print_plan(job: Job, site: Site) -> None:
    """Print the numbers of configurations and groups, probes, and streamed views."""
    from stage2.features.probe import probes_of
    from stage2.search import Halving

    for names, reason in _left_out(job.left_out):
        say(f"Left out {listed(names, len(names))}: {reason}")
    if job.part and job.part.mark:
        mark, part = job.part.mark, f"{len(job.recipes)} of {number(len(job.whole), 'run')}"
        say(f"shard {mark.number} of {mark.count}: {part}, {job.part.share:.0%} of the work")
    _print_search(job)
    halved = isinstance(job.search, Halving)
    groups = site.plan(job.bank, job.recipes, job.folds, whole=halved)
    runs, configurations = len(job.recipes), len({recipe.id for recipe in job.recipes})
    products = in_words(recipe.settings.get(PRECISION.name, "") for recipe in job.recipes)
    say(
        f"{number(configurations, 'configuration')}, {number(runs, 'run')} with "
        f"{'its seed' if runs == 1 else 'their seeds'}, "
        f"in {number(len(groups), 'fused group')} on {site}" + (f", {products}" if products else "")
    )
    if job.folds:
        say(f"each on {job.folds} folds of train; then the best of each recipe on all rows")
    probes = probes_of(job.bank, job.recipes)
    if linear := dict.fromkeys(repr(probe.view) for probe in probes if probe.scale is None):
        say(
            f"{job.bank.path} has no stage-1 classifier for {' and '.join(linear)}: recipes that "
            "need one start from a linear probe"
        )
    if cosine := dict.fromkeys(repr(probe.view) for probe in probes if probe.scale is not None):
        say(
            f"{job.bank.path} has no cosine classifier for {' and '.join(cosine)}: z0=cosine "
            "starts from a cosine probe"
        )
    for view in dict.fromkeys(view for group in groups for view in group.stream.views):
        if streamed := _streamed(job, view, site):
            say(f"{view}: {streamed} streamed from the bank in shuffled blocks")


def _left_out(reasons: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Recipes with what a bank lacks for each; those that lack the same are told together."""
    together: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        together.setdefault(reason.replace(f"Recipe {name!r}", "Each"), []).append(name)
    return [
        (names, reason if len(names) > 1 else reasons[names[0]])
        for reason, names in together.items()
    ]


def print_costs(
    job: Job, statuses: Mapping[str, str], site: Site, kept: Collection[str] = ()
) -> None:
    """Print every group that is still to run, the memory they take, and for how long.

    `statuses` are those of the runs that the results hold, by the hashes of their recipes, and
    `kept` the hashes of the probes that they hold.
    """
    from stage2.search import Halving, Sampling

    if isinstance(job.search, Halving):
        _print_halving(job, job.search, statuses, site, kept)
        return
    waiting = [r for r in job.recipes if statuses.get(r.hash, "stopped") == "stopped"]
    _print_present(len(job.recipes) - len(waiting), "of the runs")
    groups = site.plan(job.bank, waiting, job.folds)
    for group in groups:
        say(f"  {_described(group)}")
    if job.folds:
        groups = _with_finals(job, groups, waiting, site)
    _print_estimate(job.bank, groups, site, folds=job.folds or 0, kept=kept)
    if isinstance(job.search, Sampling) and (others := len(job.search.batches) - 1):
        follow = "1 more batch follows" if others == 1 else f"{others} more batches follow"
        say(f"{follow}, in about that time each")


def _with_finals(
    job: Job, groups: Sequence[FusedGroup], waiting: Sequence[Recipe], site: Site
) -> list[FusedGroup]:
    """Every fold of groups as a group, and the runs of the second round, as far as they are known
    before the first; print how many."""
    from stage2.search.finals import likely_finals

    last = likely_finals(waiting)
    if last:
        say(f"  then the best of each recipe, on all rows: {number(len(last), 'run')}")
    return [
        *(fold for group in groups for fold in group.each_fold()),
        *site.plan(job.bank, last),
    ]


def _print_search(job: Job) -> None:
    """Print a line on the search."""
    from stage2.search import Halving

    search = job.search
    if isinstance(search, Halving):
        rungs = ", ".join(map(str, search.rungs(search.first * search.eta**2 + 1)))
        say(
            f"halving, with the first seed: of each group one configuration in {search.eta} "
            f"continues after epochs {rungs}, …"
        )
    elif search and job.space:
        batches = search.batches
        several = f"{len(batches)} batches of {batches[0]}" if len(batches) > 1 else "one batch"
        say(
            f"optuna ({search.sampler}, seed {search.seed}): {number(search.trials, 'trial')} in "
            f"{several}, each with {number(len(job.space.seeds), 'seed')}; the first batch:"
        )


def _print_halving(
    job: Job,
    halving: Halving,
    statuses: Mapping[str, str],
    site: Site,
    kept: Collection[str],
) -> None:
    """Print every group that halving has still to go through, its rungs, memory and time."""
    from stage2.search.rounds import by_first_seed, others_left, shares

    first, others = by_first_seed(job.recipes)
    known = {recipe.id: statuses.get(recipe.hash) for recipe in first}
    present = sum(status is not None for status in known.values())
    _print_present(present, "of the runs with the first seed")
    left = [recipe for recipe in first if known[recipe.id] is None]
    groups = site.plan(job.bank, left, whole=True)
    for group in groups:
        rungs = halving.rungs(group.stream.epochs)
        counts = halving.counts(len(group.recipes), group.stream.epochs)
        steps = [f"{n} after {rung}" for n, rung in zip(counts[1:], rungs, strict=True)]
        say(f"  {_described(group)}{'; continuing: ' if steps else ''}{', '.join(steps)}")
    waiting = [recipe for recipe in others if recipe.hash not in statuses]
    certain = [recipe for recipe in waiting if known[recipe.id] == "done"]
    possible = [recipe for recipe in waiting if known[recipe.id] is None]
    if certain or possible:
        count = len(certain) + others_left(halving, groups, possible)
        say(f"  then the survivors, with the other seeds: {number(count, 'run')}")
    later, sure = site.plan(job.bank, possible), site.plan(job.bank, certain)
    fractions = [*shares(halving, groups, later), *[1.0] * len(sure)]
    _print_estimate(job.bank, [*groups, *later, *sure], site, shares=fractions, kept=kept)


def _print_present(count: int, of: str) -> None:
    """Print how many `of` some runs need not be trained."""
    if count:
        say(f"{count} {of} {'is' if count == 1 else 'are'} in the results already")


def _print_estimate(bank: Bank, groups: Sequence[FusedGroup], site: Site, **options: Any) -> None:
    """Print the memory that groups take, and the time; `options` of the estimate."""
    import torch

    from stage2.cost.estimate import estimate

    if not groups:
        return
    if site.device.startswith("cuda") and not torch.cuda.is_available():
        say("time: not measured, as this machine has no GPU")
        return
    options |= {"device": site.device, "memory": site.memory, "workers": site.workers}
    cost = estimate(bank, groups, **options)
    features, group = (f"{max(1, round(n / 2**20)):,} MiB" for n in (cost.features, cost.group))
    say(f"memory: {features} of features, up to {group} for a fused group")
    several = f"; on one worker like this machine, and {site.count} train" * (site.count > 1)
    say(f"time: {cost}{several}")


def _streamed(job: Job, view: str, site: Site) -> str:
    """Splits of a view that do not fit in memory, with their sizes."""
    from stage2.features.budgets import view_budget, view_bytes

    bank = job.bank
    budgets = view_budget(
        bank, view, device=site.device, memory=site.memory, folded=bool(job.folds)
    )
    return ", ".join(
        f"{split} ({view_bytes(bank, split, view) / 2**30:.2f} GiB)"
        for split, budget in budgets.items()
        if budget is not None
    )


def _described(group: FusedGroup) -> str:
    """A group in a line: its views, training and heads."""
    from stage2.features.experts import short_name

    stream = group.stream
    counts: dict[str, int] = {}
    for tile in group.tiles:
        counts[tile.key.head] = counts.get(tile.key.head, 0) + len(tile.recipes)
    heads = ", ".join(f"{count} × {head}" for head, count in counts.items())
    views = short_name("+".join(stream.views))
    if stream.sampler is None:
        return f"{views}: {heads} (nothing to train)"
    if not stream.epochs:
        return f"{views}, {stream.sampler}, to the optimum: {heads}"
    generator = f" + {stream.generator}" if stream.generator else ""
    steps = group.folds[0].steps if group.folds else stream.steps
    length = f"{number(stream.epochs, 'epoch')} of {number(steps, 'step')}"
    return (
        f"{views}, {stream.sampler}{generator}, batch {stream.batch_size}, {length}, "
        f"seed {stream.seed}: {heads}"
    )
