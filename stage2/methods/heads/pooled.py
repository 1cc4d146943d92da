"""Tokens of a row pooled without attention, then a linear classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.heads.algebra import (
    broadcast,
    column,
    cosines_of_logits,
    project,
    weight_gradient,
)
from stage2.methods.heads.interface import Batch, Context, Parameters, Settings, Size
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.starts import fresh_linear
from stage2.methods.heads.tokens import BOUND, TokenHead, token_dim, tokens_of
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-6
"""Lower bound on features under a power, as released."""


class Pooled(TokenHead):
    """z = W g(x) + b with g(x) in R^D the mean or the maximum of the tokens in each dimension, or
    the generalised mean (1/T Σ_t max(x_t, 10⁻⁶)^p)^(1/p) [GeM eq. 3].

    W and b are drawn like `torch.nn.Linear`. p is the parameter ``power``, one number; the constant
    1 ``largest`` among the parameters stands for the maximum. A view's own ``:mean``, ``:max`` and
    ``:gem`` pool once, before training.
    """

    description = "mean, maximum or generalised mean of tokens, then a linear classifier"
    source = "gem"
    settings = (
        Setting(
            "pool",
            "mean",
            "mean, maximum, or generalised mean (GeM) of features ≥ 0",
            choices=("mean", "max", "gem"),
        ),
        Setting("gem_power", 3.0, "p of pool=gem, or its start", above=0),
        Setting("learn_power", False, "train p of pool=gem"),
        *BOUND,
    )
    shared = ("pool",)
    biases = ("bias",)

    def size(self, settings: Settings, dim: int, classes: int, tokens: int = 1) -> Size:
        own = 3 * dim * (settings["pool"] == "gem")
        return Size(classes * (dim // tokens), 2 * classes + own)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        shape = len(context.counts), token_dim(context)
        parameters = fresh_linear(settings, shape, context.device)
        power = column([s["gem_power"] for s in settings], parameters["bias"])[:, None]
        if settings[0]["pool"] == "max":
            parameters["largest"] = torch.ones_like(power)
        if settings[0]["pool"] == "gem":
            parameters["power"] = power
        return parameters

    def numbers(self, parameters: Parameters, batch: Batch) -> int:
        copies = 3 * len(parameters["bias"]) if "power" in parameters else 0
        return batch.source[0].numel() * (1 + copies)

    def piece_logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(_pooled(parameters, batch), parameters["weight"], parameters["bias"])

    def piece_gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        pooled = _pooled(parameters, batch)
        found = {"weight": weight_gradient(grad, pooled), "bias": grad.sum(0)}
        if "power" in parameters:
            # ∂ log g/∂p = (Σ_t s_t log x_t − log g)/p with s_t = x_t^p/Σ_t' x_t'^p.
            logs, power = _logs(batch), parameters["power"][:, :, None]
            inner = ((power * logs).softmax(2) * logs).sum(2)
            back = project(grad, parameters["weight"].transpose(1, 2)).mul_(pooled)
            slope = (back * (inner - pooled.log())).sum((0, 2))
            found["power"] = slope[:, None] / parameters["power"]
        return found

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        lengths = [
            broadcast(_pooled(parameters, piece)).norm(dim=2)
            for piece in self._pieces(parameters, batch)
        ]
        weight, bias = parameters["weight"], parameters["bias"]
        return cosines_of_logits(z, y, torch.cat(lengths), weight, bias)

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        if settings[0]["pool"] != "gem":
            return {}
        return {"power": [float(s["learn_power"]) for s in settings]}

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        weight, bias = parameters["weight"], parameters["bias"]
        exponent = parameters.get("power", weight.new_ones(1))
        tensors = {"weight": weight, "bias": bias, "exponent": exponent}
        return Reduction("pooled", tensors, {"pool": settings["pool"]})


def _pooled(parameters: Parameters, batch: Batch) -> Tensor:
    """g(x), [B, D], or [B, C, D] where configurations have features or an exponent of their own."""
    if (power := parameters.get("power")) is not None:
        logs = _logs(batch)
        total = (power[:, :, None] * logs).logsumexp(2).sub_(math.log(logs.shape[2]))
        return total.div_(power).exp_()
    tokens = tokens_of(batch)
    pooled = tokens.amax(1) if "largest" in parameters else tokens.mean(1)
    return pooled.view(*batch.x.shape[:-1], -1)


def _logs(batch: Batch) -> Tensor:
    """log max(x, 10⁻⁶) as [B, 1, T, D], or [B, C, T, D]."""
    tokens = tokens_of(batch)
    return tokens.clamp_min(LEAST).log_().view(len(batch.x), -1, *tokens.shape[1:])
