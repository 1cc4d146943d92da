"""Shards of a sweep: every recipe once, the figures of one sweep, marks in the results."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from featbank import Bank, errors
from stage2.engine.halving import Halving
from stage2.executors.shards import Shard, part_of
from stage2.features.experts import resolved
from stage2.features.planning import plan_bank, unfinished, work_on
from stage2.methods.recipe import Recipe, expand
from stage2.results.merge_files import merge_files
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.conftest import Run
from tests.stage2.synthetic import problem
from tests.stage2.test_folds_parity import written

GRID = expand(
    {
        "crt": {"lr": [0.05, 0.1, 0.2], "epochs": [3], "batch_size": [16, 32]},
        "lws": {"lr": [0.1, 0.2], "epochs": [3]},
        "ncm": {},
        "tau_norm": {"tau": [0.0, 0.5, 1.0]},
    },
    seeds=(0, 1, 2),
)


def figures(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All that was measured, and the probes; without times and what derives from them."""
    columns = {
        "bank": "fingerprint, about, labels",
        "run": "bank, recipe, id, seed, parameters, status, selected_epoch, curves, traces",
        "evaluation": "bank || recipe, split, epoch, metrics, per_class, correct, details",
        "probe": "bank, probe, settings, classifier",
    }
    with closing(sqlite3.connect(path)) as database:
        return {
            table: database.execute(f"SELECT {names} FROM {table} ORDER BY 1, 2, 3").fetchall()
            for table, names in columns.items()
        }


def in_shards(
    folder: Path, banks: Sequence[Path], count: int, recipes: Sequence[Recipe], **how: Any
) -> Path:
    """The results of a sweep in shards, merged."""
    paths = []
    for number in range(1, count + 1):
        shard = Shard(number, count)
        paths.append(shard.of(folder / "s.sqlite"))
        for bank in banks:
            sweep(bank, recipes, results=paths[-1], shard=shard, **how)
    merge_files(paths, folder / "merged.sqlite")
    return folder / "merged.sqlite"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("how", [{}, {"halving": Halving(eta=2)}, {"folds": 3}])
def test_every_recipe_is_in_one_shard(bank: Bank, count: int, how: dict[str, Any]) -> None:
    """Reference: the recipes of the sweep; one partition has one digest, and with halving all seeds
    of a configuration are together."""
    wanted = resolved(bank, GRID)
    parts = [part_of(bank, wanted, Shard(i, count), **how) for i in range(1, count + 1)]
    dealt = [recipe for part in parts for recipe in part.recipes]
    assert sorted(r.hash for r in dealt) == sorted(r.hash for r in wanted)
    for part in parts:
        assert part.elsewhere == {r.hash for r in wanted} - {r.hash for r in part.recipes}
    assert len({part.mark.plan for part in parts if part.mark}) == 1
    assert sum(part.share for part in parts) == pytest.approx(1)
    if "halving" in how:
        owners: dict[str, set[int]] = {}
        for number, part in enumerate(parts):
            for recipe in part.recipes:
                owners.setdefault(recipe.id, set()).add(number)
        assert {len(numbers) for numbers in owners.values()} == {1}


def test_shards_are_balanced(bank: Bank) -> None:
    """Reference: no shard exceeds the mean by more than the largest unit."""
    recipes = expand(
        {"crt": {"lr": [0.01 * i for i in range(1, 21)], "epochs": [5, 20]}}, seeds=range(8)
    )
    work = work_on(bank)
    for count in (2, 3, 5, 8):
        groups = plan_bank(bank, recipes, memory=1 << 60, count=count)
        largest = max(map(work, groups)) / sum(map(work, groups))
        shares = [part_of(bank, recipes, Shard(i, count)).share for i in range(1, count + 1)]
        assert max(shares) <= 1 / count + largest
        assert largest <= 1 / count


