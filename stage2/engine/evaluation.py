"""The evaluation of a tile: calibrated on val, measured on every split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stage2.engine.calibration import (
    FOLDS,
    ROWS_OF_VECTOR,
    Calibration,
    calibrate,
    default_ridge,
    rows_of_vector,
    val_folds,
)
from stage2.engine.metrics import UNCALIBRATED, Evaluation, Totals, class_accuracy
from stage2.engine.outcome import Outcome, Outcomes
from stage2.engine.plan import Tile
from stage2.engine.rows import MemoryRows, block_rows
from stage2.engine.tally import Tally, evaluations_of, label_rank
from stage2.engine.temperature import (
    Fitted,
    class_balanced,
    equal_shares,
    fit_streamed,
    fit_temperature,
)
from stage2.engine.tile import UNTRAINED_BLOCKS, TileRun
from stage2.methods.heads import Parameters
from stage2.methods.priors import implied_prior, log_shift
from stage2.methods.recipe import Recipe

HELD_BYTES = 1 << 28
"""Logits of val held at once on a CPU while something is fitted to them, unless one configuration
takes more; four times as many on a GPU."""


def held_bytes(device: torch.device) -> int:
    """`HELD_BYTES` of a device."""
    return HELD_BYTES * (4 if device.type == "cuda" else 1)


def evaluation_bytes(tile: Tile, rows: Mapping[str, int], classes: int, device: str) -> int:
    """Bytes that the evaluation of a tile takes: logits of val, held while temperatures are fitted
    to them (unless val streams, `TileEvaluation.fit`), and blocks of logits with their temporaries.

    Parameters
    ----------
    tile
        The tile.
    rows
        Rows of each split.
    classes
        K.
    device
        ``cpu`` or ``cuda``.
    """
    configs, kind = len(tile.recipes), torch.device(device)
    of_val = 4 * rows.get("val", 0) * classes
    held = of_val * min(configs, max(1, held_bytes(kind) // max(1, of_val)))
    block = block_rows(configs * classes, kind)
    block *= 1 if tile.recipes[0].trained else UNTRAINED_BLOCKS
    return held + 4 * 4 * configs * classes * min(block, max(rows.values(), default=0))


class TileEvaluation:
    """Calibrations, metrics and outcomes of the configurations of a run.

    Parameters
    ----------
    run
        The run as it is after training.
    selected
        Whether the selected epoch is measured as well, where there is one.
    """

    def __init__(self, run: TileRun, *, selected: bool = True) -> None:
        self.run = run
        self._epochs = run.epochs() if selected else ["last"]
        self._recipes, self._data = run.tile.recipes, run.views[0]
        self._fitted: dict[str, Fitted] = {}
        self._calibrations: dict[str, Calibration] = {}
        self._by_fold: dict[str, list[Calibration]] = {}
        self._folds: Tensor | None = None  # of every row of val, where calibrations are fitted
        self._uncalibrated: dict[str, list[Tensor]] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}

    def fit(self) -> None:
        """Fit temperatures, and calibrations, to val where there is one.

        Rows of classes that have no training rows are left out: no scaling makes those right, and a
        few of them would scale all logits away. A calibration is fitted once more to all but each
        of `FOLDS` folds, so that val is measured without having been fitted to; folds keep source
        groups whole.
        """
        if "val" not in self._data.evaluated:
            return
        labels = self._data.evaluated["val"].labels
        known = torch.from_numpy(self._data.counts > 0).to(labels.device)
        learned = known[labels]
        if not learned.any():
            return
        if self._streams:
            rows = torch.bincount(labels, minlength=self.run.classes) * known
            share = equal_shares(rows).where(rows > 0, 0.0)
            for epoch in self._epochs:
                self._fitted[epoch] = fit_streamed(partial(self._blocks, epoch, share))
            return
        y = labels[learned]
        weight = class_balanced(y, self.run.classes)
        if self.run.tile.key.calibration != "none":
            self._folds = val_folds(labels, self._data.val_groups)
        for epoch in self._epochs:
            fitted, calibrations = [], []
            for configs, logits in self.run.all_logits(epoch, "val", held_bytes(y.device)):
                z = logits if learned.all() else logits[learned]
                fitted.append(fit_temperature(z, y, weight))
                if self._folds is not None:
                    others = [self._folds[learned] != fold for fold in range(FOLDS)]
                    least = ROWS_OF_VECTOR * (FOLDS - 1) // FOLDS
                    by_fold = [self._calibrated(z[r], y[r], configs, least) for r in others]
                    calibrations.append([self._calibrated(z, y, configs), *by_fold])
            self._fitted[epoch] = Fitted.joined(fitted).among(learned)
            if calibrations:
                joined = map(Calibration.joined, zip(*calibrations, strict=True))
                self._calibrations[epoch], *self._by_fold[epoch] = joined

    @property
    def _streams(self) -> bool:
        """Whether temperatures are fitted to a val that is not in memory, so large that losses of
        its rows are not kept. A calibration needs the logits."""
        held = isinstance(self._data.evaluated["val"], MemoryRows)
        return not held and "val" in self._data.parts and self.run.tile.key.calibration == "none"

    def _blocks(self, epoch: str, share: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Logits, labels and weights of val, block by block; `share` [K] is the weight of a row of
        each class."""
        labels, first = self._data.evaluated["val"].labels, 0
        for z in self.run.logit_blocks(epoch, "val"):
            y = labels[first : first + len(z)]
            first += len(z)
            yield z, y, share[y]

    def _calibrated(
        self, z: Tensor, y: Tensor, configs: slice, least: int = ROWS_OF_VECTOR
    ) -> Calibration:
        """The calibration of some configurations to these rows; none where there are none."""
        if not len(y):
            return Calibration(torch.ones(z.shape[1], 1, device=z.device))
        ridge = [r.settings.get("calibration_ridge") for r in self._recipes[configs]]
        default = default_ridge(len(y), len(y.unique()))
        lambdas = torch.tensor([default if each is None else each for each in ridge])
        kind = self.run.tile.key.calibration
        return calibrate(kind, z, y, ridge=lambdas, least=least)

    def evaluate(self, split: str, views: Sequence[Tensor]) -> None:
        """Measure the last and the selected epoch on the next rows of a split."""
        for epoch in self._epochs:
            if (split, epoch) not in self._tallies:
                self._tallies[split, epoch] = Tally(
                    self._data.evaluated[split].labels,
                    self.run.classes,
                    len(self._recipes),
                    self._data.full_counts,
                    self._data.groups,
                    parts=self._data.parts.get(split),
                    closer=(looked_at := (split, epoch) == self._looked_at),
                    log_prior=self._log_prior(epoch) if looked_at else None,
                )
            tally = self._tallies[split, epoch]
            for _, z in self.run.outputs(epoch, views):
                if self._folds is not None and split == "val":
                    right = label_rank(z, tally.next_labels(len(z)))[0] == 0
                    self._uncalibrated.setdefault(epoch, []).append(right.t())
                    folds = self._folds[tally.next_rows(len(z))]
                    for fold, calibration in enumerate(self._by_fold[epoch]):
                        z[folds == fold] = calibration(z[folds == fold])
                elif epoch in self._calibrations:
                    self._calibrations[epoch](z)
                tally.add(z)

    def outcomes(self, status: str = "done", *, parameters: bool = True) -> Outcomes:
        """The outcome of each configuration; `status` where it did not diverge.

        On return everything that they are computed from is on the host.

        Parameters
        ----------
        status
            ``done`` or ``stopped``.
        parameters
            Whether they have parameters, whose copy takes longer than everything else.
        """
        state = self.run.state
        curves = {name: curve.tolist() for name, curve in state["curves"].items()}
        best = state["curves"]["val_macro"].argmax(1).tolist() if "val_macro" in curves else None
        every = {epoch: self._parameters(epoch) for epoch in self._epochs if parameters}
        measured = _Measured(
            recipes=self._recipes,
            status=status,
            totals=self._totals(),
            uncalibrated={epoch: self._macro(right) for epoch, right in self._uncalibrated.items()},
            curves=curves | self.run.optimised,
            best=best,
            parameters=every.get("last", {}),
            selected=every.get("selected", {}),
            traces=[self.run.traces(c) for c in range(len(self._recipes))],
        )
        return Outcomes(measured.outcomes)

    def _totals(self) -> dict[tuple[str, str], Totals]:
        """The measurements by split and epoch."""
        return {
            (split, epoch): tally.totals(
                weight_norm=self._weight_norms(epoch),
                fitted=self._fitted.get(epoch) if split == "val" else None,
            )
            for (split, epoch), tally in self._tallies.items()
        }

    def _macro(self, right: Sequence[Tensor]) -> list[float]:
        """The macro accuracy on val of its right rows, in blocks [C, n]."""
        labels = self._data.evaluated["val"].labels
        return (
            class_accuracy(torch.cat(list(right), 1), labels, self.run.classes).nanmean(1).tolist()
        )

    def _log_prior(self, epoch: str) -> Tensor:
        """Log of the prior [C, K] that the configurations' logits are made for."""
        scales, val_rows = [1.0] * len(self._recipes), None
        calibration = self._calibrations.get(epoch)
        if calibration is not None and calibration.shift is None:
            scales = calibration.scale[:, 0].clamp(1e-6, 1e6).tolist()
        elif calibration is not None:
            labels = self._data.evaluated["val"].labels
            rows = torch.bincount(labels, minlength=self.run.classes).cpu().numpy()
            val_rows = rows_of_vector(rows)
        log_prior = np.zeros((len(self._recipes), self.run.classes), np.float32)
        equal = np.full(self.run.classes, 1 / self.run.classes)
        for c, (recipe, scale) in enumerate(zip(self._recipes, scales, strict=True)):
            prior = implied_prior(
                recipe,
                self._data.counts,
                temperature=1 / scale,
                val_rows=val_rows,
                facts=self._data.facts,
            )
            if (shift := log_shift(equal, prior.shares)) is not None:
                log_prior[c] = -shift
        device = self._data.evaluated[self._looked_at[0]].labels.device
        return torch.from_numpy(log_prior).to(device)

    def _weight_norms(self, epoch: str) -> Tensor | None:
        """‖w_k‖ of each configuration [C, K], where a single head has a weight row per class."""
        model, *others = self.run.models
        if others:
            return None
        return model.head.weight_norm(model.parameters_at(epoch), model.data.context)

    @property
    def _looked_at(self) -> tuple[str, str]:
        """The split and epoch whose details a report shows: those that rank, on test if there is
        one."""
        return "test" if "test" in self._data.evaluated else "val", self._epochs[-1]

    def _parameters(self, epoch: str) -> Parameters:
        """The parameters of all configurations at the ``last`` or the ``selected`` epoch, on the
        CPU: those of a sweep together may exceed a GPU's memory."""
        several = len(self.run.models) > 1
        parameters = {
            f"{view}.{name}" if several else name: values
            for view, model in zip(self.run.stream.views, self.run.models, strict=True)
            for name, values in model.parameters_at(epoch).items()
        }
        if calibration := self._calibrations.get(epoch):
            parameters["calibration.scale"] = calibration.scale
            if calibration.shift is not None:
                parameters["calibration.shift"] = calibration.shift
        return {name: values.cpu() for name, values in parameters.items()}


