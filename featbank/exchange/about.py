"""The description of an export: all of a bank that is no array, as JSON."""

from __future__ import annotations

import itertools
import json
import operator
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank import Bank, ClassGroups, schema
from featbank.bank.class_table import CLASS_FACTS

ABOUT = "bank.json"
"""Its name: a text file in a folder, its bytes as an array in a file."""


def describe(bank: Bank) -> dict[str, Any]:
    """Content of ``bank.json``; those of `schema.FLAGS` are numbers of marked rows."""
    splits: dict[str, dict[str, Any]] = {
        split: {"rows": bank.rows(split), "source": bank.source(split)} for split in bank.splits
    }
    for split, name in itertools.product(bank.splits, schema.FLAGS):
        if (flags := bank.flags(split, name)) is not None:
            splits[split][name] = int(flags.sum())
    for split, name in itertools.product(bank.splits, schema.PLACES):
        if f"{split}/{name}" in bank.datasets:
            splits[split][name] = True
    return {
        "fingerprint": bank.fingerprint,
        "num_classes": bank.num_classes,
        "dim": bank.dim,
        "full_counts": bank.full_counts.tolist(),
        "splits": splits,
        "views": bank.views,
        "classifiers": bank.classifiers,
        "batchnorm": sum(len(bank.batchnorm(view)) for view in bank.views),
        **({"source_group_names": names} if (names := bank.source_group_names) else {}),
        **_of_classes(bank),
        **_of_views(bank),
        "provenance": bank.provenance,
    }


def _of_classes(bank: Bank) -> dict[str, Any]:
    """Those of `CLASS_FACTS` that a bank has."""
    facts = {name: bank.class_fact(name) for name in CLASS_FACTS}
    if (groups := facts["class_groups"]) is not None:
        member = groups.member.tolist()
        facts["class_groups"] = {"names": groups.names, "rules": groups.rules, "member": member}
    if (outside := facts["outside_counts"]) is not None:
        facts["outside_counts"] = outside.tolist()
    return {name: fact for name, fact in facts.items() if fact is not None}


def read_class_facts(about: dict[str, Any], place: str) -> dict[str, Any]:
    """Values of `CLASS_FACTS` of a description, found at `place`.

    Raises
    ------
    DataError
        For values that cannot be.
    """
    facts = {name: about[name] for name in CLASS_FACTS if name in about}
    try:
        if groups := facts.get("class_groups"):
            names, rules, member = (groups[part] for part in ("names", "rules", "member"))
            facts["class_groups"] = ClassGroups(tuple(names), tuple(rules), np.array(member))
        if "outside_counts" in facts:
            facts["outside_counts"] = np.array(facts["outside_counts"])
        if "background" in facts:
            facts["background"] = operator.index(facts["background"])
    except (KeyError, TypeError, ValueError, AttributeError, errors.FeatbankError):
        raise errors.DataError(
            f"{place} has counts, groups or a background of classes that cannot be. Export the "
            "bank again."
        ) from None
    return facts


def read_group_names(about: dict[str, Any], place: str) -> list[str] | None:
    """The names of source groups of a description, found at `place`; None without.

    Raises
    ------
    DataError
        If they are no texts.
    """
    names = about.get("source_group_names")
    if names is not None and not (isinstance(names, list) and {*map(type, names)} <= {str}):
        raise errors.DataError(
            f"{place} has names of source groups that are no texts. Export the bank again."
        )
    return names


def _of_views(bank: Bank) -> dict[str, Any]:
    """T, logit scales and default scales of the views that have them."""
    texts = {view: text.logit_scale for view in bank.texts if (text := bank.text(view))}
    facts: dict[str, dict[str, Any]] = {
        "tokens": {view: bank.tokens(view) for view in bank.views},
        "text": dict(texts),
        "default_scale": {view: bank.default_scale(view) for view in bank.views},
    }
    known = {key: {v: fact for v, fact in of.items() if fact} for key, of in facts.items()}
    return {key: of for key, of in known.items() if of}


def parsed_about(content: bytes, place: str) -> dict[str, Any]:
    """The description in `content`, found at `place`.

    Raises
    ------
    DataError
        If it is none.
    """
    try:
        about = json.loads(content)
        splits, views, classifiers = about["splits"], about["views"], about["classifiers"]
        known = (
            isinstance(about["num_classes"], int)
            and set(splits) <= set(schema.SPLITS)
            and all("source" in facts for facts in splits.values())
            and all(map(schema.is_view_name, (*views, *classifiers)))
            and set(about.get("tokens", {})) <= set(views)
            and all(map(schema.is_view_name, about.get("text", {})))
            and all(isinstance(s, int | float) for s in about.get("text", {}).values())
            and set(about.get("default_scale", {})) <= set(views)
            and all(map(schema.is_scale, about.get("default_scale", {}).values()))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if not known:
        raise errors.DataError(
            f"{place} is not what `featbank export-features` writes now. Export the bank again, or "
            "give the arrays with --train X Y."
        )
    return about
