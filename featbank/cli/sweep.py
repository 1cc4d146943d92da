"""``featbank sweep``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from featbank.cli.leaderboard import show
from featbank.cli.options import PRECISIONS, device_option, parse_bytes
from featbank.cli.progress import progress
from featbank.errors import ConfigError, FeatbankError, closest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featbank.bank import Bank
    from stage2.engine.plan import Group
    from stage2.methods.recipe import Recipe


@click.command()
@click.argument("bank", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    "names",
    multiple=True,
    metavar="NAME",
    help="A recipe of `featbank methods`; repeat for more. Default: all that the bank allows.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Try these values, in every combination, in every recipe that takes KEY; "
    "RECIPE:KEY=V1,V2 for one recipe alone.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Seeds, separated by commas.")
@click.option(
    "--select-on",
    type=click.Choice(["val", "test"]),
    help="Split that ranks. Default: val where the bank has it, else test, and the table says so.",
)
@device_option
@click.option(
    "--memory",
    help="Budget, such as 2GiB, half for features and half for a fused group; features that do not "
    "fit are streamed from the bank. Default: half of RAM, or 80 % of the GPU's.",
)
@click.option(
    "--precision",
    type=PRECISIONS,
    help="Of the matrix products of every recipe that trains in steps. Default: each recipe's own, "
    "fp32.",
)
@click.option("--force", is_flag=True, help="Train again what the results hold already.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, train nothing.")
@click.option(
    "--top",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="Lines of the table at the end.",
)
@click.option(
    "-o",
    "--output",
    default="results.sqlite",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Results file; what it holds is not trained again.",
)
def sweep(
    *,
    bank: Path,
    names: tuple[str, ...],
    settings: tuple[str, ...],
    seeds: str,
    select_on: str | None,
    device: str,
    memory: str | None,
    precision: str | None,
    force: bool,
    dry_run: bool,
    top: int,
    output: Path,
) -> None:
    """Train every recipe on a bank in fused groups, and rank them.

    \b
    featbank sweep bank.h5 --recipe crt --recipe mislas --set lr=0.05,0.1,0.2 -o results.sqlite
    """
    from featbank.bank import Bank

    with Bank(bank) as opened:  # before the seconds it takes to import PyTorch
        from featbank.devices import find_device
        from stage2.probe import probed_views
        from stage2.requirements import check_bank
        from stage2.sweep import plan_bank
        from stage2.sweep import sweep as library_sweep

        settings += (f"precision={precision}",) if precision else ()
        recipes = parse_recipes(opened, names or _allowed(opened), settings, _seeds(seeds))
        check_bank(opened, recipes)
        place = str(find_device(device))
        budget = parse_bytes(memory) if memory else None
        groups = plan_bank(opened, recipes, device=place, memory=budget)
        configurations = len({recipe.id for recipe in recipes})
        click.echo(
            f"{configurations} configurations, {len(recipes)} runs with their seeds, "
            f"in {len(groups)} fused groups on {place}"
        )
        if probed := probed_views(opened, recipes):
            views = " and ".join(map(repr, probed))
            click.echo(
                f"{opened.path} has no stage-1 classifier for {views}: recipes that need one start "
                "from a linear probe"
            )
        for view in dict.fromkeys(view for group in groups for view in group.stream.views):
            if streamed := _streamed(opened, view, device=place, memory=budget):
                click.echo(f"{view}: {streamed} streamed from the bank in shuffled blocks")
        if dry_run:
            for group in groups:
                click.echo(f"  {_describe(group)}")
            return
        try:
            with progress("runs") as report:
                results = library_sweep(
                    opened,
                    recipes,
                    results=output,
                    device=place,
                    memory=budget,
                    select_on=select_on,
                    force=force,
                    keep_outcomes=False,
                    progress=report,
                )
        except KeyboardInterrupt:
            _stopped(opened, recipes, output)
    if results.skipped:
        click.echo(
            f"{len(results.skipped)} runs were in {output} already (--force trains them again)."
        )
    show(results.board, "table", top=top)
    click.echo(f"Wrote {output}. Next: featbank leaderboard {output} --format json")


def _stopped(bank: Bank, recipes: Sequence[Recipe], output: Path) -> NoReturn:
    """Say what the results hold, and end."""
    from stage2.results.store import Store

    with Store(output, create=True) as store:
        finished = store.finished(bank.fingerprint)
    count = sum(recipe.hash in finished for recipe in recipes)
    click.echo(
        f"featbank: stopped. {count} of {len(recipes)} runs are in {output}; the same command goes "
        "on from there.",
        err=True,
    )
    sys.exit(1)


def parse_recipes(
    bank: Bank, names: Sequence[str], settings: Sequence[str], seeds: Sequence[int]
) -> list[Recipe]:
    """The recipes `names`, over the grids of ``--set`` texts, with their views on a bank.

    Raises
    ------
    ConfigError
        For an unknown recipe, a setting that none of them takes, or a value it does not allow.
    """
    from stage2.experts import averaged
    from stage2.methods.recipe import Recipe, expand

    grids: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for text in settings:
        target, key, values = _parse_setting(text)
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


def _parse_setting(text: str) -> tuple[str, str, list[str]]:
    """``RECIPE:KEY=V1,V2`` as (recipe or empty, key, values)."""
    match = re.fullmatch(r"(?:([^:=]+):)?([^:=]+)=(.+)", text)
    if not match:
        raise ConfigError(f"--set {text} is not KEY=V1,V2. Write --set lr=0.1,0.2, for example.")
    target, key, values = match.groups()
    return target or "", key.strip(), [value.strip() for value in values.split(",")]


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(
            f"--seeds {text} is not a list of integers. Write --seeds 0,1,2."
        ) from None


def _allowed(bank: Bank) -> list[str]:
    """Every preset but the variants, less those the bank has no view or sample for."""
    from stage2.experts import resolved
    from stage2.methods.presets import PRESETS
    from stage2.methods.recipe import Recipe
    from stage2.requirements import check_bank

    allowed = []
    for name, preset in PRESETS.items():
        if preset.variant:
            continue
        try:
            check_bank(bank, resolved(bank, [Recipe(name)]))
            allowed.append(name)
        except FeatbankError as error:
            click.echo(f"Left out {name}: {error}")
    return allowed


def _streamed(bank: Bank, view: str, *, device: str, memory: int | None) -> str:
    """Splits of a view that do not fit in memory, with their sizes."""
    from stage2.views import view_budget, view_bytes

    budgets = view_budget(bank, view, device=device, memory=memory)
    return ", ".join(
        f"{split} ({view_bytes(bank, split, view) / 2**30:.2f} GiB)"
        for split, budget in budgets.items()
        if budget is not None
    )


def _describe(group: Group) -> str:
    from stage2.experts import short_name

    stream = group.stream
    heads = ", ".join(f"{len(tile.recipes)} × {tile.kind.head}" for tile in group.tiles)
    views = short_name("+".join(stream.views))
    if stream.sampler is None:
        return f"{views}: {heads} (nothing to train)"
    if not stream.epochs:
        return f"{views}, {stream.sampler}, to the optimum: {heads}"
    made = f" + {stream.generator}" if stream.generator else ""
    return (
        f"{views}, {stream.sampler}{made}, batch {stream.batch_size}, {stream.epochs} epochs of "
        f"{stream.steps} steps, seed {stream.seed}: {heads}"
    )
