"""Nearest class means and training rows: by faiss, on the CPU or on the GPU that holds the data.

`search` and `supports` are exact: faiss proposes candidates in float32, their distances are taken
again in float64 from the differences, and where float32 cannot rule out the rows it left out, more
are asked for. Equally near rows come in the order of their index. `nearest` and `class_distances`
serve heads, whose logits are float32, and are as exact as that.

On the CPU faiss reads the memory of the tensors. On a GPU without faiss, or for more neighbours
than faiss finds there, it is matrix products; factors are float32 in any case, never TF32.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stage2.methods.precision import precision

BLOCK_BYTES = 64 << 20
"""Distances, or rows less a center, held at once."""

BLOCK_QUERIES = 2048
"""Queries that are compared with a block of rows at once."""

BLOCK_DIFFERENCES = 1 << 17
"""Differences held at once in float64: few enough for a cache."""

SPARE = 4
"""Candidates beyond the k wanted, and beyond one for every 8 of them."""

GPU_NEIGHBOURS = 2048
"""As many as faiss finds on a GPU."""

GPU_BYTES = 64 << 20
"""GPU memory that faiss keeps for its own."""


def search(queries: Tensor, keys: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """The k nearest keys of every query, as float64 would order all of them.

    Parameters
    ----------
    queries, keys
        [B, D] and [n, D], float32 or float64, on one device; either may be empty.
    k
        Neighbours wanted, at least 1; all n where there are fewer.
    metric
        ``l2`` or ``dot``.

    Returns
    -------
    closeness, index
        [B, min(k, n)] float64 and int64, the nearest first and of equally near keys the one of
        lower index. Closeness is −‖q − x‖² or ⟨q, x⟩.
    """
    k = min(k, len(keys))
    closeness = queries.new_empty(len(queries), k, dtype=torch.float64)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    left = torch.arange(len(queries) if k else 0, device=queries.device)
    count = k + k // 8 + SPARE
    while len(left):
        count, unsure = min(count, len(keys)), []
        for rows in left.split(max(1, min(BLOCK_QUERIES, BLOCK_BYTES // (8 * count)))):
            closeness[rows], index[rows], sure = _search(queries[rows], keys, k, count, metric)
            unsure.append(rows[~sure])
        left, count = torch.cat(unsure), 2 * count
    return closeness, index


def supports(
    x: Tensor, y: Tensor, means: Tensor, counts: Tensor, k: int, *, among: str = "larger"
) -> tuple[Tensor, Tensor]:
    """The k nearest class means of every row, among classes with more samples than its own.

    Parameters
    ----------
    x, y
        Rows [B, D] and their labels [B].
    means, counts
        [K, D] and [K]; the mean of a class with count 0 means nothing and is never found.
    k
        Means wanted.
    among
        ``larger`` for classes of which ``counts`` is above that of the row's own, ``all`` for all
        that have samples, its own among them.

    Returns
    -------
    distance, index
        [B, k]: Euclidean, float64, and the class, the nearest first and of equally near classes
        the lower one; infinite and −1 where there are no more classes.
    """
    distance = torch.full((len(x), k), torch.inf, dtype=torch.float64, device=x.device)
    index = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
    own = counts[y]
    above = {"larger": own, "all": torch.zeros_like(own)}[among]
    for count in above.unique():
        classes = (counts > count).nonzero().view(-1)
        eligible = means[classes]
        for rows in (above == count).nonzero().view(-1).split(BLOCK_QUERIES):
            closeness, found = search(x[rows], eligible, k, "l2")
            distance[rows, : found.shape[1]] = closeness.neg().sqrt()
            index[rows, : found.shape[1]] = classes[found]
    return distance, index


def class_distances(x: Tensor, means: Tensor, metric: str) -> Tensor:
    """Every row's distance to every class mean; classes of the same mean are exactly as far.

    Parameters
    ----------
    x, means
        [N, D] and [K, D] float32.
    metric
        ``l2`` for the squared Euclidean distance, ``dot`` for the inner product.

    Returns
    -------
    [N, K] float32, on the device of `x`.
    """
    distinct, same = _distinct(means)
    shifted = _shift(_central(distinct), metric)
    keys = shifted(distinct)
    parts = x.split(max(1, BLOCK_BYTES // (4 * max(keys.shape))))
    distances = torch.cat([_distances(shifted(part), keys, metric) for part in parts])
    return distances if same is None else distances[:, same]


def nearest(
    queries: Tensor,
    blocks: Iterable[tuple[Tensor, Tensor]],
    *,
    k: int,
    metric: str,
    transform: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The k nearest training rows of every query by float32, in one pass over the training rows.

    Memory holds one block and k neighbours of every query at a time. Where rows of two blocks are
    as near, that of the earlier block comes first; within a block the order of such rows, and which
    is the k-th, is faiss's. To settle that as `search` does would take up to 1.6 times as long at
    k = 20, and 2 to 4 times at k = 200.

    Parameters
    ----------
    queries
        [B, D] float32, transformed.
    blocks
        Training rows [n, D] and their labels [n], as many as may be searched at once; N in all.
    k
        Neighbours wanted; all N where there are fewer.
    metric
        ``l2`` or ``dot``.
    transform
        What training rows go through before they are compared.

    Returns
    -------
    closeness, labels
        [B, min(k, N)], the nearest first. Closeness is −‖q − x‖² or ⟨q, x⟩, float32.
    """
    closeness = torch.empty(len(queries), 0, device=queries.device)
    labels = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for x, y in blocks:
        found, index = _propose(queries, transform(x), min(k, len(x)), metric)
        closeness = torch.cat([closeness, found], 1)
        labels = torch.cat([labels, y[index]], 1)
        order = closeness.argsort(dim=1, descending=True, stable=True)[:, :k]
        closeness, labels = closeness.gather(1, order), labels.gather(1, order)
    return closeness, labels


