"""Probes, which replace a stage-1 classifier that a bank lacks: a linear one, or a cosine one.

A pretrained model that is frozen and banked has no classifier of the bank's classes. Heads and
losses that start from W₀ and b₀ then start from the optimum of softmax regression on the train
split, cross-entropy under instance-balanced sampling: a stage-1 classifier on features that no
longer change. The problem is convex, so the probe depends on no seed, batch or learning rate.

Lengths of features differ between models, 1 for CLIP, 10 and more for ResNets. Weight decay is
therefore `DECAY` times their variance v, the mean of ‖x − μ‖²:

    min_{W,b}  (1/N) Σᵢ CE(W xᵢ + b, yᵢ) + (DECAY·v/2) ‖W‖²

As b is free, this is the same problem in x̂ = (x − μ)/√v with decay `DECAY`, W = Ŵ/√v and
b = b̂ − Wμ, which L-BFGS solves in fewer steps and in as many whatever the scale.

A recipe whose z⁰ is to be a cosine takes the classifier of the bank where that is one
(`is_cosine`), else a cosine probe on its features, scaled as the recipe scales them: the optimum of

    min_W  (1/N) Σᵢ CE(s·⟨w_k/‖w_k‖, xᵢ/‖xᵢ‖⟩)

from the class means of x/‖x‖. The logits are bounded by s, so that no weight decay is needed; the
problem is not convex, but starts at the same point on every machine.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from featbank.bank import Bank
from stage2.engine.model import ViewData
from stage2.engine.optimum import optimum
from stage2.engine.streamed import READ_BYTES
from stage2.features.descent import NOISE, RECENT, Fit, allowed, descend, is_large
from stage2.features.scale import Scaling, default_scale
from stage2.methods.heads import Context
from stage2.methods.lbfgs import minimise
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import UNIT

DECAY = 1e-5
"""Weight decay as a share of the features' variance: that of stage 1 with weight decay 5e-4 and
features of variance 50, as those of a ResNet-32."""

PROBE = Recipe("ce", optimiser="lbfgs", weight_decay=DECAY, decay_bias=False, gradient_norm=1e-6)
"""The probe's recipe, on features of mean 0 and variance 1."""


COSINE_NORM, COSINE_ITERATIONS, HISTORY = 1e-6, 1000, 20
"""Largest gradient entry at which a cosine probe ends, iterations at most, curvature pairs."""

SAMPLED = 1024
"""Training rows whose lengths show whether a classifier is a cosine one."""

ONE_LENGTH = 1.01
"""Ratio of the longest to the shortest of vectors of one length; float16 rounds to 1e-3."""


class Probe(NamedTuple):
    """A classifier to be trained in place of one that a bank lacks.

    Attributes
    ----------
    view
        The view that it classifies.
    scale
        s of a cosine probe, None for a linear one.
    feature_scale
        ``standardise`` for a cosine probe of standardised features, ``unit`` for a linear one of
        rows of one length; ``none`` elsewhere, as a common factor changes no cosine, and a linear
        probe follows the scale of its features.
    """

    view: str
    scale: float | None = None
    feature_scale: str = "none"


def probes_of(bank: Bank, recipes: Iterable[Recipe]) -> list[Probe]:
    """The probes that recipes start from, each once, because the bank has no such classifier."""
    starts = {
        (view, recipe.cosine_scale, recipe.feature_scale): None
        for recipe in recipes
        if recipe.needs_classifier and not recipe.starts_from_text
        for view in recipe.views
    }
    probes = (probe_for(bank, *start) for start in starts)
    return list(dict.fromkeys(probe for probe in probes if probe))


def probe_for(
    bank: Bank, view: str, scale: float | None, feature_scale: str | None
) -> Probe | None:
    """The probe of recipes that start from a classifier of a view; None where the bank has it.

    Parameters
    ----------
    bank, view
        The features.
    scale
        s of a cosine classifier, or None for W₀x + b₀.
    feature_scale
        Setting of the recipes.
    """
    classifier = bank.classifier(view)
    choice = feature_scale or default_scale(bank, view)
    if scale is None and choice == UNIT:
        return Probe(view, None, UNIT)
    if scale is None:
        return None if classifier else Probe(view)
    if classifier and _unit_rows(*classifier) and _one_length(_first_rows(bank, view)):
        return None
    return Probe(view, scale, choice if choice == "standardise" else "none")


