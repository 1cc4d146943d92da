"""Nearest class means and training rows, by faiss on the CPU or on the GPU that holds the data.

`search` and `supports` are exact: faiss proposes candidates in float32, their distances are
recomputed in float64 from the differences, and more candidates are requested where float32 cannot
rule out a row that was left out. Ties come in the order of their index. `nearest` and
`class_distances` serve heads, whose logits are float32, and have that precision.

On the CPU faiss reads the memory of the tensors. On a GPU without faiss, or for more neighbours
than faiss supports there, matrix products replace it, with float32 factors, never TF32.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stage2.methods.on_demand import torch
from stage2.methods.precision import precision

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_BYTES = 64 << 20
"""Bytes of distances, or of centred rows, held at once."""

BLOCK_QUERIES = 2048
"""Queries compared with a block of rows at once."""

BLOCK_DIFFERENCES = 1 << 17
"""Float64 differences held at once; few enough to stay in the CPU cache."""

SPARE = 4
"""Candidates requested beyond k + k/8."""

GPU_NEIGHBOURS = 2048
"""Largest k that faiss supports on a GPU."""

GPU_BYTES = 64 << 20
"""GPU memory that faiss reserves."""


def search(queries: Tensor, keys: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Find the k nearest keys of every query, in the order that float64 gives.

    Parameters
    ----------
    queries, keys
        [B, D] and [n, D], float32 or float64, on one device; either may be empty.
    k
        Number of neighbours, at least 1; all n keys where there are fewer.
    metric
        ``l2`` or ``dot``.

    Returns
    -------
    closeness, index
        [B, min(k, n)] float64 and int64, nearest first, ties by lower index. Closeness is
        −‖q − x‖² or ⟨q, x⟩.
    """
    k = min(k, len(keys))
    closeness = queries.new_empty(len(queries), k, dtype=torch.float64)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    remaining = torch.arange(len(queries) if k else 0, device=queries.device)
    count = k + k // 8 + SPARE
    while len(remaining):
        count, unsure = min(count, len(keys)), []
        for rows in remaining.split(max(1, min(BLOCK_QUERIES, BLOCK_BYTES // (8 * count)))):
            closeness[rows], index[rows], sure = _search(queries[rows], keys, k, count, metric)
            unsure.append(rows[~sure])
        remaining, count = torch.cat(unsure), 2 * count
    return closeness, index


def supports(
    x: Tensor, y: Tensor, means: Tensor, counts: Tensor, k: int, *, among: str = "larger"
) -> tuple[Tensor, Tensor]:
    """Find the k nearest class means of every row, among classes larger than its own.

    Parameters
    ----------
    x, y
        Rows [B, D] and their labels [B].
    means, counts
        [K, D] and [K]; the mean of a class with count 0 is ignored.
    k
        Number of means.
    among
        ``larger`` for classes with more samples than the row's own class, ``all`` for every class
        with samples, its own included.

    Returns
    -------
    distance, index
        [B, k]: the Euclidean distance, float64, and the class, nearest first, ties by lower class;
        infinite and −1 where no classes are left.
    """
    distance = torch.full((len(x), k), torch.inf, dtype=torch.float64, device=x.device)
    index = torch.full((len(x), k), -1, dtype=torch.int64, device=x.device)
    label_counts = counts[y]
    thresholds = {"larger": label_counts, "all": torch.zeros_like(label_counts)}[among]
    for threshold in thresholds.unique():
        classes = (counts > threshold).nonzero().view(-1)
        eligible = means[classes]
        for rows in (thresholds == threshold).nonzero().view(-1).split(BLOCK_QUERIES):
            closeness, neighbours = search(x[rows], eligible, k, "l2")
            distance[rows, : neighbours.shape[1]] = closeness.neg().sqrt()
            index[rows, : neighbours.shape[1]] = classes[neighbours]
    return distance, index


def class_distances(x: Tensor, means: Tensor, metric: str) -> Tensor:
    """Compute the distance of every row to every class mean, exactly equal for equal means.

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
    distances = torch.empty(len(x), len(means), device=x.device)
    rows = max(1, BLOCK_BYTES // (4 * max(keys.shape)))
    for part, out in zip(x.split(rows), distances.split(rows), strict=True):
        found = _distances(shifted(part), keys, metric)
        out.copy_(found if same is None else found[:, same])
    return distances


def nearest(
    queries: Tensor,
    blocks: Iterable[tuple[Tensor, Tensor]],
    *,
    k: int,
    metric: str,
    transform: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Find the k nearest training rows of every query in float32, in one pass over the rows.

    Memory holds one block and k neighbours of every query at a time. Ties between blocks go to the
    earlier block; within a block faiss decides their order, and which of them is the k-th. Settling
    ties as `search` does would take up to 1.6 times as long at k = 20, and 2 to 4 times as long at
    k = 200.

    Parameters
    ----------
    queries
        [B, D] float32, transformed.
    blocks
        Training rows [n, D] and their labels [n], in blocks that are searched at once; N in all.
    k
        Number of neighbours; all N rows where there are fewer.
    metric
        ``l2`` or ``dot``.
    transform
        Applied to training rows before they are compared.

    Returns
    -------
    closeness, labels
        [B, min(k, N)], nearest first. Closeness is −‖q − x‖² or ⟨q, x⟩, float32.
    """
    closeness = torch.empty(len(queries), 0, device=queries.device)
    labels = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for x, y in blocks:
        proposed, index = _propose(queries, transform(x), min(k, len(x)), metric)
        closeness = torch.cat([closeness, proposed], 1)
        labels = torch.cat([labels, y[index]], 1)
        order = closeness.argsort(dim=1, descending=True, stable=True)[:, :k]
        closeness, labels = closeness.gather(1, order), labels.gather(1, order)
    return closeness, labels


def _search(
    queries: Tensor, keys: Tensor, k: int, count: int, metric: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`search` among `count` candidates, and whether the result of each query [B] is certain."""
    positions = torch.arange(len(keys), device=keys.device)
    if count == len(keys):
        index = positions.expand(len(queries), -1)
        closeness, index = _ranked(queries, keys, index, k, metric)
        return closeness, index, index[:, 0] >= 0
    rows = max(1, BLOCK_BYTES // (4 * keys.shape[1]))
    blocks = zip(keys.split(rows), positions.split(rows), strict=True)
    shifted = _shift(keys.mean(0), metric)
    centred = shifted(queries)
    proposed, index = nearest(centred, blocks, k=count, metric=metric, transform=shifted)
    closeness, index = _ranked(queries, keys, index, k, metric)
    # A key that could be among the k nearest is no further away than the k-th candidate: that
    # bounds its length, and so the rounding error of its closeness.
    length = torch.linalg.vector_norm(centred, dim=1).double()
    if metric == "l2":
        scale = (2 * length + closeness[:, -1].neg().sqrt()).square()
    else:
        scale = length * torch.linalg.vector_norm(keys, dim=1).amax()
    sure = proposed[:, -1] + _rounding(scale, keys.shape[1]) < closeness[:, -1]
    return closeness, index, sure


def _rounding(scale: Tensor, dim: int) -> Tensor:
    """Bound on the float32 rounding error of a closeness that is a sum of D products.

    |fl(⟨a, b⟩) − ⟨a, b⟩| ≤ D·u·‖a‖‖b‖ to first order, in any order of summation, u = 2⁻²⁴. Of the
    three products in ‖q‖² + ‖x‖² − 2⟨q, x⟩ the bounds add up to D·u·(‖q‖ + ‖x‖)², where the square
    is the `scale`; the shift by a center and the two sums add a few u. The bound is twice that,
    to be safe, plus a term for underflow.
    """
    numbers = torch.finfo(torch.float32)
    return (dim + 8) * (numbers.eps * scale + numbers.tiny)


def _ranked(
    queries: Tensor, keys: Tensor, index: Tensor, k: int, metric: str
) -> tuple[Tensor, Tensor]:
    """Select the k nearest of the candidates `index` [B, e] in float64, ties by lower index."""
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
    """Closeness [B, e] float64 of queries [B, D] float64 to the candidates [B, e, D] of each."""
    if metric == "dot":
        return candidates.double().mul_(queries[:, None]).sum(2)
    return candidates.double().sub_(queries[:, None]).square_().sum(2).neg_()


def _shift(center: Tensor, metric: str) -> Callable[[Tensor], Tensor]:
    """Return the conversion of rows to float32. For distances it first subtracts a common offset,
    which would turn ‖q‖² + ‖x‖² − 2⟨q, x⟩ into mere rounding error."""
    return (lambda x: (x - center).float()) if metric == "l2" else torch.Tensor.float


def _distinct(means: Tensor) -> tuple[Tensor, Tensor | None]:
    """Distinct rows of `means` [K, D], and the index [K] of each among them, or None if all differ.

    BLAS rounds differently by position in the matrix, so each mean must be there once. Equal means
    have equal sums, so the full comparison is rarely needed.
    """
    if len(means.sum(1, dtype=torch.float64).unique()) < len(means):
        distinct, same = torch.unique(means, dim=0, return_inverse=True)
        if len(distinct) < len(means):
            return distinct, same
    return means, None


def _central(means: Tensor) -> Tensor:
    """The mean closest to the average of all: if the means lie on a grid, differences from it are
    exact, and equal distances stay equal."""
    return means[torch.linalg.vector_norm(means - means.mean(0), dim=1).argmin()]


def _distances(x: Tensor, means: Tensor, metric: str) -> Tensor:
    """Compute ‖x − c‖² or ⟨x, c⟩, [N, K] float32."""
    if x.is_cuda:
        closeness = _products(x, means, metric)
        return closeness.neg_() if metric == "l2" else closeness
    with _faiss() as faiss:
        pair = x.numpy(), means.numpy()
        return torch.from_numpy(faiss.pairwise_distances(*pair, _kind(faiss, metric)))


def _propose(queries: Tensor, rows: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Find the nearest of `rows` [n, D] in float32: closeness and index, [B, k]."""
    if not queries.is_cuda:
        return _search_by_faiss(queries, rows, k, metric)
    if k <= GPU_NEIGHBOURS and _gpu_faiss():
        return _search_by_gpu_faiss(queries, rows, k, metric)
    return _search_by_products(queries, rows, k, metric)


def _search_by_faiss(queries: Tensor, rows: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """`_propose` by faiss, in host memory."""
    with _faiss() as faiss:
        scores, index = faiss.knn(queries.numpy(), rows.numpy(), k, _kind(faiss, metric))
    closeness = torch.from_numpy(scores)
    return closeness.neg_() if metric == "l2" else closeness, torch.from_numpy(index)


def _search_by_gpu_faiss(
    queries: Tensor, rows: Tensor, k: int, metric: str
) -> tuple[Tensor, Tensor]:
    """`_propose` by faiss, on the GPU of the rows and in PyTorch's stream."""
    import faiss.contrib.torch_utils  # imported here, for the same reason as in `_faiss`

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
    """`_propose` by PyTorch, on the device of the rows."""
    tops = [_products(part, rows, metric).topk(k, dim=1) for part in queries.split(BLOCK_QUERIES)]
    return torch.cat([top.values for top in tops]), torch.cat([top.indices for top in tops])


def _products(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    """Compute the closeness of every query to every row, [B, n] float32."""
    with precision("fp32"):
        closeness = queries @ rows.t()
    if metric == "l2":  # −‖q − x‖² = 2⟨q, x⟩ − ‖x‖² − ‖q‖²
        row_norms, query_norms = rows.square().sum(1), queries.square().sum(1, keepdim=True)
        closeness.mul_(2).sub_(row_norms).sub_(query_norms).clamp_max_(0)
    return closeness


def _kind(faiss: ModuleType, metric: str) -> int:
    """faiss constant for a metric."""
    return {"l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}[metric]


@functools.cache
def _gpu_faiss() -> bool:
    """Whether faiss is there and can use a GPU; called only for data on one."""
    try:
        import faiss
    except ImportError:
        return False
    return bool(faiss.get_num_gpus() > 0)


@functools.cache
def _gpu_resources(device: int, thread: int) -> Any:
    """faiss resources on one GPU; threads must not share them."""
    import faiss

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_BYTES)
    resources.setPinnedMemory(0)
    return resources


@contextlib.contextmanager
def _faiss() -> Iterator[ModuleType]:
    """Lend out faiss, set to as many threads as PyTorch uses in this thread."""
    import faiss  # imported here: it takes half a second, which other heads should not pay

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)
