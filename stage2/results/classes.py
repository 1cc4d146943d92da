"""The classes of a bank as its record in a results file has them: counts, groups, background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import GROUPS, Bank, ClassGroups
from stage2.engine.metrics import METRICS, Metric
from stage2.methods.class_facts import ClassFacts

BY_GROUP = ("ece", "miou")
"""Metrics that have one of each class group as well, by the key ``ece_few``."""


def class_record(bank: Bank) -> dict[str, Any]:
    """The facts about classes that a bank states beside its rows, in JSON values; most state
    none."""
    record: dict[str, Any] = {}
    if bank.outside_counts is not None:
        record["outside_counts"] = True  # they are its full counts
    if bank.background is not None:
        record["background"] = bank.background
    if (groups := bank.class_fact("class_groups")) is not None:
        record["class_groups"] = {
            "names": list(groups.names),
            "rules": list(groups.rules),
            "member": groups.member.tolist(),
        }
    return record


def has_class_record(about: Mapping[str, Any]) -> bool:
    """Whether what a record has of `class_record` is what that writes."""
    classes, background = about["num_classes"], about.get("background", 0)
    try:
        groups = groups_of(about)
    except (errors.FeatbankError, LookupError, TypeError, ValueError, OverflowError):
        return False
    return (
        len(groups.member) == classes
        and background in range(max(classes, 1))
        and type(about.get("outside_counts", True)) is bool
    )


def full_counts(about: Mapping[str, Any]) -> np.ndarray:
    """Training counts [K] of a bank before rows were held out, or from outside; the groups are by
    these."""
    return np.asarray(about.get("full_counts", about["train_counts"]))


def groups_of(about: Mapping[str, Any]) -> ClassGroups:
    """The class groups of a bank; the usual ones where it has none of its own."""
    if own := about.get("class_groups"):
        return ClassGroups(own["names"], own["rules"], np.asarray(own["member"]))
    return ClassGroups.usual(full_counts(about), about.get("background"))


def facts_of(about: Mapping[str, Any]) -> ClassFacts:
    """The facts about classes that a bank states beside its rows."""
    outside = full_counts(about) if about.get("outside_counts") else None
    own = groups_of(about) if outside is not None or "class_groups" in about else None
    return ClassFacts(outside, about.get("background"), own)


def coverage(labels: Mapping[str, np.ndarray], train_counts: np.ndarray) -> dict[str, Any]:
    """Count the classes that the measured splits share with train and with each other.

    Parameters
    ----------
    labels
        Labels of val and test, [N] each, as far as they have rows.
    train_counts
        Training counts [K].

    Returns
    -------
    Part of the bank's record: by split the ``classes`` with rows there, and of these the
    ``untrained`` without rows in train; ``missing_in_val``, tested classes without val rows.
    """
    present = {split: np.unique(y) for split, y in labels.items() if y.size}
    record: dict[str, Any] = {
        "classes": {split: len(classes) for split, classes in present.items()},
        "untrained": {
            split: int((train_counts[classes] == 0).sum()) for split, classes in present.items()
        },
    }
    if present.keys() >= {"val", "test"}:
        record["missing_in_val"] = len(np.setdiff1d(present["test"], present["val"]))
    return record


def metrics_of(groups: ClassGroups) -> dict[str, Metric]:
    """`METRICS` with the names of class groups in their labels, and the rules in their meanings."""
    metrics, own = dict(METRICS), zip(groups.names, groups.rules, strict=True)
    for (group, usual), (name, rule) in zip(GROUPS.items(), own, strict=True):
        if (name, rule) == (group, usual):
            continue
        for key in (group, *(f"{kind}_{group}" for kind in BY_GROUP)):
            label = METRICS[key].label.replace(group, name)
            members = f"the classes of {name} ({rule})"
            meaning = METRICS[key].meaning.replace(f"classes with {usual}", members)
            metrics[key] = replace(METRICS[key], label=label, meaning=meaning)
    return metrics


def metric_named(name: str, groups: ClassGroups) -> str:
    """The key of a metric, from the key or, of one of a class group, from what that is called; in
    any case where no other is spelt so.

    Raises
    ------
    ConfigError
        For a name that no metric has.
    """
    known = {own: key for key, own in groups.shown.items()}
    known |= {f"{kind}_{own}": f"{kind}_{key}" for kind in BY_GROUP for own, key in known.items()}
    known |= {key: key for key in METRICS}
    if name in known:
        return known[name]
    lower = {own.lower(): key for own, key in reversed(known.items())}
    if name.lower() not in lower:
        hint = errors.closest(name.lower(), known)
        raise errors.ConfigError(f"No metric is called {name!r}. {hint}")
    return lower[name.lower()]
