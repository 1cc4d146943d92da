"""The class prior that a recipe's logits are made for, read off its parts.

Softmax of logits z is a posterior under some class prior π_s: that of the training rows for plain
cross-entropy, a uniform one for balanced methods. Under another prior π_t the posterior is that of
z + log π_t − log π_s [Saerens et al. 2002 eq. 2.4], so whoever moves a head to another prior has to
know π_s. A generator and the sampler say how often each class is drawn, the loss what it makes
of that (`stage2.methods.family.LossParameters.prior`), and the head what it does with it.

Axes: K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage2.methods.class_facts import ROWS_ALONE, ClassFacts
from stage2.methods.family import Moment
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe
from stage2.methods.samplers import SAMPLERS

SAME = 1e-9
"""Largest difference of two log priors that counts as none."""


@dataclass(frozen=True)
class ImpliedPrior:
    """The class prior of a recipe's logits.

    Attributes
    ----------
    shares
        [K], Σ = 1; 0 for a class without training rows.
    caveats
        Why it is not exact even for a perfectly fitted head, as nouns.
    """

    shares: np.ndarray
    caveats: tuple[str, ...] = ()


def implied_prior(
    recipe: Recipe,
    counts: np.ndarray,
    *,
    temperature: float = 1.0,
    val_rows: np.ndarray | None = None,
    facts: ClassFacts = ROWS_ALONE,
) -> ImpliedPrior:
    """The prior of a recipe's logits, after its calibration.

    A temperature divides log π_s as it divides the logits. Vector scaling minimises the mean
    negative log-likelihood of the rows of val, so its outputs are posteriors under the class shares
    of val.

    Parameters
    ----------
    recipe
        Any recipe.
    counts
        Rows of each class [K] in its training split.
    temperature
        T of a temperature calibration.
    val_rows
        Rows of val [K] of each class that has a scale and a shift of its own, 0 of others; needed
        for vector scaling alone.
    facts
        The facts about classes beside the rows. A head that is not trained has the prior of counts
        from outside, one that is trained that of its batches, made from rows.
    """
    counts = np.asarray(counts, np.float64)
    learned = counts > 0
    n = facts.prior_counts(counts)
    log_shares = np.zeros_like(n)
    log_shares[learned] = np.log(n[learned] / n.sum())
    caveats: list[str] = []
    if recipe.trained:
        log_shares, caveats = _trained(recipe, counts, facts)
        caveats += ["a start from text"] if recipe.starts_from_text else []
    head = HEADS[recipe.head]
    if head.bends:
        caveats.append(head.bends)
    log_prior = head.log_prior(recipe.part("head"), log_shares)
    log_prior = (log_prior - log_prior[learned].max()) / temperature
    shares = np.where(learned, np.exp(log_prior), 0.0)
    shares /= shares.sum()
    if recipe.settings["calibration"] == "vector" and val_rows is not None:
        known = learned & (val_rows > 0)
        if log_shift(val_rows[known], shares[known]) is not None:
            if recipe.settings["calibration_ridge"] != 0:
                caveats.append("the ridge of its vector scaling")
            shares[known] = shares[known].sum() * val_rows[known] / val_rows[known].sum()
    return ImpliedPrior(shares, tuple(caveats))


def log_shift(target: np.ndarray, source: np.ndarray) -> np.ndarray | None:
    """log π_t − log π_s [K], what to add to logits; None where it is the same for every class.

    A class that π_s does not have was not learned: it counts as one of a uniform π_s. One that π_t
    does not have gets the log of the smallest normal float32, so that its probability is next
    to 0 and its logit finite.
    """
    log_source = np.log(np.where(source > 0, source, 1 / max(1, len(source))))
    shift = np.log(np.maximum(target, np.finfo(np.float32).tiny)) - log_source
    return shift if len(shift) and np.ptp(shift) > SAME else None


def _trained(recipe: Recipe, counts: np.ndarray, facts: ClassFacts) -> tuple[np.ndarray, list[str]]:
    """The log shares [K] that the batches and the loss of a trained recipe amount to, and
    caveats."""
    epochs = recipe.settings.get("epochs", 1)
    last, learned = Moment(epochs - 1, epochs), counts > 0
    generator = recipe.generator
    rows = np.where(learned, counts.max(), 0.0) if generator and generator.fills else counts
    sampler, drawing = SAMPLERS[recipe.settings["sampler"]], recipe.part("sampler")
    loss, settings = LOSSES[recipe.settings["loss"]], recipe.part("loss")
    row = loss(counts, settings, last, facts)
    drawn = sampler.function(rows[learned], drawing, last)
    shares = np.zeros_like(counts)
    shares[learned] = drawn / drawn.sum()
    log_shares = np.zeros_like(counts)
    log_shares[learned] = np.log(row.prior(shares)[learned])
    reasons = {
        loss.bends: bool(loss.bends),
        "a loss that changes over the epochs": loss.changes(settings),
        "a sampler that changes over the epochs": sampler.distribution(rows, drawing) is None,
        "rows of two labels": generator is not None and generator.mixes,
    }
    caveats = [*row.bends, *(name for name, present in reasons.items() if present)]
    return log_shares, caveats
