"""The probes of a sweep: each is trained once, or taken from where earlier sweeps kept it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from featbank.bank import Bank
from featbank.devices import torch_threads
from stage2.engine.model import ViewData
from stage2.features.descent import Fit, allowed, is_large
from stage2.features.folds import Folds
from stage2.features.probe import (
    COSINE_ITERATIONS,
    COSINE_NORM,
    PROBE,
    Classifier,
    Probe,
    fit_cosine,
    fit_linear,
)
from stage2.methods.recipe import settings_hash


class Kept(Protocol):
    """Keeps the probes of a bank beyond a sweep."""

    def alone(self, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Wait until no other process trains the probe with these settings, nor does inside."""

    def find(self, settings: Mapping[str, Any]) -> Classifier | None:
        """The probe with these settings, on the CPU; None where there is none."""

    def keep(self, settings: Mapping[str, Any], classifier: Classifier, fit: Fit) -> None:
        """Keep a probe."""


class Probes:
    """The probes that recipes of a sweep start from.

    Parameters
    ----------
    bank
        An open bank.
    device
        The device of the probes.
    workers
        CPU threads.
    folds
        Folds of train, for probes of the rows that these train on.
    kept
        Probes of earlier sweeps; new ones are added.
    notice
        Called with a line on each probe that was trained.

    Attributes
    ----------
    whole
        The probes of all training rows so far: weight [K, D] and bias [K].
    made
        These and those of folds, by the hash of their settings.
    """

    def __init__(
        self,
        bank: Bank,
        device: str,
        workers: int,
        folds: Folds | None = None,
        *,
        kept: Kept | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._bank, self._device, self._workers, self._folds = bank, device, workers, folds
        self._kept, self._notice = kept, notice
        self._of_folds: dict[tuple[Probe, int, str], Classifier] = {}
        self.whole: dict[Probe, Classifier] = {}
        self.made: dict[str, Classifier] = {}

    def on_all_rows(self, probe: Probe, data: Callable[[], ViewData]) -> Classifier:
        """A probe of all training rows, whose features `data` loads."""
        if probe not in self.whole:
            self.whole[probe] = self._made(probe, data)
        return self.whole[probe]

    def on_fold(
        self, probe: Probe, fold: int, data: Callable[[], ViewData], scaled_on: str
    ) -> Classifier:
        """A probe of the rows that a fold trains on, whose features `data` loads; their scale is
        that of the ``fold`` or of all of ``train``."""
        key = probe, fold, scaled_on if probe.feature_scale == "standardise" else ""
        if key not in self._of_folds:
            self._of_folds[key] = self._made(probe, data, fold, key[2])
        return self._of_folds[key]

    def _made(
        self, probe: Probe, data: Callable[[], ViewData], fold: int | None = None, on: str = ""
    ) -> Classifier:
        settings = settings_of(self._bank, probe, self._folds, fold, on)
        classifier = self._found_or_fitted(settings, probe, data, fold)
        self.made[settings_hash("probe", settings)] = classifier
        return classifier

    def _found_or_fitted(
        self,
        settings: Mapping[str, Any],
        probe: Probe,
        data: Callable[[], ViewData],
        fold: int | None,
    ) -> Classifier:
        with self._kept.alone(settings) if self._kept else nullcontext():
            if self._kept and (known := self._kept.find(settings)):
                return known[0].to(self._device), known[1].to(self._device)
            classifier, fit = self._fitted(probe, data())
            if self._kept:
                self._kept.keep(settings, classifier, fit)
        if self._notice:
            of = "" if fold is None else f", fold {fold + 1}"
            self._notice(f"{settings['kind']} probe of {probe.view!r}{of}: {fit}")
        return classifier

    def _fitted(self, probe: Probe, view: ViewData) -> tuple[Classifier, Fit]:
        with torch_threads(self._workers):
            return fit_linear(view) if probe.scale is None else fit_cosine(view, probe.scale)


def settings_of(
    bank: Bank,
    probe: Probe,
    folds: Folds | None = None,
    fold: int | None = None,
    scaled_on: str = "",
) -> dict[str, Any]:
    """All that the probe of a bank, or of the rows that a fold trains on, depends on, but for
    rounding."""
    size = probe_size(bank, probe, None if folds is None or fold is None else folds.trained(fold))
    linear, large = probe.scale is None, is_large(*size)
    iterations = PROBE.settings["max_iterations"] if linear else COSINE_ITERATIONS
    return {
        "kind": "linear" if linear else "cosine",
        "view": probe.view,
        "scale": probe.scale,
        "feature_scale": probe.feature_scale,
        "folds": folds.count if folds and fold is not None else None,
        "fold": fold,
        "scaled_on": scaled_on,
        "weight_decay": PROBE.settings["weight_decay"] if linear else 0.0,
        "gradient_norm": PROBE.settings["gradient_norm"] if linear else COSINE_NORM,
        "max_iterations": allowed(*size) if large else iterations,
        "precision": "fp32" if large else "fp64",
    }


def probe_size(bank: Bank, probe: Probe, rows: np.ndarray | None = None) -> tuple[int, int, int]:
    """N of all copies of all training rows, or of some `rows`, D and K."""
    copies, count, dim = bank.shape("train", probe.view)
    return copies * (count if rows is None else len(rows)), dim, bank.num_classes
