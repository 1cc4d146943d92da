"""A model's steps on a GPU by a few kernels: what they take, and how they are called.

Of a head with z = ρ·(x·w + b) a step gathers its rows, multiplies, and launches one kernel for the
losses, one for bias and scale, and one for W, whose gradient is never written. Only fp32 leaves the
product to PyTorch.
"""

from __future__ import annotations

from threading import Event
from typing import Any

import torch
from torch import Tensor

from stage2.engine.gpu.descent import (
    Rates,
    Rule,
    Scaling,
    Trained,
    lengths,
    small_step,
    weight_step,
)
from stage2.engine.gpu.graph import StepGraph
from stage2.engine.gpu.rows import factor_rows
from stage2.engine.gpu.scaled_loss import scaled_loss
from stage2.engine.gpu.update import FUSED
from stage2.engine.kernel import LossRows
from stage2.engine.model import Model
from stage2.engine.passes import PassLosses
from stage2.engine.rows import Window
from stage2.methods.heads import TrainedHead, trained_head
from stage2.methods.heads.cosine import Cosine
from stage2.methods.heads.linear import Linear
from stage2.methods.heads.mislas import MiSLAS
from stage2.methods.optimisers import SGD, AdamW, Optimiser, adamw_rates
from stage2.methods.precision import precision as at_precision
from stage2.methods.precision import product

HEADS = (Linear, Cosine, MiSLAS)
RULES = {SGD, AdamW, *FUSED.values()}

SUM_STEPS = 256
"""Steps whose labels are counted at a time."""


def fused_pass(
    model: Model,
    optimiser: Optimiser,
    *,
    kernel: str,
    **given: Any,
) -> FusedPass | None:
    """The fused pass of a model; None where it has what these kernels do not compute.

    Parameters
    ----------
    model
        The model, whose parameters the optimiser has.
    optimiser, given
        Of `FusedPass`.
    kernel
        Name of the losses' kernel.
    """
    suits = type(model.head) in HEADS and type(optimiser) in RULES and kernel == "family"
    if not suits:
        return None
    head = trained_head(model.recipes[0].head)
    return FusedPass(head, optimiser, **given)


