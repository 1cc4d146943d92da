"""Exported heads on rows of T tokens of E features, one after the other: [B, T·E] → [B, K].

Axes: B rows, K classes, H queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import layer_norm, linear

from stage2.export.form import Allowed, Form
from stage2.methods.heads.pooled import LEAST


class Attentive(Form):
    """z = Σ_h W_h Σ_t a_ht x_t + b with a_ht = softmax_t ⟨u_h, x_t⟩/√E.

    With ``token_norm`` ``layer`` each token is less its mean, over its standard deviation.
    """

    shapes: ClassVar[dict[str, str]] = {"query": "HE", "weight": "KHE", "bias": "K"}
    allowed: ClassVar[dict[str, Allowed]] = {"token_norm": lambda value: value in ("none", "layer")}
    query: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        super().__init__(tensors, options)
        self.layer, self.size = options["token_norm"] == "layer", self.query.shape[1]

    def classify(self, x: Tensor) -> Tensor:
        tokens = x.unflatten(1, (-1, self.size))
        if self.layer:
            tokens = layer_norm(tokens, (self.size,))
        scores = linear(tokens, self.query / math.sqrt(self.size))  # [B, T, H]
        pooled = scores.softmax(1).transpose(1, 2) @ tokens
        return linear(pooled.flatten(1), self.weight.flatten(1), self.bias)


class PooledTokens(Form):
    """z = W g(x) + b; g is the mean, the maximum or with ``pool`` ``gem`` the generalised mean of
    the tokens, (1/T Σ_t max(x_t, 10⁻⁶)^p)^(1/p) with p = ``exponent``."""

    shapes: ClassVar[dict[str, str]] = {"weight": "KE", "bias": "K", "exponent": "1"}
    allowed: ClassVar[dict[str, Allowed]] = {"pool": lambda value: value in ("mean", "max", "gem")}
    weight: Tensor
    bias: Tensor
    exponent: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        super().__init__(tensors, options)
        self.pool, self.size = options["pool"], self.weight.shape[1]

    def classify(self, x: Tensor) -> Tensor:
        tokens = x.unflatten(1, (-1, self.size))
        if self.pool == "gem":
            largest = tokens.clamp(min=LEAST).amax(1, keepdim=True)
            shares = (tokens.clamp(min=LEAST) / largest) ** self.exponent
            pooled = largest[:, 0] * shares.mean(1) ** (1 / self.exponent)
        else:
            pooled = tokens.amax(1) if self.pool == "max" else tokens.mean(1)
        return linear(pooled, self.weight, self.bias)
