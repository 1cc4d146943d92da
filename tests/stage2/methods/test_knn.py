"""The votes of the nearest training rows against scikit-learn and a float64 loop [METHODS §3]."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from featbank import errors
from stage2.methods import neighbors
from stage2.methods.heads import HEADS, Context
from stage2.methods.heads.knn import NO_VOTES
from stage2.methods.recipe import Recipe
from tests.stage2.compare import array, assert_close
from tests.stage2.synthetic import Problem, problem, run

CHOICES = [(t, m) for t in ("un", "l2n", "cl2n") for m in ("l2", "cosine")]
KS = (1, 3, 20, 150, 1000)
"""Neighbours; the small problem has 150 training rows."""

WEIGHTS = ("none", "balanced")


def full(case: dict[str, Any]) -> dict[str, Any]:
    """All settings of the head, the `case` over the defaults."""
    return {**{s.name: s.default for s in HEADS["knn"].settings}, "seed": 0, **case}


def shares(
    cases: Sequence[dict[str, Any]], made: Problem, context: Context | None = None
) -> Tensor:
    """Shares of the votes [B, C, K] of the test rows, for a stack of settings."""
    context = context or made.view().context
    start = HEADS["knn"].init([full(case) for case in cases], context)
    x = torch.from_numpy(made.x["test", "instance"])
    return HEADS["knn"].logits(start, context.batch(x)).exp()


def transformed(made: Problem, transform: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test features after a transform, float64."""
    x = made.x["train", "instance"].astype(np.float64)
    test = made.x["test", "instance"].astype(np.float64)
    if transform == "cl2n":
        x, test = x - x.mean(0), test - x.mean(0)
    if transform != "un":
        x, test = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, test))
    return x, test


def in_blocks(context: Context, size: int, passes: list[int]) -> Context:
    """A context whose rows come `size` at a time; each pass is noted in `passes`."""

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        passes.append(1)
        for x, y in context.blocks():
            yield from zip(x.split(size), y.split(size), strict=True)

    return replace(context, blocks=blocks)


@pytest.mark.parametrize(("transform", "metric"), CHOICES)
def test_plain_votes(transform: str, metric: str, small: Problem) -> None:
    """Reference: scikit-learn's KNeighborsClassifier; a k beyond N is N."""
    x, test = transformed(small, transform)
    y = small.y["train"]
    case = {"transform": transform, "metric": metric, "vote": "uniform"}
    got = shares([{**case, "k": k} for k in KS], small)
    assert got.shape == (60, len(KS), 6), f"got {tuple(got.shape)}, expected [B, C, K]"
    for c, k in enumerate(KS):
        model = KNeighborsClassifier(min(k, len(y)), metric=metric.replace("l2", "euclidean"))
        expected = model.fit(x, y).predict_proba(test)
        assert_close(got[:, c], np.maximum(expected, NO_VOTES), 1e-6, f"{case}, k = {k}")
        named, wanted = got[:, c].argmax(1), expected.argmax(1)
        assert_close(named, wanted, 0, f"class named by {case}, k = {k}")


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize(("transform", "metric"), CHOICES)
def test_weighted_votes(transform: str, metric: str, class_weight: str, small: Problem) -> None:
    """Reference: e^{cos/T}, or e^{−d²/2T}, over n_y where balanced, summed by a float64 loop."""
    x, test = transformed(small, transform)
    y = small.y["train"]
    if metric == "cosine":
        x, test = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, test))
    closeness = -((test[:, None] - x) ** 2).sum(2) / 2
    over = small.counts if class_weight == "balanced" else np.ones(6)
    cases = [(k, t) for k in (1, 20, 1000) for t in (0.07, 1.0)]
    own = {"transform": transform, "metric": metric, "class_weight": class_weight}
    got = shares([{**own, "k": k, "temperature": t} for k, t in cases], small)
    for c, (k, t) in enumerate(cases):
        expected = np.zeros((len(test), 6))
        for b in range(len(test)):
            for i in np.argsort(-closeness[b])[:k]:
                expected[b, y[i]] += np.exp((closeness[b, i] - closeness[b].max()) / t) / over[y[i]]
        expected /= expected.sum(1, keepdims=True)
        what = f"{own}, k = {k}, T = {t}"
        assert_close(got[:, c], np.maximum(expected, NO_VOTES), 2e-5, what)


