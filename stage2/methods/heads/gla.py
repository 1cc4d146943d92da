"""Generalised logit adjustment of a probe and text [Zhu et al. 2023]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.affine import AffineHead
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import Context, Parameters, Settings
from stage2.methods.heads.moments import class_log_prior
from stage2.methods.heads.text import text_rows, text_weight
from stage2.methods.lbfgs import minimise
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

RIDGE = 1e-6
"""Ridge of the estimate, towards text as it is; it bounds a where text makes no error."""

GRADIENT, ITERATIONS, HISTORY = 1e-6, 1000, 10
"""Largest gradient entry at which the estimate ends, iterations at most, curvature pairs."""


class GLA(AffineHead):
    """z = (z⁰ − τ log π)/T + a·z_text − log q: two classifiers, each without the prior it learned.

    z⁰ is the linear probe of the training rows, whose prior is π; the mean of the logits of two
    such classifiers is optimal where their errors are independent [Zhu et al. 2023 §4].

    q is the prior that text took from its pre-training: a·z_text − log q has the least risk on
    classes of equal weight. As text has not seen them, it is estimated from the training rows, each
    weighted by 1/n_k. The paper descends the same risk with a Lagrangian for Σq = 1, from text at a
    temperature at which it is as sure as it is right; here the risk is minimised over a and log q
    together, as Σq changes no probability. ``text_scale`` gives a instead.
    """

    description = "probe without the train prior, plus text without that of its pre-training"
    source = "gla"
    uses_counts = True
    needs_text = True
    settings = (
        Setting("tau", 1.0, "strength τ of the train prior π that is taken out", low=0),
        Setting("temperature", 1.0, "temperature T of the probe; grid 0.5…4", above=0),
        Setting(
            "text_scale",
            None,
            "factor a of the logits of text; estimated together with q if not set",
            above=0,
            kind=float,
        ),
    )

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        self.require(context.counts)
        log_prior = class_log_prior(context).float()
        weight0, bias0 = context.classifier
        tau, temperature = (
            column([s[name] for s in settings], weight0)[:, None] for name in ("tau", "temperature")
        )
        text = [_estimate(context, s["text_scale"]) for s in settings]
        scale = column([a for a, _ in text], weight0)[:, None]
        shift = torch.stack([b for _, b in text])
        return {
            "weight": weight0 / temperature[:, :, None] + scale[:, :, None] * text_weight(context),
            "bias": (bias0 - tau * log_prior) / temperature + shift,
        }

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        return (1 - settings["tau"]) / settings["temperature"] * log_shares


def _estimate(context: Context, scale: float | None) -> tuple[float, Tensor]:
    """a and −log q [K] of mean 0; cached in the context."""
    cache = context.derived.setdefault("gla", {})
    if scale not in cache:
        objective = _BalancedRisk(context, scale)
        found = minimise(
            objective,
            objective.start,
            tolerance=objective.start.new_full((1,), GRADIENT),
            max_iterations=ITERATIONS,
            history=HISTORY,
        )
        factor, shift = found.point[0, :1], found.point[0, 1:]
        cache[scale] = float(factor), (shift - shift.mean()).float()
    return cache[scale]


class _BalancedRisk:
    """Value [1] and gradient [1, 1 + K] of (1/K) Σ_k E[CE(a·z_text + b, k) | y = k] at (a, b).

    Convex. A given `scale` is the a of all points.
    """

    def __init__(self, context: Context, scale: float | None) -> None:
        self._context, self._given = context, scale
        counts = torch.from_numpy(context.counts).to(context.device)
        self._weight = 1 / (counts * len(counts))
        self.start = counts.new_zeros(1, 1 + len(counts))
        self.start[0, 0] = 1.0 if scale is None else scale

    def __call__(self, point: Tensor) -> tuple[Tensor, Tensor]:
        factor, shift = point[0, 0], point[0, 1:]
        value, gradient = point.new_zeros(1), torch.zeros_like(point)
        total = point.new_zeros(())
        for logits, y in text_rows(self._context):
            z, weight = logits.double(), self._weight[y]
            log_p = torch.log_softmax(factor * z + shift, 1)
            value -= weight @ log_p.gather(1, y[:, None])
            slope = log_p.exp_()
            slope[torch.arange(len(y), device=y.device), y] -= 1
            slope.mul_(weight[:, None])
            gradient[0, 0] += (slope * z).sum()
            gradient[0, 1:] += slope.sum(0)
            total += weight.sum()
        from_text = point - self.start
        value = value / total + RIDGE / 2 * from_text.square().sum()
        gradient = gradient / total + RIDGE * from_text
        if self._given is not None:
            gradient[0, 0] = 0
        return value, gradient
