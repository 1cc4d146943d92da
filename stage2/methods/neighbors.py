"""Distances to class means, by faiss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 64 << 20
"""Distances held at once in host memory."""


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
    import faiss  # here, because it takes half a second that other heads need not pay

    kind = {"l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}[metric]
    keys = np.ascontiguousarray(means.cpu().numpy())
    rows = max(1, BLOCK_BYTES // (4 * len(keys)))
    blocks = [
        torch.from_numpy(faiss.pairwise_distances(block.cpu().contiguous().numpy(), keys, kind))
        for block in x.split(rows)
    ]
    distances = torch.cat(blocks) if blocks else torch.empty(0, len(keys))
    return distances.to(x.device)
