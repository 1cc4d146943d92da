"""Filling classes up to the largest, and Tukey's ladder [METHODS §6]."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stage2.methods.generators.filling import Filling, Origins
from stage2.methods.generators.interface import Blend, Features
from stage2.methods.generators.tukey import inverse_tukey, tukey
from tests.stage2.compare import array, assert_close
from tests.stage2.methods.features import features, generator, in_order, labels_of

COUNTS = (7, 0, 4, 1, 7, 3)
"""Two largest classes, an empty one, one of a single sample."""

counts = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


class Copying(Filling):
    """Makes copies of the samples, negative, so that a made row tells its source."""

    def draw(self, x: Tensor, origins: Origins, random: torch.Generator) -> Blend | None:
        same = torch.equal(self.features.labels[origins.row], origins.y)
        assert same, "a source of another class"
        x.copy_(-origins.each(self.features.x[origins.row]))
        return None


def numbered(sizes: tuple[int, ...], copies: int = 1) -> Features:
    """Training row r is the number r + 1, [A·N, 1]."""
    labels = labels_of(sizes)
    x = torch.arange(copies * len(labels)) + 1.0
    return features(x[:, None], labels, classes=len(sizes), copies=copies)


def epoch_sources(filling: Filling, epoch: int, copies: int = 1) -> Counter[int]:
    """How often each training row is the source of a made row in an epoch drawn whole."""
    draws = torch.arange(len(filling.labels))[None]
    rows = in_order(filling.make(draws, epoch, generator()))
    made = -rows[len(filling.features.x) // copies :]
    return Counter((made.view(-1).long() - 1).tolist())


@given(counts, st.integers(1, 3))
@settings(deadline=None)
def test_classes_end_balanced(sizes: list[int], copies: int) -> None:
    """Reference: n_max rows of each class that has samples, none of the others; items first."""
    data = numbered(tuple(sizes), copies)
    labels = Copying(data).labels
    expected = [max(sizes) * (n > 0) for n in sizes]
    assert torch.bincount(labels, minlength=len(sizes)).tolist() == expected
    items = data.labels[: sum(sizes)]
    assert torch.equal(labels[: len(items)], items)


@given(counts, st.integers(1, 3), st.integers(0, 50))
@settings(deadline=None)
def test_sources_take_turns(sizes: list[int], copies: int, start: int) -> None:
    """Reference: m made rows of a class come from its s samples ⌊m/s⌋ or ⌈m/s⌉ times each, in an
    epoch and in any number of epochs one after the other.
    """
    data = numbered(tuple(sizes), copies)
    filling = Copying(data)
    total: Counter[int] = Counter()
    for epochs in range(1, 5):
        epoch = epoch_sources(filling, start + epochs - 1, copies)
        total += epoch
        for k, n in enumerate(sizes):
            rows = (data.labels == k).nonzero().view(-1).tolist()
            for used, times in ((epoch, 1), (total, epochs)):
                made = times * (max(sizes) - n) if n else 0
                got = [used[row] for row in rows]
                assert sum(got) == made, f"class {k}: {sum(got)} made rows, expected {made}"
                assert not rows or max(got) - min(got) <= 1, f"class {k}: used {got} times"


def test_epochs_begin_where_the_last_ended() -> None:
    """Reference: 4 of 5 samples are origins in an epoch, the left-out one is another each time."""
    filling = Copying(numbered((9, 5)))
    unused = []
    for epoch in range(5):
        used = epoch_sources(filling, epoch)
        unused += [
            r for r in (filling.features.labels == 1).nonzero().view(-1).tolist() if not used[r]
        ]
    assert len(unused) == len(set(unused)) == 5, f"left out in turn: {unused}"


def test_rows_do_not_depend_on_how_they_are_drawn() -> None:
    """Reference: an epoch drawn in one batch, in order; another order, shape, some rows twice."""
    filling = Copying(numbered(COUNTS))
    size = len(filling.labels)
    whole = filling.make(torch.arange(size)[None], 3, generator())
    for shape in ((1, size), (size, 1), (7, 11), (1, 1)):
        draws = torch.randint(size, shape, generator=generator(1))
        made = filling.make(draws, 3, generator())
        assert torch.equal(in_order(made), in_order(whole)[draws.view(-1)]), f"drawn as {shape}"
        assert torch.equal(made.y, filling.labels[draws.view(-1)]), f"drawn as {shape}"
        assert made.blend is None


def test_copies() -> None:
    """Reference: row a·M + i is copy a of item i, training row a·N + i; made rows have none."""
    data = numbered(COUNTS, copies=2)
    filling, items = Copying(data), sum(COUNTS)
    size = len(filling.labels)
    for copy, epoch in itertools.product((0, 1), (0, 4)):
        made = filling.make(copy * size + torch.arange(size)[None], epoch, generator())
        expected = copy * items + torch.arange(items) + 1.0
        assert torch.equal(in_order(made)[:items, 0], expected), f"copy {copy}"
        first = filling.make(torch.arange(size)[None], epoch, generator())
        assert torch.equal(in_order(made)[items:], in_order(first)[items:]), f"copy {copy}"
        assert torch.equal(made.y, filling.labels)


def test_equal_counts_make_nothing() -> None:
    """Reference: the items themselves."""
    data = numbered((4, 4, 4))
    filling = Copying(data)
    assert torch.equal(filling.labels, data.labels)
    assert torch.equal(filling.make(torch.arange(12)[None], 0, generator()).x, data.x)


def test_items_go_through_the_space() -> None:
    """Reference: `space` of the items, made rows as they are drawn."""

    class Doubled(Copying):
        def space(self, x: Tensor) -> Tensor:
            return 2 * x

    data = numbered(COUNTS)
    kept = data.x.clone()
    whole = torch.arange(len(Doubled(data).labels))[None]
    made = in_order(Doubled(data).make(whole, 0, generator()))
    plain = in_order(Copying(data).make(whole, 0, generator()))
    items = sum(COUNTS)
    assert torch.equal(made[:items], 2 * plain[:items])
    assert torch.equal(made[items:], plain[items:])
    assert torch.equal(data.x, kept), "the training features have changed"


def test_samples() -> None:
    """Reference: the training rows of a class, copies among them, by NumPy."""
    data = numbered(COUNTS, copies=2)
    for k in range(len(COUNTS)):
        expected = np.flatnonzero(data.labels.numpy() == k)
        filling = Copying(data)
        assert filling.rows(k).tolist() == expected.tolist(), f"class {k}"
        assert torch.equal(filling.samples(k), data.x[expected]), f"class {k}"


def test_blended_rows_find_their_slots() -> None:
    """Reference: made rows of class 2 depend on β, their base tells the source; no other does."""

    class Blending(Copying):
        blended = torch.arange(len(COUNTS)) == 2

        def draw(self, x: Tensor, origins: Origins, random: torch.Generator) -> Blend:
            others = int((origins.y != 2).sum())
            assert bool((origins.y[others:] == 2).all()), "class 2 is not last"
            super().draw(x, origins[:others], random)
            blend = origins[others:]
            base = -blend.each(self.features.x[blend.row])
            return Blend(base, torch.ones_like(base), blend.each(blend.y), torch.neg)

    filling, plain = Blending(numbered(COUNTS), Blending.blended), Copying(numbered(COUNTS))
    size = len(filling.labels)
    draws = torch.randint(size, (6, 9), generator=generator(2))
    made, expected = filling.make(draws, 1, generator()), plain.make(draws, 1, generator())
    assert made.blend is not None
    slot = made.rows - len(made.x)
    blended = (made.y == 2) & (draws.view(-1) >= sum(COUNTS))
    assert 0 < int(blended.sum()) == len(made.blend.base)
    assert torch.equal(slot >= 0, blended)
    assert torch.equal(made.blend.base[slot[blended]], in_order(expected)[blended])
    assert torch.equal(made.x[made.rows[~blended]], in_order(expected)[~blended])
    assert bool((made.blend.y == 2).all())


def test_spare_rows_are_seen_by_none() -> None:
    """Reference: the same without spare rows."""

    class Rounding(Copying):
        def rounded(self, origins: Origins) -> Origins:
            assert bool((origins.count > 0).all())
            return replace(origins, count=origins.count + 1 + origins.row % 3)

    filling, plain = Rounding(numbered(COUNTS, copies=2)), Copying(numbered(COUNTS, copies=2))
    draws = torch.randint(2 * len(filling.labels), (6, 9), generator=generator(2))
    made, expected = filling.make(draws, 1, generator()), plain.make(draws, 1, generator())
    assert len(made.x) > len(expected.x) == draws.numel()
    assert torch.equal(in_order(made), in_order(expected))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=9))
def test_sources(each: list[tuple[int, int]]) -> None:
    """Reference: Python's lists."""
    y, count = (torch.tensor([pair[i] for pair in sorted(each)]).long() for i in (0, 1))
    origins = Origins(y, torch.arange(len(y)), count)
    rows = [row for row, number in enumerate(count.tolist()) for _ in range(number)]
    assert origins.each(origins.row).tolist() == rows
    labels = origins.each(y).tolist()
    spans = dict(origins.classes())
    assert list(spans) == sorted(set(labels))
    for k, span in spans.items():
        assert labels[span] == [k] * labels.count(k)


