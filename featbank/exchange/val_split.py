"""Rows held out of train for val, and rows that stage 1 was trained on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.checks import check_paths_apart
from featbank.bank.classes import HoldOut
from featbank.bank.source_groups import draw_val, source_units
from featbank.exchange.arrays import Arrays
from featbank.exchange.settle import check_index


def mark_seen(arrays: Arrays, splits: Collection[str]) -> None:
    """Mark the rows that stage 1 was trained on: those of train, or of train and a given val.

    Raises
    ------
    ConfigError
        For a val among `splits` that is not there.
    """
    if "val" in splits and "val" not in arrays.labels:
        raise errors.ConfigError(
            "--seen train+val needs a val split of the input. Give --val X Y, or --seen train: a "
            "val held out of train counts as train does."
        )
    arrays.seen["train"] = "train" in splits
    held_out = arrays.held_out.get("val")
    if "val" in splits:
        arrays.seen["val"] = True
    elif held_out is not None:  # as train, where it came from
        arrays.seen["val"] = held_out & ("train" in splits)
    elif "val" in arrays.labels:
        arrays.seen.pop("val", None)
        if splits:
            arrays.notes.append(
                "val counts as not seen by stage 1; if it was, give --seen train+val"
            )


def hold_out_val(arrays: Arrays, how: HoldOut) -> dict[str, Any]:
    """Move rows of every class from train to val, in all views; of train with source groups of
    several rows whole groups, as `featbank split --by-group` does.

    Moved rows keep their index into the source data of train.

    Returns
    -------
    Entries for the provenance of a bank.

    Raises
    ------
    ConfigError
        If there is a val split.
    EmptyClass
        If no class has two rows, or no source group can be taken.
    DataError
        If a held-out row, or its path, is in another split too.
    """
    if "val" in arrays.labels:
        raise errors.ConfigError(
            "There is a val split already. Leave out --val-per-class and --val-fraction."
        )
    labels, classes = arrays.labels["train"], arrays.num_classes
    groups = arrays.source_groups.get("train")
    by_group = source_units(groups) is not None
    kept, held, summary = draw_val(labels, groups if by_group else None, classes, how)
    arrays.take("train", held, "val")
    arrays.take("train", kept, "train")
    check_index(arrays)
    check_paths_apart(arrays.paths)
    arrays.held_out["val"] = np.ones(len(held), bool)
    arrays.notes.append(f"val: {summary}")
    return how.settings | ({"by_group": True} if by_group else {})
