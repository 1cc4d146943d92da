"""The class prior that predictions are for: uniform, given, or estimated from their rows."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax

from featbank import errors
from featbank.bank.class_names import match_classes
from featbank.characters import in_csv
from featbank.exchange.arrayfile import require_file
from featbank.exchange.formats import locate, read_array
from featbank.settings import shortened
from featbank.wording import number
from stage2.export.arrays import SUFFIXES
from stage2.export.estimation import EstimatedPrior, bbse, em, transport
from stage2.export.facts import HeadFacts
from stage2.export.headprior import CONFUSION_CLASSES, HeadPrior
from stage2.export.prediction import Predictions
from stage2.methods.priors import log_shift

UNIFORM, EM, BBSE, SINKHORN = "uniform", "em", "bbse", "sinkhorn"

_NAME = "Name each class as the head does, once."
_GIVE = "Give one number ≥ 0 per class, in the head's order, or lines of name,value."


@dataclass(frozen=True)
class Target:
    """A prior that predictions were moved to.

    Attributes
    ----------
    predictions
        Under that prior.
    shares
        The prior [K], Σ = 1.
    estimate
        Where it was estimated.
    """

    predictions: Predictions
    shares: np.ndarray
    estimate: EstimatedPrior | None = None


def transductive(prior: str) -> bool:
    """Whether a ``--prior`` looks at the rows that it is for, all together."""
    return prior in (EM, BBSE) or prior.partition(":")[0] == SINKHORN


def under_prior(predictions: Predictions, facts: HeadFacts, prior: str) -> Target:
    """Move predictions from the prior that a head's outputs are made for to another one.

    Logits u become u + log π_t − log π_s; where that is the same for every class they stay as they
    are, bit for bit.

    Parameters
    ----------
    predictions
        Of the head that has these `facts`.
    prior
        ``uniform``; ``em`` or ``bbse``, an estimate from the predictions; ``sinkhorn`` or
        ``sinkhorn:PRIOR``, which assigns the rows to the classes in equal or given shares, whatever
        prior the head is made for; else as `read_prior` takes it.

    Raises
    ------
    ConfigError
        If the head does not know its prior; for an estimate, if it was not calibrated on rows of
        val that stage 1 never saw, or lacks what the estimate takes.
    DataError
        For a prior that is none, and for an estimate without rows.
    """
    if prior.partition(":")[0] == SINKHORN:
        return _transported(predictions, facts, prior)
    own = known_prior(facts)
    source, estimate = np.array(own.source), None
    if prior in (EM, BBSE):
        estimate = _estimated(predictions, facts, own, prior)
        shares = estimate.shares
    else:
        shares = read_prior(prior, facts.class_names)
    shift = log_shift(shares, source)
    if own.caveats:
        reasons = ", ".join(own.caveats)
        note = f"the prior that the head's outputs are made for is not known exactly: {reasons}"
        predictions = replace(predictions, notes=[*predictions.notes, note])
    if shift is not None:
        predictions = _shifted(predictions, shift)
    return Target(predictions, shares, estimate)


def _transported(predictions: Predictions, facts: HeadFacts, prior: str) -> Target:
    """Predictions whose mean probabilities are the shares of ``sinkhorn`` or ``sinkhorn:PRIOR``."""
    shares = read_prior(prior.partition(":")[2] or UNIFORM, facts.class_names)
    if not len(predictions.logits):
        raise errors.DataError(f"There are no rows to assign by {prior}. Give rows, or the prior.")
    note = f"{prior} is transductive: the class of a row depends on the other rows given with it"
    moved = _shifted(predictions, transport(predictions.logits, shares))
    return Target(replace(moved, notes=[*predictions.notes, note]), shares)


def _shifted(predictions: Predictions, shift: np.ndarray) -> Predictions:
    """Predictions with `shift` [K] added to the logits."""
    logits = torch.from_numpy(predictions.logits) + torch.from_numpy(shift).float()
    return replace(
        predictions,
        logits=logits.numpy(),
        probabilities=logits.softmax(1).numpy(),
        classes=logits.argmax(1).numpy(),
    )


def known_prior(facts: HeadFacts) -> HeadPrior:
    """The prior of a head; raise `ConfigError` for a head that does not know it."""
    if facts.prior is None:
        raise errors.ConfigError(
            f"Head {facts.recipe['id']} is of an older version and does not say which prior its "
            "outputs are made for. Export it again with `featbank export`."
        )
    return facts.prior


def read_prior(place: str, class_names: list[str]) -> np.ndarray:
    """A prior [K] from probabilities or counts, Σ = 1.

    Parameters
    ----------
    place
        ``uniform``; values with commas between them, ``5,3,2``; ``FILE.npy``, ``FILE.npz:KEY``; or
        a text file with a value per line, or lines ``name,value`` in any order, below a header or
        without one. A class without a line has a share of 0.
    class_names
        K names.

    Raises
    ------
    DataError
        For a file that is missing or unreadable, and values that are not finite numbers ≥ 0, one
        for each class, with a positive sum.
    Mismatch
        For a file that names other classes.

    Warns
    -----
    UserWarning
        For classes without a line.
    """
    classes = len(class_names)
    if place == UNIFORM:
        return np.full(classes, 1 / classes)
    if all(map(_is_number, texts := place.split(","))):
        return _normalised(list(map(float, texts)), "of --prior", class_names)
    path = locate(place)[0]
    if path.suffix.lower() in SUFFIXES:
        array = read_array(place)
        if array.dtype.kind not in "fiu":
            raise errors.DataError(f"{place} holds {array.dtype}. {_GIVE}")
        values = array.astype(np.float64).ravel().tolist()
    else:
        values = _from_text(path, class_names)
    return _normalised(values, place, class_names)


def _normalised(values: list[float], place: str, class_names: list[str]) -> np.ndarray:
    """The values as a prior [K]; raise `DataError` where they are none."""
    shares, classes = np.array(values, np.float64), len(class_names)
    if len(shares) != classes:
        raise errors.DataError(
            f"The prior {place} has {number(len(shares), 'value')}, the head {classes} classes. "
            f"{_GIVE}"
        )
    wrong = np.flatnonzero(~(np.isfinite(shares) & (shares >= 0)))
    if len(wrong):
        raise errors.DataError(
            f"The prior {place} has {shares[wrong[0]]:g} for class {class_names[wrong[0]]!r}. "
            f"{_GIVE}"
        )
    with np.errstate(over="ignore"):
        total = shares.sum()
    if not 0 < total < np.inf:
        raise errors.DataError(f"The prior {place} sums to {total:g}. {_GIVE}")
    return shares / total


def _from_text(path: Path, class_names: list[str]) -> list[float]:
    """The values of a text file, of named classes in the order of `class_names`."""
    require_file(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if any(map(str.strip, line))]
    except (UnicodeDecodeError, csv.Error):
        raise errors.DataError(f"{path} is not a text file. {_GIVE}") from None
    if lines and len(lines[0]) > 1 and not _is_number(lines[0][1]):
        lines = lines[1:]  # a header
    if not lines or len(lines[0]) == 1:
        return [_value(line[0], f"Line {i} of {path}") for i, line in enumerate(lines, 1)]
    written = {in_csv(name): name for name in class_names}
    match = match_classes(
        [written.get(line[0], line[0]) for line in lines], class_names, str(path), _NAME
    )
    if unknown := match.unknown:
        raise errors.Mismatch(
            f"{path} names {shortened(unknown[0])}, which is no class of the head."
            f"{errors.did_you_mean(unknown[0], class_names)} {_NAME}"
        )
    if match.absent:
        warnings.warn(f"{match.note}: the share of a class without a line is 0", stacklevel=3)
    values = dict.fromkeys(range(len(class_names)), 0.0)
    for k, line in zip(match.places.tolist(), lines, strict=True):
        values[k] = _value("".join(line[1:2]), f"Class {line[0]!r} of {path}")
    return list(values.values())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(text: str, where: str) -> float:
    if not _is_number(text):
        raise errors.DataError(f"{where} has {text.strip()!r}, which is no number. {_GIVE}")
    return float(text)


def _estimated(
    predictions: Predictions, facts: HeadFacts, own: HeadPrior, method: str
) -> EstimatedPrior:
    """The prior of the rows of predictions."""
    if not own.calibrated:
        raise errors.ConfigError(
            f"Head {facts.recipe['id']} was not calibrated on a val that stage 1 never saw, and "
            f"{method} would take its probabilities at their word. Sweep with "
            "--set calibration=temperature on such a val and export that, or give the prior."
        )
    if not len(predictions.logits):
        raise errors.DataError("There are no rows to estimate a prior from. Give the prior.")
    if method == EM:
        log_p = log_softmax(predictions.logits + np.array(own.correction), 1)
        return em(log_p, np.array(own.source))
    if own.confusion is None:
        missing = sum(rows == 0 for rows in own.val_rows)
        reason = (
            f"{missing} of {len(own.val_rows)} classes had none"
            if missing
            else f"it is kept for up to {CONFUSION_CLASSES:,} classes"
        )
        raise errors.ConfigError(
            f"Head {facts.recipe['id']} has no confusion of val, which bbse needs: {reason}. "
            "Give --prior em."
        )
    return bbse(predictions.probabilities, own.confusion.numpy(), np.array(own.val_rows))
