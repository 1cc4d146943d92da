"""Index streams: structure, frequencies, determinism [METHODS §2]."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from featbank import errors
from stage2.engine.plan import BatchStream, Shape
from stage2.methods.draws import shuffled, stable_order
from stage2.methods.recipe import Recipe
from stage2.methods.samplers import SAMPLERS
from tests.stage2.synthetic import index_stream

COUNTS = {0: 50, 1: 23, 3: 9, 4: 4, 5: 3, 6: 1}  # class 2 is empty
LABELS = torch.tensor([k for k, n in COUNTS.items() for _ in range(n)])
LABELS = LABELS[torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))]
ROWS = len(LABELS)
SIZES = np.array([COUNTS.get(k, 0) for k in range(7)])  # n_k [K]
DEFERRED = [n for n, entry in SAMPLERS.items() if "defer" in {s.name for s in entry.settings}]

WEIGHTED: list[tuple[str, dict[str, Any], Callable[[float], float]]] = [
    ("sqrt", {}, lambda n: n**-0.5),
    ("power", {}, lambda n: n**-0.5),
    ("power", {"power": 1}, lambda n: 1.0),
    ("power", {"power": 0}, lambda n: 1 / n),
    ("power", {"power": 0.3}, lambda n: n**-0.7),
    ("power", {"power": -1}, lambda n: n**-2),
    ("power", {"power": 2.5}, lambda n: n**1.5),
    ("reversed", {}, lambda n: 50 / n / n),
    ("effective", {}, lambda n: 1 / sum(0.9999**i for i in range(int(n)))),
    ("effective", {"beta": 0.9}, lambda n: 1 / sum(0.9**i for i in range(int(n)))),
    ("effective", {"beta": 0}, lambda n: 1.0),
]
"""Samplers that draw with replacement: settings, and the weight of an item of a class of n, from
METHODS §2. (1−β^n)/(1−β) is the sum of β^i, i < n."""


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


def test_equal_numbers_keep_the_order_of_rows() -> None:
    """Reference: a stable sort of the same numbers; 2·10⁵ of 2²⁴ values have equal ones."""
    size, first, second = 200_000, *(torch.Generator().manual_seed(5) for _ in range(2))
    numbers = torch.rand(2, size, generator=first)
    assert len(numbers[0].unique()) < size
    assert torch.equal(shuffled(2, size, second), numbers.argsort(stable=True, dim=1))
    keys = torch.tensor([3, 2**31 - 1, 0, 3, 0])
    assert stable_order(keys).tolist() == [2, 4, 0, 3, 1]


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
    default = {s.name: s.default for s in SAMPLERS["class_aware"].settings}["per_class"]
    assert default == 4, f"got {default}, expected 4"


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


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("counts", [(3, 3), (1, 40), (1, 1), (5, 5, 5, 5)])
def test_two_classes_single_samples_and_equal_counts(sampler: str, counts: tuple[int, ...]) -> None:
    """Reference: every row is drawn in the end, also where B > N; equal counts are uniform."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    got = index_stream(sampler, labels, epochs=5, steps=40, batch_size=64, seed=0)
    drawn = torch.bincount(got.flatten(), minlength=len(labels)).numpy()
    assert drawn.min() > 0, f"got {drawn} draws by row"
    if len(set(counts)) == 1:
        p = stats.chisquare(drawn).pvalue
        assert p > 1e-3, f"got {drawn} draws by row, p = {p:.2g}"


# golden -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "digest"),
    [
        ("instance", "a92c4f8ee9e292b0"),
        ("class_aware", "6293e65d1d2dff9f"),
        ("class_balanced", "be5cafce5b76258f"),
        ("sqrt", "475d2f71bdd7349b"),
        ("power", "475d2f71bdd7349b"),
        ("progressive", "0141f0c5f70e2be0"),
        ("reversed", "9aec9a5d2f22d64b"),
        ("effective", "e1b8f9cc5ebed506"),
    ],
)
def test_a_seed_keeps_its_stream(sampler: str, digest: str) -> None:
    """Reference: SHA-256 of the streams when a sampler came; stored results name only the seed."""
    got = stream(sampler, epochs=4, steps=7, batch_size=9, seed=123).numpy().astype("<i8")
    assert hashlib.sha256(got.tobytes()).hexdigest()[:16] == digest, f"got {got[0, 0]}…"