def is_cosine(weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> bool:
    """Whether Wx + b is a constant times the cosine of w_k and x: no bias, and rows of one length
    in W [K, D] and in features `x` [n, D].

    Extraction writes the cosine classifier of stage 1 so, with W = √s·w_k/‖w_k‖ for features
    √s·x/‖x‖.
    """
    return _unit_rows(weight, bias) and _one_length(x)


def _unit_rows(weight: np.ndarray, bias: np.ndarray) -> bool:
    return not bias.any() and _one_length(weight)


def _one_length(rows: np.ndarray) -> bool:
    """Whether all rows but those of zeros have one length, and some are not of zeros."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    lengths = lengths[lengths > 0]
    return bool(len(lengths)) and lengths.max() <= ONE_LENGTH * lengths.min()


def _first_rows(bank: Bank, view: str) -> np.ndarray:
    return bank.read("train", view, 0, min(SAMPLED, bank.rows("train")))


def probe_on_scaled(probe: Classifier, scaling: Scaling | None) -> Classifier:
    """A linear probe W [K, D], b [K] on scaled features: that of rows of one length is trained on
    them as they are scaled, any other on features as they are."""
    return scaling.classifier(*probe) if scaling and not scaling.unit else probe


Classifier = tuple[Tensor, Tensor]
"""Weight [K, D] and bias [K], float32."""


def linear_probe(data: ViewData) -> Classifier:
    """The linear probe of a view: weight [K, D] and bias [K], float32, on its device."""
    return fit_linear(data)[0]


def cosine_probe(data: ViewData, scale: float) -> Classifier:
    """The cosine probe of a view as it is scaled: weight s·w_k/‖w_k‖ [K, D] and bias 0 [K],
    float32, on its device, for features x/‖x‖."""
    return fit_cosine(data, scale)[0]


def fit_linear(data: ViewData) -> tuple[Classifier, Fit]:
    """Train the linear probe of a view.

    In float64 it takes a hundred passes over the features or more, each two products N × D × K; on
    large banks it is trained as `stage2.features.descent` says. A metric would save few of them on
    features of mean 0, and change every recipe that starts from the probe in its last digits.
    """
    started, context = time.perf_counter(), data.context
    mean = context.mean
    squares = sum(float((x - mean).square().sum(dtype=torch.float64)) for x, _ in _parts(context))
    scale = max(math.sqrt(squares / len(data.train.labels)), torch.finfo(torch.float32).tiny)

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        return (((x - mean) / scale, y) for x, y in _parts(context))

    aim = PROBE.settings["gradient_norm"]
    if is_large(*_size(data)):
        counts = torch.from_numpy(data.counts).to(context.device) * data.train.copies
        end = descend(
            parts,
            counts,
            context.dim,
            decay=DECAY,
            tolerance=aim,
            iterations=allowed(*_size(data)),
        )
        weight, bias = end.weight, end.bias
        passes, gradient, excess = end.passes, end.gradient, end.excess
    else:
        start = {
            "weight": torch.zeros(1, len(data.counts), context.dim, device=context.device),
            "bias": torch.zeros(1, len(data.counts), device=context.device),
        }
        scaled = replace(context, blocks=parts)
        parameters, minimum = optimum([PROBE], start, scaled, data.train.copies, in_metric=False)
        weight, bias = parameters["weight"][0], parameters["bias"][0]
        passes, gradient, excess = len(minimum.values[0]), minimum.norms[0][-1], None
    weight = weight / scale
    fit = Fit(passes, time.perf_counter() - started, gradient, aim, excess)
    return (weight, bias - weight @ mean), fit


def fit_cosine(data: ViewData, scale: float) -> tuple[Classifier, Fit]:
    """Train the cosine probe of a view.

    A class without rows starts opposite to all others. It takes one or two hundred passes over the
    features, in float64; on large banks it is in float32, and the number bounded as
    `stage2.features.descent.allowed` says.
    """
    started = time.perf_counter()
    context, large = data.context, is_large(*_size(data))
    shape = len(data.counts), context.dim
    means = torch.zeros(shape, dtype=torch.float64, device=context.device)
    for x, y in _parts(context):
        means.index_add_(0, y, normalize(x.double(), dim=1))
    means = torch.where(means.any(1, keepdim=True), means, -means.sum(0))
    objective = _Cosines(context, scale, len(data.train.labels), shape, single=large)
    found = minimise(
        objective,
        normalize(means, dim=1).view(1, -1),
        tolerance=torch.full((1,), COSINE_NORM, dtype=torch.float64, device=context.device),
        max_iterations=allowed(*_size(data)) if large else COSINE_ITERATIONS,
        history=HISTORY,
        noise=NOISE if large else 0.0,
    )
    (values,), ((*_, gradient),) = found.values, found.norms
    if not large and not gradient <= COSINE_NORM:
        warnings.warn(
            f"The cosine probe with z0_scale={scale:g} stopped short of its optimum, at a gradient "
            f"of {gradient:.2g}. Lower z0_scale."
        )
    weight = scale * normalize(found.point.view(shape), dim=1).float()
    short = large and not gradient <= COSINE_NORM
    fell = values[max(0, len(values) - 1 - RECENT)] - values[-1] if short else None
    seconds = time.perf_counter() - started
    fit = Fit(objective.passes, seconds, gradient, COSINE_NORM, fell=fell)
    return (weight, torch.zeros_like(weight[:, 0])), fit


class _Cosines:
    """Value [1] and gradient [1, K·D] of (1/N) Σ CE(s·⟨w_k/‖w_k‖, x/‖x‖⟩), summed in float64; with
    `single` its products are float32.

    With G = (p − 1[k=y])/N and M = s·Gᵀx̂: ∂L/∂w_k = (M_k − ⟨M_k, ŵ_k⟩ŵ_k)/‖w_k‖.
    """

    def __init__(
        self, context: Context, scale: float, rows: int, shape: tuple[int, int], *, single: bool
    ) -> None:
        self._context, self._scale, self._rows, self._shape = context, scale, rows, shape
        self._dtype = torch.float32 if single else torch.float64
        self.passes = 0

    def __call__(self, point: Tensor) -> tuple[Tensor, Tensor]:
        weight, scale, rows = point.view(self._shape), self._scale, self._rows
        length = weight.norm(dim=1, keepdim=True).clamp_min(1e-12)
        unit, value = weight / length, point.new_zeros(1)
        directions, toward = unit.to(self._dtype).t(), torch.zeros_like(weight)
        for part, y in _parts(self._context):
            x = normalize(part.to(self._dtype), dim=1)
            log_p = torch.log_softmax(scale * x @ directions, 1)
            own = y[:, None]
            value -= log_p.gather(1, own).sum(dtype=torch.float64) / rows
            slope = log_p.exp_().scatter_add_(1, own, -torch.ones_like(own, dtype=x.dtype))
            toward += slope.t() @ x * (scale / rows)
        self.passes += 1
        along = (toward * unit).sum(1, keepdim=True)
        return value, ((toward - along * unit) / length).view(1, -1)


def _size(data: ViewData) -> tuple[int, int, int]:
    """N of all copies, D and K."""
    return len(data.train.labels), data.train.dim, len(data.counts)


def on_unit(data: ViewData, probe: Classifier) -> ViewData:
    """A view whose classifier is a cosine probe of its features."""
    return replace(data, weight0=probe[0], bias0=probe[1], unit0=True)


def _parts(context: Context) -> Iterator[tuple[Tensor, Tensor]]:
    """The training rows and their labels, `READ_BYTES` of features at a time."""
    size = max(1, READ_BYTES // (4 * context.dim))
    for x, y in context.blocks():
        yield from zip(x.split(size), y.split(size), strict=True)
