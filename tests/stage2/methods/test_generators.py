"""Generators that draw from Gaussians, against plain float64 formulas [METHODS §6].

Moments are those of 10⁵ draws of one made row: no entry of their mean and covariance is further
from the reference than 5.5 of its own standard errors, as by chance one entry in 26 million is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize

from featbank import errors
from featbank.settings import wrong_values
from stage2.benchmark import find_workload
from stage2.methods.generators import GENERATORS, Features, Generation, Made, calibrated
from stage2.methods.generators.calibrated import Calibrated
from stage2.methods.generators.tukey import inverse_tukey, tukey
from tests.stage2.compare import array, assert_close
from tests.stage2.methods import generator_reference as reference
from tests.stage2.methods.generator_reference import Gaussian, moments

GAUSSIAN = ("afg", "dc", "tailcalib", "gaussian")
COUNTS = (60, 40, 25, 12, 4, 1)
"""Training counts [K]; from 12 on they are tail."""

DRAWS = 100_000
BETAS = (0.0, 0.3, 0.6, 1.0)
STANDARD_ERRORS = 5.5
ROUNDING = 1e-5
"""What float32 may add, as a part of the largest entry."""


@dataclass(frozen=True)
class Data:
    """Training features `x` [A·N, D] float32 and labels `y` [A·N] of K classes in A copies."""

    x: np.ndarray
    y: np.ndarray
    classes: int
    copies: int = 1

    @property
    def items(self) -> np.ndarray:
        """Labels of the items [N]."""
        return self.y[: len(self.y) // self.copies]

    @property
    def counts(self) -> np.ndarray:
        """Items of each class [K]."""
        return np.bincount(self.items, minlength=self.classes)

    def features(self, device: str = "cpu") -> Features:
        """As a generator takes them."""
        x, y = torch.from_numpy(self.x).to(device), torch.from_numpy(self.y).to(device)
        return Features(x, y, self.copies, self.counts.astype(np.float64))

    def made(self, k: int, r: int) -> int:
        """The row of an epoch that is made row r of class k."""
        missing = np.where(self.counts > 0, self.counts.max() - self.counts, 0)
        assert r < missing[k], f"class {k} has {missing[k]} made rows"
        return len(self.items) + int(missing[:k].sum()) + r

    def source(self, k: int, r: int, epoch: int = 0) -> int:
        """The training row it comes from."""
        rows = np.flatnonzero(self.y == k)
        return int(rows[(r + epoch * (self.counts.max() - self.counts[k])) % len(rows)])


def data(
    counts: Sequence[int] = COUNTS,
    dim: int = 16,
    *,
    copies: int = 1,
    offset: float = 0.0,
) -> Data:
    """Shuffled classes of features of either sign, each with a covariance of its own size."""
    rng = np.random.default_rng(0)
    y = np.tile(rng.permutation(np.repeat(np.arange(len(counts)), counts)), copies)
    means = rng.normal(offset, 2, (len(counts), dim))
    sizes = rng.uniform(0.3, 3, len(counts)) * dim**-0.5
    mixes = sizes[:, None, None] * rng.normal(size=(len(counts), dim, dim))
    x = np.array([means[k] + mixes[k] @ rng.normal(size=dim) for k in y])
    return Data(x.astype(np.float32), y, len(counts), copies)


def by_class(*classes: ArrayLike) -> Data:
    """Classes of these rows."""
    rows = [np.asarray(some, np.float32) for some in classes]
    return Data(np.concatenate(rows), np.repeat(np.arange(len(rows)), [*map(len, rows)]), len(rows))


def full(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a generator, those `given` over the defaults."""
    settings = {s.name: s.default for s in GENERATORS[name].settings}
    assert set(given) <= set(settings), f"{name} takes {[*settings]}, not {[*given]}"
    return {**settings, **given}