# with replacement ---------------------------------------------------------------------------------


def _item_probabilities(weight: Callable[[float], float]) -> np.ndarray:
    """Probability of each row [N], from the weight of an item of a class of n."""
    weights = np.array([weight(float(SIZES[k])) for k in LABELS.tolist()])
    return weights / weights.sum()


def _by_class(values: np.ndarray) -> np.ndarray:
    """Sums over the rows of each class that has any."""
    return np.bincount(LABELS.numpy(), values)[SIZES > 0]


@pytest.mark.parametrize(("sampler", "settings", "weight"), WEIGHTED)
def test_frequencies(
    sampler: str, settings: dict[str, Any], weight: Callable[[float], float]
) -> None:
    """Reference: chi-square against METHODS §2, of classes, and of items within each class."""
    got = stream(sampler, epochs=4, steps=100, batch_size=200, settings=settings).flatten()
    drawn = np.bincount(got.numpy(), minlength=ROWS)
    expected = len(got) * _item_probabilities(weight)
    p = stats.chisquare(_by_class(drawn), _by_class(expected)).pvalue
    assert p > 1e-3, f"got {_by_class(drawn)}, expected {_by_class(expected)}, p = {p:.2g}"
    for k in (0, 1, 3, 4, 5):
        own = drawn[LABELS.numpy() == k]
        if own.mean() < 5:  # too few for a chi-square
            continue
        p = stats.chisquare(own).pvalue
        assert p > 1e-3, f"got {own} draws by item of class {k}, p = {p:.2g}"


@pytest.mark.parametrize(("sampler", "settings", "weight"), WEIGHTED)
def test_draws_are_independent(
    sampler: str, settings: dict[str, Any], weight: Callable[[float], float]
) -> None:
    """Reference: with replacement, a draw repeats the one before with probability Σ_i p_i²."""
    got = stream(sampler, epochs=2, steps=100, batch_size=200, settings=settings, seed=1).flatten()
    again = int((got[1:] == got[:-1]).sum())
    expected = float((_item_probabilities(weight) ** 2).sum())
    p = stats.binomtest(again, len(got) - 1, expected).pvalue
    assert p > 1e-3, f"got {again} repeats in {len(got)}, expected a share of {expected:.4f}"


@pytest.mark.parametrize(("sampler", "settings", "weight"), WEIGHTED[:1] + WEIGHTED[-4:])
def test_draws_are_those_of_a_weighted_random_sampler(
    sampler: str, settings: dict[str, Any], weight: Callable[[float], float]
) -> None:
    """Reference: PyTorch's WeightedRandomSampler on item weights; homogeneity of both samples."""
    weights = _item_probabilities(weight).tolist()
    draws = 40_000
    theirs = WeightedRandomSampler(weights, draws, generator=torch.Generator().manual_seed(5))
    ours = stream(sampler, epochs=4, steps=50, batch_size=200, settings=settings)
    table = np.array(
        [np.bincount(x, minlength=ROWS) for x in (ours.flatten().numpy(), list(theirs))]
    )
    table = table[:, table.sum(0) > 10]
    p = stats.chi2_contingency(table).pvalue
    assert p > 1e-3, f"got {table}, p = {p:.2g}"


def test_many_classes() -> None:
    """Reference: chi-square on 3,000 long-tailed classes, each drawn as its row says."""
    counts = torch.arange(3000, 0, -1) // 100 + 1
    labels = torch.arange(3000).repeat_interleave(counts)
    got = index_stream("sqrt", labels, epochs=3, steps=500, batch_size=200, seed=0)
    drawn = torch.bincount(labels[got.flatten()], minlength=3000).numpy()
    expected = np.sqrt(counts.numpy())
    p = stats.chisquare(drawn, expected * drawn.sum() / expected.sum()).pvalue
    assert p > 1e-3, f"got p = {p:.2g}"


