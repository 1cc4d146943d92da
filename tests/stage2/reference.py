"""Stage 2 for ONE configuration: plain, slow, float64, by autograd.

Written from METHODS.md §3 (heads), §4 (losses) and §5 (optimiser, schedules); shares nothing with
the implementation but the names of settings and parameters. Axes as everywhere: N rows, D features,
K classes, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Settings = Mapping[str, Any]

TRAINED = {
    "linear": ("weight", "bias"),
    "cosine": ("weight", "scale"),
    "lws": ("scale",),
    "mislas": ("weight", "bias", "scale"),
    "disalign": ("alpha", "beta", "v", "c"),
}
"""What training may change, by head; the cosine scale only with `learn_scale`."""


# Heads, METHODS §3 -------------------------------------------------------------------------------


def logits(head: str, p: Mapping[str, Tensor], x: Tensor, w0: Tensor, b0: Tensor) -> Tensor:
    """Logits [B, K] of a trained head with the parameters `p` of one configuration."""
    if head == "linear":
        return torch.einsum("bd,kd->bk", x, p["weight"]) + p["bias"]
    if head == "cosine":
        lengths = x.norm(dim=1)[:, None] * p["weight"].norm(dim=1)[None, :]
        return p["scale"] * torch.einsum("bd,kd->bk", x, p["weight"]) / lengths
    z0 = torch.einsum("bd,kd->bk", x, w0) + b0
    if head == "lws":
        return p["scale"] * z0
    if head == "mislas":  # W = W₀ + ΔW; the bias inside the scale, as released
        return p["scale"] * (torch.einsum("bd,kd->bk", x, p["weight"]) + p["bias"])
    if head == "disalign":
        sigma = 1 / (1 + torch.exp(-(x @ p["v"].reshape(-1) + p["c"].reshape(()))))[:, None]
        return (1 + sigma * p["alpha"]) * z0 + sigma * p["beta"]
    raise KeyError(head)


def tau_norm(x: Tensor, w0: Tensor, b0: Tensor, *, tau: float, keep_bias: bool) -> Tensor:
    """(w_k/‖w_k‖^τ)·x, [B, K]."""
    rows = [w / w.norm() ** tau for w in w0]
    z = torch.stack([x @ row for row in rows], dim=1)
    return z + b0 if keep_bias else z


def logit_adjust(x: Tensor, w0: Tensor, b0: Tensor, counts: Tensor, *, tau: float) -> Tensor:
    """z⁰ − τ log π, [B, K]."""
    return x @ w0.T + b0 - tau * torch.log(counts / counts.sum())


def ncm(x: Tensor, train_x: Tensor, train_y: Tensor, *, transform: str, metric: str) -> Tensor:
    """−‖t(x) − c_k‖² or the cosine, [B, K], over classes that all have samples."""

    def t(rows: Tensor) -> Tensor:
        if transform == "un":
            return rows
        moved = rows - train_x.mean(0) if transform == "cl2n" else rows
        return moved / moved.norm(dim=1, keepdim=True)

    means = torch.stack([t(train_x)[train_y == k].mean(0) for k in range(int(train_y.max()) + 1)])
    if metric == "l2":
        return -((t(x)[:, None] - means[None]) ** 2).sum(2)
    return torch.nn.functional.cosine_similarity(t(x)[:, None], means[None], dim=2)


# Losses, METHODS §4 ------------------------------------------------------------------------------


def class_weights(loss: str, s: Settings, n: Tensor) -> Tensor:
    """ω_k with Σω = K: (1/n)^ρ, or (1−β)/(1−β^n)."""
    if loss == "weighted":
        raw = (1 / n) ** s["rho"]
    else:
        raw = torch.stack([(1 - s["beta"]) / (1 - s["beta"] ** n_k) for n_k in n])
    return raw * len(n) / raw.sum()


def las_smoothing(s: Settings, n: Tensor) -> Tensor:
    """ε_k of label-aware smoothing [MiSLAS eq. 1–3, 7]; ε_1 everywhere if all n are equal."""
    first, last, shape = s["smooth_head"], s["smooth_tail"], s["smooth_shape"]
    low, high = float(n.min()), float(n.max())
    if low == high:
        return torch.full_like(n, first)
    epsilon = []
    for n_k in n.tolist():
        part = (n_k - low) / (high - low)
        epsilon.append(
            {
                "concave": last + (first - last) * math.sin(math.pi * part / 2),
                "linear": last + (first - last) * part,
                "convex": first + (first - last) * math.sin(3 * math.pi / 2 + math.pi * part / 2),
                "exponential": last + (first - last) * part ** s["power"],
            }[shape]
        )
    return torch.tensor(epsilon, dtype=torch.float64)


def smoothed(z: Tensor, y: Tensor, epsilon: Tensor, over: str) -> Tensor:
    """Mean cross-entropy with the target (1−ε_y)·1[k=y] + ε_y·o_k, row by row."""
    rows = []
    for z_i, y_i in zip(z, y.tolist(), strict=True):
        classes, eps = len(z_i), epsilon[y_i]
        other = eps / classes if over == "uniform" else eps / (classes - 1)
        target = other.repeat(classes)
        target[y_i] = 1 - eps + (eps / classes if over == "uniform" else 0)
        rows.append(-(target * torch.log_softmax(z_i, 0)).sum())
    return torch.stack(rows).mean()


def _per_row(u: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every row, [B]."""
    return -torch.log_softmax(u, 1)[torch.arange(len(y)), y]


def _log_prior(n: Tensor) -> Tensor:
    return torch.log(n / n.sum())


