"""Angles of training samples to the weight of their class, for the `sla` loss [SLA eq. 9–12].

A sample counts κ = exp(τ(cosθ*_y − cosθ)) times: the more, the larger its angle θ to the weight of
its class. θ*_y is the angle of the class's best sample, the one with the largest logit for it.
"""

from __future__ import annotations

import math

from torch import Tensor

from stage2.engine.rows import SplitRows, block_rows
from stage2.methods.heads import Context, Parameters, TrainedHead
from stage2.methods.heads.algebra import target_logits


def best_cosines(
    head: TrainedHead, parameters: Parameters, rows: SplitRows, context: Context
) -> Tensor:
    """cosθ*_k of the training sample of class k with the largest logit z_k, [C, K].

    Of samples with equal logits, the largest cosine; 0 for an empty class.
    """
    first = next(iter(parameters.values()))
    configs, classes = len(first), len(context.counts)
    size = block_rows(configs * classes, rows.device)
    logit = first.new_full((classes, configs), -math.inf)
    cosine = logit.clone()
    for x, y in rows.blocks():
        for part, label in zip(x.split(size), y.split(size), strict=True):
            batch = context.batch(part)
            z = head.logits(parameters, batch)
            index = label[:, None].expand(-1, configs)
            own = target_logits(z, label)
            own_cosine = head.cosine(parameters, batch, z, label)
            largest = logit.scatter_reduce(0, index, own, "amax")
            # A larger logit than before voids the old cosine, an equal one does not.
            cosine.masked_fill_(largest > logit, -math.inf)
            at_best = own == largest.gather(0, index)
            candidates = own_cosine.masked_fill(~at_best, -math.inf)
            cosine.scatter_reduce_(0, index, candidates, "amax")
            logit = largest
    return cosine.masked_fill_(cosine == -math.inf, 0).t()


def angle_factors(best: Tensor, cosine: Tensor, y: Tensor, tau: Tensor) -> Tensor:
    """κ = exp(τ(cosθ*_y − cosθ)), [B, C].

    Parameters
    ----------
    best
        cosθ*, [C, K], of `best_cosines`.
    cosine
        cosθ of each row to the weight of its class, [B, C].
    y
        Labels [B].
    tau
        τ, [C]; 0 where a configuration does not weigh by angles.
    """
    return best.t().index_select(0, y).sub_(cosine).mul_(tau).exp_()