# progressive --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ramp", "mixed"),
    [
        ("released", [0, 0.25, 0.5, 0.75, 1]),
        ("paper", [0.2, 0.4, 0.6, 0.8, 1]),
        ("released", [0, 1]),
        ("paper", [0.5, 1]),
        ("released", [0]),  # T = 1: the beginning of the ramp, as linspace(0, 1, 1)
        ("paper", [1]),
    ],
)
def test_progressive_frequencies(ramp: str, mixed: list[float]) -> None:
    """Reference: chi-square per epoch, (1−λ)·n_k/N + λ/K over classes that have rows."""
    epochs = stream(
        "progressive", epochs=len(mixed), steps=100, batch_size=200, settings={"ramp": ramp}
    ).flatten(1)
    for share, epoch in zip(mixed, epochs.numpy(), strict=True):
        drawn = np.bincount(epoch, minlength=ROWS)
        classes = (1 - share) * SIZES[SIZES > 0] / ROWS + share / len(COUNTS)
        p = stats.chisquare(_by_class(drawn), classes * len(epoch)).pvalue
        assert p > 1e-3, f"λ = {share}: got {_by_class(drawn)}, p = {p:.2g}"
        for k in (0, 1, 3, 4, 5):
            own = drawn[LABELS.numpy() == k]
            p = stats.chisquare(own).pvalue
            assert p > 1e-3, f"λ = {share}: got {own} draws by item of class {k}, p = {p:.2g}"


def test_the_ramp_of_the_paper_is_not_the_released_one() -> None:
    """Reference: t/T and (t−1)/(T−1) meet only at t = T."""
    released, paper = (
        stream("progressive", epochs=3, settings={"ramp": ramp}) for ramp in ("released", "paper")
    )
    same = [bool(torch.equal(a, b)) for a, b in zip(released, paper, strict=True)]
    assert same == [False, False, True], f"got {same}"
    assert torch.equal(stream("progressive", epochs=3), released), "the default is not as released"


# deferred re-sampling -----------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("sampler", DEFERRED)
def test_before_defer_the_batches_are_of_instance(sampler: str, copies: int) -> None:
    """Reference: the streams of `instance`, and of the sampler without it, bit by bit."""
    shape = {"epochs": 6, "steps": 8, "batch_size": 17, "seed": 4, "copies": copies}
    early, late = stream("instance", **shape), stream(sampler, **shape)
    assert not torch.equal(early[0], late[0])
    for defer in (0, 1, 4, 6, 100):
        got = stream(sampler, settings={"defer": defer}, **shape)
        assert torch.equal(got[:defer], early[:defer]), f"defer = {defer}: not as instance before"
        assert torch.equal(got[defer:], late[defer:]), f"defer = {defer}: not the sampler's after"


def test_deferring_is_exact_for_many_rows() -> None:
    """Reference: `instance` of 20,000 rows, where random keys tie and sorting has to choose."""
    labels = torch.arange(20_000) % 7
    shape: dict[str, Any] = {"epochs": 5, "steps": 40, "batch_size": 1000, "seed": 0}
    whole = index_stream("instance", labels, **shape)
    got = index_stream("sqrt", labels, settings={"defer": 2}, **shape)
    assert torch.equal(got[:2], whole[:2]), "not the batches of instance"


# distribution -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "settings", "weight"),
    [
        *WEIGHTED,
        ("instance", {}, lambda n: 1.0),
        ("class_aware", {}, lambda n: 1 / n),
        ("class_balanced", {}, lambda n: 1 / n),
    ],
)
def test_distribution_is_the_formula_and_the_long_run(
    sampler: str, settings: dict[str, Any], weight: Callable[[float], float]
) -> None:
    """Reference: METHODS §2 in float64; chi-square of a long stream."""
    got = SAMPLERS[sampler].distribution(SIZES, settings)
    assert got is not None
    assert (got.shape, got.dtype) == ((7,), np.float64)
    expected = np.array([n * weight(float(n)) if n else 0.0 for n in SIZES])
    np.testing.assert_allclose(got, expected / expected.sum(), rtol=1e-12)
    assert got[2] == 0, f"got {got[2]} for the empty class"
    assert abs(got.sum() - 1) < 1e-12, f"got a sum of {got.sum()}"
    drawn = stream(sampler, epochs=4, steps=90, batch_size=240, settings=settings, seed=2)
    by_class = np.bincount(LABELS[drawn.flatten()], minlength=7)
    present = SIZES > 0
    p = stats.chisquare(by_class[present], got[present] * drawn.numel()).pvalue
    assert p > 1e-3, f"got {by_class}, expected {got * drawn.numel()}, p = {p:.2g}"