def prepared(name: str, of: Data, *, device: str = "cpu", **given: Any) -> Generation:
    """A generator on training features; that few classes can lend is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GENERATORS[name].prepare(full(name, given), of.features(device))


def unfinished(generation: Generation) -> Generation:
    """The same, whose calibrated rows stay in the space they are drawn in."""
    assert isinstance(generation, Calibrated)
    generation.spaces = replace(generation.spaces, finish=lambda x: x)
    return generation


def draw(
    generation: Generation, rows: Sequence[int] | np.ndarray, *, epoch: int = 0, seed: int = 0
) -> Made:
    """Rows of an epoch, in one batch."""
    device = generation.labels.device
    draws = torch.as_tensor(np.asarray(rows), device=device)[None]
    return generation.make(draws, epoch, torch.Generator(device).manual_seed(seed))


def seen(made: Made, beta: float = 0.0) -> Tensor:
    """Rows [R, D] as a head with this β for all classes sees them."""
    x, blend = made.x, made.blend
    if blend is not None:
        x = torch.cat([x, blend.finish(blend.base + beta * blend.direction)])
    x = x[made.rows]
    return x


def assert_moments(rows: Tensor, expected: Gaussian, what: str) -> None:
    """Mean and covariance of rows [R, D] are the expected ones within their sampling error."""
    got = moments(array(rows))
    variance = np.diag(expected.covariance)
    error = np.sqrt(variance / len(rows))
    _assert_within(got.mean, expected.mean, error, f"mean of {what}")
    # S_ij of R Gaussian rows has the variance (Σ_ii Σ_jj + Σ_ij²)/(R − 1)
    error = np.sqrt((np.outer(variance, variance) + expected.covariance**2) / (len(rows) - 1))
    _assert_within(got.covariance, expected.covariance, error, f"covariance of {what}")


def _assert_within(got: np.ndarray, expected: np.ndarray, error: np.ndarray, what: str) -> None:
    excess = np.abs(got - expected) - STANDARD_ERRORS * error - ROUNDING * np.abs(expected).max()
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert excess[worst] <= 0, (
        f"{what}: entry {worst} is {got[worst]:.6g}, expected {expected[worst]:.6g} with a "
        f"standard error of {error[worst]:.2g}"
    )


@pytest.mark.parametrize("power", [0.1, 0.25, 0.5, 0.9, 1.0, 2.0])
def test_tukey_and_back(power: float) -> None:
    """Reference: sign(x)|x|^λ by NumPy in float64, and T⁻¹(T(x)) = x, for 0 and either sign."""
    sizes = np.geomspace(1e-3, 1e3, 50)
    x = np.concatenate([-sizes, [0.0], sizes]).astype(np.float32)
    given = torch.from_numpy(x.copy())
    there = tukey(given, power)
    expected = reference.tukey(x.astype(np.float64), power)
    np.testing.assert_allclose(array(there), expected, rtol=2e-6, err_msg=f"λ = {power}")
    back = array(inverse_tukey(there, power))
    np.testing.assert_allclose(back, x, rtol=2e-5, err_msg=f"λ = {power}")
    assert_close(given, x, 0, "the features that were given")


# The made rows [class, which] of training features by their shape: n ≥ D and n < D among classes
# that lend and are lent to, single samples, ties in number, empty classes.
SHAPES: dict[str, tuple[Data, Sequence[tuple[int, int]]]] = {
    "usual": (data(), [(3, 2), (4, 5), (5, 1)]),
    "wide": (data((30, 24, 21, 12, 4, 1), 32), [(3, 2), (5, 0)]),
    "narrow": (data(dim=3), [(3, 2), (4, 1)]),
    "one feature": (data(dim=1), [(3, 2), (5, 0)]),
    "two classes": (data((30, 4), 5), [(1, 3)]),
    "ties": (data((60, 12, 25, 12, 0, 12), 8), [(1, 0), (3, 1), (5, 2)]),
    "empty": (data((0, 60, 0, 5, 15), 8), [(3, 1), (4, 0)]),
    "copies": (data((60, 40, 12, 3, 1), 6, copies=3), [(2, 30), (3, 5), (4, 2)]),
    "far": (data(dim=8, offset=300.0), [(3, 2), (4, 1)]),
    "constant": (by_class([[1.0, -2]] * 30, [[0.5, 1]] * 25, [[0, 1], [1, -1]]), [(2, 1)]),
}
EVERYWHERE: list[tuple[str, dict[str, Any]]] = [("afg", {}), ("dc", {}), ("tailcalib", {})]
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("afg", {"support": 1}),
    ("afg", {"support": 10}),
    ("afg", {"tukey": 1.0, "gamma": 0.0}),
    ("afg", {"tukey": 0.2}),
    ("afg", {"gamma_form": "full"}),
    ("afg", {"statistics": "tukey"}),
    ("afg", {"output_space": "tukey"}),
    ("afg", {"statistics": "tukey", "output_space": "tukey", "gamma_form": "full", "gamma": 2.0}),
    ("dc", {"support": 1, "alpha": 0.0}),
    ("dc", {"support": 10, "tukey": 0.9}),
    ("dc", {"statistics": "tukey", "output_space": "raw"}),
    ("tailcalib", {"support": 3, "alpha": 0.01}),
    ("tailcalib", {"support": 10, "tukey": 0.5}),
]
CASES = [
    *((name, given, shape) for name, given in EVERYWHERE for shape in SHAPES),
    *((name, given, "usual") for name, given in SETTINGS),
    ("afg", {"tukey": 1.0}, "far"),
]
KEPT = [*((*case, True) for case in CASES), *((*case, False) for case in CASES[::3])]
"""A third of the cases without what is kept: every shape by one generator."""


@pytest.mark.parametrize(("name", "given", "shape", "kept"), KEPT)
def test_calibrated_moments(
    name: str, given: dict[str, Any], shape: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: calibrated mean and covariance of the source, before draws leave their space;
    with what is lent kept by source, and from the samples of the lenders."""
    if not kept:
        monkeypatch.setattr(calibrated, "KEPT_BYTES", 0)
    of, rows = SHAPES[shape]
    assert_calibrated(name, given, of, rows)


