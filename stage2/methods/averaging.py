"""The average of the outputs of several heads, each on a view of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


def averaged(z: Sequence[Tensor], logits: bool, shares: Sequence[float] | None = None) -> Tensor:
    """The logits of an average over V views, of their `logits` or of their probabilities.

    Of probabilities it is log Σ_v s_v·softmax(z_v), with s_v the share of view v: of experts with
    weights ε_v that is their mean of ε_v·softmax(z_v) up to a factor [SLA eq. 19], which softmax
    does not see. For equal shares the sum is as good as the mean.

    Parameters
    ----------
    z
        Logits [..., K] of each view.
    logits
        Whether to average logits.
    shares
        s_v > 0, Σ = 1; None for equal ones.
    """
    stacked = torch.stack(list(z))
    if shares is None:
        return stacked.mean(0) if logits else torch.log_softmax(stacked, -1).logsumexp(0)
    s = stacked.new_tensor(shares).reshape(-1, *[1] * (stacked.ndim - 1))
    if logits:
        return (s * stacked).sum(0)
    return (torch.log_softmax(stacked, -1) + s.log()).logsumexp(0)