def test_both_metrics_agree_on_rows_of_length_one(small: Problem) -> None:
    """Reference: ‖a − b‖² = 2 − 2cos(a, b)."""
    ways = [("l2n", "l2"), ("un", "cosine"), ("l2n", "cosine")]
    first, *others = (shares([{"transform": t, "metric": m}], small) for t, m in ways)
    for other in others:
        assert_close(other, first, 1e-5, f"{ways}")


@pytest.mark.parametrize(("transform", "metric"), CHOICES)
def test_rows_that_come_in_blocks(
    transform: str, metric: str, small: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the same rows at once. One pass serves every k, and no search sees more rows than
    the limit, so that memory is bounded."""
    cases = [{"transform": transform, "metric": metric, "k": k} for k in KS]
    expected = shares(cases, small)
    passes: list[int] = []
    searched: list[int] = []
    search = neighbors._search_by_faiss

    def watched(queries: Tensor, rows: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
        searched.append(len(rows))
        return search(queries, rows, k, metric)

    monkeypatch.setattr(neighbors, "_search_by_faiss", watched)
    monkeypatch.setattr("stage2.methods.heads.moments.BLOCK_ROWS", 20)
    context = in_blocks(small.view().context, 33, passes)
    _ = context.mean  # a pass of its own, once per view
    passes.clear()
    assert_close(shares(cases, small, context), expected, 1e-5, f"{transform}, {metric}")
    assert len(passes) == 1, f"got {len(passes)} passes, expected 1"
    assert max(searched) == 20, f"got searches of {max(searched)} rows, expected 20"
    assert sum(searched) == 150, f"got {sum(searched)} rows searched, expected 150"


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_search_on_a_gpu_finds_what_faiss_finds(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: faiss and NumPy in float64, on the CPU, in blocks of queries."""
    monkeypatch.setattr(neighbors, "BLOCK_QUERIES", 7)
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(30, 5)), rng.normal(size=(40, 5))
    closeness = queries @ rows.T
    if metric == "l2":
        closeness = -((queries[:, None] - rows) ** 2).sum(2)
    expected = np.argsort(-closeness, 1)[:, :9]
    tensors = [torch.from_numpy(a).float() for a in (queries, rows)]
    for search in (neighbors._search_by_faiss, neighbors._search_by_products):
        found, index = search(tensors[0], tensors[1], 9, metric)
        assert_close(index, expected, 0, f"{search.__name__}, {metric}")
        assert_close(found, np.take_along_axis(closeness, expected, 1), 1e-5, search.__name__)


def placed(rows: dict[float, Sequence[int]], classes: int) -> Problem:
    """One feature; `rows` gives the labels at each place, and the only query is at 0."""
    x = np.array([[place] for place, labels in rows.items() for _ in labels], np.float32)
    y = np.array([label for labels in rows.values() for label in labels])
    features = {("train", "instance"): x, ("test", "instance"): np.zeros((1, 1), np.float32)}
    weights = np.zeros((classes, 1), np.float32)
    return Problem(features, {"train": y, "test": np.zeros(1, int)}, weights, weights[:, 0])


def test_ties_name_the_first_class() -> None:
    """Reference: by definition; classes 1 and 2 have as many votes at equal distances."""
    plain = {"transform": "un", "metric": "l2", "vote": "uniform"}
    made = placed({1.0: (3, 2), -1.0: (1, 0), 2.0: (2, 1, 3)}, 4)
    soft = {"vote": "softmax", "temperature": 1.0}
    got = shares([{**plain, "k": 7}, {**plain, **soft, "k": 7}], made)
    assert_close(got[0, 0], np.array([1, 2, 2, 2]) / 7, 1e-6, "shares")
    assert_close(got[0].argmax(1), [1, 1], 0, "classes named")


def test_repeated_rows_vote_each() -> None:
    """Reference: by hand; five copies of a row are five neighbours, in one block and in many."""
    made = placed({1.0: (1, 1, 1, 1, 1), 2.0: (0, 0), 3.0: (2,)}, 3)
    case = {"transform": "un", "metric": "l2", "vote": "uniform", "k": 7}
    for context in (made.view().context, in_blocks(made.view().context, 2, [])):
        got = shares([{**case, "k": 5}, case], made, context)
        assert_close(got[0], [[NO_VOTES, 1, NO_VOTES], [2 / 7, 5 / 7, NO_VOTES]], 1e-6, "shares")