def test_partition_depends_on_contents_alone(bank: Bank) -> None:
    """Reference: the recipes in another order: the same parts; another recipe, number of shards,
    search or folds: another plan."""
    wanted = resolved(bank, GRID)
    mark = part_of(bank, wanted, Shard(2, 3)).mark
    assert mark
    backwards = part_of(bank, wanted[::-1], Shard(2, 3))
    assert backwards.mark == mark
    others = [
        part_of(bank, wanted[1:], Shard(2, 3)),
        part_of(bank, wanted, Shard(2, 4)),
        part_of(bank, wanted, Shard(2, 3), halving=Halving(eta=2)),
        part_of(bank, wanted, Shard(2, 3), folds=3),
    ]
    assert len({each.mark.plan for each in others if each.mark} | {mark.plan}) == 5


@pytest.mark.parametrize("how", [{}, {"halving": Halving(eta=2)}], ids=["all", "halving"])
def test_shards_have_the_figures_of_one_sweep(tmp_path: Path, how: dict[str, Any]) -> None:
    """Reference: one sweep of two banks, to the last bit; afterwards it finds everything done."""
    banks = [tmp_path / f"{name}.h5" for name in ("a", "b")]
    for seed, path in enumerate(banks):
        problem(seed=seed).bank(path).close()
    merged = in_shards(tmp_path, banks, 3, GRID, **how)
    for path in banks:
        sweep(path, GRID, results=tmp_path / "one.sqlite", **how)
    assert figures(merged) == figures(tmp_path / "one.sqlite")
    for path in banks:
        assert not sweep(path, GRID, results=merged, **how).outcomes


def test_a_cut_group_keeps_its_tiles(bank: Bank, tmp_path: Path) -> None:
    """Reference: one sweep of a single group that has a tile for each head, to the last bit."""
    heads = ("linear", "lws", "cosine")
    recipes = [Recipe("crt", head=head, lr=lr, epochs=3) for head in heads for lr in (0.05, 0.1)]
    assert len(plan_bank(bank, recipes)) == 1
    held = [len(part_of(bank, recipes, Shard(i, 3)).recipes) for i in (1, 2, 3)]
    assert all(held), held
    merged = in_shards(tmp_path, [bank.path], 3, recipes)
    sweep(bank, recipes, results=tmp_path / "one.sqlite")
    assert figures(merged) == figures(tmp_path / "one.sqlite")


def test_what_is_left_of_a_group_keeps_its_tiles(bank: Bank) -> None:
    """Reference: the plan of the whole sweep without a tile; planned anew, the rest would be cut
    into three. Of a tile that is begun the rest is planned anew."""
    recipes = [Recipe("crt", lr=0.01 * i, epochs=3) for i in range(1, 10)]
    planned = partial(plan_bank, bank, workers=3)
    (whole,) = planned(recipes)
    first, *others = whole.tiles
    (left,) = unfinished(planned, recipes, {recipe.hash for recipe in first.recipes})
    assert left.tiles == tuple(others)
    begun = {first.recipes[0].hash}
    left, anew = unfinished(planned, recipes, begun)
    assert left.tiles == tuple(others)
    assert anew.recipes == list(first.recipes[1:])


def test_folds_are_ranked_after_the_merge(tmp_path: Path) -> None:
    """Reference: one sweep on folds: shards train the folds alone; the same sweep on the merged
    results trains the best of each recipe, and ends with the same figures."""
    bank = written(problem(val=0), tmp_path / "bank.h5")
    merged = in_shards(tmp_path, [bank], 3, GRID, folds=3)
    with Store(merged) as store:
        assert not store.finished(store.one_bank()[0]), "a shard trained on all rows"
    finals = sweep(bank, GRID, results=merged, folds=3).outcomes
    one = sweep(bank, GRID, results=tmp_path / "one.sqlite", folds=3)
    assert 0 < len(finals) < len(one.outcomes)
    assert figures(merged) == figures(tmp_path / "one.sqlite")