@dataclass(frozen=True)
class _Measured:
    """All that the outcomes of a tile are computed from, on the host.

    Totals and ``uncalibrated``, the macro accuracy on val before calibration, are by split and
    epoch; curves, parameters and ``best``, the epoch that val selects, have a first axis of C.
    """

    recipes: Sequence[Recipe]
    status: str
    totals: Mapping[tuple[str, str], Totals]
    uncalibrated: Mapping[str, list[float]]
    curves: Mapping[str, list[list[float]]]
    best: list[int] | None
    parameters: Parameters
    selected: Parameters
    traces: list[dict[str, np.ndarray]]

    def outcomes(self) -> list[Outcome]:
        """The outcome of each configuration."""
        evaluations = self._evaluations()
        outcomes = []
        for c, recipe in enumerate(self.recipes):
            finite = all(e.metrics["nll"] is not None for e in evaluations[c].values()) and bool(
                np.isfinite(self.curves["loss"][c] if "loss" in self.curves else 0.0).all()
            )
            outcomes.append(
                Outcome(
                    recipe=recipe,
                    status=self.status if finite else "diverged",
                    evaluations=evaluations[c] if finite else {},
                    selected_epoch=self.best[c] if self.best else None,
                    curves={name: curve[c] for name, curve in self.curves.items()},
                    parameters={name: values[c] for name, values in self.parameters.items()},
                    selected={name: values[c] for name, values in self.selected.items()},
                    traces=self.traces[c],
                )
            )
        return outcomes

    def _evaluations(self) -> list[dict[tuple[str, str], Evaluation]]:
        """Of each configuration its evaluations by split and epoch.

        Calibrated on val, they have the macro accuracy on val before calibration beside the
        metrics: a calibration does not rank.
        """
        evaluations: list[dict[tuple[str, str], Evaluation]] = [{} for _ in self.recipes]
        for place, totals in self.totals.items():
            for by_place, evaluation in zip(evaluations, evaluations_of(totals), strict=True):
                by_place[place] = evaluation
        for epoch, macro in self.uncalibrated.items():
            for by_place, value in zip(evaluations, macro, strict=True):
                by_place["val", epoch].metrics[UNCALIBRATED] = value
        return evaluations
