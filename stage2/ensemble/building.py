"""An ensemble of a results file: its pool, its members, its figures, and its place in the file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featbank import errors
from featbank.bank import Bank
from featbank.bank.source_groups import source_units
from featbank.devices import find_device
from featbank.wording import number
from stage2.engine.calibration import FOLDS, val_folds
from stage2.engine.metrics import METRICS, Evaluation
from stage2.engine.tally import Tally
from stage2.engine.temperature import fit_temperature
from stage2.ensemble.selection import balanced, cross_fitted, select
from stage2.executors import origin
from stage2.export.exporting import bank_path
from stage2.export.folding import affine_head, ensemble_head, evaluate, feature_blocks
from stage2.export.retraining import Retrained, retrain
from stage2.features.parts import parts_of
from stage2.results.configurations import Configuration
from stage2.results.ensembles import ENSEMBLE, EnsembleRecipe, Member
from stage2.results.protocol import ranking_epoch
from stage2.results.ranking import in_order
from stage2.results.results import Results
from stage2.results.store import Run, Store

POOL = 30
"""Configurations that members are chosen from."""

_ORDER = "nll_t"
"""The metric on val whose lowest values make the pool."""

_CALIBRATIONS = ("calibration", "calibration_ridge")
"""Settings that leave the head as it is."""


@dataclass(frozen=True)
class Built:
    """An ensemble that was stored.

    Attributes
    ----------
    recipe
        Its settings, the members among them.
    left_out
        Configurations that would have been in the pool, by the reason why they are not.
    """

    recipe: EnsembleRecipe
    left_out: dict[str, list[str]]


def build_ensemble(
    results: str | os.PathLike[str],
    *,
    members: int = POOL,
    bank: str | None = None,
    features: str | os.PathLike[str] | None = None,
    device: str = "auto",
    memory: int | None = None,
) -> Built:
    """Choose an ensemble of the configurations of a results file and store it there.

    Its members are runs, that is configurations with a seed: every seed of the configurations in
    the pool is a candidate, at the epoch that ranks. They are trained again, and an ensemble that
    the file already has is replaced. Its figures on val are cross-fitted (`stage2.ensemble`), those
    on test are of the head that `featbank export` writes.

    Parameters
    ----------
    results
        A results file.
    members
        The number of configurations in the pool: those whose heads are affine in the features and
        that have the lowest negative log-likelihood on val at their own temperature.
    bank, features, device, memory
        As of `stage2.export.exporting.export_head`.

    Raises
    ------
    ConfigError
        Without a val that stage 1 has not seen, or with fewer than two heads to choose from.
    Mismatch
        If the bank is not the one the results are from.
    """
    start = time.perf_counter()
    with Store(results) as store:
        stored = Results(store, bank=bank)
        with Bank(bank_path(stored, features)) as opened:
            _require_val(opened)
            pool = _Pool(stored, opened, {"device": device, "memory": memory})
            pool.fill(_ordered(stored), members)
            recipe, evaluations = _chosen(pool)
    run = {
        "recipe": recipe,
        "status": "done",
        "selected_epoch": None,
        "curves": {},
        "seconds": time.perf_counter() - start,
        "evaluations": {(split, "last"): each for split, each in evaluations.items()},
        **origin(str(find_device(device))),
    }
    with Store(results, create=True) as store:
        store.add_runs(stored.fingerprint, [run], instead_of=ENSEMBLE)
    return Built(recipe, pool.left_out)


def _require_val(bank: Bank) -> None:
    """Raise where val has no rows that can choose."""
    if "val" not in bank.evaluated:
        raise errors.ConfigError(
            f"{bank.path} has no val to choose an ensemble on. Hold one out with `featbank train "
            "--val-per-class`, or of an existing bank with `featbank split --val-from-test`."
        )
    if seen := int(bank.seen("val").sum()):
        raise errors.ConfigError(
            f"Stage 1 has seen {seen} of the {bank.rows('val')} val rows of {bank.path}, and an "
            "ensemble chosen on them is one for rows known by heart. Hold another val out "
            "(`featbank train --val-per-class`, `featbank split --val-from-test`), or say --seen "
            "none where stage 1 never saw these."
        )


def _ordered(results: Results) -> list[Configuration]:
    """The configurations that may be in the pool, best first; of those that differ in their
    calibration alone the one without, or else the first."""

    def name(each: Configuration) -> tuple[bool, str]:
        return each.parameters.get("calibration") != "none", each.id

    by_nll = in_order(results.tried, _nll, name, tie=METRICS[_ORDER].tie, ascending=True)
    distinct: dict[frozenset[tuple[str, object]], Configuration] = {}
    for each in by_nll:
        if _nll(each) is not None:
            head = {k: v for k, v in each.parameters.items() if k not in _CALIBRATIONS}
            distinct.setdefault(frozenset(head.items()), each)
    if len(distinct) < 2:
        raise errors.ConfigError(
            f"{results.path} has {number(len(distinct), 'head')} to make an ensemble of: it takes "
            "two configurations that are done and measured on val, by this version on. Sweep more, "
            "or again with --force."
        )
    return list(distinct.values())


def _nll(configuration: Configuration) -> float | None:
    """The figure that orders the pool, a mean over seeds; None where a run is not done or lacks
    it."""
    values = [run.metrics.get(("val", _epoch(run)), {}).get(_ORDER) for run in configuration.runs]
    known = [value for value in values if value is not None]
    whole = configuration.status == "done" and len(known) == len(values)
    return sum(known) / len(known) if whole else None


def _epoch(run: Run) -> str:
    """The epoch that ranks a run on val."""
    return run.measured_at("val", ranking_epoch("val"))


@dataclass
class _Pool:
    """Candidates of an ensemble: heads affine in the features.

    Attributes
    ----------
    results, bank, training
        The results, their bank, and `device` and `memory` of the training.
    heads
        The candidates, best configuration first.
    configurations
        The number of their configurations.
    left_out
        As of `Built`.
    """

    results: Results
    bank: Bank
    training: Mapping[str, Any]
    heads: list[Retrained] = field(default_factory=list)
    configurations: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def fill(self, waiting: Sequence[Configuration], size: int) -> None:
        """Train the first of `waiting` again until `size` of them qualify."""
        left = list(waiting)
        while left and self.configurations < size:
            some, left = left[: size - self.configurations], left[size - self.configurations :]
            runs = [(run, _epoch(run)) for each in some for run in each.runs]
            again = retrain(self.results, self.bank, runs, calibrated=False, **self.training)
            for each in some:
                heads = [head for head in again if head.run.id == each.id]
                if reason := self._problem(heads):
                    self.left_out.setdefault(reason, []).append(each.id)
                else:
                    self.heads += heads
                    self.configurations += 1
        if self.configurations < 2:
            raise errors.ConfigError(
                f"{self.results.path} has {number(self.configurations, 'configuration')} whose "
                "heads can be folded into one. Sweep two or more linear heads."
            )

    def _problem(self, heads: Sequence[Retrained]) -> str:
        """The reason why a configuration is left out; empty where it is not."""
        if any(affine_head(each.module, each.recipe.views) is None for each in heads):
            return "not affine in the features"
        try:
            for each in heads:
                each.changed_rows(self.results)
        except errors.ConfigError:
            return "another head when trained again"
        return ""

    def logits(self) -> Tensor:
        """Centred logits [N, M, K] of the candidates on the val rows."""
        heads = [affine_head(each.module, each.recipe.views) for each in self.heads]
        centred = [head.centred for head in heads if head is not None]
        views = list(dict.fromkeys(view for head in centred for view in head.views))
        blocks = feature_blocks(self.bank, "val", views)
        return torch.cat([torch.stack([head(x) for head in centred], 1) for x in blocks])


def _chosen(pool: _Pool) -> tuple[EnsembleRecipe, dict[str, Evaluation]]:
    """The ensemble of a pool, and its evaluations by split."""
    bank = pool.bank
    y = torch.from_numpy(bank.labels("val"))
    usable = torch.from_numpy(bank.train_counts > 0)[y]
    if len(y[usable]) < FOLDS:
        raise errors.ConfigError(
            f"{bank.path} has {number(len(y[usable]), 'val row')} to choose an ensemble on, it "
            f"takes {FOLDS}. Hold out more."
        )
    z = pool.logits()
    bag = select(z, y, balanced(y, usable))
    chosen = bag.counts.argsort(descending=True, stable=True)[: int((bag.counts > 0).sum())]
    members = tuple(
        Member(run.id, run.seed, int(bag.counts[m]), float(bag.temperatures[m]))
        for m in chosen.tolist()
        for run in [pool.heads[m].run]
    )
    again = [pool.heads[m] for m in chosen.tolist()]
    head = ensemble_head(members, [(each.module, each.recipe.views) for each in again])
    recipe = EnsembleRecipe(
        members,
        pool=pool.configurations,
        folds=FOLDS,
        view="+".join(head.views),
        stage1=any(each.recipe.needs_classifier for each in again),
    )
    folds = _folds(y, usable, source_units(bank.source_groups("val")))
    logits, _ = cross_fitted(z, y, usable, folds)
    evaluations = {"val": _measured(logits, y, bank, usable)}
    if "test" in bank.evaluated:
        evaluations["test"] = evaluate(head, bank, "test")
    return recipe, evaluations


def _folds(y: Tensor, usable: Tensor, groups: np.ndarray | None) -> Tensor:
    """The fold of each val row [N], such that none has all of the `usable` rows [N], which may
    choose; of source `groups` [N] whole ones."""
    if groups is None:
        folds = val_folds(y)
        folds[usable] = val_folds(y[usable])
        return folds
    may = usable.numpy()
    choosing, place = np.unique(groups[may], return_inverse=True)
    if len(choosing) < 2:
        raise errors.ConfigError(
            "The val rows that may choose an ensemble are of one source group, it takes two. Hold "
            "out more."
        )
    of_group = np.zeros(groups.max() + 1, np.int64)
    of_group[groups[may]] = val_folds(y[usable], place).numpy()
    return torch.from_numpy(of_group[groups])


def _measured(z: Tensor, y: Tensor, bank: Bank, usable: Tensor) -> Evaluation:
    """The evaluation of logits [N, K] on val."""
    closer, parts = "test" not in bank.evaluated, parts_of(bank, "val")
    part = None if parts is None else torch.from_numpy(parts.part)
    counts, groups = bank.full_counts, bank.class_groups.masks
    tally = Tally(y, bank.num_classes, 1, counts, groups, parts=part, closer=closer)
    fitted = fit_temperature(z[usable, None], y[usable], balanced(y, usable)[usable])
    fitted = fitted.among(usable)
    tally.add(z[:, None].clone())
    return tally.evaluations(fitted=fitted)[0]
