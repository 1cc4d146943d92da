"""Optimiser steps as one Triton kernel each, for a GPU.

The results are those of `stage2.methods.optimisers` up to the rounding of float32. A step of SGD
moves 20 bytes per parameter, where the passes of the eager one move 24 to 48; one of AdamW moves 28
instead of 80 to 104.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stage2.methods.optimisers import SGD, AdamW, Optimiser

BLOCK = 1024
"""Parameters per program of a step."""

COUNT_BLOCK = 128
"""Configurations per program of the count of AdamW's steps."""


class FusedSGD(SGD):
    """SGD in a single pass over each parameter whose weight decay is one number."""

    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor) -> None:
        if name in self.decay_weights:
            super()._update(name, p, gradient, lr)
            return
        sgd_step(
            p,
            self.state["velocity"][name],
            gradient,
            lr=lr,
            momentum=self._momentum,
            decay=self.decay.get(name),
            nesterov=self._nesterov,
            anchor=self.anchors.get(name),
        )


class FusedAdamW(AdamW):
    """AdamW in a single pass over each parameter whose weight decay is one number."""

    def _set(self, settings: Sequence[Mapping[str, Any]]) -> None:
        super()._set(settings)
        self._log_betas = self._betas.log()

    def _counted(self) -> tuple[Tensor, Tensor]:
        return adamw_count(self.state["steps"], self._log_betas, self._eps)

    def _update(self, name: str, p: Tensor, gradient: Tensor, lr: Tensor) -> None:
        if name in self.decay_weights:
            super()._update(name, p, gradient, lr)
            return
        first, second = self._shares.unbind()
        mean, square = self.state_of(name)
        adamw_step(
            p,
            mean,
            square,
            gradient,
            lr=lr,
            shares=(first, second),
            ratio=self._ratio,
            floor=self._floor,
            decay=self.decay.get(name),
            anchor=self.anchors.get(name),
        )


def sgd_step(
    p: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    lr: Tensor,
    momentum: Tensor,
    decay: Tensor | None = None,
    nesterov: Tensor | None = None,
    anchor: Tensor | None = None,
) -> None:
    """One step of `stage2.methods.optimisers.SGD` on a parameter [C, …], in one pass.

    Parameters
    ----------
    p, v
        The parameter and its velocity, contiguous; changed in place.
    g
        Its gradient.
    lr, momentum, decay
        η, μ and λ of every configuration, C numbers each; None for λ = 0.
    nesterov
        1 where a configuration uses Nesterov's momentum and 0 elsewhere, [C]; None where none does.
    anchor
        The values that decay pulls towards, shaped like `p`, or [1, …] for all; None for 0.
    """
    from stage2.engine.gpu.update_programs import sgd_kernel

    size = p[0].numel()
    with torch.cuda.device_of(p):
        sgd_kernel[(-(-size // BLOCK) * len(p),)](
            p,
            v,
            g.contiguous(),
            lr,
            momentum,
            decay,
            nesterov,
            *_anchor(anchor, size),
            size,
            BLOCK=BLOCK,
            enable_fp_fusion=True,
        )


def adamw_step(
    p: Tensor,
    mean: Tensor,
    square: Tensor,
    g: Tensor,
    *,
    lr: Tensor,
    shares: tuple[Tensor, Tensor],
    ratio: Tensor,
    floor: Tensor,
    decay: Tensor | None = None,
    anchor: Tensor | None = None,
) -> None:
    """One step of `stage2.methods.optimisers.AdamW` on a parameter [C, …], in one pass.

    Parameters
    ----------
    p, mean, square
        The parameter and the means of its gradient and of the square; contiguous, changed in place.
    g
        Its gradient.
    lr, decay
        η and λ of every configuration, C numbers each; None for λ = 0.
    shares
        1 − β₁ and 1 − β₂, [C] each.
    ratio, floor
        Results of `adamw_count`.
    anchor
        The values that decay pulls towards, shaped like `p`, or [1, …] for all; None for 0.
    """
    from stage2.engine.gpu.update_programs import adamw_kernel

    size = p[0].numel()
    with torch.cuda.device_of(p):
        adamw_kernel[(-(-size // BLOCK) * len(p),)](
            p,
            mean,
            square,
            g.contiguous(),
            lr,
            decay,
            *_anchor(anchor, size),
            *shares,
            ratio,
            floor,
            size,
            BLOCK=BLOCK,
            enable_fp_fusion=True,
        )


def adamw_count(steps: Tensor, log_betas: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Count a step t of AdamW: √(1−β₂ᵗ)/(1−β₁ᵗ) and ε√(1−β₂ᵗ), [C] each.

    Parameters
    ----------
    steps
        t − 1, [C] float64; becomes t.
    log_betas
        log β₁ and log β₂, [2, C] float64; −∞ for β = 0.
    eps
        ε, [C].
    """
    from stage2.engine.gpu.update_programs import adamw_count_kernel

    ratio, floor = torch.empty(2, len(eps), device=eps.device).unbind()
    with torch.cuda.device_of(eps):
        adamw_count_kernel[(-(-len(eps) // COUNT_BLOCK),)](
            steps, log_betas, eps, ratio, floor, len(eps), BLOCK=COUNT_BLOCK
        )
    return ratio, floor


def _anchor(anchor: Tensor | None, size: int) -> tuple[Tensor | None, int]:
    """An anchor as kernels read it, and how far apart those of two configurations are."""
    if anchor is None:
        return None, 0
    return anchor.contiguous(), 0 if len(anchor) == 1 else size


FUSED: dict[type[Optimiser], type[Optimiser]] = {SGD: FusedSGD, AdamW: FusedAdamW}
"""Optimisers that take a step in a single pass over each parameter, by those that they replace."""