def test_calibrated_moments_of_medium_classes() -> None:
    """Reference: the same; ``tail`` decides which classes are calibrated, tailcalib has all."""
    for name in ("afg", "dc"):
        assert_calibrated(name, {"tail": "medium+few"}, data(), [(1, 3), (2, 30), (4, 5)])
    assert_calibrated("tailcalib", {}, data(), [(1, 3), (2, 30)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", ["usual", "wide", "copies"])
@pytest.mark.parametrize("name", ["afg", "dc", "tailcalib"])
def test_calibrated_moments_on_a_gpu(name: str, shape: str) -> None:
    """Reference: the same."""
    of, rows = SHAPES[shape]
    assert_calibrated(name, {}, of, rows, "cuda")


def assert_calibrated(
    name: str,
    given: Mapping[str, Any],
    of: Data,
    rows: Sequence[tuple[int, int]],
    device: str = "cpu",
) -> None:
    """The made rows [class, which] have the moments of their reference."""
    generation = unfinished(prepared(name, of, device=device, **given))
    settings, x = full(name, given), of.x.astype(np.float64)
    for k, r in rows:
        made = draw(generation, np.full(DRAWS, of.made(k, r)))
        assert (made.blend is not None) == (name == "afg")
        for beta in BETAS if name == "afg" else [0.0]:
            expected = reference.calibrated(name, settings, x, of.y, of.source(k, r), beta)
            assert_moments(
                seen(made, beta), expected, f"{name} {dict(given)}, class {k}, β = {beta}"
            )


@pytest.mark.parametrize(
    ("name", "given", "dim"),
    [
        ("gaussian", {}, 5),
        ("gaussian", {}, 50),
        *(
            (name, {"statistics": s, "output_space": o}, dim)
            for name in ("afg", "dc")
            for s in ("raw", "tukey")
            for o in ("raw", "tukey")
            for dim in ((5, 50) if s == o == "raw" else (5,))
        ),
    ],
)
def test_other_classes_are_drawn_from_their_own_gaussian(
    name: str, given: dict[str, str], dim: int
) -> None:
    """Reference: N(μ_k, Σ_k) in the space of the statistics, seen in that of the output."""
    assert_own(name, given, dim)


def assert_own(name: str, given: Mapping[str, str], dim: int, device: str = "cpu") -> None:
    """The made rows of classes that are not calibrated have the moments of their own samples."""
    of = data(dim=dim)
    generation = prepared(name, of, device=device, **given)
    statistics, output = (given.get(key, "raw") for key in ("statistics", "output_space"))
    x = of.x.astype(np.float64)
    x = reference.tukey(x, 0.5) if statistics == "tukey" else x
    for k in (1, 2) if name != "gaussian" else (1, 2, 3, 4, 5):
        made = draw(generation, np.full(DRAWS, of.made(k, 1)))
        rows = array(seen(made, beta=0.6))
        if output != statistics:
            rows = reference.tukey(rows, 0.5 if statistics == "tukey" else 2.0)
        assert_moments(torch.from_numpy(rows), moments(x[of.y == k]), f"{name} {given}, class {k}")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        (name, {"output_space": space, "tukey": power})
        for name in ("afg", "dc")
        for space in ("raw", "tukey")
        for power in (0.5, 0.8)
    ],
)
def test_calibrated_rows_leave_tukey_space(name: str, given: dict[str, Any]) -> None:
    """Reference: the same draws before, through sign(t)|t|^(1/λ) where heads see raw features."""
    of = data()
    rows = [of.made(k, r) for k, r in ((3, 1), (4, 0), (5, 30))]
    before = array(seen(draw(unfinished(prepared(name, of, **given)), rows), beta=0.6))
    got = seen(draw(prepared(name, of, **given), rows), beta=0.6)
    raw = given["output_space"] == "raw"
    expected = reference.tukey(before, 1 / given["tukey"]) if raw else before
    np.testing.assert_allclose(array(got), expected, rtol=1e-5, err_msg=f"{name}, {given}")
    assert (array(got) < 0).any(), "no signed features to test with"