def test_distribution_follows_counts_alone() -> None:
    """Reference: defaults where nothing is given; integer and float counts alike."""
    for sampler in SAMPLERS.values():
        first, again = (sampler.distribution(n) for n in (SIZES, SIZES.astype(np.float64)))
        if sampler.scheduled:
            assert first is again is None
        else:
            np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("sampler", DEFERRED)
def test_no_distribution_where_it_changes(sampler: str) -> None:
    """Reference: a deferred sampler has two distributions, a progressive one as many as epochs."""
    assert SAMPLERS[sampler].distribution(SIZES, {"defer": 1}) is None
    if not SAMPLERS[sampler].scheduled:
        assert SAMPLERS[sampler].distribution(SIZES, {"defer": 0}) is not None


@pytest.mark.parametrize("name", [n for n, entry in SAMPLERS.items() if not entry.scheduled])
def test_distribution_at_the_edges(name: str) -> None:
    """Reference: by hand; one class, equal counts, and counts a million apart."""
    only, equal, far = (
        SAMPLERS[name].distribution(np.array(n)) for n in ([0, 9, 0], [7] * 5, [1, 10**6, 1])
    )
    assert only is not None
    assert equal is not None
    assert far is not None
    np.testing.assert_array_equal(only, [0, 1, 0])
    np.testing.assert_allclose(equal, 0.2, rtol=1e-12)
    assert ((far > 0) & (far < 1)).all(), f"got {far}"


def test_large_exponents_stay_finite() -> None:
    """Reference: 10^6 to the 100 overflows a float; its share does not."""
    got = SAMPLERS["power"].distribution(np.array([10**6, 10**3, 0]), {"power": 100})
    assert got is not None
    np.testing.assert_allclose(got, [1, 1e-300, 0], rtol=1e-12)
    labels = torch.tensor([0] * 9 + [1] * 3 + [2])
    drawn = index_stream(
        "power", labels, epochs=2, steps=9, batch_size=9, seed=0, settings={"power": 1e4}
    )
    assert int(drawn.max()) < 9, "a class whose share vanishes was drawn"


# settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "settings", "message"),
    [
        ("instance", {"defer": 1}, "takes no setting 'defer'"),
        ("sqrt", {"power": 1.0}, "takes no setting 'power'"),
        ("sqrt", {"defer": -1}, "must be an integer ≥ 0, got -1."),
        ("power", {"power": -2}, "must be a float ≥ -1, got -2."),
        ("effective", {"beta": 1}, "must be a float ≥ 0 and < 1, got 1."),
        ("progressive", {"ramp": "linear"}, "must be one of released, paper, got 'linear'."),
    ],
)
def test_wrong_settings_are_said(sampler: str, settings: dict[str, Any], message: str) -> None:
    """Reference: STYLE, one sentence form for a bad value."""
    with pytest.raises(errors.ConfigError) as caught:
        stream(sampler, settings=settings)
    assert message in str(caught.value), f"got {caught.value}, expected {message}"
    with pytest.raises(errors.ConfigError):
        SAMPLERS[sampler].distribution(SIZES, settings)


def test_recipes_take_the_settings_of_a_sampler() -> None:
    """Reference: DESIGN; prefixed where loss and sampler share a name, and they part groups."""
    shape = Shape(rows=90, dim=4, classes=7)
    plain = Recipe("ce", sampler="effective", **{"sampler.beta": 0.99})
    assert plain.part("sampler") == {"beta": 0.99, "defer": 0}
    assert plain == Recipe("ce", sampler="effective", beta=0.99)
    both = Recipe("cb_focal", sampler="effective", **{"sampler.beta": 0.99, "loss.beta": 0.9})
    assert (both.part("sampler")["beta"], both.part("loss")["beta"]) == (0.99, 0.9)
    deferred = Recipe("ldam", sampler="effective", **{"sampler.defer": 8, "loss.defer": 5})
    assert (deferred.part("sampler")["defer"], deferred.part("loss")["defer"]) == (8, 5)
    assert len({BatchStream.of(r, shape) for r in (plain, Recipe("ce", sampler="effective"))}) == 2
    for recipe in (plain, both, deferred, *(Recipe("las", sampler=name) for name in SAMPLERS)):
        settings = dict(BatchStream.of(recipe, shape).sampler_settings)
        assert stream(recipe.settings["sampler"], settings=settings).shape == (3, 5, 16)
