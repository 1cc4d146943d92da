"""Distances to class means and nearest training rows: by faiss on a CPU, by products on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 64 << 20
"""Distances held at once in host memory."""

BLOCK_QUERIES = 2048
"""Queries that a GPU compares with a block of training rows at once."""


def class_distances(x: Tensor, means: Tensor, metric: str) -> Tensor:
    """Every row's distance to every class mean.

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
    keys = np.ascontiguousarray(means.cpu().numpy())
    rows = max(1, BLOCK_BYTES // (4 * len(keys)))
    with _faiss() as faiss:
        kind = {"l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}[metric]
        blocks = [
            torch.from_numpy(faiss.pairwise_distances(block.cpu().contiguous().numpy(), keys, kind))
            for block in x.split(rows)
        ]
    distances = torch.cat(blocks) if blocks else torch.empty(0, len(keys))
    return distances.to(x.device)


def nearest(
    queries: Tensor,
    blocks: Iterable[tuple[Tensor, Tensor]],
    *,
    k: int,
    metric: str,
    transform: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The k nearest training rows of every query, exactly, in one pass over the training rows.

    Memory holds one block and k neighbours of every query at a time. Where rows of two blocks are
    as near, that of the earlier block comes first.

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
        [B, min(k, N)], the nearest first. Closeness is −‖q − x‖² or ⟨q, x⟩.
    """
    closeness = torch.empty(len(queries), 0, device=queries.device)
    labels = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    search = _search_by_products if queries.is_cuda else _search_by_faiss
    for x, y in blocks:
        found, index = search(queries, transform(x), min(k, len(x)), metric)
        closeness = torch.cat([closeness, found], 1)
        labels = torch.cat([labels, y[index]], 1)
        order = closeness.argsort(dim=1, descending=True, stable=True)[:, :k]
        closeness, labels = closeness.gather(1, order), labels.gather(1, order)
    return closeness, labels


def _search_by_faiss(queries: Tensor, rows: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Closeness and index [B, k] of the nearest of `rows` [n, D], in host memory."""
    with _faiss() as faiss:
        kind = {"l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}[metric]
        found, index = faiss.knn(queries.numpy(), rows.numpy(), k, kind)
    closeness = torch.from_numpy(found)
    return closeness.neg_() if metric == "l2" else closeness, torch.from_numpy(index)


def _search_by_products(
    queries: Tensor, rows: Tensor, k: int, metric: str
) -> tuple[Tensor, Tensor]:
    """The same on the device of the rows."""
    found = []
    length = (rows * rows).sum(1)
    for part in queries.split(BLOCK_QUERIES):
        closeness = part @ rows.t()
        if metric == "l2":  # −‖q − x‖² = 2⟨q, x⟩ − ‖x‖² − ‖q‖²
            closeness.mul_(2).sub_(length).sub_((part * part).sum(1, keepdim=True)).clamp_max_(0)
        found.append(closeness.topk(k, dim=1))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


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