def _weighted(name: str, z: Tensor, y: Tensor, s: Settings, n: Tensor) -> Tensor:
    omega = class_weights(name, s, n)[y]
    total = omega.sum() if s.get("normalise", "weights") == "weights" else len(y)
    return (omega * _per_row(z, y)).sum() / total


def _focal(z: Tensor, y: Tensor, s: Settings, omega: Tensor) -> Tensor:
    p_y = torch.softmax(z, 1)[torch.arange(len(y)), y]
    return (omega * (1 - p_y) ** s["gamma"] * _per_row(z, y)).mean()


def _balanced_softmax(z: Tensor, y: Tensor, n: Tensor) -> Tensor:
    mass = n * torch.exp(z - z.max(1, keepdim=True).values)
    return -torch.log(mass[torch.arange(len(y)), y] / mass.sum(1)).mean()


def _ldam(z: Tensor, y: Tensor, s: Settings, n: Tensor, epoch: int) -> Tensor:
    u = z.clone()
    u[torch.arange(len(y)), y] -= s["scale"] * s["max_margin"] * (n.min() / n[y]) ** 0.25
    if s["defer"] and epoch >= s["defer"]:
        return _weighted("class_balanced", u, y, {"beta": s["beta"]}, n)
    return _per_row(u, y).mean()


def loss(
    name: str, z: Tensor, y: Tensor, s: Settings, n: Tensor, *, epoch: int = 0, epochs: int = 1
) -> Tensor:
    """Batch loss for logits z [B, K], labels y [B], settings and class counts n [K]."""
    formulas = {
        "ce": lambda: _per_row(z, y).mean(),
        "weighted": lambda: _weighted(name, z, y, s, n),
        "class_balanced": lambda: _weighted(name, z, y, s, n),
        "focal": lambda: _focal(z, y, s, torch.ones_like(z[:, 0])),
        "cb_focal": lambda: _focal(z, y, s, class_weights(name, s, n)[y]),
        "balanced_softmax": lambda: _balanced_softmax(z, y, n),
        "logit_adjusted": lambda: _per_row(z + s["tau"] * _log_prior(n), y).mean(),
        "gradual": lambda: _per_row(
            z + s["strength"] * (s["base"] ** (epoch / epochs) - 1) * _log_prior(n), y
        ).mean(),
        "vs": lambda: _per_row(
            z * (n / n.max()) ** s["gamma"] + s["tau"] * _log_prior(n), y
        ).mean(),
        "ldam": lambda: _ldam(z, y, s, n, epoch),
        "las": lambda: smoothed(z, y, las_smoothing(s, n), s["smooth_over"]),
        "los": lambda: smoothed(z, y, torch.full_like(n, s["smoothing"]), s["smooth_over"]),
    }
    return formulas[name]()


# Training, METHODS §5 ----------------------------------------------------------------------------


def learning_rate(s: Settings, epoch: int, step: int, steps: int) -> float:
    """Learning rate of one step: epoch 0…T−1, step 0…steps−1."""
    total = s["epochs"]
    if epoch < s["warmup"]:
        return s["lr"] * (epoch + 1) / s["warmup"]
    if s["schedule"] == "cosine":
        return s["lr"] * 0.5 * (1 + math.cos(math.pi * epoch / total))
    if s["schedule"] == "cosine_prestep":
        return s["lr"] * 0.5 * (1 + math.cos(math.pi * (epoch + 1) / total))
    if s["schedule"] == "cosine_step":
        return s["lr"] * 0.5 * (1 + math.cos(math.pi * (epoch * steps + step) / (total * steps)))
    if s["schedule"] == "multistep":  # 160 and 180 of 200: four fifths and nine tenths
        return s["lr"] * 0.1 ** ((10 * epoch >= 8 * total) + (10 * epoch >= 9 * total))
    return s["lr"]


def multiplier(head: str, name: str, s: Settings) -> float:
    """Learning-rate multiplier of a parameter."""
    return s["delta_lr"] if head == "mislas" and name in ("weight", "bias") else 1.0


def train(
    head: str,
    s: Settings,
    start: Mapping[str, Tensor],
    stream: Tensor,
    *,
    x: Tensor,
    y: Tensor,
    n: Tensor,
    w0: Tensor,
    b0: Tensor,
) -> dict[str, Tensor]:
    """Train one configuration.

    Parameters
    ----------
    head, s
        The head and every setting of the recipe, the loss's among them.
    start
        Initial parameters.
    stream
        Row indices [epochs, steps, B].
    x, y, n, w0, b0
        Training split, class counts, stage-1 classifier; float64.
    """
    p = {name: value.detach().double().clone() for name, value in start.items()}
    trained = [k for k in TRAINED[head] if k != "scale" or head != "cosine" or s["learn_scale"]]
    groups = [{"params": [p[k].requires_grad_()], "name": k} for k in trained]
    kind: dict[str, Any] = {"lr": s["lr"], "weight_decay": s["weight_decay"]}
    if s["optimiser"] == "adamw":
        optimiser: torch.optim.Optimizer = torch.optim.AdamW(groups, **kind)
    else:
        optimiser = torch.optim.SGD(groups, momentum=s["momentum"], nesterov=s["nesterov"], **kind)
    for epoch, batches in enumerate(stream):
        for step, rows in enumerate(batches):
            rate = learning_rate(s, epoch, step, len(batches))
            for group in optimiser.param_groups:
                group["lr"] = rate * multiplier(head, group["name"], s)
            z = logits(head, p, x[rows], w0, b0)
            value = loss(s["loss"], z, y[rows], s, n, epoch=epoch, epochs=len(stream))
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    return {name: value.detach() for name, value in p.items()}
