"""The cosine classifier of stage 1 [LDAM §3]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

SCALE = 30.0
"""s of the LDAM release."""


class CosineClassifier(nn.Linear):
    """Logits s·⟨w_k/‖w_k‖, x/‖x‖⟩, as in the LDAM release; a zero x or w_k has the cosine 0.

    It takes features √s·x/‖x‖, as `scaled` returns them for x, and multiplies them by √s·w_k/‖w_k‖:
    with the same features, a linear classifier of weights √s·w_k/‖w_k‖ gives the same logits. Rows
    of the weight start uniform in (−1, 1)^D, normalised. There is no bias.

    Parameters
    ----------
    dim
        D.
    num_classes
        K.
    scale
        s > 0.
    """

    def __init__(self, dim: int, num_classes: int, *, scale: float = SCALE) -> None:
        self.scale = scale
        super().__init__(dim, num_classes, bias=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a new weight from torch's global generator."""
        self.weight.copy_(normalize(self.weight.uniform_(-1, 1), dim=1))

    def scaled(self, x: Tensor) -> Tensor:
        """√s·x/‖x‖ of the rows of `x` [B, D], in float32 under autocast too; 0 of a zero row."""
        return self.scale**0.5 * normalize(x if x.dtype == torch.float64 else x.float(), dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, K] of features [B, D] from `scaled`."""
        return linear(features, self.scaled(self.weight))
