"""Neighbours, support sets and class distances against brute force in float64 [METHODS §6]."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from stage2.methods import neighbors
from stage2.methods.heads import HEADS
from stage2.methods.neighbors import class_distances, nearest, search, supports
from tests.stage2 import reference
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import Problem

METRICS = ("l2", "dot")

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


DEVICES = {"faiss": "cpu", "products": "cpu", "GPU faiss": "cuda", "GPU products": "cuda"}
"""Where the data is, by what proposes candidates."""


@pytest.fixture(
    params=[
        pytest.param(way, marks=[pytest.mark.gpu, CUDA] if place == "cuda" else [])
        for way, place in DEVICES.items()
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device of the data, for each way to propose candidates."""
    if request.param == "products":
        monkeypatch.setattr(neighbors, "_search_by_faiss", neighbors._search_by_products)
    if request.param == "GPU products":
        monkeypatch.setattr(neighbors, "_gpu_faiss", lambda: False)
    return DEVICES[request.param]


KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "random": lambda rng, n: rng.normal(size=(n, 7)),
    "wide": lambda rng, n: rng.normal(size=(n, 300)),
    "repeated": lambda rng, n: np.sin(1 + rng.integers(0, 9, (n, 1)) * np.arange(1, 6)),
    "lattice": lambda rng, n: rng.integers(0, 4, (n, 2)),
    "line": lambda rng, n: rng.integers(-3, 4, (n, 1)),
    "one place": lambda rng, n: np.full((n, 3), 0.1),
    "far": lambda rng, n: 1e4 + rng.normal(size=(n, 6)),
    "far lattice": lambda rng, n: 4e3 + rng.integers(0, 3, (n, 3)),
    "shell": lambda rng, n: rng.normal(1, 1e-3, (n, 1)) * rng.choice([-1, 1], (n, 4)),
    "tiny": lambda rng, n: 1e-24 * rng.normal(size=(n, 3)),
    "huge": lambda rng, n: 1e25 * rng.normal(size=(n, 3)),
    "one huge": lambda rng, n: (
        rng.normal(size=(n, 3)) * np.where(np.arange(n) < 1, 1e4, 1)[:, None]
    ),
}
"""Rows [n, D] that are easy, as near as each other, or hard for float32."""


def rows(kind: str, n: int, seed: int) -> np.ndarray:
    """Rows of one kind in float32."""
    return KINDS[kind](np.random.default_rng(seed), n).astype(np.float32)


