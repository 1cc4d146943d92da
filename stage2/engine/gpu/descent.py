"""Steps of the optimiser where the gradients are, as Triton kernels: in the product that makes the
gradient of W, and in the sums that make those of a bias and a scale.

No gradient of W is written. A step of SGD moves 16 bytes per weight, and 18 in bf16, which keeps
the weights rounded as the next product's factor; a product and an update of its own move 24 to 30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

TILE = 128
"""Rows and columns of W of a program, with a product."""

BATCH_BYTES = 128
"""Bytes of a tile of factors along the batch."""

PLAIN_TILE = 16
"""Rows of W of a program without a product."""

LENGTHS_BLOCK = 256
"""Rows of W whose lengths a program computes."""


class Trained(NamedTuple):
    """A parameter in training, [C, …]: its value, the optimiser's states, and what pulls it.

    Attributes
    ----------
    value, first, second
        The parameter, and velocity, or means of gradient and square; changed in place.
    anchor
        What weight decay pulls towards, shaped like the value or [1, …] for all; None for 0.
    multiplier, decay
        Factor of the learning rate, and λ, C numbers each; None for 1 and for 0.
    """

    value: Tensor
    first: Tensor
    second: Tensor | None
    anchor: Tensor | None
    multiplier: Tensor | None
    decay: Tensor | None


@dataclass(frozen=True)
class Rule:
    """Hyper-parameters [C] of SGD (μ, and 1 for Nesterov) or of AdamW (1−β₁, 1−β₂)."""

    momentum: Tensor | None = None
    nesterov: Tensor | None = None
    mean_share: Tensor | None = None
    square_share: Tensor | None = None

    def at(self, rates: Rates) -> list[Tensor | None]:
        """Arguments of a kernel from `momentum` to `floor`."""
        own = [self.momentum, self.nesterov, self.mean_share, self.square_share]
        return [*own, rates.ratio, rates.floor]


class Rates(NamedTuple):
    """Of a step, [C]: learning rate; for AdamW r = √(1−β₂ᵗ)/(1−β₁ᵗ) and ε√(1−β₂ᵗ)."""

    lr: Tensor
    ratio: Tensor | None
    floor: Tensor | None


class Scaling(NamedTuple):
    """Of rows of W that are scaled by ρ = s/‖w‖, [C, K] each: ‖w‖, ρ, and t of `weight_step`."""

    length: Tensor
    rho: Tensor
    toward: Tensor


def weight_geometry(dim: int, factor_bytes: int | None) -> dict[str, int]:
    """Rows and columns of W of a program, rows of the batch at a time, parts of the columns that a
    step takes at a time, and warps; for D, and bytes of a factor or None without a product."""
    columns = min(TILE, max(16, 1 << (dim - 1).bit_length()))
    if factor_bytes is None:
        return {"BM": PLAIN_TILE, "BN": columns, "BB": 1, "PARTS": 1, "num_warps": 4}
    high, rows = TILE, BATCH_BYTES // factor_bytes
    if dim % 16:  # rows of W are not aligned, and every number of them has an address of its own
        high, columns = 64, min(columns, 32)
    parts = max(1, columns // 16)
    return {"BM": high, "BN": columns, "BB": rows, "PARTS": parts, "num_warps": 8}


def weight_step(
    g: Tensor,
    x: Tensor | None,
    weight: Trained,
    rates: Rates,
    rule: Rule,
    *,
    shadow: Tensor | None = None,
    scaling: Scaling | None = None,
    tf32: bool = False,
) -> Tensor | None:
    """One step on W [C, K, D] at the gradient gᵀx − t·W.

    Parameters
    ----------
    g, x
        Gradient in x·w [B, C·K] and features [B, D], both float32 or both bfloat16; or the product
        [C·K, D] float32 and None.
    weight, rates, rule
        W; how to step, and at what rates.
    shadow
        W as bfloat16, kept up to date.
    scaling
        Whose t applies; None for 0.
    tf32
        Whether a product may round its float32 factors.

    Returns
    -------
    With `scaling`, sums of w² over pieces of each row of the new W, [pieces, C, K].
    """
    from stage2.engine.gpu.descent_programs import weight_kernel

    configs, classes, dim = weight.value.shape
    rows, unit = configs * classes, math.gcd(configs * classes, 16)
    geometry = weight_geometry(dim, None if x is None else x.element_size())
    tiles = -(-dim // geometry["BN"])
    squares = weight.value.new_empty(tiles, configs, classes) if scaling else None
    weight_kernel[(-(-rows // geometry["BM"]) * tiles,)](
        g,
        x,
        *weight[:4],
        shadow,
        squares,
        scaling.toward if scaling else None,
        rates.lr,
        *weight[4:],
        *rule.at(rates),
        0 if x is None else len(x),
        rows // unit,
        dim,
        K=classes,
        UNIT=unit,
        ONE_ANCHOR=weight.anchor is not None and len(weight.anchor) == 1,
        PRECISION="tf32" if tf32 else "ieee",
        **geometry,
        enable_fp_fusion=True,
    )
    return squares


def small_step(
    total: Tensor,
    loss: Tensor,
    rates: Rates,
    rule: Rule,
    *,
    slopes: Tensor | None = None,
    along: Tensor | None = None,
    bias: Trained | None = None,
    scale: Trained | None = None,
    scaling: Scaling | None = None,
) -> None:
    """Add up the parts of a batch, and take the steps of b [C, K] and s.

    Parameters
    ----------
    total
        Sum of losses [C] float64, to which those of the batch are added.
    loss, slopes, along
        Of `stage2.engine.gpu.scaled_loss.ScaledLoss`.
    rates, rule
        How to step, and at what rates.
    bias
        b, whose gradient is the sum of `slopes`.
    scale
        s [C, K], whose gradient is that of `along`; or [C, 1] with `scaling`.
    scaling
        With ρ = s/‖w‖: its t = ⟨∂L/∂w, w⟩/‖w‖² is written.
    """
    from stage2.engine.gpu.descent_programs import small_kernel

    parts, configs = loss.shape
    sums = slopes if slopes is not None else along
    assert sums is not None, "neither b nor s is there to step"
    classes = sums.shape[2]
    block = min(1024, max(128, 1 << (classes - 1).bit_length()))
    small_kernel[(configs,)](
        total,
        loss,
        slopes,
        along,
        *(scaling or (None, None, None)),
        *_arguments(bias),
        *_arguments(scale),
        rates.lr,
        *rule.at(rates),
        parts,
        configs,
        K=classes,
        BLOCK=block,
        WAYS=64,
        num_warps=4,
        enable_fp_fusion=True,
    )


def lengths(squares: Tensor, scale: Tensor, scaling: Scaling) -> None:
    """‖w‖ and ρ = s/‖w‖ from the sums of `weight_step`, for s [C, 1]."""
    from stage2.engine.gpu.descent_programs import lengths_kernel

    tiles, configs, classes = squares.shape
    lengths_kernel[(-(-configs * classes // LENGTHS_BLOCK),)](
        squares,
        scale,
        scaling.length,
        scaling.rho,
        tiles,
        configs * classes,
        K=classes,
        BLOCK=LENGTHS_BLOCK,
        num_warps=4,
    )


def _arguments(p: Trained | None) -> list[Tensor | int | None]:
    """A parameter as `small_kernel` takes it."""
    if p is None:
        return [None, None, None, None, 0, None, None]
    own = p.anchor is not None and len(p.anchor) > 1
    return [*p[:4], p.value[0].numel() if own else 0, *p[4:]]