def test_tailcalib_heads_see_rows_of_length_one() -> None:
    """Reference: the same draws before, over their length; real and val rows likewise."""
    of = data()
    rows = [of.made(k, r) for k, r in ((1, 3), (3, 1), (5, 30))]
    before = seen(draw(unfinished(prepared("tailcalib", of)), rows))
    generation = prepared("tailcalib", of)
    assert_close(seen(draw(generation, rows)), normalize(before, dim=1), 1e-6, "made rows")
    expected = reference.normalised(reference.tukey(reference.normalised(of.x), 0.9))
    items = np.arange(len(of.items))
    assert_close(seen(draw(generation, items)), expected, 1e-6, "real rows")
    assert_close(generation.space(torch.from_numpy(of.x)), expected, 1e-6, "val rows")


@pytest.mark.parametrize(
    ("name", "given"),
    [("gaussian", {})]
    + [(name, {"output_space": space}) for name in ("afg", "dc") for space in ("raw", "tukey")],
)
def test_real_rows_are_those_of_their_copy(name: str, given: dict[str, str]) -> None:
    """Reference: the features, or T of them where heads see Tukey space; val rows likewise."""
    of = data((30, 9, 2, 1), 5, copies=3)
    generation = prepared(name, of, **given)
    moved = given.get("output_space") == "tukey"
    assert GENERATORS[name].moves_features(full(name, given)) == moved
    x = of.x.astype(np.float64)
    expected = reference.tukey(x, 0.5) if moved else x
    item, copy = np.tile(np.arange(42), 3), np.repeat(np.arange(3), 42)
    order = np.random.default_rng(0).permutation(len(item))
    made = draw(generation, (copy * len(generation.labels) + item)[order])
    assert_close(seen(made), expected[(copy * 42 + item)[order]], 1e-6, name)
    assert_close(made.y, of.y[order], 0, "labels")
    assert made.blend is None or not len(made.blend.base), "real rows have no β"
    assert_close(generation.space(torch.from_numpy(of.x)), expected, 1e-6, "val rows")


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize(
    "counts", [COUNTS, (30, 4), (7, 7, 7), (0, 9, 0, 3), (1, 1), (5,), (3, 120, 1)]
)
def test_every_class_is_filled_up(name: str, counts: tuple[int, ...]) -> None:
    """Reference: n_max rows an epoch of every class that has any, the items first."""
    of = data(counts, 4, copies=2)
    generation = prepared(name, of)
    expected = np.where(np.array(counts) > 0, max(counts), 0)
    assert_close(
        np.bincount(array(generation.labels).astype(int), minlength=len(counts)), expected, 0
    )
    assert_close(generation.labels[: sum(counts)], of.items, 0, "labels of the items")
    rows = np.arange(2 * len(generation.labels))
    made = draw(generation, rows)
    assert_close(made.y, array(generation.labels)[rows % len(generation.labels)], 0, "labels")
    assert bool(seen(made, 0.6).isfinite().all()), "rows that are not finite"


