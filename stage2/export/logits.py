"""Logits of an exported head on arrays of features, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from featbank import errors
from featbank.wording import number
from stage2.export.facts import HeadFacts
from stage2.export.headfile import LoadedHead, LoadedHeads
from stage2.export.inputs import Input


def checked_features(facts: HeadFacts, names: Sequence[str], arrays: Sequence[Any]) -> list[Any]:
    """Arrays [N, D], or of tokens [N, T, D], as a head takes them; messages use their `names`.

    Raises
    ------
    ConfigError
        If there are more or fewer than the head takes, or D differs.
    DataError
        If N differs.
    """
    check_count(facts, names)
    checked: list[Any] = []
    for name, x, own in zip(names, arrays, facts.arrays, strict=True):
        dropped = len(own.shape) == 2 and own.shape[0] == 1 and len(x.shape) == 2
        checked.append(x[:, None] if dropped else x)  # the axis of a single token
        check_shape(name, checked[-1].shape[1:], own)
    for name, x in zip(names, checked, strict=True):
        if len(x) != len(checked[0]):
            raise errors.DataError(
                f"{name} has {len(x)} rows, {names[0]} has {len(checked[0])}. "
                "Give the same rows of every view."
            )
    return checked


def check_count(facts: HeadFacts, given: Sequence[str]) -> None:
    """Raise `ConfigError` if a head takes more or fewer arrays than the given ones, by name."""
    own = [part.view for part in facts.arrays]
    if len(own) != len(given):
        of = f" of {'+'.join(facts.views)}" if facts.inputs else ""
        raise errors.ConfigError(
            f"The head takes {number(len(own), 'view')}{of} ({', '.join(own)}), "
            f"{len(given)} are given: {', '.join(given)}. Give as many, in that order."
        )


def check_shape(what: str, shape: Sequence[int], own: Input) -> None:
    """Raise `ConfigError` if rows of a `shape`, [D] or [T, D], are not those of a head's input."""
    if own.takes(shape):
        return
    if len(own.shape) == len(shape) == 1:
        raise errors.ConfigError(
            f"{what} has features of D = {shape[0]}, the head takes D = {own.shape[0]}. "
            "Give features of the backbone it was trained on."
        )
    given = Input(what, tuple(shape)).axes
    pooling = len(shape) == 2 and len(own.shape) == 1
    remedy = "Pool the tokens, as in --view VIEW:mean." if pooling else "Give that view."
    raise errors.ConfigError(
        f"{what} is {given}, the head takes {own.axes} of {own.view}. {remedy}"
    )


def logits_of(
    head: LoadedHead | LoadedHeads,
    blocks: Iterable[list[np.ndarray]],
    order: Sequence[int] | np.ndarray | None = None,
) -> Iterator[torch.Tensor]:
    """The logits [n, K] of each block of rows [n, D], one array per view.

    Parameters
    ----------
    order
        Numbers of the rows, for messages. [default: 0, 1, …]

    Raises
    ------
    NotFinite
        For features, or logits of them, that are not finite.
    """
    rows = 0

    def name(row: int) -> int:
        return rows + row if order is None else int(order[rows + row])

    for xs in blocks:
        with np.errstate(over="ignore"):  # infinities are refused below
            features = tuple(torch.from_numpy(x.astype(np.float32)) for x in xs)
        for x in features:
            if (bad := _not_finite(x)) is not None:
                raise errors.NotFinite(
                    f"Row {name(bad)} of the features has NaN or infinity. Leave it out."
                )
        with torch.no_grad():
            logits = head(features if len(features) > 1 else features[0])
        if (bad := _not_finite(logits)) is not None:
            raise errors.NotFinite(
                f"The logits of row {name(bad)} are NaN or infinity. Check that the features "
                "are of the head's backbone, and the head is as it was exported."
            )
        yield logits
        rows += len(features[0])


def _not_finite(x: torch.Tensor) -> int | None:
    """The first row of `x` with NaN or infinity."""
    bad = (~x.isfinite()).flatten(1).any(1).nonzero()
    return int(bad[0]) if len(bad) else None
