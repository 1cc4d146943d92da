"""The evaluation of a tile: calibrated on val, measured on every split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stage2.engine.calibration import Calibration, calibrate
from stage2.engine.metrics import UNCALIBRATED, Evaluation, class_accuracy
from stage2.engine.outcome import Outcome
from stage2.engine.tally import Tally, label_rank
from stage2.engine.tile import TileRun, aligned
from stage2.methods.heads import Parameters

CALIBRATION_BYTES = 1 << 28
"""Logits of val held at once while a calibration is fitted, unless one configuration takes more."""


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
        self._calibrations: dict[str, Calibration] = {}
        self._uncalibrated: dict[str, list[Tensor]] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}

    def calibrate(self) -> None:
        """Fit the calibrations to val, without rows of classes that have no training rows: no
        scaling makes those right, and a few of them would scale all logits away."""
        if self.run.tile.key.calibration == "none":
            return
        val = [view.evaluated["val"] for view in self.run.views]
        labels = val[0].labels
        learned = torch.from_numpy(self._data.counts > 0).to(labels.device)[labels]
        size = max(1, CALIBRATION_BYTES // (4 * len(labels) * self.run.classes))
        for epoch in self._epochs:
            parts = []
            for start in range(0, len(self._recipes), size):
                configs = slice(start, start + size)
                blocks = [
                    z
                    for xs in aligned([rows.blocks() for rows in val])
                    for _, z in self.run.outputs(epoch, xs, configs)
                ]
                ridge = [r.settings.get("calibration_ridge", 0) for r in self._recipes[configs]]
                z, y = torch.cat(blocks)[learned], labels[learned]
                kind = self.run.tile.key.calibration
                parts.append(calibrate(kind, z, y, ridge=torch.tensor(ridge)))
            shifts = [part.shift for part in parts if part.shift is not None]
            self._calibrations[epoch] = Calibration(
                torch.cat([part.scale for part in parts]), torch.cat(shifts) if shifts else None
            )

    def evaluate(self, split: str, views: Sequence[Tensor]) -> None:
        """Measure the last and the selected epoch on the next rows of a split."""
        for epoch in self._epochs:
            if (split, epoch) not in self._tallies:
                self._tallies[split, epoch] = Tally(
                    self._data.evaluated[split].labels,
                    self.run.classes,
                    len(self._recipes),
                    self._data.full_counts,
                    closer=(split, epoch) == self._looked_at,
                )
            tally = self._tallies[split, epoch]
            for _, z in self.run.outputs(epoch, views):
                if epoch in self._calibrations:
                    if split == "val":
                        right = label_rank(z, tally.next_labels(len(z)))[0] == 0
                        self._uncalibrated.setdefault(epoch, []).append(right.t())
                    self._calibrations[epoch](z)
                tally.add(z)

    def outcomes(self, status: str = "done") -> list[Outcome]:
        """The outcome of each configuration; `status` where it did not diverge."""
        evaluations = self._evaluations()
        state = self.run.state
        curves = {name: curve.tolist() for name, curve in state["curves"].items()}
        best = state["curves"]["val_macro"].argmax(1).tolist() if "val_macro" in curves else None
        curves |= self.run.optimised
        outcomes = []
        for c, recipe in enumerate(self._recipes):
            finite = all(e.metrics["nll"] is not None for e in evaluations[c].values()) and bool(
                np.isfinite(curves["loss"][c] if "loss" in curves else 0.0).all()
            )
            outcomes.append(
                Outcome(
                    recipe=recipe,
                    status=status if finite else "diverged",
                    evaluations=evaluations[c] if finite else {},
                    selected_epoch=best[c] if best else None,
                    curves={name: curve[c] for name, curve in curves.items()},
                    parameters=self._parameters(c, "last"),
                    selected=self._parameters(c, "selected") if "selected" in self._epochs else {},
                    traces=self.run.traces(c),
                )
            )
        return outcomes

    def _evaluations(self) -> list[dict[tuple[str, str], Evaluation]]:
        """Of each configuration its evaluations by split and epoch.

        Calibrated on val, they have the macro accuracy on val before calibration beside the
        metrics: what was fitted to val must not be ranked by it.
        """
        evaluations: list[dict[tuple[str, str], Evaluation]] = [{} for _ in self._recipes]
        for place, tally in self._tallies.items():
            norms = self._weight_norms(place[1])
            for c, evaluation in enumerate(tally.evaluations(weight_norm=norms)):
                evaluations[c][place] = evaluation
        for epoch, right in self._uncalibrated.items():
            labels = self._data.evaluated["val"].labels
            macro = class_accuracy(torch.cat(right, 1), labels, self.run.classes).nanmean(1)
            for by_place, value in zip(evaluations, macro.tolist(), strict=True):
                by_place["val", epoch].metrics[UNCALIBRATED] = value
        return evaluations

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

    def _parameters(self, c: int, epoch: str) -> Parameters:
        """The parameters of a configuration at the ``last`` or the ``selected`` epoch."""
        several = len(self.run.models) > 1
        parameters = {
            f"{view}.{name}" if several else name: values[c]
            for view, model in zip(self.run.stream.views, self.run.models, strict=True)
            for name, values in model.parameters_at(epoch).items()
        }
        if calibration := self._calibrations.get(epoch):
            parameters["calibration.scale"] = calibration.scale[c]
            if calibration.shift is not None:
                parameters["calibration.shift"] = calibration.shift[c]
        return parameters