def test_made_rows_are_spread_evenly_over_the_samples() -> None:
    """Reference: with β = 1, γ = 0 and classes of equal rows a draw is Σω_jμ_j of its source.

    No sample has two rows more than another, and what does not divide goes round from epoch to
    epoch.
    """
    tail = [[0.0, 1], [4, 1], [9, -4], [-4, 9], [1, 16], [16, 25]]
    of = by_class([[3.0, -2]] * 20, [[-1, 4]] * 14, tail)
    generation = prepared("afg", of, gamma=0.0)
    settings, x = full("afg", {"gamma": 0.0}), of.x.astype(np.float64)
    each = [reference.afg(settings, x, of.y, 34 + i, 1.0).mean for i in range(6)]
    expected_used = np.zeros(6)
    for epoch in range(3):
        made = draw(generation, [of.made(2, r) for r in range(14)], epoch=epoch)
        assert made.blend is not None
        got = array(made.blend.base + made.blend.direction)[made.rows.numpy() - len(made.x)]
        away = np.abs(got[:, None] - np.array(each)).max(2)  # [14, 6]
        assert away.min(1).max() < 1e-5, f"rows of no source: {got}"
        assert (np.sort(away, 1)[:, 1] > 1e-3).all(), "two sources cannot be told apart"
        sources = away.argmin(1)
        assert_close(34 + sources, [of.source(2, r, epoch) for r in range(14)], 0, f"{epoch}")
        used = np.bincount(sources, minlength=6)
        assert used.max() - used.min() <= 1, f"epoch {epoch} uses samples {used} times"
        expected_used += used
    assert_close(expected_used, np.full(6, 7.0), 0, "uses of each sample in three epochs")


@pytest.mark.parametrize("name", GAUSSIAN)
def test_draws_are_normal(name: str) -> None:
    """Reference: SciPy's Kolmogorov–Smirnov test along random directions, few samples lending."""
    of = data((8, 6, 4, 3), 12)
    generation = prepared(name, of) if name == "gaussian" else unfinished(prepared(name, of))
    settings, x = full(name, {}), of.x.astype(np.float64)
    made = draw(generation, np.full(DRAWS, of.made(3, 1)))
    rng = np.random.default_rng(1)
    for beta in (0.0, 0.6, 1.0) if name == "afg" else [0.0]:
        if name == "gaussian":
            expected = moments(x[of.y == 3])
        else:
            expected = reference.calibrated(name, settings, x, of.y, of.source(3, 1), beta)
        for direction in rng.normal(size=(4, 12)):
            sigma = np.sqrt(direction @ expected.covariance @ direction)
            along = (array(seen(made, beta)) - expected.mean) @ direction / sigma
            p = stats.kstest(along, "norm").pvalue
            assert p > 1e-4, f"{name}, β = {beta}: p = {p:.2g}"


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("pair", [((4, 0), (4, 1)), ((4, 0), (4, 0)), ((4, 0), (3, 2))])
def test_draws_are_independent(name: str, pair: tuple[tuple[int, int], ...]) -> None:
    """Reference: a covariance of 0 within its sampling error, between samples of a class, draws of
    one sample and samples of two classes."""
    of = data(dim=6)
    generation = prepared(name, of) if name == "gaussian" else unfinished(prepared(name, of))
    first, second = (of.made(k, r) for k, r in pair)
    made = draw(generation, np.tile([first, second], DRAWS))
    for beta in (0.0, 1.0) if name == "afg" else [0.0]:
        a, b = array(seen(made, beta)).reshape(DRAWS, 2, 6).transpose(1, 0, 2)
        a, b = a - a.mean(0), b - b.mean(0)
        error = np.outer(a.std(0), b.std(0)) / np.sqrt(DRAWS)
        worst = np.abs(a.T @ b / DRAWS / error).max()
        assert worst < STANDARD_ERRORS, f"{name}, β = {beta}: {worst:.1f} standard errors"


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_seed_alone_decides(name: str) -> None:
    """Reference: the same call again under another global seed; another seed, another epoch."""
    of = data()
    rows = np.random.default_rng(0).permutation(6 * 60)
    first, second = prepared(name, of), prepared(name, of)
    expected = seen(draw(first, rows), 0.3)
    torch.manual_seed(99)
    np.random.seed(99)
    for generation in (first, second):
        assert torch.equal(seen(draw(generation, rows), 0.3), expected), "got other rows"
    items = rows < len(of.items)
    other = seen(draw(first, rows, seed=1), 0.3) != expected
    assert not bool(other[items].any()), "items changed with the seed"
    single = (array(first.labels)[rows] == 5) & (name == "gaussian")  # always its one sample
    assert bool(other[~items & ~single].any(1).all()), "rows that do not depend on the seed"


