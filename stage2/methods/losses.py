"""The losses: one function each, from class counts to a row of `stage2.methods.family`.

Most of them are a choice of the family's parameters and share its kernel; `Loss.kernel` names that
of the others. To add a loss, write its function and its entry in `LOSSES`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featbank.settings import Setting
from stage2.methods.class_weights import (
    BETA,
    DEFER,
    NORMALISE,
    REWEIGHTING,
    RHO,
    effective_number_weights,
    inverse_power_weights,
    reweighted,
    reweighting_conflict,
)
from stage2.methods.distillation import DISTIL, distil, distil_conflict
from stage2.methods.family import Loss, LossParameters, Moment, growth
from stage2.methods.margins import GCL, LDAM, STAGE1_SCALE, gcl, ldam
from stage2.methods.smoothing import LAS, LOS, las, las_caution, las_conflict, los


def _log_prior(counts: np.ndarray) -> np.ndarray:
    return np.log(counts / counts.sum())


def ce(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Cross-entropy: every parameter neutral."""
    return LossParameters()


def weighted(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Generalised re-weighting, ω_k ∝ (1/n_k)^ρ, Σω = K [DisAlign eq. 11]."""
    if moment.epoch < settings["defer"]:
        return LossParameters()
    weight = inverse_power_weights(counts, settings["rho"])
    return LossParameters(weight=weight, by_weights=settings["normalise"] == "weights")


def class_balanced(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Effective-number weights, ω_k ∝ (1−β)/(1−β^n_k), Σω = K [CB eq. 4]."""
    if moment.epoch < settings["defer"]:
        return LossParameters()
    weight = effective_number_weights(counts, settings["beta"])
    return LossParameters(weight=weight, by_weights=settings["normalise"] == "weights")


def focal(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Softmax focal loss, factor (1−p_y)^γ [Focal eq. 4]."""
    return LossParameters(gamma=settings["gamma"])


def cb_focal(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Softmax focal loss with effective-number weights, averaged over the batch [CB §4.2]."""
    if moment.epoch < settings["defer"]:
        return LossParameters(gamma=settings["gamma"])
    weight = effective_number_weights(counts, settings["beta"])
    return LossParameters(gamma=settings["gamma"], weight=weight)


def sigmoid_focal(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Focal loss of K sigmoids, summed over the classes, averaged over the batch, with
    effective-number weights [Focal eq. 4, CB §4.2]."""
    weight = effective_number_weights(counts, settings["beta"])
    return LossParameters(gamma=settings["gamma"], weight=weight)


def cb_bce(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Binary cross-entropy of each of K softmax outputs, its mean over rows and classes, with
    effective-number weights of the row's class on all K terms [LTWB, as released].

    The release cuts −log p and −log(1−p) at 100; here they are exact.
    """
    return LossParameters(weight=effective_number_weights(counts, settings["beta"]) / len(counts))


def balanced_softmax(
    counts: np.ndarray, settings: dict[str, Any], moment: Moment
) -> LossParameters:
    """Balanced softmax, m = log n [BALMS eq. 3].

    It can be re-weighted as `logit_adjusted`.
    """
    return reweighted(LossParameters(shift=np.log(counts)), counts, settings, moment)


def logit_adjusted(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Logit-adjusted loss, m = τ log π [LA eq. 10].

    From epoch ``defer`` on it can have class weights and focusing [SLA Tables 1, 6]: LA+RW with
    ``rho``, ω ∝ (1/n)^ρ, LA+CB with ``beta``, effective-number weights, LA+FL with ``gamma``,
    (1−p_y)^γ with p after the adjustment. With weights the loss is divided by the batch's Σω,
    with focusing as well by the batch size.
    """
    plain = LossParameters(shift=settings["tau"] * _log_prior(counts))
    return reweighted(plain, counts, settings, moment)


def gradual(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Gradual balanced loss, m = α(e) log π with α = s(c^e − 1)/(c − 1) [GLAG eq. 3–4].

    e grows from 0 in the first epoch to 1 in the last, so α from 0 to s; with one epoch α = 0. The
    three forms of the paper's Table 5 are one formula: concave for c < 1, linear (α = s·e) at
    c = 1, convex for c > 1. Eq. 3 itself, s(c^e − 1), is this at c = 2; at another c > 1 it ends at
    s(c−1), which is ``strength`` = s(c−1) here.
    """
    alpha = settings["strength"] * growth(moment.progress, settings["base"])
    return LossParameters(shift=alpha * _log_prior(counts))


def vs(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Vector scaling, a_k = (n_k/n_max)^γ and m = τ log π [VS eq. 2]."""
    return LossParameters(
        scale=(counts / counts.max()) ** settings["gamma"],
        shift=settings["tau"] * _log_prior(counts),
    )


def sla(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Sample logit-aware re-weighting of the logit-adjusted loss [SLA eq. 9–12].

    κ = (1−p_y)^γ exp(τ(cosθ*_y − cosθ)): p after the adjustment, θ between x and w_y, θ* that of
    the training sample of class y with the largest logit.
    """
    return LossParameters(
        shift=settings["tau_prior"] * _log_prior(counts),
        frozen_gamma=settings["gamma"],
        angle=settings["tau"],
    )


def lade(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """Balanced softmax, m = log π, with α times a regulariser that makes exp(z_k) the density ratio
    p(x|k)/p(x) under a uniform prior [LADE, as released].

    α = 0.1 and λ = 0.01 are what the release sets on CIFAR-100-LT, IF 100.
    """
    return LossParameters(
        shift=_log_prior(counts), lade=settings["alpha"], lade_penalty=settings["penalty"]
    )


def dot_regression(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> LossParameters:
    """½(cosθ_y − 1)², a pull of each row to the fixed direction of its class alone [ETF].

    On logits z = s·cosθ, a = 1/s undoes the scale, which a recipe takes from its head.
    """
    return LossParameters(scale=np.full_like(counts, 1 / (settings["scale"] or STAGE1_SCALE)))


_TAU = Setting("tau", 1.0, "strength of the prior", low=0)
_GAMMA = Setting("gamma", 1.0, "focusing exponent γ", low=0)
LOSSES = {
    "ce": Loss(ce, "cross-entropy", "crt"),
    "weighted": Loss(
        weighted,
        "cross-entropy with class weights ∝ (1/n)^ρ",
        "disalign",
        (RHO, NORMALISE, DEFER),
        uses_counts=True,
    ),
    "class_balanced": Loss(
        class_balanced,
        "cross-entropy weighted by the effective number of samples",
        "class_balanced",
        (BETA, NORMALISE, DEFER),
        uses_counts=True,
    ),
    "focal": Loss(focal, "softmax focal loss", "focal", (_GAMMA,), convex=False),
    "cb_focal": Loss(
        cb_focal,
        "softmax focal loss with effective-number weights",
        "class_balanced",
        (_GAMMA, BETA, DEFER),
        uses_counts=True,
        convex=False,
    ),
    "sigmoid_focal": Loss(
        sigmoid_focal,
        "sigmoid focal loss with effective-number weights",
        "class_balanced",
        (_GAMMA, BETA),
        uses_counts=True,
        kernel="sigmoid_focal",
        convex=False,
        bends="a sigmoid per class",
    ),
    "cb_bce": Loss(
        cb_bce,
        "binary cross-entropy of softmax outputs with effective-number weights",
        "ltwb",
        (BETA,),
        uses_counts=True,
        kernel="softmax_bce",
        convex=False,
    ),
    "balanced_softmax": Loss(
        balanced_softmax,
        "softmax with log n added",
        "balms",
        REWEIGHTING,
        conflict=reweighting_conflict,
        uses_counts=True,
    ),
    "logit_adjusted": Loss(
        logit_adjusted,
        "softmax with τ log π added",
        "logit_adjust",
        (_TAU, *REWEIGHTING),
        conflict=reweighting_conflict,
        uses_counts=True,
    ),
    "gradual": Loss(
        gradual,
        "softmax with a log prior that grows over the epochs",
        "glag",
        (
            Setting(
                "base",
                2.0,
                "base c of the growth: below 1 concave, 1 linear, above 1 convex",
                above=0,
            ),
            Setting("strength", 1.0, "strength s, α in the last epoch (0.5 on iNaturalist)", low=0),
        ),
        scheduled=True,
        uses_counts=True,
    ),
    "vs": Loss(
        vs,
        "vector scaling: multiplicative and additive logit adjustment",
        "vs",
        (Setting("gamma", 0.15, "exponent γ of the multiplicative term", low=0), _TAU),
        uses_counts=True,
    ),
    "sla": Loss(
        sla,
        "logit-adjusted loss, samples weighted by confidence and angle",
        "sla",
        (
            Setting("gamma", 1.0, "exponent γ of (1−p_y)", low=0),
            Setting("tau", 1.0, "strength τ of the angle", low=0),
            Setting("tau_prior", 1.0, "strength of the prior", low=0),
        ),
        uses_counts=True,
        convex=False,
        weighs_rows=True,
    ),
    "distil": Loss(
        distil,
        "cross-entropy with distillation from stage 1 on chosen groups of classes",
        "glag",
        DISTIL,
        conflict=distil_conflict,
        needs_classifier=True,
        unsuited="learns from the logits of a finished stage 1",
        instead="ce",
    ),
    "ldam": Loss(
        ldam,
        "margin ∝ n^{−1/4}, optionally with deferred re-weighting",
        "ldam",
        LDAM,
        uses_counts=True,
        needs_cosine=True,
        instead="class_balanced",
    ),
    "gcl": Loss(
        gcl,
        "margin on noisy cosines, the noisier the rarer the class",
        "gcl",
        GCL,
        uses_counts=True,
        kernel="clouded",
        convex=False,
        weighs_rows=True,
        needs_cosine=True,
        instead="class_balanced",
    ),
    "lade": Loss(
        lade,
        "softmax with log π added, logits regularised to density ratios",
        "lade",
        (
            Setting("alpha", 0.1, "weight α of the regulariser (0.005–0.05 on larger data)", low=0),
            Setting("penalty", 0.01, "λ of the squared log normalisers in it", low=0),
        ),
        uses_counts=True,
        kernel="lade",
        convex=False,
    ),
    "dot_regression": Loss(
        dot_regression,
        "squared error of the cosine to the fixed direction of the class",
        "etf",
        (
            Setting(
                "scale",
                None,
                "logit scale s to undo; if not set, the head's",
                above=0,
                kind=float,
                role="head",
            ),
        ),
        kernel="dot_regression",
        head="etf",
        unsuited="pulls features to class directions that do not move",
        instead="ce",
        bends="a squared error on cosines",
    ),
    "las": Loss(
        las,
        "label-aware smoothing",
        "mislas",
        LAS,
        conflict=las_conflict,
        caution=las_caution,
    ),
    "los": Loss(
        los,
        "label over-smoothing",
        "los",
        LOS,
    ),
}
"""Every loss by name."""
