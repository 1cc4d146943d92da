"""The arrays of one configuration, over its seeds: every picture of it is drawn from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from featbank import errors
from stage2.engine.details import DETAILS
from stage2.results.configurations import Configuration
from stage2.results.results import Results

SEGMENTS = 10
"""Points of a line where there are as many classes: segments of 10 for 100 classes, as in LOS."""


@dataclass(frozen=True)
class Measured:
    """A configuration on one split at one epoch.

    Attributes
    ----------
    configuration, split, epoch
        The configuration, the split, and the epoch: ``last`` or ``selected``; ``last`` where no
        epoch was selected.
    per_class
        Accuracy of each class in percent [K], mean over seeds; NaN for a class without rows.
    details
        By the names of `stage2.engine.details.DETAILS`, those that every run has, combined over the
        seeds as their rows say.
    curves
        One row per seed and one column per epoch, [seeds, epochs], by the names of
        `stage2.engine.outcome.Outcome`.
    beta
        β of each epoch and class [seeds, epochs, K], NaN for classes without; None where it is not
        moved.
    """

    configuration: Configuration
    split: str
    epoch: str
    per_class: np.ndarray
    details: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    beta: np.ndarray | None


def measured(results: Results, configuration: Configuration, epoch: str = "selected") -> Measured:
    """Read the arrays of a configuration on the split shown, over its seeds.

    Raises
    ------
    ConfigError
        Where no run of it is done, or it was not measured on the split.
    """
    store, fingerprint, split = results.store, results.fingerprint, results.split
    runs = configuration.done
    if not runs:
        raise errors.ConfigError(
            f"{configuration.id} {configuration.unfinished}. Choose another configuration."
        )
    epoch = runs[0].measured_at(split, epoch)
    if (split, epoch) not in runs[0].metrics:
        splits = ", ".join(dict.fromkeys(name for name, _ in runs[0].metrics))
        raise errors.ConfigError(
            f"{configuration.id} was not measured on {split!r}. Choose from: {splits}."
        )
    places = [(fingerprint, run.recipe, split, epoch) for run in runs]
    traces = [store.traces(fingerprint, run.recipe) for run in runs]
    return Measured(
        configuration,
        split,
        epoch,
        np.mean([store.per_class(*place) for place in places], axis=0),
        _over_seeds([store.details(*place) for place in places]),
        _stacked([store.curves(fingerprint, run.recipe) for run in runs]),
        np.stack([t["beta"] for t in traces]) if all("beta" in t for t in traces) else None,
    )


def segments_of(order: np.ndarray) -> list[np.ndarray]:
    """Classes in order [K] as at most ten segments of neighbours, as equal in size as can be."""
    return np.array_split(order, min(SEGMENTS, len(order)))


def segment_means(values: np.ndarray, segments: list[np.ndarray]) -> np.ndarray:
    """The mean of the classes of each segment that have rows; NaN where none has."""
    known = [values[segment][np.isfinite(values[segment])] for segment in segments]
    return np.array([part.mean() if len(part) else np.nan for part in known])


def magnitude_shares(magnitude: np.ndarray) -> np.ndarray:
    """Logit magnitudes [K] in percent of their 1-norm, as heads differ in scale [LOS Fig. 3]."""
    return 100 * magnitude / np.nansum(np.abs(magnitude))


def _over_seeds(runs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that all of several runs have, combined by name."""
    shared = [name for name in runs[0] if all(name in arrays for arrays in runs)]
    return {name: DETAILS[name].over_seeds([arrays[name] for arrays in runs]) for name in shared}


def _stacked(runs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Curves by name, [seeds, epochs]; shorter ones (L-BFGS) end in NaN."""
    stacked = {}
    for name in runs[0]:
        by_epoch = zip_longest(*(curves[name] for curves in runs), fillvalue=np.nan)
        stacked[name] = np.array([*by_epoch]).reshape(-1, len(runs)).T
    return stacked
