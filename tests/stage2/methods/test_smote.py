"""SMOTE against its definition in float64 [Chawla et al. 2002, as in imbalanced-learn]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from featbank import errors
from featbank.settings import resolved
from stage2.methods import neighbors
from stage2.methods.generators.interface import Features, Generation, Made
from stage2.methods.generators.smote import Smote, nearest_others
from tests.stage2.methods.features import features, generator, in_order, labels_of

COUNTS = (60, 0, 25, 8, 4, 1)


def nearest(x: np.ndarray, k: int) -> np.ndarray:
    """The k other rows nearest to each row of `x` [n, D], ties to the first, [n, min(k, n−1)]."""
    found = []
    for i, row in enumerate(x):
        others = [j for j in range(len(x)) if j != i]
        found.append(sorted(others, key=lambda j: (((row - x[j]) ** 2).sum(), j))[:k])
    return np.array(found)


def gaussian(counts: Sequence[int] = COUNTS, *, copies: int = 1, dim: int = 6) -> Features:
    """Classes of Gaussian features."""
    labels = labels_of(counts)
    x = np.random.default_rng(1).normal(0, 1, (copies * len(labels), dim))
    return features(x, labels, classes=len(counts), copies=copies)


def prepared(data: Features, k: int = 5) -> Generation:
    """SMOTE with k neighbours on these features."""
    return Smote().prepare({"k": k}, data)


def epoch(generation: Generation, number: int = 0, seed: int = 0) -> Made:
    """An epoch, drawn whole and in order."""
    return generation.make(torch.arange(len(generation.labels))[None], number, generator(seed))


def made_rows(data: Features, k: int, epochs: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """By class with made rows: its samples [n, D] and the made rows [epochs, n_max − n, D]."""
    generation, items = prepared(data, k), len(data.labels) // data.copies
    rows = [in_order(epoch(generation, t, seed=t)).double().numpy() for t in range(epochs)]
    found = {}
    for y in generation.labels[items:].unique().tolist():
        own = (generation.labels == y).numpy()
        own[:items] = False
        samples = data.x[data.labels == y].double().numpy()
        found[y] = samples, np.stack([drawn[own] for drawn in rows])
    return found


@pytest.mark.parametrize(("k", "copies"), [(1, 1), (5, 1), (24, 1), (100, 1), (5, 2)])
def test_rows_lie_towards_neighbours(k: int, copies: int) -> None:
    """Reference: made row r of epoch t is x + u(x' − x), x the sample r + t·(n_max − n) modulo n,
    x' each of its k nearest as often (χ²), u uniform on [0, 1) (Kolmogorov–Smirnov, SciPy).
    """
    data, epochs = gaussian(copies=copies), 20
    classes = made_rows(data, k, epochs)
    assert list(classes) == [2, 3, 4, 5]
    for y, (samples, made) in classes.items():
        if len(samples) == 1:
            continue
        near, along, ranks = nearest(samples, k), [], []
        for row, x in enumerate(made.reshape(-1, samples.shape[1])):
            source = row % len(samples)
            step = samples[near[source]] - samples[source]
            u = ((x - samples[source]) * step).sum(1) / (step**2).sum(1)
            away = np.abs(samples[source] + u[:, None] * step - x).max(1)
            rank = int(away.argmin())
            assert away[rank] < 1e-5, f"class {y}, row {row}: {away[rank]:.3g} from all segments"
            along.append(u[rank])
            ranks.append(rank)
        assert -1e-5 < min(along) <= max(along) < 1 + 1e-5
        told = f"class {y}, {len(along)} rows"
        assert stats.kstest(along, "uniform").pvalue > 1e-3, f"{told}: u is not uniform"
        often = np.bincount(ranks, minlength=near.shape[1])
        assert len(often) == min(k, len(samples) - 1)
        evenly = len(often) == 1 or stats.chisquare(often).pvalue > 1e-3
        assert evenly, f"{told}: neighbours drawn {often} times"


def test_sources_are_spread_evenly() -> None:
    """Reference: of samples 0, 1, 3, 7, 15 the nearest is the one before, so a row between two
    tells its source; 17 rows an epoch are ⌊17/5⌋ or ⌈17/5⌉ of each, and in 5 epochs 17 of each.
    """
    line = [0.0, 1.0, 3.0, 7.0, 15.0]
    x = np.array([line + [100.0] * 22]).T
    _, made = made_rows(features(x, [0] * 5 + [1] * 22), 1, 5)[0]
    often = np.array([np.histogram(rows, line)[0] for rows in made])  # 0 and 1 share a segment
    assert often[:, 1:].min() >= 3
    assert often[:, 1:].max() <= 4
    assert often.sum(0).tolist() == [34, 17, 17, 17]


def test_a_single_sample_is_repeated() -> None:
    """Reference: the sample."""
    samples, made = made_rows(gaussian(), 5, 2)[5]
    assert made.shape == (2, 59, 6)
    assert np.array_equal(made, np.broadcast_to(samples, made.shape))


def test_two_copies_of_a_single_sample_are_neighbours() -> None:
    """Reference: rows between copy 0 and copy 1."""
    samples, made = made_rows(gaussian(copies=2), 5, 1)[5]
    u = (made[0] - samples[0]) / (samples[1] - samples[0])
    assert np.ptp(u, axis=1).max() < 1e-4
    assert u.min() >= -1e-5
    assert u.max() <= 1 + 1e-5
    assert np.ptp(u) > 0.9


def test_duplicates_are_neighbours() -> None:
    """Reference: a sample among k duplicates of itself is repeated; one alone goes towards them."""
    x = np.array([[0.0]] * 10 + [[8.0]] + [[50.0]] * 121)
    _, made = made_rows(features(x, [0] * 11 + [1] * 121), 3, 1)[0]
    zeros = made[0] == 0
    assert int(zeros.sum()) == 100
    assert ((made[0][~zeros] > 0) & (made[0][~zeros] <= 8)).all()


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=n)
    ),
    st.integers(1, 8),
)
@settings(deadline=None)
def test_nearest_others(points: list[list[int]], k: int) -> None:
    """Reference: all other rows sorted by exact distance, then index; with duplicates."""
    got = nearest_others(torch.tensor(points).float(), k)
    expected = nearest(np.array(points), k).tolist() if len(points) > 1 else [[0]]
    assert got.tolist() == expected


def test_only_filled_classes_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the sizes of the classes with rows to make; k others and the sample itself."""
    asked = []
    search = neighbors.search

    def noted(queries: Tensor, keys: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
        asked.append((len(queries), len(keys), k, metric))
        return search(queries, keys, k, metric)

    monkeypatch.setattr(neighbors, "search", noted)
    prepared(gaussian(), 5)
    assert asked == [(n, n, 6, "l2") for n in (25, 8, 4, 1)]
    asked.clear()
    data = gaussian((3, 3, 3))
    assert torch.equal(in_order(epoch(prepared(data))), data.x)
    assert asked == []


def test_the_random_state_tells_the_rows() -> None:
    """Reference: the same generator state; another state; whatever the global state is."""
    generation = prepared(gaussian())
    torch.manual_seed(1)
    once = epoch(generation, seed=3).x
    torch.manual_seed(2)
    assert torch.equal(epoch(prepared(gaussian()), seed=3).x, once)
    assert not torch.equal(epoch(generation, seed=4).x, once)


def test_settings() -> None:
    """Reference: k = 5 as Chawla et al.; one neighbour at least."""
    assert resolved(Smote.settings, {}, "generator 'smote'") == {"k": 5}
    with pytest.raises(
        errors.ConfigError, match="The 'k' of generator 'smote' must be an integer ≥ 1"
    ):
        resolved(Smote.settings, {"k": 0}, "generator 'smote'")