def test_a_mean_at_the_sample_takes_all_the_weight() -> None:
    """Reference: ω ∝ n_j among means at no distance, 0 for others; finite, and exact in float64.

    T(16, −81, 1) = (4, −9, 1) is the mean of class 0, and then of class 1 as well.
    """
    mean, away = np.array([4.0, -9, 1]), np.array([[2.0, 1, 0], [0, 3, 1], [1, -1, 2]])
    around = np.concatenate([mean + away, mean - away])
    tail = [[16, -81, 1], [2, -3, 4], [30, -60, 0]]
    for second in (around + 1, np.concatenate([mean + 2 * away, mean - 2 * away])):
        of = by_class(np.tile(around, (5, 1)), np.tile(second, (6, 1)), tail)
        assert_calibrated("afg", {}, of, [(2, 0), (2, 1)])
        generation = prepared("afg", of, gamma=0.0)
        made = draw(generation, np.full(10, of.made(2, 0)))
        assert bool(seen(made, 0.6).isfinite().all())


@pytest.mark.parametrize("name", ["afg", "dc"])
@pytest.mark.parametrize("first", [-1.0, 1.0])
def test_of_means_as_near_the_first_class_lends(name: str, first: float) -> None:
    """Reference: by definition; x̂ = 0 lies between the classes at ±1, and ties go to class 0."""
    of = by_class([[first]] * 30, [[-first]] * 30, [[0.0]])
    settings: dict[str, Any] = {"support": 1, {"afg": "gamma", "dc": "alpha"}[name]: 0.0}
    generation = unfinished(prepared(name, of, **settings))
    got = seen(draw(generation, [of.made(2, 0)]), beta=1.0)
    assert_close(got, [[first if name == "afg" else first / 2]], 1e-6, name)


def test_beta_is_of_the_tail_classes() -> None:
    """Reference: made rows of n < 20 depend on β, or of n ≤ 100 where ``tail`` says so."""
    for tail, classes in (("few", {3, 4, 5}), ("medium+few", {1, 2, 3, 4, 5})):
        of = data((120, *COUNTS[1:]))
        generation = prepared("afg", of, tail=tail)
        assert generation.blended is not None
        assert {k for k in range(6) if generation.blended[k]} == classes
        made = draw(generation, np.arange(len(generation.labels)))
        assert made.blend is not None
        slot = made.rows - len(made.x)
        blended = slot >= 0
        assert set(made.y[blended].tolist()) == classes
        assert torch.equal(made.blend.y[slot[blended]], made.y[blended])
        assert len(slot[blended].unique()) == int(blended.sum())
        assert len(made.blend.base) == len(made.blend.direction) >= int(blended.sum())
    for name in ("dc", "tailcalib", "gaussian"):
        assert prepared(name, of).blended is None


