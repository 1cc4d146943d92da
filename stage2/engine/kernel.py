"""Losses and gradients of C configurations in a few passes over their logits.

The family, in the notation of `stage2.methods.family` with S = −Σ_k q_k log p_k, f = (1−p_y)^γ,
f' = df/dp_y: the gradient of L = ω f S is, for every class k,

    ∂L/∂u_k = ω [ f·(p_k − q_k) + S·f'·p_y·(1[k=y] − p_k) ]

which is affine in p_k apart from the true class:

    ∂L/∂u_k = A·p_k + O + E·1[k=y]
        A = ω(f − S f' p_y)      O = −ω f ε·o      E = −ω f·(q_y − ε·o) + ω S f' p_y

So one exponential and one multiply-add per logit suffice, whatever the losses in the group. Losses
that are not of the family have a kernel each, from `stage2.engine.terms`; all of `KERNELS` have the
same signature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stage2.engine import terms
from stage2.engine.terms import label_index
from stage2.methods.family import LossParameters


@dataclass(frozen=True)
class Distillation:
    """The C' configurations that also learn from the logits of stage 1.

    Attributes
    ----------
    configs
        Their indices among the C, [C'] int64.
    strength, temperature
        α and T, [C'].
    classes
        1 for a class whose samples are distilled, else 0, [K, C'].
    """

    configs: Tensor
    strength: Tensor
    temperature: Tensor
    classes: Tensor


@dataclass(frozen=True)
class LossRows:
    """Loss parameters of C configurations; None where all of them have the neutral value.

    Attributes
    ----------
    scale, shift
        a and m, [C, K].
    margin, weight, smoothing
        Δ, ω and ε by class, [K, C], so that the labels of a batch index rows.
    elsewhere, at_label
        o_k for k ≠ y and for k = y, [C].
    gamma
        γ, [C].
    by_weights
        Whether to divide by the batch's Σω, [C] bool.
    frozen_gamma
        Exponent of the factor (1−p_y)^γ that carries no gradient, [C].
    angle
        τ of `stage2.engine.angles.angle_factors`, [C], whose results are the κ of a kernel.
    distil
        The configurations with α > 0.
    cloud
        Amplitude of the noise on the logits, [C, K], see `stage2.engine.cloud`.
    lade, lade_penalty
        α and λ of `stage2.engine.terms.lade`, [C].
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
    frozen_gamma: Tensor | None = None
    angle: Tensor | None = None
    distil: Distillation | None = None
    cloud: Tensor | None = None
    lade: Tensor | None = None
    lade_penalty: Tensor | None = None

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

        def exponents(values: Sequence[float]) -> Tensor | None:
            return per_config(values) if any(values) else None

        def distillation() -> Distillation | None:
            configs = [c for c, row in enumerate(rows) if row.distil > 0]
            if not configs:
                return None
            masks = [rows[c].distil_classes for c in configs]
            classes = np.stack([np.ones(num_classes) if m is None else m for m in masks], axis=1)
            return Distillation(
                configs=torch.tensor(configs, device=device),
                strength=per_config([rows[c].distil for c in configs]),
                temperature=per_config([rows[c].temperature for c in configs]),
                classes=torch.from_numpy(classes).to(device, dtype),
            )

        return LossRows(
            scale=stacked("scale", 1.0),
            shift=stacked("shift", 0.0),
            margin=by_class("margin", 0.0),
            weight=by_class("weight", 1.0),
            smoothing=by_class("smoothing", 0.0),
            elsewhere=per_config([1 / (num_classes - r.others) for r in rows]),
            at_label=per_config([0.0 if r.others else 1 / num_classes for r in rows]),
            gamma=exponents([r.gamma for r in rows]),
            by_weights=torch.tensor([r.by_weights for r in rows], device=device),
            frozen_gamma=exponents([r.frozen_gamma for r in rows]),
            angle=exponents([r.angle for r in rows]),
            distil=distillation(),
            cloud=stacked("cloud", 0.0),
            lade=exponents([r.lade for r in rows]),
            lade_penalty=per_config([r.lade_penalty for r in rows]),
        )


def loss_and_gradient(
    z: Tensor,
    y: Tensor,
    rows: LossRows,
    *,
    kappa: Tensor | None = None,
    teacher: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss of every configuration and its gradient with respect to the logits.

    Parameters
    ----------
    z
        Logits [B, C, K]; overwritten.
    y
        Labels [B] int64.
    rows
        The losses.
    kappa
        Factor κ ≥ 0 of each sample's loss, constant to the gradient, [B, C]; it does not scale the
        distillation.
    teacher
        Stage-1 logits z⁰ where a configuration distils, [B, 1, K], or [B, C, K] where they differ.
    row_weight
        Weight of each row instead of 1/B, [B].

    Returns
    -------
    The batch loss [C] and ∂loss/∂z [B, C, K].
    """
    share = row_shares(z, row_weight)
    distilled = distillation(z, y, rows.distil, teacher, share) if rows.distil else None
    label = label_index(z, y)
    u = _adjusted(z, y, rows)
    # (u − max u)/ln 2 in one pass: a power of 2 costs half of one of e. And p is never formed, its
    # 1/Σ joins the row's slope below.
    top = u.amax(2, keepdim=True).mul_(-1 / math.log(2))
    bits = torch.add(top, u, alpha=1 / math.log(2), out=u)
    bits_y = bits.gather(2, label).squeeze(2)  # [B, C]
    bits_total = None if rows.smoothing is None else bits.sum(2)
    power = bits.exp2_()
    partition = power.sum(2)
    log_partition = partition.log()
    log_py = bits_y.mul_(math.log(2)).sub_(log_partition)

    # S, and the target's mass elsewhere (ε·o) and above that at the label.
    if rows.smoothing is None or bits_total is None:
        entropy, elsewhere, excess = -log_py, None, None
    else:
        smoothing = rows.smoothing.index_select(0, y)
        elsewhere = smoothing * rows.elsewhere
        at_label = 1 - smoothing + smoothing * rows.at_label
        excess = at_label - elsewhere
        total = bits_total.mul_(math.log(2)).sub_(log_partition, alpha=z.shape[2])
        entropy = -(excess * log_py + elsewhere * total)

    weight = _row_weights(y, rows, share, kappa)
    if rows.frozen_gamma is not None:
        weight = weight * _miss(log_py) ** rows.frozen_gamma
    turn = None  # ω S f' p_y
    if rows.gamma is not None:
        miss = _miss(log_py)
        # f' = −γ(1−p)^{γ−1}; at γ = 0 it is 0, and at p = 1 with γ < 1 the product with S is 0.
        bend = -rows.gamma * miss.clamp_min(torch.finfo(z.dtype).eps) ** (rows.gamma - 1)
        turn = weight * entropy * bend * log_py.exp()
        weight = weight * miss**rows.gamma
    slope = weight if turn is None else weight - turn
    at_label_slope = -weight if excess is None else -weight * excess
    if turn is not None:
        at_label_slope += turn

    gradient = power.mul_((slope / partition).unsqueeze(2))
    if elsewhere is not None:
        gradient.sub_((weight * elsewhere).unsqueeze(2))
    gradient.scatter_add_(2, label, _filled(at_label_slope, entropy).unsqueeze(2))
    if rows.scale is not None:
        gradient.mul_(rows.scale)
    loss = (weight * entropy).sum(0)
    if rows.distil and distilled:
        loss.index_add_(0, rows.distil.configs, distilled[0])
        gradient.index_add_(1, rows.distil.configs, distilled[1])
    return loss, gradient


def _disentangled(
    z: Tensor,
    y: Tensor,
    rows: LossRows,
    *,
    kappa: Tensor | None = None,
    teacher: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`loss_and_gradient` with α times the regulariser `terms.lade`, which κ and ω do not scale."""
    extra = None
    if rows.lade is not None and rows.lade_penalty is not None and rows.shift is not None:
        share = row_weight if row_weight is not None else z.new_full((len(z),), 1 / len(z))
        extra = terms.lade(z, y, share, rows.shift, rows.lade_penalty)
    loss, gradient = loss_and_gradient(
        z, y, rows, kappa=kappa, teacher=teacher, row_weight=row_weight
    )
    if extra is not None and rows.lade is not None:
        loss.addcmul_(extra[0], rows.lade)
        gradient.addcmul_(extra[1], rows.lade[:, None])
    return loss, gradient


def _by_row(
    of_rows: Callable[[Tensor, Tensor, LossRows], tuple[Tensor, Tensor]], *takes: str
) -> Callable[..., tuple[Tensor, Tensor]]:
    """A kernel called as `loss_and_gradient`, from the losses [B, C] and gradients of rows, which
    take ω, γ and other parameters by name."""
    others = {"scale", "shift", "margin", "smoothing", "frozen_gamma", "distil"} - set(takes)

    def kernel(
        z: Tensor,
        y: Tensor,
        rows: LossRows,
        *,
        kappa: Tensor | None = None,
        teacher: Tensor | None = None,
        row_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert all(getattr(rows, name) is None for name in others), "parameters it does not take"
        loss, gradient = of_rows(z, y, rows)
        weight = _row_weights(y, rows, row_shares(z, row_weight), kappa)
        return (weight * loss).sum(0), gradient.mul_(_filled(weight, loss).unsqueeze(2))

    return kernel


def _sigmoid_focal(z: Tensor, y: Tensor, rows: LossRows) -> tuple[Tensor, Tensor]:
    return terms.sigmoid_focal(z, y, None if rows.gamma is None else rows.gamma[:, None])


def _dot_regression(z: Tensor, y: Tensor, rows: LossRows) -> tuple[Tensor, Tensor]:
    scale = torch.ones_like(z[0]) if rows.scale is None else rows.scale
    return terms.dot_regression(z, y, scale)


KERNELS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "family": loss_and_gradient,
    "softmax_bce": _by_row(lambda z, y, rows: terms.softmax_bce(z, y)),
    "sigmoid_focal": _by_row(_sigmoid_focal),
    "dot_regression": _by_row(_dot_regression, "scale"),
    "lade": _disentangled,
    "clouded": loss_and_gradient,  # of logits that the trainer has clouded, as no native pass does
}
"""Every kernel, by the name that `Loss.kernel` gives it."""


def _adjusted(z: Tensor, y: Tensor, rows: LossRows) -> Tensor:
    """u = a·z + m − Δ_y·1[k=y], in place."""
    if rows.scale is not None and rows.shift is not None:
        torch.addcmul(rows.shift, z, rows.scale, out=z)
    elif rows.scale is not None:
        z.mul_(rows.scale)
    elif rows.shift is not None:
        z.add_(rows.shift)
    if rows.margin is not None:
        margin = rows.margin.index_select(0, y).unsqueeze(2)
        z.scatter_add_(2, label_index(z, y), margin.neg_())
    return z


def row_shares(z: Tensor, row_weight: Tensor | None) -> Tensor | float:
    """Share of each row in the average, [B, 1], or one number for all."""
    return 1 / len(z) if row_weight is None else row_weight.unsqueeze(1)


def _row_weights(
    y: Tensor, rows: LossRows, share: Tensor | float, kappa: Tensor | None
) -> Tensor | float:
    """ω_y·κ times the row's share of the average, [B, C], or one number for all."""
    weight = share
    if rows.weight is not None:
        weight = share * rows.weight.index_select(0, y)
        total = weight.sum(0)
        # A batch with weight 0 throughout has the loss 0, not 0/0.
        weight = weight / torch.where(rows.by_weights & (total > 0), total, 1.0)
    return weight if kappa is None else weight * kappa


def _filled(value: Tensor | float, like: Tensor) -> Tensor:
    """A number, or a tensor that broadcasts, expanded to [B, C]."""
    values = value if isinstance(value, Tensor) else like.new_full((1, 1), value)
    return values.expand_as(like)


def _miss(log_py: Tensor) -> Tensor:
    """1 − p_y."""
    return log_py.expm1().neg_().clamp_min_(0)


def distillation(
    z: Tensor, y: Tensor, part: Distillation, teacher: Tensor | None, share: Tensor | float
) -> tuple[Tensor, Tensor]:
    """α·T²·KL(softmax(z⁰/T) ‖ softmax(z/T)), [C'], and its gradient α·T·(p − p⁰), [B, C', K]."""
    assert teacher is not None
    z0 = teacher if teacher.shape[1] == 1 else teacher.index_select(1, part.configs)
    temperature = part.temperature[:, None]
    log_p = torch.log_softmax(z.index_select(1, part.configs).div_(temperature), 2)
    log_p0 = torch.log_softmax(z0 / temperature, 2)
    p0 = log_p0.exp()
    weight = share * part.strength * part.classes.index_select(0, y) * part.temperature
    divergence = p0.mul(log_p0.sub_(log_p)).sum(2)
    loss = (weight * part.temperature * divergence).sum(0)
    return loss, log_p.exp_().sub_(p0).mul_(weight.unsqueeze(2))
