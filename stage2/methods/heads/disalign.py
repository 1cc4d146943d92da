"""Adaptive calibration of the stage-1 logits [DisAlign eq. 4–6]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from featbank.settings import Setting
from stage2.methods.heads.algebra import project, weight_gradient
from stage2.methods.heads.interface import Batch, Context, Parameters, Settings, Size, TrainedHead
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.starts import uniform


class DisAlign(TrainedHead):
    """z_k = (1 + σ(x)·α_k)·z⁰_k + σ(x)·β_k with the confidence σ(x) = sigmoid(v·x + c).

    ``init=identity`` starts from the stage-1 logits (α = β = v = c = 0), ``init=released`` as the
    published code does: α = 1, β = 0, v = 0.1, c ~ U(±1/√D).
    """

    description = "confidence-weighted calibration of the stage-1 logits"
    source = "disalign"
    settings = (
        Setting(
            "init",
            "identity",
            "start from α=0, v=0, or from α=1, v=0.1 as released",
            choices=("identity", "released"),
        ),
    )
    biases = ("beta", "c")

    reads_z0 = True

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(2 * classes + dim + 1, 3 * classes)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        classes, dim = len(context.counts), context.dim
        released = torch.tensor([[float(s["init"] == "released")] for s in settings])
        bias = [uniform(s["seed"], (1,), 1 / math.sqrt(dim), "confidence") for s in settings]
        parameters = {
            "alpha": released.expand(-1, classes).clone(),
            "beta": torch.zeros(len(settings), classes),
            "v": (0.1 * released).expand(-1, dim).clone(),
            "c": torch.stack(bias) * released,
        }
        return {name: values.to(context.device) for name, values in parameters.items()}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        confidence = self._confidence(parameters, batch)
        z = self._calibration(parameters, batch)
        return z.mul_(confidence[:, :, None]).add_(batch.z0)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # With A = αz⁰ + β and z = z⁰ + σA:  ∂L/∂β = Σ_b σG,  ∂L/∂α = Σ_b σG z⁰,
        # and through t = v·x + c:  ∂L/∂t = σ(1−σ) Σ_k G A.
        confidence = self._confidence(parameters, batch)
        calibration = self._calibration(parameters, batch)
        through = calibration.mul_(grad).sum(2) * confidence * (1 - confidence)  # [B, C]
        weighted = torch.mul(grad, confidence[:, :, None], out=calibration)
        beta = weighted.sum(0)
        return {
            "alpha": weighted.mul_(batch.z0).sum(0),
            "beta": beta,
            "v": weight_gradient(through[:, :, None], batch.x).squeeze(1),
            "c": through.sum(0)[:, None],
        }

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        weight, bias = context.classifier
        return Reduction("gated", {**parameters, "weight": weight, "bias": bias})

    def _confidence(self, parameters: Parameters, batch: Batch) -> Tensor:
        """σ(x), [B, C]."""
        return project(batch.x, parameters["v"][:, None], parameters["c"]).squeeze(2).sigmoid_()

    def _calibration(self, parameters: Parameters, batch: Batch) -> Tensor:
        """A = αz⁰ + β, [B, C, K]."""
        return torch.addcmul(parameters["beta"], parameters["alpha"], batch.z0)