class FusedPass:
    """Trains a model over windows by the kernels of this room.

    Parameters
    ----------
    head, optimiser
        The head and the optimiser, whose parameters and state it changes in place.
    precision
        Of the products.
    rates
        Learning rates [steps, C].
    limits
        Bounds [C] on the norms of rows of W after each step, or None.
    steps
        Steps of an epoch, between which others may change W.
    replayed
        Whether steps are captured in a graph and replayed.
    """

    def __init__(
        self,
        head: TrainedHead,
        optimiser: Optimiser,
        *,
        precision: str,
        rates: Tensor,
        limits: Tensor | None,
        steps: int,
        replayed: bool = False,
    ) -> None:
        self._head, self._optimiser, self._precision = head, optimiser, precision
        self._limits = limits
        self._rates, self._epoch_steps, self._next = rates, steps, -1
        parameters, columns = optimiser.parameters, optimiser.columns()
        self._weight = self._trained("weight", parameters["weight"])
        self._bias, self._scale = (
            self._trained(name, parameters[name]) if name in parameters else None
            for name in ("bias", "scale")
        )
        self._betas = self._eps = None
        if isinstance(optimiser, AdamW):
            self._betas = torch.stack([columns["beta1"], columns["beta2"]])
            self._eps = columns["eps"]
            mean, square = (1 - self._betas).float().unbind()
            self._rule = Rule(mean_share=mean, square_share=square)
        else:
            self._rule = Rule(columns["momentum"], columns.get("nesterov"))
        weight = self._weight.value
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._shadow = torch.empty_like(weight, dtype=self._dtype) if precision == "bf16" else None
        self._scaling: Scaling | None = None
        if isinstance(head, Cosine):
            self._scaling = Scaling(*(weight.new_empty(weight.shape[:2]) for _ in range(3)))
        self._total = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        self._losses: LossRows
        self._graph = StepGraph(self._take, weight.device) if replayed else None

    def takes(self, window: Window, losses: PassLosses) -> bool:
        """Whether it computes these losses on this window: no κ, no distillation, one label."""
        rows, made = losses.rows, window.made
        mixed = made is not None and made.second is not None
        return rows.angle is None and rows.distil is None and not mixed

    def train(
        self, window: Window, step: int, losses: PassLosses, stopped: Event
    ) -> tuple[Tensor, int]:
        """Take the steps of a window, of all steps those from `step` on.

        Returns
        -------
        The sum of their losses [C] float64, in a tensor that is used again; and how many were taken
        before `stopped`.
        """
        lasting = window.made is None and window.items is None
        window = Window(window.x.contiguous(), window.rows.contiguous(), window.y.contiguous())
        self._losses, taken = losses.rows, 0
        table = self._table(window.y, step)
        self._total.zero_()
        if step != self._next or step % self._epoch_steps == 0:
            self._refresh()
        with torch.cuda.device_of(self._weight.value), at_precision(self._precision):
            if self._graph and lasting:
                taken = self._graph.train(window, table, [losses.rows], stopped)
            while taken < len(table) and not stopped.is_set():
                self._take(window, table, taken)
                taken += 1
        if self._betas is not None:
            self._optimiser.state["steps"] += taken
        self._next = step + taken
        return self._total, taken

    def _table(self, y: Tensor, step: int) -> Tensor:
        """A table of steps with labels [steps, B] by configuration, [steps, rows, C]: learning
        rates; r and ε√(1−β₂ᵗ) of AdamW; and Σω of the batch where losses have weights."""
        lr = self._rates[step : step + len(y)]
        parts = [lr]
        if self._betas is not None and self._eps is not None:
            before = self._optimiser.state["steps"][0]
            t = before + torch.arange(1, len(y) + 1, device=y.device)
            parts += adamw_rates(self._betas, self._eps, t)
        if self._losses.weight is not None:
            parts.append(_weight_sums(y, self._losses.weight))
        return torch.stack(parts, 1)

    def _refresh(self) -> None:
        """Bring what follows from W up to date, after others may have changed W."""
        weight = self._weight.value
        if self._shadow is not None:
            self._shadow.copy_(weight)
        if self._scaling is not None and self._scale is not None:
            torch.linalg.vector_norm(weight, dim=2, out=self._scaling.length)
            self._scaling.length.clamp_min_(1e-12)
            torch.div(self._scale.value, self._scaling.length, out=self._scaling.rho)

    def _take(self, window: Window, table: Tensor, i: int) -> None:
        """Take step `i` of a window, with a table of it, within the pass's `precision`.

        It launches kernels on tensors that are always the same, but for those of the window and the
        losses, and neither waits nor copies: it may be captured.
        """
        row, weighted = table[i], self._losses.weight is not None
        adamw = (row[1], row[2]) if self._betas is not None else (None, None)
        rates, rule, scaling = Rates(row[0], *adamw), self._rule, self._scaling
        configs, classes, _ = self._weight.value.shape
        x = factor_rows(window.x, window.rows[i], unit=scaling is not None, dtype=self._dtype)
        loss = scaled_loss(
            self._product(x).view(-1, configs, classes),
            window.y[i],
            self._losses,
            bias=None if self._bias is None else self._bias.value,
            rho=self._rho(),
            weight_sum=row[-1] if weighted else None,
            sums=(self._bias is not None, self._scale is not None),
            dtype=self._dtype,
        )
        small_step(
            self._total,
            loss.loss,
            rates,
            rule,
            slopes=loss.slopes,
            along=loss.along,
            bias=self._bias,
            scale=self._scale,
            scaling=scaling,
        )
        multiplied = self._precision == "fp32"
        g = loss.gradient.view(len(x), -1)
        squares = weight_step(
            product(g.t(), x) if multiplied else g,
            None if multiplied else x,
            self._weight,
            rates,
            rule,
            shadow=self._shadow,
            scaling=scaling,
            tf32=self._precision == "tf32",
        )
        if self._limits is not None:
            self._head.constrain(self._optimiser.parameters, self._limits)
            self._refresh()
        elif squares is not None and scaling is not None and self._scale is not None:
            lengths(squares, self._scale.value, scaling)

    def _product(self, x: Tensor) -> Tensor:
        """x·w, [B, C·K] float32."""
        weight = self._weight.value if self._shadow is None else self._shadow
        return product(x, weight.view(-1, weight.shape[2]).t())

    def _rho(self) -> Tensor | None:
        """ρ [C, K]: s/‖w‖, or s itself; None for 1."""
        if self._scaling is not None:
            return self._scaling.rho
        return None if self._scale is None else self._scale.value

    def _trained(self, name: str, value: Tensor) -> Trained:
        optimiser = self._optimiser
        states, anchor = optimiser.state_of(name), optimiser.anchors.get(name)
        return Trained(
            value,
            states[0],
            states[1] if len(states) > 1 else None,
            None if anchor is None else anchor.contiguous(),
            optimiser.multipliers.get(name),
            optimiser.decay.get(name),
        )


def _weight_sums(y: Tensor, weight: Tensor) -> Tensor:
    """Σω of batches with labels [steps, B], [steps, C], from ω [K, C]; whatever the order."""
    parts = []
    for labels in y.split(SUM_STEPS):
        counts = weight.new_zeros(len(labels), len(weight))
        counts.scatter_add_(1, labels, torch.ones_like(labels, dtype=weight.dtype))
        with at_precision("fp32"):
            parts.append(product(counts, weight))
    return torch.cat(parts)
