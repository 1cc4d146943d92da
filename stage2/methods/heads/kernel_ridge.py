"""Kernel ridge regression to one-hot targets on landmarks [Williams & Seeger 2000]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from featbank.settings import Setting
from stage2.methods.heads.algebra import column
from stage2.methods.heads.interface import (
    BLOCK_ROWS,
    Batch,
    Context,
    Head,
    Parameters,
    Settings,
    Size,
)
from stage2.methods.heads.moments import moments_bytes, pieces
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.ridge import Ridge, spectra
from stage2.methods.on_demand import torch
from stage2.methods.seeding import seeded

if TYPE_CHECKING:
    from torch import Tensor

KERNELS = ("rbf", "cosine", "polynomial")
"""k(x, l): e^{−‖x − l‖²/(b·σ²)}, with σ² the mean of ‖x − x̄‖² over the training rows; cos(x, l);
((1 + cos(x, l))/2)^p."""

SMALLEST = 1e-6
"""Eigenvalues of the landmarks' kernel matrix, relative to the largest, that count as 0: logits in
single precision do not resolve their directions."""


class KernelRidge(Head):
    """z = A·k(x) + b with the kernels k(x) [M] of x and M training rows, the landmarks.

    Nyström's φ(x) = K^{−½}k(x), K [M, M] the kernels of the landmarks among themselves, is kernel
    regression with functions in their span: with W and b of `Ridge` on φ, A = WK^{−½}. λ (``l2``)
    is its absolute λ, ω its class weights. With as many landmarks as rows it is kernel ridge
    regression with an intercept.

    Landmarks are drawn at random: ``uniform`` over the rows, or ``balanced``, the same number of
    every class as far as it has so many rows. Nothing is trained in steps, so that the recipe has
    no seed; ``draw_seed`` is that of the draw.
    """

    description = "kernel ridge regression to one-hot targets on landmarks (Nyström)"
    source = "nystrom"
    settings = (
        Setting("landmarks", 1000, "M, at most all rows", low=1),
        Setting("draw", "balanced", "draw of the landmarks", choices=("balanced", "uniform")),
        Setting("draw_seed", 0, "seed of the draw", low=0, high=2**32 - 1),
        Setting("kernel", "rbf", "kernel of features", choices=KERNELS),
        Setting("width", 1.0, "b of the RBF kernel e^{−‖x − l‖²/(b·σ²)}; grid 0.1…10", above=0),
        Setting("degree", 3, "p of the polynomial kernel ((1 + cos)/2)^p", low=1),
        *Ridge.settings,
    )
    shared = ("landmarks",)

    bends = Ridge.bends

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        landmarks = settings["landmarks"]
        return Size(landmarks * (dim + classes), 2 * classes + 2 * landmarks)

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        size, weighted = settings["landmarks"], settings["class_weight"] == "balanced"
        mapped = 8 * (BLOCK_ROWS * (size + dim) + size * (dim + 3 * size))
        return moments_bytes(size, classes, max(rows, size), weighted=weighted) + mapped

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        return Ridge().log_prior(settings, log_shares)

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        parts = [_solved(s, context) for s in settings]
        stacked = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        kernels = [KERNELS.index(s["kernel"]) for s in settings]
        return {
            **stacked,
            "kernel": torch.tensor(kernels, device=context.device),
            "degree": column([s["degree"] for s in settings], stacked["bias"]),
        }

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        each = []
        for c, kernel in enumerate(parameters["kernel"].tolist()):
            p = {name: values[c] for name, values in parameters.items()}
            x = prepared(batch.x, p["center"], KERNELS[kernel])
            k = kernels(x, p["landmarks"], KERNELS[kernel], p["width"], p["degree"])
            each.append(torch.nn.functional.linear(k, p["coefficients"], p["bias"]))
        return torch.stack(each, 1)

    def form(self, parameters: Parameters, settings: Settings, context: Context) -> Reduction:
        names = ("landmarks", "center", "coefficients", "bias")
        tensors = {name: parameters[name] for name in names}
        tensors |= {name: parameters[name].view(1) for name in ("width", "degree")}
        return Reduction("kernels", tensors, {"kernel": settings["kernel"]})


def prepared(x: Tensor, center: Tensor, kernel: str) -> Tensor:
    """Rows [n, D] as `kernels` takes them: less `center` for RBF, else of length 1."""
    return x - center if kernel == "rbf" else torch.nn.functional.normalize(x, dim=1)


def kernels(
    x: Tensor, landmarks: Tensor, kernel: str, width: Tensor | float, degree: Tensor | float
) -> Tensor:
    """Kernels [n, M] of `prepared` rows [n, D] and landmarks [M, D]; `width` is b·σ²."""
    product = x @ landmarks.t()
    if kernel == "cosine":
        return product
    if kernel == "polynomial":
        return ((1 + product) / 2).clamp_min(0) ** degree
    squares = x.square().sum(1, keepdim=True) + landmarks.square().sum(1)
    return ((2 * product - squares).clamp_max(0) / width).exp()


def _solved(settings: Settings, context: Context) -> Parameters:
    """The parameters of one configuration, without the axis C; a grid of λ maps the training rows
    once."""
    names = ("landmarks", "draw", "kernel", "width", "degree", "draw_seed")
    key = tuple(settings[name] for name in names)
    cache = context.derived.setdefault("kernel_ridge", {})
    if key not in cache:
        cache.clear()  # one at a time: M × M matrices, and rows of other seeds
        cache[key] = _mapped(settings, context)
    parts, root, mapped = cache[key]
    spectrum = spectra([settings["class_weight"]], mapped)[settings["class_weight"]]
    weight, bias = spectrum.solution(settings["l2"])
    return {**parts, "coefficients": (weight @ root.t()).float(), "bias": bias.float()}


def _mapped(settings: Settings, context: Context) -> tuple[Parameters, Tensor, Context]:
    """Landmarks, K^{−½} [M, R] and a context of the training rows' φ(x) [R], in a few
    passes."""
    kernel, degree = settings["kernel"], float(settings["degree"])
    chosen, spread = _chosen(settings, context)
    center = context.mean if kernel == "rbf" else torch.zeros_like(context.mean)
    width = max(settings["width"] * spread, torch.finfo(torch.float32).tiny)
    landmarks = prepared(_gathered(chosen, context).double(), center, kernel)
    values, vectors = torch.linalg.eigh(kernels(landmarks, landmarks, kernel, width, degree))
    kept = values > SMALLEST * values[-1]
    root = vectors[:, kept] / values[kept].sqrt()

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in pieces(context):
            rows = prepared(x.double(), center, kernel)
            yield kernels(rows, landmarks, kernel, width, degree) @ root, y

    parts = {
        "landmarks": landmarks.float(),
        "center": center,
        "width": column([width], landmarks)[0],
    }
    return parts, root, replace(context, dim=root.shape[1], blocks=blocks)


def _chosen(settings: Settings, context: Context) -> tuple[Tensor, float]:
    """Rows of the landmarks [M], ascending, and σ², the mean of ‖x − x̄‖²."""
    labels: list[Tensor] = []
    squares = 0.0
    for x, y in pieces(context):
        labels.append(y)
        squares += float((x.double() - context.mean).square().sum())
    y = torch.cat(labels)
    order = torch.randperm(len(y), generator=seeded(settings["draw_seed"], "landmarks"))
    order = order.to(y.device)
    if settings["draw"] == "balanced":
        order = order[_taken(y[order].cpu().numpy(), settings["landmarks"])]
    return order[: settings["landmarks"]].sort().values, squares / len(y)


def _taken(labels: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` labels: the first of every class, the second of every class, …"""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return by_class[np.lexsort((by_class, turn))][:most]


def _gathered(chosen: Tensor, context: Context) -> Tensor:
    """The rows `chosen` [M], ascending, of the training rows: [M, D]."""
    parts, start = [], 0
    for x, _ in pieces(context):
        within = chosen[(chosen >= start) & (chosen < start + len(x))] - start
        parts.append(x[within])
        start += len(x)
    return torch.cat(parts)