def test_warns_of_few_that_can_lend() -> None:
    """Reference: by definition; classes 3, 4 and 5 have three, four and five larger classes."""
    of = data()

    def told(name: str, of: Data, **given: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            GENERATORS[name].prepare(full(name, given), of.features())
        return [str(w.message) for w in caught]

    for name in ("afg", "dc"):
        assert told(name, of, support=3) == []
        [warning] = told(name, of, support=4)
        assert warning.startswith(f"Generator {name!r} finds fewer than support=4 classes"), warning
        assert "to calibrate class 3 with, of 1 such classes" in warning, warning
        assert "\n" not in warning, warning
        [warning] = told(name, data((60, 30, 20)))
        assert "calibrates no class" in warning, warning
    assert told("tailcalib", of, support=6) == []
    [warning] = told("tailcalib", of, support=7)
    assert "support=7" in warning, warning


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_must_be_finite(name: str, value: float) -> None:
    """Reference: one line that names the class."""
    of = data()
    of.x[np.flatnonzero(of.y == 3)[1], 2] = value
    with pytest.raises(errors.NotFinite, match="class 3") as raised:
        prepared(name, of)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("afg", {"tukey": 0.0}, "The 'tukey' of afg must be a float > 0, got 0."),
        ("afg", {"tukey": -0.5}, "The 'tukey' of afg must be a float > 0, got -0.5."),
        ("afg", {"beta": 1.5}, "The 'beta' of afg must be a float ≥ 0 and ≤ 1, got 1.5."),
        ("afg", {"beta": float("nan")}, "must be a float ≥ 0 and ≤ 1, got nan."),
        ("afg", {"beta_step": -0.1}, "got -0.1."),
        ("afg", {"gamma": -1.0}, "The 'gamma' of afg must be a float ≥ 0, got -1."),
        ("afg", {"gamma_form": "diag"}, "must be one of diagonal, full, got 'diag'."),
        ("afg", {"support": 0}, "The 'support' of afg must be an integer ≥ 1, got 0."),
        ("afg", {"tail": "many"}, "must be one of few, medium+few, got 'many'."),
        ("dc", {"alpha": -0.2}, "The 'alpha' of dc must be a float ≥ 0, got -0.2."),
        ("tailcalib", {"tukey": 0}, "The 'tukey' of tailcalib must be a float > 0, got 0."),
    ],
)
def test_wrong_settings(name: str, given: dict[str, Any], expected: str) -> None:
    """Reference: the sentence of `featbank.settings`."""
    [problem] = wrong_values(GENERATORS[name].settings, given, name)
    assert expected in problem


SCALE = """
import json, sys, warnings
import numpy as np, torch
from stage2.benchmark.timing import peak_memory
from stage2.benchmark import find_workload
from stage2.methods.generators import GENERATORS, Features, calibrated

def peak():
    return peak_memory(torch.device("cpu"))

dim, counts = int(sys.argv[1]), np.array(json.loads(sys.argv[2]))
torch.set_num_threads(1)
warnings.simplefilter("ignore")
random = torch.Generator().manual_seed(0)
y = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
features = Features(torch.randn(len(y), dim, generator=random), y, 1, counts.astype(float))
held = peak()
for name in sys.argv[3:]:
    generator = GENERATORS[name]
    generation = generator.prepare({s.name: s.default for s in generator.settings}, features)
    every = max(1, len(generation.labels) // 16384)
    draws = torch.arange(0, len(generation.labels), every)[None]  # of each class some
    made = generation.make(draws, 0, random)
    x = made.x
    if made.blend is not None:
        x = torch.cat([x, made.blend.base + made.blend.direction])
    assert len(x) >= draws.numel() and bool(x.isfinite().all())
    print(name, len(generation.labels), peak() - held)
"""


def scale(dim: int, counts: Sequence[int], *names: str) -> list[tuple[str, int, int]]:
    """Of each generator its name, the rows of an epoch, and the peak bytes so far above those of
    the features, when some of each class's rows are made.

    In a process of its own, whose peak nothing else has raised.
    """
    command = [sys.executable, "-c", SCALE, str(dim), json.dumps(counts), *names]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    lines = [line.split() for line in told.stdout.splitlines()]
    assert [name for name, _, _ in lines] == list(names)
    return [(name, int(rows), int(peak)) for name, rows, peak in lines]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak memory")
def test_no_covariance_matrix_of_many_features() -> None:
    """Reference: the 1,526 MiB that D × D numbers take, D = 20,000; classes have 12 samples."""
    for name, rows, peak in scale(20_000, (12, 11, 8, 5, 2, 1), *GAUSSIAN):
        assert rows == 6 * 12
        assert 0 < peak < 200 << 20, f"{name} took {peak >> 20} MiB"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak memory")
def test_eight_thousand_classes() -> None:
    """Reference: iNaturalist's counts, and the 509 MiB that K covariances of D = 128 take, as
    against 214 MiB of features."""
    counts = find_workload("inaturalist2018").counts
    assert (len(counts), counts.sum(), counts.max(), counts.min()) == (8142, 437_513, 1000, 2)
    for name, rows, peak in scale(128, counts.tolist(), "afg"):
        assert rows == 8142 * 1000
        assert 0 < peak < 350 << 20, f"{name} took {peak >> 20} MiB"
