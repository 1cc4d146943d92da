"""Losses of rows that are not of the family, and their gradients, for C configurations at once.

Axes: B rows, C configurations, K classes. Logits z [B, C, K] are overwritten.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from stage2.methods.family import EXCLUDED


def label_index(z: Tensor, y: Tensor) -> Tensor:
    """Index of the labels' entries of z along the classes, [B, C, 1]."""
    return y.view(-1, 1, 1).expand(-1, z.shape[1], 1)


def softmax_bce(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """L = −log p_y − Σ_{k≠y} log(1−p_k) of each row, binary terms of p = softmax(z).

    Let * be the class of the largest logit. No other class has
    p_k > ½, so only 1−p_* can lose its digits. The softmax s without * avoids that:
    log p_*/(1−p_*) = z_* − logsumexp_{k≠*} z_k, and p_k = (1−p_*)·s_k. With the odds
    o_k = p_k/(1−p_k), their sum O over k ≠ y, *, and t = p_* where y ≠ *, else 0,

        ∂L/∂z_k = p_k·(2 + o_k − O) − t·s_k      k ≠ y, *
        ∂L/∂z_* = p_*·(2 − O)                    where y ≠ *
        ∂L/∂z_y = p_y·(1 − O) − t·s_y − 1        where y ≠ *, else −(1−p_*) − p_*·O

    in which no terms cancel as p_* approaches 1.
    """
    label = label_index(z, y)
    largest = z.argmax(2, keepdim=True)
    right = (largest == label).squeeze(2)
    z_top, z_y = z.gather(2, largest).squeeze(2), z.gather(2, label).squeeze(2)
    z.scatter_(2, largest, -math.inf)
    second = z.amax(2, keepdim=True)
    s = z.sub_(second).exp_()
    partition = s.sum(2)
    s.div_(partition.unsqueeze(2))
    others = partition.log().add_(second.squeeze(2))  # logsumexp over k ≠ *
    log_top, log_rest = logsigmoid(z_top - others), logsigmoid(others - z_top)
    p_top, rest = log_top.exp(), log_rest.exp()
    p = s * rest.unsqueeze(2)
    s_y = s.gather(2, label).squeeze(2)  # 0 where y = *, as is p_y
    p_y = s_y * rest
    odds = p / (1 - p)
    total_odds = odds.sum(2) - p_y / (1 - p_y)
    bend = odds.mul_(p)
    missed = torch.log1p(-p_y) - p.neg_().log1p_().sum(2)

    loss = missed - torch.where(right, log_top, z_y - others + 2 * log_rest)
    wrong = torch.where(right, 0.0, p_top)
    slope = rest * (2 - total_odds) - wrong
    at_y = torch.where(right, -rest - p_top * total_odds, p_y * (1 - total_odds) - wrong * s_y - 1)
    gradient = s.mul_(slope.unsqueeze(2)).add_(bend)
    gradient.scatter_(2, largest, (p_top * (2 - total_odds)).unsqueeze(2))
    return loss, gradient.scatter_(2, label, at_y.unsqueeze(2))


def sigmoid_focal(z: Tensor, y: Tensor, gamma: Tensor | None) -> tuple[Tensor, Tensor]:
    """L = −Σ_k (1−p_k)^γ log p_k of rows, p_y = sigmoid(z_y) and p_k = sigmoid(−z_k) for k ≠ y."""
    label = label_index(z, y)
    own, own_slope = _sigmoid_term(-z.gather(2, label), gamma)
    terms, slopes = _sigmoid_term(z.scatter_(2, label, EXCLUDED), gamma)
    return terms.sum(2) + own.squeeze(2), slopes.scatter_(2, label, -own_slope)


def dot_regression(z: Tensor, y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """L = ½(a·z_y − 1)² of each row, with a [C, K]."""
    label, factor = label_index(z, y), scale.t().index_select(0, y)
    gap = z.gather(2, label).squeeze(2).mul_(factor).sub_(1)
    return gap.square() / 2, z.zero_().scatter_(2, label, (gap * factor).unsqueeze(2))


def lade(
    z: Tensor, y: Tensor, share: Tensor, log_prior: Tensor, penalty: Tensor
) -> tuple[Tensor, Tensor]:
    """R = Σ_k π_k (S_k + λS_k² − mean of z_k over the rows of class k), and its gradient.

    S_k = log Σ_i v_i exp(z_ik) − log π_k − log K is the log of the normaliser by which exp(z_k)
    becomes a density ratio, and the mean less S_k the Donsker–Varadhan bound [LADE, as released,
    whose importance weight is that of class k rather than that of the row's class].
    ∂S_k/∂z_ik is the softmax of z_ik + log v_i over the rows.

    Parameters
    ----------
    z, y
        Logits [B, C, K], which stay as they are, and labels [B].
    share
        v, what each row counts in the average, [B].
    log_prior
        log π, [C, K]; a class with `EXCLUDED` is left out.
    penalty
        λ, [C].

    Returns
    -------
    R [C] and ∂R/∂z [B, C, K].
    """
    label, weight = label_index(z, y), log_prior.exp()
    weighted = z + share.log()[:, None, None]
    classes = (log_prior > EXCLUDED).sum(1, keepdim=True)
    bound = weighted.logsumexp(0).sub_(log_prior).sub_(classes.to(z.dtype).log())
    alike = share.new_zeros(z.shape[2]).index_add_(0, y, share).clamp_min_(1e-30)
    mean = weight.t().index_select(0, y).mul_((share / alike.index_select(0, y))[:, None])
    loss = (weight * (bound + penalty[:, None] * bound.square())).sum(1)
    loss = loss - (mean * z.gather(2, label).squeeze(2)).sum(0)
    slope = weight * (1 + 2 * penalty[:, None] * bound)
    gradient = torch.softmax(weighted, 0).mul_(slope)
    return loss, gradient.scatter_add_(2, label, mean.neg_().unsqueeze(2))


def _sigmoid_term(z: Tensor, gamma: Tensor | None) -> tuple[Tensor, Tensor]:
    """−p^γ log(1−p) for p = sigmoid(z), the loss of a class other than the label, and its slope
    p^γ·(p − γ(1−p) log(1−p)). The term of the label is the same at −z, with the slope negated."""
    log_p, loss = logsigmoid(z), logsigmoid(-z).neg_()
    p = log_p.exp()
    if gamma is None:
        return loss, p
    focus = log_p.mul_(gamma).exp_()
    slope = torch.sub(1, p).mul_(gamma).mul_(loss).add_(p).mul_(focus)
    return loss.mul_(focus), slope