@pytest.mark.parametrize(
    ("counts", "dim"), [((30, 0, 10), 8), ((25, 4), 1), ((1, 1), 3), ((3, 1, 0, 1), 1)]
)
def test_edges(counts: tuple[int, ...], dim: int) -> None:
    """Reference: logits are finite, shares sum to 1, and a class without rows is never named."""
    made = problem(counts, dim=dim, test=20)
    for transform, metric in CHOICES:
        for vote in ("uniform", "softmax"):
            own: dict[str, Any] = {"transform": transform, "metric": metric, "vote": vote}
            settings = [{**own, "k": k, "class_weight": w} for k in KS for w in WEIGHTS]
            got = shares(settings, made)
            assert bool(got.log().isfinite().all()), f"{own}: got {got}"
            assert_close(got.sum(2), np.ones(got.shape[:2]), 1e-5, f"{own}")
            for k in [k for k, n in enumerate(counts) if n == 0]:
                assert not bool((got.argmax(2) == k).any()), f"{own} named the empty class {k}"


def test_a_tiny_temperature_is_the_nearest_row(small: Problem) -> None:
    """Reference: k = 1, where e^{s/T} alone would overflow or vanish."""
    cases: list[dict[str, Any]] = [{"k": 1}, {"k": 50, "temperature": 1e-6}]
    got = shares(cases, small)
    assert_close(got[:, 1], got[:, 0], 1e-6, "T = 1e-6")


THREADS = """
import faiss, torch
from stage2.methods import neighbors
seen, knn, pairwise = [], faiss.knn, faiss.pairwise_distances
def watched(function):
    return lambda *given: (seen.append(faiss.omp_get_max_threads()), function(*given))[1]
faiss.knn, faiss.pairwise_distances = watched(knn), watched(pairwise)
torch.set_num_threads(2)
faiss.omp_set_num_threads(3)
x = torch.eye(4)
neighbors.class_distances(x, x, "l2")
neighbors.nearest(x, [(x, x[0].long())], k=1, metric="dot", transform=torch.Tensor.clone)
print(*seen, faiss.omp_get_max_threads())
"""


def test_faiss_takes_the_threads_it_is_given() -> None:
    """Reference: PyTorch's number of threads; faiss has its own number again afterwards.

    In a process of its own that imports faiss first: imported after PyTorch it has PyTorch's OpenMP
    and so its number in any case.
    """
    told = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["2", "2", "3"], f"got {told.stdout}, expected 2 2 3"


def test_grids_through_the_engine() -> None:
    """Reference: each recipe alone, and its parameters are small: no training rows among them."""
    made = problem()
    recipes = [
        Recipe("knn", k=k, transform=t, metric=m, vote=v)
        for k in (1, 20)
        for t, m in CHOICES
        for v in ("uniform", "softmax")
    ]
    together = run(recipes, made)
    for recipe in recipes[::5]:
        (alone,) = run([recipe], made).values()
        outcome = together[recipe]
        assert outcome.status == "done", f"{recipe}: got {outcome.status}"
        for key, evaluation in alone.evaluations.items():
            for metric, value in evaluation.metrics.items():
                got = outcome.evaluations[key].metrics[metric]
                if value is not None:
                    assert_close(got, value, 1e-4, f"{metric} of {recipe} at {key}")
        for name, values in alone.parameters.items():
            assert_close(outcome.parameters[name], values, 0, f"{name} of {recipe}")
        numbers = sum(array(values).size for values in outcome.parameters.values())
        assert numbers < 50, f"got {numbers} numbers, expected few"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"k": 0}, "The 'k' of recipe 'knn' must be an integer ≥ 1, got 0."),
        ({"metric": "cos"}, "must be one of l2, cosine, got 'cos'."),
        ({"temperature": 0.0}, "must be a float ≥ 1e-06, got 0."),
        ({"vote": "softmx"}, "got 'softmx'. Did you mean 'softmax'?"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], expected: str) -> None:
    """Reference: the one sentence of every wrong setting."""
    with pytest.raises(errors.ConfigError) as raised:
        Recipe("knn", **settings)
    assert expected in str(raised.value), f"got {raised.value}"