def _search(
    queries: Tensor, keys: Tensor, k: int, count: int, metric: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`search` among `count` candidates; and of which queries [B] it is sure to be right."""
    everything = torch.arange(len(keys), device=keys.device)
    if count == len(keys):
        index = everything.expand(len(queries), -1)
        closeness, index = _ranked(queries, keys, index, k, metric)
        return closeness, index, index[:, 0] >= 0
    rows = max(1, BLOCK_BYTES // (4 * keys.shape[1]))
    blocks = zip(keys.split(rows), everything.split(rows), strict=True)
    shifted = _shift(keys.mean(0), metric)
    moved = shifted(queries)
    found, index = nearest(moved, blocks, k=count, metric=metric, transform=shifted)
    closeness, index = _ranked(queries, keys, index, k, metric)
    # A key that could be among the k nearest is no further than the last of them: that bounds its
    # length, and so what rounding may have done to its closeness.
    length = torch.linalg.vector_norm(moved, dim=1).double()
    if metric == "l2":
        scale = (2 * length + closeness[:, -1].neg().sqrt()).square()
    else:
        scale = length * torch.linalg.vector_norm(keys, dim=1).amax()
    sure = found[:, -1] + _rounding(scale, keys.shape[1]) < closeness[:, -1]
    return closeness, index, sure


def _rounding(scale: Tensor, dim: int) -> Tensor:
    """What float32 may add to, or take from, a closeness that is a sum of D products.

    |fl(⟨a, b⟩) − ⟨a, b⟩| ≤ D·u·‖a‖‖b‖ to first order, in any order of summation, u = 2⁻²⁴. Of the
    three products in ‖q‖² + ‖x‖² − 2⟨q, x⟩ the bounds add up to D·u·(‖q‖ + ‖x‖)², its `scale`; the
    shift by a center and the two sums add a few u. Twice that is safe; what underflows comes to it.
    """
    numbers = torch.finfo(torch.float32)
    return (dim + 8) * (numbers.eps * scale + numbers.tiny)


def _ranked(
    queries: Tensor, keys: Tensor, index: Tensor, k: int, metric: str
) -> tuple[Tensor, Tensor]:
    """The k nearest of the candidates `index` [B, e] in float64, and of equals the first keys."""
    index = index.sort(dim=1).values
    dim, candidates = keys.shape[1], index.shape[1]
    rows = max(1, BLOCK_DIFFERENCES // (dim * candidates))
    chunks = -(-dim * candidates * rows // BLOCK_DIFFERENCES)
    closeness = torch.cat(
        [
            torch.cat([_closeness(q, keys[i], metric) for i in part.chunk(chunks, dim=1)], 1)
            for q, part in zip(queries.double().split(rows), index.split(rows), strict=True)
        ]
    )
    order = closeness.argsort(dim=1, descending=True, stable=True)[:, :k]
    return closeness.gather(1, order), index.gather(1, order)


def _closeness(queries: Tensor, candidates: Tensor, metric: str) -> Tensor:
    """Of queries [B, D] float64 to their own candidates [B, e, D]; [B, e] float64."""
    if metric == "dot":
        return candidates.double().mul_(queries[:, None]).sum(2)
    return candidates.double().sub_(queries[:, None]).square_().sum(2).neg_()


def _shift(center: Tensor, metric: str) -> Callable[[Tensor], Tensor]:
    """What rows go through before float32: a common offset is taken from them where only distances
    count, for ‖q‖² + ‖x‖² − 2⟨q, x⟩ would leave nothing but rounding of the rest."""
    return (lambda x: (x - center).float()) if metric == "l2" else torch.Tensor.float


def _distinct(means: Tensor) -> tuple[Tensor, Tensor | None]:
    """The different ones of `means` [K, D], and which of them each is [K]; None where all differ.

    How BLAS rounds depends on where in the matrix a mean is, so each is to be there once. Equal
    means have equal sums: seldom are all compared in full.
    """
    if len(means.sum(1, dtype=torch.float64).unique()) < len(means):
        distinct, same = torch.unique(means, dim=0, return_inverse=True)
        if len(distinct) < len(means):
            return distinct, same
    return means, None


def _central(means: Tensor) -> Tensor:
    """The mean closest to the middle of all: on a grid that holds the means, differences from it
    are exact, and equal distances stay equal."""
    return means[torch.linalg.vector_norm(means - means.mean(0), dim=1).argmin()]


def _distances(x: Tensor, means: Tensor, metric: str) -> Tensor:
    """‖x − c‖² or ⟨x, c⟩, [N, K] float32."""
    if x.is_cuda:
        closeness = _products(x, means, metric)
        return closeness.neg_() if metric == "l2" else closeness
    with _faiss() as faiss:
        pair = x.numpy(), means.numpy()
        return torch.from_numpy(faiss.pairwise_distances(*pair, _kind(faiss, metric)))


def _propose(queries: Tensor, rows: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Closeness and index [B, k] of the nearest of `rows` [n, D] by float32."""
    if not queries.is_cuda:
        return _search_by_faiss(queries, rows, k, metric)
    if k <= GPU_NEIGHBOURS and _gpu_faiss():
        return _search_by_gpu_faiss(queries, rows, k, metric)
    return _search_by_products(queries, rows, k, metric)


def _search_by_faiss(queries: Tensor, rows: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """In host memory."""
    with _faiss() as faiss:
        found, index = faiss.knn(queries.numpy(), rows.numpy(), k, _kind(faiss, metric))
    closeness = torch.from_numpy(found)
    return closeness.neg_() if metric == "l2" else closeness, torch.from_numpy(index)


def _search_by_gpu_faiss(
    queries: Tensor, rows: Tensor, k: int, metric: str
) -> tuple[Tensor, Tensor]:
    """On the GPU of the rows and in PyTorch's stream, from and to tensors."""
    import faiss.contrib.torch_utils  # here, for the same reason as in `_faiss`

    device = queries.device.index
    with torch.cuda.device(device):
        closeness, index = faiss.knn_gpu(
            _gpu_resources(device, threading.get_ident()),
            queries.contiguous(),
            rows.contiguous(),
            k,
            metric=_kind(faiss, metric),
            device=device,
        )
    return closeness.neg_() if metric == "l2" else closeness, index


def _search_by_products(
    queries: Tensor, rows: Tensor, k: int, metric: str
) -> tuple[Tensor, Tensor]:
    """By PyTorch, on the device of the rows."""
    found = [_products(part, rows, metric).topk(k, dim=1) for part in queries.split(BLOCK_QUERIES)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _products(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    """Closeness of every query to every row, [B, n] float32."""
    with precision("fp32"):
        closeness = queries @ rows.t()
    if metric == "l2":  # −‖q − x‖² = 2⟨q, x⟩ − ‖x‖² − ‖q‖²
        length, own = rows.square().sum(1), queries.square().sum(1, keepdim=True)
        closeness.mul_(2).sub_(length).sub_(own).clamp_max_(0)
    return closeness


def _kind(faiss: ModuleType, metric: str) -> int:
    """faiss's name of a metric."""
    return {"l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}[metric]


@functools.cache
def _gpu_faiss() -> bool:
    """Whether faiss can use a GPU; asked only for data on one."""
    import faiss

    return bool(faiss.get_num_gpus() > 0)


@functools.cache
def _gpu_resources(device: int, thread: int) -> Any:
    """faiss's memory on one GPU; threads may not share it."""
    import faiss

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_BYTES)
    resources.setPinnedMemory(0)
    return resources


@contextlib.contextmanager
def _faiss() -> Iterator[ModuleType]:
    """faiss, on as many threads as this thread has given PyTorch."""
    import faiss  # here, because it takes half a second that other heads need not pay

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)
