"""Streams drawn in pieces: the draws of one call each, in the memory of an epoch."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stage2.methods import draws
from stage2.methods.samplers import SAMPLERS, index_stream


def _labels(counts: list[int]) -> Tensor:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


LABELS = [
    _labels([50, 23, 0, 9, 4, 3, 1]),
    _labels([int(300 * 0.97**k) + (k % 3 == 0) for k in range(90)]),
    _labels([1] * 37),
    _labels([11]),
]
SHAPES = [(1, 1, 1), (3, 5, 16), (7, 31, 13), (13, 17, 51)]
"""Epochs, steps, batch size."""

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "class_aware": [{}, {"per_class": 1}, {"per_class": 3}, {"per_class": 50}],
    "progressive": [{}, {"ramp": "paper"}],
    "power": [{}, {"power": -0.5}],
    "effective": [{}, {"beta": 0.9}],
}

DRAWN = {
    "instance": "ba4f58aa11cd201d",
    "class_aware": "cf14540b19adae3b",
    "class_balanced": "47481251c524dfd1",
    "sqrt": "7653c89fec393917",
    "power": "cc501637d1c80dd9",
    "progressive": "e069a8bc25229bc2",
    "reversed": "dc01deee7e4f159f",
    "effective": "0a1e008e0f820568",
}
"""SHA-256 of all streams of a sampler by the code that drew all epochs in one call, at c583058."""


def _digest(sampler: str) -> str:
    digest = hashlib.sha256()
    deferred = any(setting.name == "defer" for setting in SAMPLERS[sampler].settings)
    for labels, shape, seed, copies, settings, defer in itertools.product(
        LABELS, SHAPES, (0, 123), (1, 3), SETTINGS.get(sampler, [{}]), (0, 2) if deferred else (0,)
    ):
        epochs, steps, batch_size = shape
        stream = index_stream(
            sampler,
            labels,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            copies=copies,
            settings=settings | ({"defer": defer} if defer else {}),
        )
        for epoch in stream:
            digest.update(epoch.contiguous().numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("sizes", [None, (241, 1200, 3)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pieces_change_no_draw(
    sampler: str, sizes: tuple[int, int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: digests of the draws made in one call, for pieces of several sizes."""
    for name, size in zip(("PIECE", "HELD", "STATES"), sizes or (), strict=False):
        monkeypatch.setattr(draws, name, size)
    got = _digest(sampler)
    assert got == DRAWN[sampler], f"got {got}"


MAKERS: list[Callable[[int, torch.Generator], Tensor]] = [
    lambda size, generator: torch.rand(size, generator=generator),
    lambda size, generator: torch.rand(size, generator=generator, dtype=torch.float64),
    lambda size, generator: torch.randint(1, (size,), generator=generator),
    lambda size, generator: torch.randint(21_841, (size,), generator=generator),
    lambda size, generator: torch.randint(2**31, (size,), generator=generator),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("total", [1, 15, 17, 1000, 65_537])
def test_one_call_is_many(make: Callable[[int, torch.Generator], Tensor], total: int) -> None:
    """Reference: one call, and the generator's state behind it; pieces of odd sizes."""
    one, many = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    expected = make(total, one)
    for piece in (1, 3, 16, 17, 999, 4096):
        if total > 2000 * piece:
            continue
        many.manual_seed(5)
        parts = [make(min(piece, total - start), many) for start in range(0, total, piece)]
        assert torch.equal(torch.cat(parts), expected), f"pieces of {piece}"
        assert torch.equal(many.get_state(), one.get_state()), f"pieces of {piece}"


@pytest.mark.parametrize(("piece", "states"), [(1000, 1000), (64, 1000), (10, 4)])
def test_numbers_are_read_in_any_order(
    piece: int, states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: one call; ranges within blocks, over several, empty, again and backwards."""
    monkeypatch.setattr(draws, "PIECE", piece)
    monkeypatch.setattr(draws, "STATES", states)
    expected = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers = draws.Numbers(500, torch.Generator().manual_seed(1))
    for starts, sizes in (
        ([300, 410], [5, 90]),
        ([0, 63, 200, 499], [3, 2, 0, 1]),
        ([0], [500]),
        ([10], [0]),
        ([128], [64]),
    ):
        got = numbers.read(torch.tensor(starts), torch.tensor(sizes))
        parts = [expected[a : a + n] for a, n in zip(starts, sizes, strict=True)]
        assert torch.equal(got, torch.cat(parts)), f"ranges {starts}, {sizes}"


class _Largest(TorchDispatchMode):
    """Numbers of the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        tensors = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        self.largest = max(self.largest, *(t.untyped_storage().nbytes() // 8 for t in tensors), 0)
        return made


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_memory_is_that_of_an_epoch(
    sampler: str, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the rows and the draws of an epoch; all epochs would be twenty times these."""
    monkeypatch.setattr(draws, "PIECE", 64)
    monkeypatch.setattr(draws, "HELD", 512)
    labels = LABELS[0]
    with _Largest() as seen:
        for _ in index_stream(
            sampler, labels, epochs=40, steps=10, batch_size=50, seed=0, copies=copies
        ):
            pass
    generator = 5056 // 8 + 1  # a state, bytes
    assert seen.largest <= max(generator, 6 * len(labels), 2 * 500), f"got {seen.largest}"


def test_equal_keys_stay_in_order() -> None:
    """Reference: a stable sort; two rows with one random number are not left to the processor."""
    keys = torch.tensor([0.5, 0.25, 0.5, 0.25, 0.0] * 200, dtype=torch.float64)
    assert torch.equal(draws.ascending(keys), keys.argsort(stable=True))


@pytest.mark.parametrize("size", [1, 2, 1000, 70_000])
def test_keys_that_differ_in_their_last_bits_are_sorted(size: int) -> None:
    """Reference: a stable sort; keys of a few windows that agree in all bits but the last ones, or
    in these as well, between keys that are far apart. Indices and keys share 63 bits."""
    random = torch.Generator().manual_seed(size)
    near = torch.randint(3, (size,), generator=random).double() * 2.0**-48 + 0.25
    far = torch.rand(size, generator=random, dtype=torch.float64)
    keys = torch.where(torch.rand(size, generator=random) < 0.3, near, far)
    keys += torch.randint(20, (size,), generator=random)
    assert keys.dtype == torch.float64
    assert torch.equal(draws.ascending(keys), keys.argsort(stable=True))
    assert draws.ascending(keys[:0]).tolist() == []
    assert draws.ascending(keys.mul(0)).tolist() == list(range(size))


def test_a_row_number_takes_four_bytes() -> None:
    """Reference: int32 below 2³¹ rows; the stream itself is int64."""
    assert draws._by_class(LABELS[0])[2].dtype == torch.int32
    (epoch,) = index_stream("sqrt", LABELS[0], epochs=1, steps=2, batch_size=3, seed=0)
    assert epoch.dtype == torch.int64
