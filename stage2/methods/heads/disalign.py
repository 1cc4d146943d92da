"""Adaptive calibration of the stage-1 logits [DisAlign eq. 4–6]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank.settings import Setting
from stage2.methods.heads.algebra import project, weight_gradient
from stage2.methods.heads.interface import Batch, Context, Parameters, Settings, Size, TrainedHead
from stage2.methods.heads.reduction import Reduction, affine
from stage2.methods.heads.starts import uniform
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor


class DisAlign(TrainedHead):
    """z_k = (1 + σ(x)·α_k)·z⁰_k + σ(x)·β_k with the confidence σ(x) = sigmoid(v·x + c).

    That is ``form=eq6``, as released for classification. ``form=eq5`` is
    z_k = (1 + σ(x)·(α_k − 1))·z⁰_k + σ(x)·β_k, which eq. 4 in eq. 5 gives, and as released for
    segmentation: the same functions, but weight decay pulls α to another point, from z⁰ towards
    (1 − σ)·z⁰. Its parameter ``identity`` is the constant 1.

    The ablations of its Table 5: ``learn`` leaves α or β where z = z⁰, and ``confidence=off`` is
    σ ≡ 1, without v and c.

    ``init=identity`` starts from the stage-1 logits: α = 0, of eq. 5 α = 1, and β = v = c = 0.
    ``init=text`` does so with the z⁰ of text; ``init=released`` starts as the published code does:
    α = 1, β = 0, v = 0.1, c ~ U(±1/√D).

    z⁰ is W₀x + b₀, or with ``z0=cosine`` s·⟨w_k/‖w_k‖, x/‖x‖⟩ (`Batch.z0`).
    """

    description = "confidence-weighted calibration of the stage-1 logits"
    source = "disalign"
    settings = (
        Setting(
            "init",
            "identity",
            "start from z⁰ with v=0, from α=1, v=0.1 as released, or from z⁰ of text with v=0",
            choices=("identity", "released", "text"),
        ),
        Setting(
            "form",
            "eq6",
            "magnitude 1+σα as released for classification, or 1+σ(α−1)",
            choices=("eq6", "eq5"),
        ),
        Setting(
            "learn",
            "both",
            "train α and β, only the magnitude α, or only the margin β",
            choices=("both", "magnitude", "margin"),
        ),
        Setting(
            "confidence",
            "learned",
            "σ(x)=sigmoid(v·x+c), or σ≡1",
            choices=("learned", "off"),
        ),
        Setting(
            "z0",
            "linear",
            "stage-1 logits W₀x+b₀, or those of a cosine classifier",
            choices=("linear", "cosine"),
        ),
        Setting(
            "z0_scale",
            16.0,
            "s of the cosine probe for z0=cosine; a cosine classifier of the bank has its own",
            above=0,
        ),
    )
    shared = ("form", "confidence")
    biases = ("beta", "c")

    reads_z0 = True

    def needs_classifier(self, settings: Settings) -> bool:
        return True

    def problem(self, settings: Settings, dim: int) -> str | None:
        if settings["init"] == "text" and settings["z0"] == "cosine":
            return (
                "Head 'disalign' has two classifiers to start from, init=text and z0=cosine. Leave "
                "z0 out: the logits of text are cosines."
            )
        return super().problem(settings, dim)

    def cosine_scale(self, settings: Settings) -> float | None:
        return settings["z0_scale"] if settings["z0"] == "cosine" else None

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        return Size(2 * classes + dim + 1, 3 * classes)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        classes, dim = len(context.counts), context.dim
        eq5 = settings[0]["form"] == "eq5"
        released = torch.tensor([[float(s["init"] == "released")] for s in settings])
        # A margin alone leaves α where z = z⁰.
        moved = torch.tensor([[float(s["learn"] != "margin")] for s in settings])
        alpha = torch.ones_like(released) if eq5 else released * moved
        parameters = {
            "alpha": alpha.expand(-1, classes).clone(),
            "beta": torch.zeros(len(settings), classes),
        }
        if settings[0]["confidence"] != "off":
            bias = [uniform(s["seed"], (1,), 1 / math.sqrt(dim), "confidence") for s in settings]
            parameters["v"] = (0.1 * released).expand(-1, dim).clone()
            parameters["c"] = torch.stack(bias) * released
        if eq5:
            parameters["identity"] = torch.ones(len(settings), 1)
        return {name: values.to(context.device) for name, values in parameters.items()}

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor | None:
        if "v" in parameters:  # no linear classifier
            return None
        return (1 + _alpha(parameters)).abs() * context.classifier[0].norm(dim=1)

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        z = _calibration(parameters, batch)
        if "v" in parameters:
            z.mul_(_confidence(parameters, batch)[:, :, None])
        return z.add_(batch.z0)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        # With A = (α − o)z⁰ + β, o = 0 (eq. 6) or 1 (eq. 5), and z = z⁰ + σA:
        # ∂L/∂β = Σ_b σG,  ∂L/∂α = Σ_b σG z⁰,
        # and through t = v·x + c:  ∂L/∂t = σ(1−σ) Σ_k G A.
        if "v" not in parameters:
            return {"alpha": (grad * batch.z0).sum(0), "beta": grad.sum(0)}
        confidence = _confidence(parameters, batch)
        calibration = _calibration(parameters, batch)
        through = calibration.mul_(grad).sum(2) * confidence * (1 - confidence)  # [B, C]
        weighted = torch.mul(grad, confidence[:, :, None], out=calibration)
        beta = weighted.sum(0)
        return {
            "alpha": weighted.mul_(batch.z0).sum(0),
            "beta": beta,
            "v": weight_gradient(through[:, :, None], batch.x).squeeze(1),
            "c": through.sum(0)[:, None],
        }

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        return {
            "alpha": [float(s["learn"] != "margin") for s in settings],
            "beta": [float(s["learn"] != "magnitude") for s in settings],
        }

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        weight, bias = context.classifier
        alpha, beta = _alpha(parameters), parameters["beta"]
        if "v" not in parameters:  # σ ≡ 1: affine in z⁰
            weight, bias = (1 + alpha)[:, None] * weight, (1 + alpha) * bias + beta
            return affine(weight, bias, parts=int(context.unit0))
        gate = {"alpha": alpha, "beta": beta, "v": parameters["v"], "c": parameters["c"]}
        form = "gated_cosine" if context.unit0 else "gated"
        return Reduction(form, {**gate, "weight": weight, "bias": bias})


def _confidence(parameters: Parameters, batch: Batch) -> Tensor:
    """σ(x), [B, C]."""
    return project(batch.x, parameters["v"][:, None], parameters["c"]).squeeze(2).sigmoid_()


def _calibration(parameters: Parameters, batch: Batch) -> Tensor:
    """A, [B, C, K], with z = z⁰ + σA."""
    return torch.addcmul(parameters["beta"], _alpha(parameters), batch.z0)


def _alpha(parameters: Parameters) -> Tensor:
    """α of eq. 6; that of eq. 5 less 1."""
    alpha = parameters["alpha"]
    return alpha - parameters["identity"] if "identity" in parameters else alpha