POWERS = (0.25, 0.5, 1.0, 2.0)
signed = st.lists(
    st.floats(-1e6, 1e6, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6),
    min_size=1,
    max_size=20,
)


@given(signed, st.sampled_from(POWERS))
@settings(deadline=None)
def test_tukey(values: list[float], power: float) -> None:
    """Reference: sign(x)|x|^λ in float64 by NumPy, and back."""
    x = torch.tensor(values)[:, None]
    kept = x.clone()
    there = tukey(x, power)
    exact = np.asarray(values)[:, None]
    size = np.where(exact == 0, 1, np.abs(exact))
    assert_close(array(there) / size**power, np.sign(exact), 1e-6, "there")
    back = inverse_tukey(there, power)
    assert_close(array(back) / size, np.sign(exact), 2e-6, "and back")
    assert torch.equal(x, kept), "the argument has changed"


@pytest.mark.parametrize("power", POWERS)
def test_inverse_tukey_keeps_its_argument(power: float) -> None:
    """Reference: sign(x)|x|^(1/λ) in float64 by NumPy; the argument stays."""
    x = torch.tensor([[-3.0, -0.5, 0.0, 0.25, 8.0]])
    kept = x.clone()
    got = inverse_tukey(x, power)
    exact = kept.double().numpy()
    assert_close(got, np.sign(exact) * np.abs(exact) ** (1 / power), 1e-3, f"λ = {power}")
    assert torch.equal(x, kept), "the argument has changed"
