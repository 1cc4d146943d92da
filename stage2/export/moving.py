"""A head that was trained again, moved to a prior, with what moving it further takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from featbank.bank import Bank, class_counts
from stage2.engine.calibration import rows_of_vector
from stage2.export.folding import feature_blocks
from stage2.export.forms import AveragedHeads, HeadModule
from stage2.export.headprior import HeadPrior, fitted_correction, soft_confusion
from stage2.export.modules import shifted
from stage2.features.loading import facts_of
from stage2.methods.priors import ImpliedPrior, implied_prior, log_shift
from stage2.methods.recipe import Recipe

Module = HeadModule | AveragedHeads


def recipe_prior(
    bank: Bank, recipe: Recipe, temperature: float, *, calibrated: bool = True
) -> ImpliedPrior:
    """The prior of a recipe's logits on a bank, divided by a temperature and, where they are
    `calibrated`, after its vector scaling; see `implied_prior`."""
    val_rows = _val_rows(bank)
    return implied_prior(
        recipe,
        class_counts(bank.labels(recipe.settings["train_on"]), bank.num_classes),
        temperature=temperature,
        val_rows=rows_of_vector(val_rows) if calibrated else None,
        facts=facts_of(bank, recipe.settings["train_on"]),
    )


def mean_prior(priors: Sequence[ImpliedPrior], weights: Sequence[float]) -> ImpliedPrior:
    """The prior of a weighted mean of logits, log π = Σ_i w_i log π_i, w with sum 1."""
    shares = np.stack([prior.shares for prior in priors])
    learned = (shares > 0).all(0)
    mean = np.zeros(shares.shape[1])
    mean[learned] = np.exp(np.asarray(weights) @ np.log(shares[:, learned]))
    caveats = dict.fromkeys(caveat for prior in priors for caveat in prior.caveats)
    return ImpliedPrior(mean / mean.sum(), tuple(caveats))


def with_prior(
    bank: Bank,
    module: Module,
    views: Sequence[str],
    implied: ImpliedPrior,
    *,
    calibrated: bool,
    target: np.ndarray | None = None,
) -> tuple[Module, HeadPrior]:
    """A head moved to a prior, and its `HeadPrior`.

    Parameters
    ----------
    bank
        The bank it was trained on.
    module, views
        The head, and the views it takes.
    implied
        The prior of its logits.
    calibrated
        Whether a calibration was fitted to val.
    target
        The prior [K] to move it to; by default it stays as it is.
    """
    source, val_rows = implied.shares, _val_rows(bank)
    clean = calibrated and bool(val_rows.any()) and not bank.seen("val").any()
    correction, confusion = np.zeros(len(source)), None
    if clean:
        z, y = _val(bank, module, views)
        correction = fitted_correction(z, y, source, val_rows)
    if target is not None:
        if (shift := log_shift(target, source)) is not None:
            module = shifted(module, shift)
            if clean:
                z, y = _val(bank, module, views)
        source = target
    if clean:
        confusion = soft_confusion(z, y, val_rows)
    return module, HeadPrior(
        source=source.tolist(),
        caveats=list(implied.caveats),
        class_counts=bank.full_counts.tolist(),
        val_rows=val_rows.tolist(),
        calibrated=clean,
        correction=correction.tolist(),
        confusion=confusion,
    )


def _val_rows(bank: Bank) -> np.ndarray:
    """Rows of each class [K] in val, all 0 without one."""
    labels = bank.labels("val") if "val" in bank.evaluated else np.zeros(0, np.int64)
    return class_counts(labels, bank.num_classes)


def _val(bank: Bank, module: Module, views: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The logits [N, K] and labels [N] of val."""
    blocks = []
    with torch.no_grad():
        for features in feature_blocks(bank, "val", views):
            xs = tuple(features[view] for view in views)
            blocks.append(module(xs if len(xs) > 1 else xs[0]))
    return torch.cat(blocks), torch.from_numpy(bank.labels("val"))
