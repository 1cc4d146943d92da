"""The loss family's one kernel: losses and gradients of C configurations in a few passes.

With the notation of `stage2.methods.losses` and S = −Σ_k q_k log p_k, f = (1−p_y)^γ, f' = df/dp_y,
the gradient of L = ω f S is, for every class k,

    ∂L/∂u_k = ω [ f·(p_k − q_k) + S·f'·p_y·(1[k=y] − p_k) ]

which is affine in p_k apart from the true class:

    ∂L/∂u_k = A·p_k + O + E·1[k=y]
        A = ω(f − S f' p_y)      O = −ω f ε·o      E = −ω f·(q_y − ε·o) + ω S f' p_y

So one exponential and one multiply-add per logit suffice, whatever the losses in the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stage2.methods.losses import LossParameters


@dataclass(frozen=True)
class LossRows:
    """Loss parameters of C configurations; None where every configuration is neutral.

    Attributes
    ----------
    scale, shift
        a and m, [C, K].
    margin, weight, smoothing
        Δ, ω and ε by class, [K, C]: a batch's labels pick rows.
    elsewhere, at_label
        o_k for k ≠ y and for k = y, [C].
    gamma
        γ, [C].
    by_weights
        Whether to divide by the batch's Σω, [C] bool.
    """

    scale: Tensor | None
    shift: Tensor | None
    margin: Tensor | None
    weight: Tensor | None
    smoothing: Tensor | None
    elsewhere: Tensor
    at_label: Tensor
    gamma: Tensor | None
    by_weights: Tensor

    @staticmethod
    def stack(
        rows: Sequence[LossParameters],
        num_classes: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> LossRows:
        """Stack one row per configuration."""

        def stacked(name: str, neutral: float) -> Tensor | None:
            values = [getattr(row, name) for row in rows]
            if all(v is None or np.all(v == neutral) for v in values):
                return None
            default = np.full(num_classes, neutral)
            table = np.stack([default if v is None else v for v in values])
            return torch.from_numpy(table).to(device, dtype)

        def by_class(name: str, neutral: float) -> Tensor | None:
            table = stacked(name, neutral)
            return None if table is None else table.t().contiguous()

        def per_config(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return LossRows(
            scale=stacked("scale", 1.0),
            shift=stacked("shift", 0.0),
            margin=by_class("margin", 0.0),
            weight=by_class("weight", 1.0),
            smoothing=by_class("smoothing", 0.0),
            elsewhere=per_config([1 / (num_classes - r.others) for r in rows]),
            at_label=per_config([0.0 if r.others else 1 / num_classes for r in rows]),
            gamma=per_config([r.gamma for r in rows]) if any(r.gamma for r in rows) else None,
            by_weights=torch.tensor([r.by_weights for r in rows], device=device),
        )


def loss_and_gradient(z: Tensor, y: Tensor, rows: LossRows) -> tuple[Tensor, Tensor]:
    """Loss of every configuration and its gradient with respect to the logits.

    Parameters
    ----------
    z
        Logits [B, C, K]; overwritten.
    y
        Labels [B] int64.
    rows
        The losses.

    Returns
    -------
    The batch loss [C] and ∂loss/∂z [B, C, K].
    """
    batch, configs, num_classes = z.shape
    label = y.view(batch, 1, 1).expand(batch, configs, 1)
    u = z
    if rows.scale is not None:
        u.mul_(rows.scale)
    if rows.shift is not None:
        u.add_(rows.shift)
    if rows.margin is not None:
        u.scatter_add_(2, label, rows.margin.index_select(0, y).neg_().unsqueeze(2))
    # One exponential per logit: p = e/Σe is never formed, its 1/Σe joins the row's slope below.
    uy = u.gather(2, label).squeeze(2)  # [B, C]
    total = None if rows.smoothing is None else u.sum(2)
    top = u.amax(2, keepdim=True)
    exponential = u.sub_(top).exp_()
    partition = exponential.sum(2)
    log_partition = partition.log().add_(top.squeeze(2))
    log_py = uy - log_partition

    # S, and the target's mass elsewhere (ε·o) and above that at the label.
    if rows.smoothing is None or total is None:
        entropy, elsewhere, excess = -log_py, None, None
    else:
        smoothing = rows.smoothing.index_select(0, y)
        elsewhere = smoothing * rows.elsewhere
        at_label = 1 - smoothing + smoothing * rows.at_label
        excess = at_label - elsewhere
        entropy = -(excess * log_py + elsewhere * (total - num_classes * log_partition))

    weight = _row_weights(y, rows, batch, configs, z)
    if rows.gamma is None:
        loss = weight * entropy
        slope = weight
        at_label_slope = -weight if excess is None else -weight * excess
        offset = None if elsewhere is None else -weight * elsewhere
    else:
        py = log_py.exp()
        miss = (1 - py).clamp_min(0)
        focus = miss**rows.gamma
        # f' = −γ(1−p)^{γ−1}; at γ = 0 it is 0, and at p = 1 with γ < 1 the product with S is 0.
        bend = -rows.gamma * miss.clamp_min(torch.finfo(z.dtype).eps) ** (rows.gamma - 1)
        turn = entropy * bend * py
        loss = weight * focus * entropy
        slope = weight * (focus - turn)
        at_label_slope = weight * (turn - focus * (1.0 if excess is None else excess))
        offset = None if elsewhere is None else -weight * focus * elsewhere

    gradient = exponential.mul_((slope / partition).unsqueeze(2))
    if offset is not None:
        gradient.add_(offset.unsqueeze(2))
    gradient.scatter_add_(2, label, at_label_slope.unsqueeze(2))
    if rows.scale is not None:
        gradient.mul_(rows.scale)
    return loss.sum(0), gradient


def _row_weights(y: Tensor, rows: LossRows, batch: int, configs: int, z: Tensor) -> Tensor:
    """ω_y over the batch's normaliser, [B, C]."""
    if rows.weight is None:
        return torch.full((batch, configs), 1 / batch, dtype=z.dtype, device=z.device)
    weight = rows.weight.index_select(0, y)
    total = weight.sum(0)
    # A batch of left-out classes only has no weight at all: its loss is 0, not 0/0.
    norm = torch.where(rows.by_weights & (total > 0), total, float(batch))
    return weight / norm
