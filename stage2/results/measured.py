"""What is known of one configuration, over its seeds: what every picture of it is drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featbank import errors
from stage2.engine.metrics import CONFUSIONS
from stage2.results.configurations import Configuration
from stage2.results.results import Results

COUNTED = ("confidence", "confusions")
"""Details that count rows: they are added over the seeds."""


@dataclass(frozen=True)
class Measured:
    """A configuration on one split at one epoch.

    Attributes
    ----------
    configuration, split, epoch
        What was measured, on what, and when: ``last`` or ``selected``; ``last`` where no epoch was
        selected.
    per_class
        Accuracy of each class in percent [K], mean over seeds; NaN for a class without rows.
    details
        By the names of `stage2.engine.metrics.DETAILS`, those that every run has: means over seeds,
        of reliability diagrams weighted by the rows of a bin; numbers of rows are added.
    curves
        One row per seed and one column per epoch, [seeds, epochs], by the names of
        `stage2.engine.tile.Outcome`.
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
    """All that is known of a configuration on the split shown, over its seeds.

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
    if (split, epoch) not in runs[0].metrics:
        epoch = "last"
    if (split, epoch) not in runs[0].metrics:
        found = ", ".join(dict.fromkeys(name for name, _ in runs[0].metrics))
        raise errors.ConfigError(
            f"{configuration.id} was not measured on {split!r}. Choose from: {found}."
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
        np.stack([own["beta"] for own in traces]) if all("beta" in t for t in traces) else None,
    )


def _over_seeds(runs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of several runs as one, by name."""
    found = {}
    for name in runs[0]:
        if any(name not in own for own in runs):
            continue
        values = [own[name] for own in runs]
        if name == "confusions":
            found[name] = _confusions(values)
        elif name in COUNTED:
            found[name] = np.sum(values, axis=0)
        elif name.startswith("reliability"):
            found[name] = _reliability(np.stack(values))
        else:
            found[name] = np.mean(values, axis=0)
    return found


def _stacked(runs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Curves by name, [seeds, epochs]; where seeds have several lengths (L-BFGS), NaN fills up."""
    found = {}
    for name in runs[0]:
        values = [own[name] for own in runs]
        found[name] = np.full((len(runs), max(map(len, values))), np.nan)
        for row, own in zip(found[name], values, strict=True):
            row[: len(own)] = own
    return found


def _reliability(diagrams: np.ndarray) -> np.ndarray:
    """The diagram of all rows of several, [seeds, 3, bins] → [3, bins]; NaN in an empty bin."""
    rows, *averages = diagrams.transpose(1, 0, 2)
    total = rows.sum(0)
    with np.errstate(invalid="ignore"):
        means = [np.nansum(rows * values, axis=0) / total for values in averages]
    return np.stack([total, *means])


def _confusions(runs: Sequence[np.ndarray]) -> np.ndarray:
    """The most frequent of all runs' (class, predicted class, rows), [≤ 200, 3]."""
    total: Counter[tuple[int, int]] = Counter()
    for pairs in runs:
        total.update({(k, other): rows for k, other, rows in pairs.tolist()})
    found = [(*pair, rows) for pair, rows in sorted(total.items())]
    found.sort(key=lambda each: -each[2])
    return np.array(found[:CONFUSIONS], int).reshape(-1, 3)