def test_unequal_machines_share_the_work(bank: Bank, tmp_path: Path) -> None:
    """Reference: the recipes of the sweep, each once; figures up to rounding of one sweep."""
    machines = [{"memory": 1 << 20, "workers": 1}, {"workers": 2}, {"memory": 1 << 21}]
    paths = [tmp_path / f"{i}.sqlite" for i in range(3)]
    trained = [
        outcome.recipe.hash
        for i, machine in enumerate(machines)
        for outcome in sweep(
            bank, GRID, results=paths[i], shard=Shard(i + 1, 3), **machine
        ).outcomes
    ]
    assert sorted(trained) == sorted(recipe.hash for recipe in resolved(bank, GRID))
    sweep(bank, GRID, results=tmp_path / "one.sqlite")
    both = merge_files([*paths, tmp_path / "one.sqlite"], tmp_path / "all.sqlite")
    assert both.repeated == len(trained)
    assert not both.contradictions


def test_a_shard_without_a_group(bank: Bank, tmp_path: Path) -> None:
    """Reference: one recipe in two shards: the other ends at once, and its mark says it is done."""
    swept = [
        sweep(bank, [Recipe("ncm")], results=tmp_path / f"{i}.sqlite", shard=Shard(i, 2))
        for i in (1, 2)
    ]
    assert sorted(len(each.outcomes) for each in swept) == [0, 1]
    merge_files([tmp_path / "1.sqlite", tmp_path / "2.sqlite"], tmp_path / "all.sqlite")
    assert not sweep(bank, [Recipe("ncm")], results=tmp_path / "all.sqlite").outcomes


def test_a_merge_tells_sweeps_and_gaps(bank: Bank, tmp_path: Path, featbank: Run) -> None:
    """Reference: shards of two numbers are refused in one line and joined with --any; a shard that
    is missing and one that ended early are named, and neither once both are there."""
    for shard, recipes in ((Shard(1, 3), GRID), (Shard(3, 3), GRID), (Shard(2, 4), GRID)):
        sweep(bank, recipes, results=shard.of(tmp_path / "s.sqlite"), shard=shard)
    first, third, other = (f"s.shard-{i}-of-{n}.sqlite" for i, n in ((1, 3), (3, 3), (2, 4)))
    told = featbank("merge-results", first, other, "-o", "all.sqlite", code=2).stderr
    assert "shard 2 of 4 of another sweep than shard 1 of 3" in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "all.sqlite").exists()
    featbank("merge-results", first, other, "-o", "any.sqlite", "--any")
    told = featbank("merge-results", "any.sqlite", third, "-o", "all.sqlite", code=2).stderr
    assert "another sweep" in told

    def stop(*_: int) -> None:
        raise RuntimeError("in mid-sweep")

    second: dict[str, Any] = {"results": tmp_path / "second.sqlite", "shard": Shard(2, 3)}
    with pytest.raises(RuntimeError, match="in mid-sweep"):
        sweep(bank, GRID, **second, progress=stop)
    told = featbank("merge-results", first, third, "-o", "a.sqlite").stdout
    assert "shard 2 of 3 missing" in told
    told = featbank("merge-results", "second.sqlite", "-o", "a.sqlite").stdout
    assert "shard 2 of 3 not swept to the end" in told
    sweep(bank, GRID, **second)
    told = featbank("merge-results", "second.sqlite", "-o", "a.sqlite").stdout
    assert "of 3" not in told
    told = featbank("merge-results", other, "-o", "a.sqlite", code=2).stderr
    assert "another sweep" in told


@pytest.mark.parametrize("text", ["9/8", "0/8", "1/0", "2", "a/b", "-1/2", "1/2/3", "٢/٣", ""])
def test_what_is_no_shard(text: str) -> None:
    """Reference: one line."""
    with pytest.raises(errors.ConfigError, match=r"[Ss]hard") as error:
        Shard.parse(text)
    assert len(error.value.lines) == 1
