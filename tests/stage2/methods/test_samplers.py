"""Index streams: structure, frequencies, determinism [METHODS §2]."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from stage2.methods.samplers import SAMPLERS, index_stream

COUNTS = {0: 50, 1: 23, 3: 9, 4: 4, 5: 3, 6: 1}  # class 2 is empty
LABELS = torch.tensor([k for k, n in COUNTS.items() for _ in range(n)])
LABELS = LABELS[torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))]
ROWS = len(LABELS)


def stream(sampler: str, **options: Any) -> Tensor:
    """A stream over `LABELS`, [epochs, steps, B]."""
    shape = {"epochs": 3, "steps": 5, "batch_size": 16, "seed": 0, **options}
    return index_stream(sampler, LABELS, **shape)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_shape_type_and_range(sampler: str) -> None:
    """Reference: [epochs, steps, B] rows 0…N−1, as the planner asks for."""
    for epochs, steps, batch_size in ((1, 1, 1), (3, 5, 16), (2, 4, 7), (2, 9, 50)):
        got = stream(sampler, epochs=epochs, steps=steps, batch_size=batch_size)
        assert got.shape == (epochs, steps, batch_size), f"got {tuple(got.shape)}"
        assert got.dtype == torch.int64, f"got {got.dtype}, expected int64"
        assert got.device.type == "cpu"
        assert int(got.min()) >= 0
        assert int(got.max()) < ROWS, f"got row {int(got.max())} of {ROWS}"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_seed_alone_decides(sampler: str) -> None:
    """Reference: the same call again, under another global seed; and other seeds."""
    first = stream(sampler)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(first, stream(sampler)), "got another stream for the same seed"
    others = [stream(sampler, seed=seed) for seed in (1, 2, 3)]
    for a, b in itertools.combinations([first, *others], 2):
        same = float((a == b).double().mean())
        assert same < 0.5, f"got {same:.0%} equal draws for two seeds"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_epochs_differ(sampler: str) -> None:
    """Reference: METHODS §2, fresh draws each epoch."""
    got = stream(sampler).flatten(1)
    for a, b in itertools.combinations(got, 2):
        assert not torch.equal(a, b), "two epochs are the same"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_empty_class_is_never_drawn_and_every_other_is(sampler: str) -> None:
    """Reference: METHODS §2; class 2 has no row, class 6 has one."""
    drawn = set(LABELS[stream(sampler, epochs=10, steps=5).flatten()].tolist())
    assert drawn == set(COUNTS), f"got classes {drawn}, expected {set(COUNTS)}"


def test_instance_is_a_permutation_per_epoch() -> None:
    """Reference: N draws are 0…N−1; fewer have no repeats; more go on with the next permutation."""
    whole = stream("instance", epochs=4, steps=ROWS, batch_size=1).flatten(1)
    for epoch in whole:
        assert sorted(epoch.tolist()) == list(range(ROWS)), "not a permutation"
    for epoch in stream("instance", epochs=3, steps=5, batch_size=16).flatten(1):
        assert len(set(epoch.tolist())) == 80, "a row came twice before others came once"
    longer = stream("instance", epochs=2, steps=25, batch_size=10).flatten(1)  # 250 of 90 rows
    for epoch in longer:
        laps = [epoch[:ROWS], epoch[ROWS : 2 * ROWS]]
        for lap in laps:
            assert sorted(lap.tolist()) == list(range(ROWS)), "not a permutation"
        assert not torch.equal(*laps), "the second lap repeats the first"
        rest = epoch[2 * ROWS :].tolist()
        assert len(set(rest)) == 70, f"got {len(set(rest))} different rows, expected 70"


def test_instance_puts_every_row_anywhere() -> None:
    """Reference: chi-square of the place of row 0 over 2000 epochs, uniform over ten tenths."""
    epochs = stream("instance", epochs=2000, steps=ROWS, batch_size=1).flatten(1)
    place = (epochs == 0).nonzero()[:, 1]
    tenths = np.bincount((place * 10 // ROWS).numpy(), minlength=10)
    p = stats.chisquare(tenths).pvalue
    assert p > 1e-3, f"got {tenths}, p = {p:.2g}"


def test_class_balanced_frequencies() -> None:
    """Reference: chi-square, classes uniform and items uniform within their class."""
    drawn = stream("class_balanced", epochs=4, steps=100, batch_size=100).flatten()
    by_class = np.array([int((LABELS[drawn] == k).sum()) for k in COUNTS])
    p = stats.chisquare(by_class).pvalue
    assert p > 1e-3, f"got {by_class} draws by class, p = {p:.2g}"
    for k in (0, 1, 3, 4, 5):
        rows = (k == LABELS).nonzero()[:, 0]
        by_item = np.bincount(drawn[LABELS[drawn] == k].numpy(), minlength=ROWS)[rows.numpy()]
        p = stats.chisquare(by_item).pvalue
        assert p > 1e-3, f"got {by_item} draws by item of class {k}, p = {p:.2g}"


def test_class_balanced_draws_with_replacement() -> None:
    """Reference: METHODS §2; consecutive draws of a class of four repeat a fourth of the time."""
    drawn = stream("class_balanced", epochs=1, steps=100, batch_size=200).flatten()
    mine = drawn[LABELS[drawn] == 4]
    again = int((mine[1:] == mine[:-1]).sum())
    p = stats.binomtest(again, len(mine) - 1, 0.25).pvalue
    assert p > 1e-3, f"got {again} repeats in {len(mine)}, expected a fourth"


def _visits(got: Tensor, per_class: int) -> Tensor:
    """Class of each visit, over all epochs; every visit must stay in its class."""
    visits = LABELS[got.flatten()].view(-1, per_class)
    assert bool((visits == visits[:, :1]).all()), "a visit draws from more than one class"
    return visits[:, 0]


@pytest.mark.parametrize("per_class", [1, 2, 4, 7])
def test_class_aware_cycles(per_class: int) -> None:
    """Reference: the released sampler's two cycles, by their definition.

    Visits go through permutations of the classes and draws of a class through permutations of its
    rows; both go on over epochs, are reshuffled, and a class smaller than a visit wraps.
    """
    got = stream(
        "class_aware",
        epochs=5,
        steps=31,  # 31 visits an epoch: no multiple of the six classes
        batch_size=per_class,
        settings={"per_class": per_class},
    )
    classes = _visits(got, per_class)
    laps = [lap.tolist() for lap in classes.split(len(COUNTS))]
    for lap in laps[:-1]:
        assert sorted(lap) == sorted(COUNTS), f"got visits {lap}, expected each class once"
    assert len(set(laps[-1])) == len(laps[-1]), f"got {laps[-1]} in the last, unfinished lap"
    assert len({tuple(lap) for lap in laps}) > 5, "the order of the classes is not reshuffled"
    flat = got.flatten()
    for k, n in COUNTS.items():
        own = (k == LABELS).nonzero()[:, 0].tolist()
        cycles = [c.tolist() for c in flat[LABELS[flat] == k].split(n)]
        for cycle in cycles[:-1]:
            assert sorted(cycle) == own, f"class {k}: got {cycle}, expected each of {own} once"
        assert len(set(cycles[-1])) == len(cycles[-1]), f"class {k}: got {cycles[-1]}"
        if len(cycles) > 6 and n > 2:
            orders = {tuple(c) for c in cycles[:-1]}
            assert len(orders) > 1, f"class {k} is not reshuffled: {orders}"


def test_class_aware_shuffles_evenly() -> None:
    """Reference: chi-square; all orders of a class of three, and all first classes of a lap."""
    got = stream("class_aware", epochs=1, steps=3000, batch_size=4).flatten()
    own = (LABELS == 5).nonzero()[:, 0].tolist()
    cycles = got[LABELS[got] == 5].split(3)[:-1]
    seen = {order: 0 for order in itertools.permutations(own)}
    for cycle in cycles:
        seen[tuple(cycle.tolist())] += 1
    p = stats.chisquare(list(seen.values())).pvalue
    assert p > 1e-3, f"got orders {seen}, p = {p:.2g}"
    first = LABELS[got][:: 4 * len(COUNTS)]
    p = stats.chisquare([int((first == k).sum()) for k in COUNTS]).pvalue
    assert p > 1e-3, f"got {first.bincount()} first classes, p = {p:.2g}"


def test_class_aware_begins_each_epoch_with_a_visit() -> None:
    """Reference: visits of 4 in epochs of 90 draws, the last visit of an epoch cut to 2."""
    got = stream("class_aware", epochs=6, steps=9, batch_size=10).flatten(1)
    for epoch in LABELS[got]:
        visits = epoch[:88].view(-1, 4)
        assert bool((visits == visits[:, :1]).all()), "visits are not four of one class"
        assert epoch[88] == epoch[89], "the cut visit is not of one class"


def test_class_aware_default_is_four_per_visit() -> None:
    """Reference: METHODS §2, per_class = 4."""
    _visits(stream("class_aware", steps=10, batch_size=16), 4)
    (setting,) = SAMPLERS["class_aware"].settings
    assert setting.default == 4, f"got {setting.default}, expected 4"


def test_class_aware_is_balanced() -> None:
    """Reference: complete laps draw every class equally often."""
    got = stream("class_aware", epochs=1, steps=40, batch_size=24)
    counts = {k: int((LABELS[got] == k).sum()) for k in COUNTS}
    assert set(counts.values()) == {160}, f"got {counts}, expected 160 each"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_class_and_one_row(sampler: str) -> None:
    """Reference: there is nothing else to draw."""
    shape = {"epochs": 2, "steps": 3, "batch_size": 5, "seed": 0}
    only = index_stream(sampler, torch.zeros(1, dtype=torch.int64), **shape)
    assert not only.any(), f"got {only}"
    one = index_stream(sampler, torch.full((7,), 3), **shape)
    assert one.shape == (2, 3, 5)
