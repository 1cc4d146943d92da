"""The loss family: the parameters of a loss, by which all losses share one kernel.

For a sample (x, y) with logits z, in the notation of Kini et al. 2021 extended by label smoothing,
focusing and distillation::

    u_k = a_k·z_k + m_k − Δ_y·1[k=y]
    p   = softmax(u)
    q_k = (1−ε_y)·1[k=y] + ε_y·o_k       o_k = 1/K, or 1/(K−1) for k≠y ("others")
    L   = ω_y · (1−p_y)^γ · κ · (−Σ_k q_k log p_k)  +  α·T²·KL(softmax(z⁰/T) ‖ softmax(z/T))

averaged over the batch; the first term may be divided by Σω_y of the batch instead
(``normalise="weights"``). The factor (1−p_y)^γ carries its gradient, κ does not; z⁰ are the logits
of stage 1. `stage2.engine.kernel` computes it for many configurations at once, so that different
losses train side by side in one fused group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featbank.bank import require_samples
from featbank.errors import ConfigError
from featbank.settings import Setting, resolved, scheduled
from stage2.methods.class_facts import ROWS_ALONE, ClassFacts

EXCLUDED = -1e4
"""Additive term m_k of a class that is left out: its exponential is 0, and it is finite."""

NOISE = 1 / 3
"""Standard deviation of the noise ε ~ N(0, ⅓²) on logits, cut at ±1, as released [GCL]."""


@dataclass(frozen=True)
class LossParameters:
    """One row of the family; arrays are [K] float64, and None means neutral.

    Attributes
    ----------
    scale
        a_k, multiplies the logit; neutral 1.
    shift
        m_k, adds to the logit; neutral 0.
    margin
        Δ_y, subtracted from the true class's logit; neutral 0.
    weight
        ω_y ≥ 0; neutral 1.
    smoothing
        ε_y in [0, 1]; neutral 0.
    others
        Whether smoothed mass goes to the K−1 other classes instead of to all K.
    gamma
        γ ≥ 0, focusing exponent.
    by_weights
        Whether to divide by the batch's Σω_y instead of by B.
    frozen_gamma
        Exponent of a factor (1−p_y)^γ in κ, which carries no gradient.
    angle
        τ ≥ 0 of a factor exp(τ(cosθ*_y − cosθ)) in κ, see `stage2.engine.angles`.
    distil, temperature
        α ≥ 0 and T > 0 of the distillation.
    distil_classes
        Classes [K] bool whose samples are distilled; None for all.
    cloud
        Amplitude c_k ≥ 0 of noise that lowers the logit by c_k·abs(ε), see `NOISE`; neutral 0.
    lade, lade_penalty
        α ≥ 0 of a regulariser of the whole batch and λ ≥ 0 in it, see `stage2.engine.terms.lade`.
    """

    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    margin: np.ndarray | None = None
    weight: np.ndarray | None = None
    smoothing: np.ndarray | None = None
    others: bool = False
    gamma: float = 0.0
    by_weights: bool = False
    frozen_gamma: float = 0.0
    angle: float = 0.0
    distil: float = 0.0
    temperature: float = 1.0
    distil_classes: np.ndarray | None = None
    cloud: np.ndarray | None = None
    lade: float = 0.0
    lade_penalty: float = 0.0

    def prior(self, shares: np.ndarray) -> np.ndarray:
        """Class prior of z [K] up to a factor, where a class makes up `shares` [K] of the batches.

        The mean of p is that of q over rows weighted by ω: w = ω·shares without smoothing,
        (1−ε)·w + Σ_y ε_y·w_y·o with it. That is the prior of u = z + m, so z has it over e^m. A
        class that is left out keeps its share. Noise counts by the mean of exp(−c_k·abs(ε)), as
        where p_k is small.
        """
        neutral = np.ones_like(shares)
        w = shares * (neutral if self.weight is None else self.weight)
        spread = w * (0 * neutral if self.smoothing is None else self.smoothing)
        others = spread.sum() - spread if self.others else spread.sum() * neutral
        mean = w - spread + others / max(1, len(shares) - self.others)
        if self.cloud is not None:
            from scipy.special import erfcx  # few losses have noise

            mean = mean / erfcx(self.cloud * NOISE / math.sqrt(2))
        if self.shift is None:
            return mean
        left_out = self.shift == EXCLUDED
        shift = np.where(left_out, 0.0, self.shift)
        return np.where(left_out, shares, mean * np.exp(shift.min() - shift))

    @property
    def bends(self) -> list[str]:
        """Terms that keep softmax(z + m) from being a posterior even at the optimum."""
        terms = {
            "class-wise scaling": self.scale is not None and np.ptp(self.scale) > 0,
            "margins": self.margin is not None and np.any(self.margin != 0),
            "label smoothing": self.smoothing is not None and np.any(self.smoothing > 0),
            "focusing": self.gamma > 0 or self.frozen_gamma > 0,
            "weights by angle": self.angle > 0,
            "distillation": self.distil > 0,
            "noise on the logits": self.cloud is not None and np.any(self.cloud > 0),
            "a regulariser of density ratios": self.lade > 0,
        }
        return [name for name, present in terms.items() if present]


@dataclass(frozen=True)
class Moment:
    """A point of training, for parts that change over it: `epoch` t of `epochs` T, t < T."""

    epoch: int = 0
    epochs: int = 1

    @property
    def progress(self) -> float:
        """e = t/(T−1), from 0 in the first epoch to 1 in the last; 0 where there is only one."""
        return self.epoch / max(1, self.epochs - 1)


def growth(progress: float, base: float) -> float:
    """(c^e − 1)/(c − 1), from 0 at e = 0 to 1 at e = 1 [GLAG eq. 3, where c = 2].

    Parameters
    ----------
    progress
        e in [0, 1].
    base
        c > 0: concave in e below 1, linear at 1, the limit, and convex above.
    """
    rate = math.log(base)
    return progress if rate == 0 else math.expm1(progress * rate) / math.expm1(rate)


EMPTY_CLASSES = Setting(
    "empty_classes",
    "error",
    "treat a class without training samples as an error, or leave it out of the loss",
    choices=("error", "ignore"),
)
"""Setting of every loss that needs a sample in every class."""


@dataclass(frozen=True)
class Loss:
    """A loss of the registry.

    Attributes
    ----------
    function
        ``(counts [K] float64, settings, moment) → LossParameters``; settings of role ``groups``
        come as masks [K].
    description, source
        One line; key of `stage2.methods.bibliography`, or the citation itself.
    settings
        What it takes; with `uses_counts` `EMPTY_CLASSES` as well.
    conflict
        What is wrong with settings that are right one by one, as a predicate and a remedy, ``has
        a=1 and no b. Set b.``; None where they go together.
    caution
        Why settings that are allowed may not be meant, one line that is the same for all of them;
        None where nothing is odd. A sweep warns of it once.
    scheduled
        Whether its parameters depend on the epoch whatever its settings.
    uses_counts
        Whether it needs log n_k or 1/n_k, and so a sample in every class.
    kernel
        Which of `stage2.engine.kernel.KERNELS` computes it.
    needs_classifier
        Whether it needs the logits of stage 1.
    convex
        Whether it is convex in the logits, unless a setting of role ``focus`` is not its default.
    weighs_rows
        Whether it weighs rows by what the model says of them (κ), which stage 1 may put off.
    needs_cosine
        Whether its logits must be s·cos, because its margin is on cosines.
    head
        The one head that it is made for; empty where any will do.
    unsuited
        Why stage 1 cannot be trained under it, a clause after "it"; empty where it can.
    instead
        The loss for stage 1 where this one is unsuited, or the classifier has no cosines.
    bends
        Why softmax(z) is no posterior at the optimum whatever its settings, as a noun; empty where
        its parameters say it (`LossParameters.bends`).
    """

    function: Callable[[np.ndarray, dict[str, Any], Moment], LossParameters]
    description: str
    source: str
    settings: tuple[Setting, ...] = ()
    conflict: Callable[[Mapping[str, Any]], str | None] = lambda settings: None
    caution: Callable[[Mapping[str, Any]], str | None] = lambda settings: None
    scheduled: bool = False
    uses_counts: bool = False
    kernel: str = "family"
    needs_classifier: bool = False
    convex: bool = True
    weighs_rows: bool = False
    needs_cosine: bool = False
    head: str = ""
    unsuited: str = ""
    instead: str = ""
    bends: str = ""

    def __post_init__(self) -> None:
        if self.uses_counts and EMPTY_CLASSES not in self.settings:
            object.__setattr__(self, "settings", (*self.settings, EMPTY_CLASSES))

    def convex_at(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is known to be convex in the logits at these settings."""
        return self.convex and not any(
            s.role == "focus" and settings.get(s.name, s.default) != s.default
            for s in self.settings
        )

    def changes(self, settings: Mapping[str, Any]) -> bool:
        """Whether its parameters depend on the epoch at these settings."""
        return self.scheduled or scheduled(self.settings, settings)

    def __call__(
        self,
        counts: np.ndarray,
        settings: dict[str, Any] | None = None,
        moment: Moment = Moment(),
        facts: ClassFacts = ROWS_ALONE,
    ) -> LossParameters:
        """Parameters for training counts [K], or for those from outside that `facts` state.

        A background class has weight 1, and the weights of the others are normalised without it.

        Raises
        ------
        ConfigError
            For a wrong setting, or settings that do not go together.
        EmptyClass
            If a class has no sample, the loss needs its log or inverse, and ``empty_classes`` is
            not ``ignore``.
        """
        name = self.function.__name__
        values = resolved(self.settings, settings or {}, f"loss {name!r}")
        if problem := self.conflict(values):
            raise ConfigError(f"Loss {name!r} {problem}")
        n = facts.prior_counts(counts)
        background = np.arange(len(n)) == facts.background
        masks = {
            s.name: facts.members(values[s.name], n) for s in self.settings if s.role == "groups"
        }
        empty = np.asarray(counts) == 0
        if not (self.uses_counts and empty.any()):
            return _set_apart(self.function(n, values | masks, moment), background)
        if values["empty_classes"] == "error":
            who = f"Loss {self.function.__name__!r}"
            require_samples(counts, who, "Use empty_classes=ignore to leave them out of it.")
        kept = {setting: mask[~empty] for setting, mask in masks.items()}
        present = self.function(n[~empty], values | kept, moment)
        return _spread(_set_apart(present, background[~empty]), empty)


def _set_apart(row: LossParameters, background: np.ndarray) -> LossParameters:
    """A row whose weights have the same mean without the `background` [K] bool as with it, and
    whose background has that mean: 1 where Σω = K."""
    if row.weight is None or background.all() or not background.any():
        return row
    mean, others = row.weight.mean(), row.weight[~background].mean()
    return replace(row, weight=np.where(background, mean, row.weight * (mean / others)))


def _spread(row: LossParameters, empty: np.ndarray) -> LossParameters:
    """A row for the classes that have samples, extended to all K."""

    def place(values: np.ndarray | None, fill: float) -> np.ndarray | None:
        if values is None:
            return None
        everywhere = np.full(len(empty), fill)
        everywhere[~empty] = values
        return everywhere

    return replace(
        row,
        scale=place(row.scale, 1.0),
        shift=place(row.shift, EXCLUDED),
        margin=place(row.margin, 0.0),
        weight=place(row.weight, 0.0),
        smoothing=place(row.smoothing, 0.0),
        distil_classes=place(row.distil_classes, False),
        cloud=place(row.cloud, 0.0),
    )