def brute(queries: np.ndarray, keys: np.ndarray, k: int, metric: str) -> tuple[Any, Any]:
    """Closeness and index of the k nearest of all, in float64; of equals the lower index first."""
    a, b = queries.astype(np.float64)[:, None], keys.astype(np.float64)
    closeness = (a * b).sum(2) if metric == "dot" else -((a - b) ** 2).sum(2)
    order = np.argsort(-closeness, 1, kind="stable")[:, :k]
    return np.take_along_axis(closeness, order, 1), order


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_search(kind: str, metric: str, device: str) -> None:
    """Reference: brute force in float64, ties and near-ties included; a k beyond n is n."""
    queries, keys = rows(kind, 60, 1), rows(kind, 150, 2)
    tensors = [torch.from_numpy(a).to(device) for a in (queries, keys)]
    for k in (1, 2, 3, 20, 149, 150, 1000):
        expected, order = brute(queries, keys, k, metric)
        closeness, index = search(*tensors, k, metric)
        assert (closeness.dtype, index.dtype) == (torch.float64, torch.int64)
        assert_close(index, order, 0, f"neighbours, {kind}, {metric}, k = {k}")
        assert_relative(closeness, expected, 1e-14, f"closeness, {kind}, {metric}, k = {k}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["random", "lattice", "far"])
def test_search_in_blocks(
    kind: str, metric: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: brute force; with small limits no block is larger than they say."""
    queries, keys = rows(kind, 50, 3), rows(kind, 200, 4)
    dim = keys.shape[1]
    proposals: list[tuple[int, int]] = []
    differences: list[int] = []
    propose, take = neighbors._propose, neighbors._closeness

    def proposed(q: Tensor, x: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
        proposals.append((len(q), x.numel()))
        return propose(q, x, k, metric)

    def taken(q: Tensor, x: Tensor, metric: str) -> Tensor:
        differences.append(x.numel())
        return take(q, x, metric)

    monkeypatch.setattr(neighbors, "BLOCK_QUERIES", 16)
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", 4 * 60 * dim)
    monkeypatch.setattr(neighbors, "BLOCK_DIFFERENCES", 40 * dim)
    monkeypatch.setattr(neighbors, "_propose", proposed)
    monkeypatch.setattr(neighbors, "_closeness", taken)
    tensors = [torch.from_numpy(a).to(device) for a in (queries, keys)]
    for k in (1, 5, 100):
        expected, order = brute(queries, keys, k, metric)
        closeness, index = search(*tensors, k, metric)
        assert_close(index, order, 0, f"neighbours, {kind}, {metric}, k = {k}")
        assert_relative(closeness, expected, 1e-14, f"closeness, {kind}, {metric}, k = {k}")
    assert max(q for q, _ in proposals) <= 16, f"got {proposals}"
    assert max(x for _, x in proposals) == 60 * dim, f"got {proposals}"
    assert max(differences) <= 40 * dim, f"got {max(differences)}, expected at most {40 * dim}"


@pytest.mark.parametrize("metric", METRICS)
def test_float32_alone_is_not_enough(metric: str) -> None:
    """Reference: brute force. Keys differ by less than float32 can tell from their products, so
    that its order is another, and many are as near as the k-th, so that candidates run out."""
    rng = np.random.default_rng(0)
    keys = (1 + np.spacing(np.float32(1)) * rng.integers(0, 3, (400, 64))).astype(np.float32)
    queries = (1 + rng.integers(0, 2, (20, 64))).astype(np.float32)
    expected, order = brute(queries, keys, 5, metric)
    tensors = [torch.from_numpy(a) for a in (queries, keys)]
    _, float32 = nearest(
        tensors[0],
        [(tensors[1], torch.arange(400))],
        k=5,
        metric=metric,
        transform=torch.Tensor.float,
    )
    assert not np.array_equal(float32.numpy(), order), "these keys are too easy"
    closeness, index = search(*tensors, 5, metric)
    assert_close(index, order, 0, f"neighbours, {metric}")
    assert_relative(closeness, expected, 1e-14, f"closeness, {metric}")


@pytest.mark.parametrize("metric", METRICS)
def test_clear_neighbours_need_one_search(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: by definition; where distances are far apart float32 rules the others out."""
    counts: list[int] = []
    once = neighbors._search

    def watched(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        counts.append(given[3])
        return once(*given)

    monkeypatch.setattr(neighbors, "_search", watched)
    keys = 1e3 + torch.arange(1.0, 101)[:, None] * torch.ones(8)
    search(1e3 + torch.rand(30, 8), keys, 2, metric)
    assert counts == [2 + neighbors.SPARE], f"got searches for {counts} candidates"


def test_double_precision_is_taken_as_it_is() -> None:
    """Reference: brute force on float64 rows that are equal in float32."""
    keys = 1 + np.random.default_rng(0).permutation(40)[:, None] * 1e-12
    _, order = brute(np.ones((1, 1)), keys, 6, "l2")
    _, index = search(torch.ones(1, 1).double(), torch.from_numpy(keys), 6, "l2")
    assert_close(index, order, 0, "neighbours")


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_to_search(metric: str, device: str) -> None:
    """Reference: by definition."""
    x = torch.ones(3, 2, device=device)
    for queries, keys, shape in ((x[:0], x, (0, 2)), (x, x[:0], (3, 0)), (x[:0], x[:0], (0, 0))):
        closeness, index = search(queries, keys, 2, metric)
        assert closeness.shape == index.shape == shape, f"got {closeness.shape}"
        assert closeness.device == x.device == index.device


def loop(
    x: np.ndarray, y: np.ndarray, means: np.ndarray, counts: np.ndarray, k: int, among: str
) -> tuple[np.ndarray, np.ndarray]:
    """`supports` row by row and class by class, in float64."""
    distance, index = np.full((len(x), k), np.inf), np.full((len(x), k), -1)
    for i, (row, own) in enumerate(zip(x.astype(np.float64), y, strict=True)):
        found = sorted(
            (float(np.sqrt(((row - means[c].astype(np.float64)) ** 2).sum())), c)
            for c in range(len(counts))
            if counts[c] > 0 and (among == "all" or counts[c] > counts[own])
        )[:k]
        for place, (d, c) in enumerate(found):
            distance[i, place], index[i, place] = d, c
    return distance, index


@pytest.mark.parametrize("among", ["larger", "all"])
@pytest.mark.parametrize("kind", ["random", "repeated", "lattice", "line", "far"])
@pytest.mark.parametrize(
    "counts",
    [
        (50, 20, 20, 0, 9, 3, 1, 1, 0, 30, 2, 1),
        (5, 5, 5, 5),
        (9, 1),
        (4,),
        (0, 3, 0, 1),
        tuple(range(90, 0, -2)),
    ],
)
def test_supports(counts: tuple[int, ...], kind: str, among: str, device: str) -> None:
    """Reference: a float64 loop; empty classes, equal counts, K=1 and 2, and too few classes."""
    n = np.array(counts, np.float64)
    x, means = rows(kind, 80, 5), rows(kind, len(n), 6)
    y = np.random.default_rng(0).choice(np.flatnonzero(n), 80)
    means[n == 0] = np.nan
    for k in (1, 3, 20):
        expected, classes = loop(x, y, means, n, k, among)
        tensors = [torch.from_numpy(a).to(device) for a in (x, y, means, n)]
        distance, index = supports(*tensors, k, among=among)
        assert (distance.dtype, index.dtype) == (torch.float64, torch.int64)
        assert_close(index, classes, 0, f"classes, {kind}, {among}, k = {k}")
        there = classes >= 0
        assert_close(distance.cpu()[there], expected[there], 1e-10, f"distances, {kind}, {among}")
        assert bool(distance.cpu()[~there].isinf().all()), f"got {distance}"


def test_supports_of_nothing(device: str) -> None:
    """Reference: by definition."""
    x = torch.zeros(0, 4, device=device)
    means, counts = torch.zeros(3, 4, device=device), torch.ones(3, device=device)
    distance, index = supports(x, x[:, 0].long(), means, counts, 2)
    assert distance.shape == index.shape == (0, 2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 5, 16, 33, 100])
def test_equal_means_are_as_far(metric: str, dim: int, device: str) -> None:
    """Reference: by definition; BLAS alone rounds by where in the matrix a mean is."""
    rng = np.random.default_rng(dim)
    for classes in (2, 5, 10, 17, 33):
        for n in (1, 19, 20, 37, 200):
            means, x = (rng.normal(size=(a, dim)).astype(np.float32) for a in (classes, n))
            means[-1] = means[classes // 2] = means[0]
            tensors = [torch.from_numpy(a).to(device) for a in (x, means)]
            got = class_distances(*tensors, metric)
            expected = x.astype(np.float64) @ means.T.astype(np.float64)
            if metric == "l2":
                expected = ((x[:, None].astype(np.float64) - means) ** 2).sum(2)
            assert_close(got, expected, 1e-5 * max(10, dim), f"{metric}, K = {classes}")
            for c in (classes // 2, classes - 1):
                assert_close(got[:, c], got[:, 0], 0, f"{metric}, K = {classes}, N = {n}")


def test_class_distances_far_from_the_origin(device: str) -> None:
    """Reference: brute force. A common offset costs no more than its own rounding, and distances
    on a grid are exact: means as far as each other stay so."""
    for kind, within in (("far", 1e-5), ("far lattice", 0.0)):
        x, means = rows(kind, 90, 7), rows(kind, 12, 8)
        expected = ((x[:, None].astype(np.float64) - means) ** 2).sum(2)
        got = class_distances(*(torch.from_numpy(a).to(device) for a in (x, means)), "l2")
        assert_relative(got, expected, within, kind)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("transform", ["un", "l2n", "cl2n"])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_ncm(transform: str, metric: str, offset: float) -> None:
    """Reference: class means by a loop, in float64; of classes with the same mean the first.

    Classes 1 and 3 have the same samples, and so have 2 and 5; class 4 has none.
    """
    rng = np.random.default_rng(0)
    place = offset + 3 * rng.normal(size=(6, 16))
    drawn = {c: (place[c] + rng.normal(size=(7, 16))).astype(np.float32) for c in (0, 1, 2)}
    samples = {**drawn, 3: drawn[1], 5: drawn[2]}
    y = np.repeat(sorted(samples), 7)
    made = Problem(
        {
            ("train", "instance"): np.concatenate([samples[c] for c in sorted(samples)]),
            ("test", "instance"): np.concatenate([drawn[c] for c in drawn]),
        },
        {"train": y, "test": np.repeat([0, 1, 2], 7)},
        np.zeros((6, 16), np.float32),
        np.zeros(6, np.float32),
    )
    case = {"transform": transform, "metric": metric}
    context = made.view().context
    batch = context.batch(torch.from_numpy(made.x["test", "instance"]))
    z = HEADS["ncm"].logits(HEADS["ncm"].init([{**case, "seed": 0}], context), batch)[:, 0]
    train = torch.from_numpy(made.x["train", "instance"]).double()
    full = reference.ncm(batch.x.double(), train, torch.from_numpy(y), **case)
    there = [0, 1, 2, 3, 5]
    assert_relative(z[:, there], full[:, there], 1e-4, f"{case}")
    assert_close(z[:, [3, 5]], z[:, [1, 2]], 0, f"classes with the same mean, {case}")
    assert_close(z.argmax(1), full[:, [0, 1, 2]].argmax(1), 0, f"class named, {case}")


def test_blocks_that_are_as_near() -> None:
    """Reference: by definition; of equally near rows of two blocks the earlier is named."""
    x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    blocks = [(row[None], torch.tensor([label])) for label, row in enumerate(x)]
    for k in (1, 2, 4):
        for metric in METRICS:
            _, labels = nearest(
                torch.zeros(3, 2), blocks, k=k, metric=metric, transform=torch.Tensor.clone
            )
            assert_close(labels, [list(range(k))] * 3, 0, f"k = {k}, {metric}")


def test_faiss_reads_the_memory_of_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the arrays faiss gets, and the tensors that come of those it gives."""
    given: list[np.ndarray] = []
    told: list[np.ndarray] = []
    knn = faiss.knn

    def watched(queries: np.ndarray, keys: np.ndarray, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
        given.extend([queries, keys])
        told.extend(knn(queries, keys, *rest))
        return told[0], told[1]

    monkeypatch.setattr(faiss, "knn", watched)
    queries, keys = torch.rand(9, 4), torch.rand(30, 4)
    found = neighbors._search_by_faiss(queries, keys, 3, "dot")
    for tensor, memory in zip((queries, keys, *found), (*given, *told), strict=True):
        assert np.shares_memory(tensor.numpy(), memory), "faiss was given a copy, or gave one"


ALONE = """
import sys
import faiss, torch
from stage2.methods import neighbors
seen, knn = [], faiss.knn
def watched(*given):
    seen.append(faiss.omp_get_max_threads())
    return knn(*given)
faiss.knn = watched
def forbidden(*given, **named):
    raise AssertionError("faiss was asked for a GPU")
for name in ("get_num_gpus", "StandardGpuResources", "knn_gpu", "bfKnn"):
    setattr(faiss, name, forbidden)
torch.set_num_threads(2)
faiss.omp_set_num_threads(3)
x = torch.rand(40, 4)
neighbors.search(x, x, 2, "l2")
neighbors.supports(x, torch.arange(40) % 3, x[:3], torch.tensor([9, 5, 1]), 2)
neighbors.class_distances(x, x, "l2")
faiss.knn = forbidden
try:
    neighbors.search(x, x, 2, "l2")
except AssertionError:
    seen.append("error")
print(*sorted(set(map(str, seen))), faiss.omp_get_max_threads())
print("faiss.contrib.torch_utils" in sys.modules, torch.cuda.is_initialized())
"""


def test_nothing_is_taken_that_was_not_given() -> None:
    """Reference: PyTorch's number of threads, faiss's own number afterwards, also after an error;
    and of a GPU nothing, where the data is not on one.

    In a process of its own that imports faiss first: imported after PyTorch it has PyTorch's OpenMP
    and so its number in any case.
    """
    told = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["2", "error", "3", "False", "False"], f"got {told.stdout}"


@pytest.mark.parametrize(
    ("cuda", "gpus", "k", "expected"),
    [
        (False, 1, 5, "_search_by_faiss"),
        (True, 1, 5, "_search_by_gpu_faiss"),
        (True, 1, 2048, "_search_by_gpu_faiss"),
        (True, 1, 2049, "_search_by_products"),
        (True, 0, 5, "_search_by_products"),
    ],
)
def test_who_searches(
    cuda: bool, gpus: int, k: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: faiss wherever it can, matrix products elsewhere."""
    asked: list[str] = []
    for name in ("_search_by_faiss", "_search_by_gpu_faiss", "_search_by_products"):
        monkeypatch.setattr(neighbors, name, lambda *_, name=name: asked.append(name))
    monkeypatch.setattr(neighbors, "_gpu_faiss", lambda: gpus > 0)
    queries: Any = SimpleNamespace(is_cuda=cuda)
    neighbors._propose(queries, torch.zeros(1, 1), k, "l2")
    assert asked == [expected], f"got {asked}"


def test_matrix_products_search_where_faiss_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: what `test_who_searches` says of a GPU that faiss cannot use."""
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it fails
    neighbors._gpu_faiss.cache_clear()
    assert not neighbors._gpu_faiss()
    neighbors._gpu_faiss.cache_clear()


@pytest.mark.skipif(not hasattr(faiss, "StandardGpuResources"), reason="faiss without GPUs")
@pytest.mark.parametrize("metric", METRICS)
def test_what_a_gpu_index_is_asked(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: faiss on the CPU; the arguments are those of `faiss.knn_gpu`, on device 1."""
    import faiss.contrib.torch_utils  # before its knn_gpu is replaced

    asked: list[Any] = []

    def knn_gpu(
        res: Any, xq: Tensor, xb: Tensor, k: int, *, metric: int, device: int
    ) -> tuple[Tensor, ...]:
        asked.extend([res, device])
        told = faiss.knn(xq.as_subclass(Tensor).numpy(), xb.numpy(), k, metric)
        return tuple(torch.from_numpy(a) for a in told)

    class OnGPU(Tensor):
        device = torch.device("cuda", 1)

    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    queries, keys = torch.rand(6, 4), torch.rand(20, 4)
    expected = neighbors._search_by_faiss(queries, keys, 3, metric)
    got = neighbors._search_by_gpu_faiss(queries.as_subclass(OnGPU), keys, 3, metric)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, 0, metric)
    assert isinstance(asked[0], faiss.StandardGpuResources), f"got {asked}"
    assert asked[1] == 1, f"got device {asked[1]}"
