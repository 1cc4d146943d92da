"""Source groups: rows of one image, patient, camera or recording, which belong together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from featbank import errors
from featbank.bank.checks import apart
from featbank.bank.classes import HoldOut, class_counts, hold_out
from featbank.characters import clipped
from featbank.wording import listed, number


def sizes_text(groups: np.ndarray) -> str:
    """``41 groups of 3 … 250 rows`` for source groups [N]."""
    if not groups.size:
        return "no rows"
    _, counts = np.unique(groups, return_counts=True)
    least, most = counts.min(), counts.max()
    rows = number(int(most), "row") if least == most else f"{least} … {most} rows"
    return f"{number(len(counts), 'group')} of {rows}"


def shared_groups(
    groups: Mapping[str, np.ndarray], names: Sequence[str] | None = None
) -> Iterator[str]:
    """Yield a sentence for each two splits that must be apart and share source groups, which are
    given by their names, or else by number."""
    for one, other in apart(groups):
        shared = np.intersect1d(groups[one], groups[other])
        if shared.size:
            shown = shared if names is None else [clipped(names[g], 40) for g in shared[:4]]
            yield (
                f"{one} and {other} share {number(shared.size, 'source group')} "
                f"({listed(shown, 3)}): their rows resemble each other, and figures on {other} "
                "may be too good; `featbank split --by-group` keeps them apart in a val"
            )


def source_units(groups: np.ndarray | None) -> np.ndarray | None:
    """Source groups [N] as 0 … G − 1 in the order in which rows have them; None without any, and
    where every row is one of its own: then rows are the units."""
    if groups is None:
        return None
    _, first, unit = np.unique(groups, return_index=True, return_inverse=True)
    if len(first) == len(groups):
        return None
    return np.argsort(np.argsort(first))[unit]


def deal_groups(
    labels: np.ndarray, units: np.ndarray, count: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Deal source groups to folds, stratified by class as well as whole groups allow.

    Parameters
    ----------
    labels, units
        Class and source group of each row [N], groups 0 … G − 1.
    count
        n; with fewer groups some folds stay empty.
    rows
        Rows that each entry stands for [N]; None: one.

    Returns
    -------
    The fold of each group [G].
    """
    classes = np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(classes, rows)
    pairs, place = np.unique(units * len(sizes) + classes, return_inverse=True)
    rows = np.bincount(place, rows)
    owner, of_pair = np.divmod(pairs, len(sizes))
    share = rows / sizes[of_pair]
    bounds = np.searchsorted(owner, np.arange(units.max() + 2))
    # The spread of a group's shares over all classes, up to a constant.
    square, total = (np.bincount(owner, each) for each in (share**2, share))
    order = np.argsort(total**2 / len(sizes) - square, kind="stable")
    held, number = np.zeros((count, len(sizes))), np.zeros(count)
    fold = np.empty(len(bounds) - 1, np.int64)
    for group in order:
        part = slice(bounds[group], bounds[group + 1])
        of, shares = of_pair[part], share[part]
        # Σ (h + s)² − h² = Σ 2hs + s²; equal ones by the fewest rows
        growth = (held[:, of] @ shares).round(12)
        chosen = int(np.lexsort([number, growth])[0])
        fold[group] = chosen
        held[chosen, of] += shares
        number[chosen] += rows[part].sum()
    return fold


MOST_PASSES, MOST_TRIES, TRIED_GROUPS = 5, 20, 20_000
"""Times that every source group is considered for a val, of which few suffice; draws of which the
best is taken, and source groups of all draws together."""


def hold_out_groups(
    labels: np.ndarray, groups: np.ndarray, num_classes: int, how: HoldOut
) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole source groups to hold out, so that each class gives about as many rows as `how`
    says.

    Groups are considered in random order, again and again: one is taken, or given back, where that
    lowers Σ_k ((h_k − t_k) ÷ t_k)², for h_k held-out rows of class k and t_k wanted ones, and
    leaves a row of every class. Where there are few groups, the best of several orders is taken.

    Parameters
    ----------
    labels, groups
        [N] integers in 0…K−1, and source groups [N].
    num_classes
        K.
    how
        Rows of each class to draw, and the seed.

    Returns
    -------
    Rows kept and rows held out, both ascending.

    Raises
    ------
    EmptyClass
        If no group can be taken.
    """
    counts = class_counts(labels, num_classes)
    wanted = how.sizes(counts).astype(np.float64)
    names, of_row = np.unique(groups, return_inverse=True)
    pairs, rows = np.unique(of_row * num_classes + labels, return_counts=True)
    group, of_class = np.divmod(pairs, num_classes)
    ends = np.searchsorted(group, np.arange(len(names) + 1)).tolist()
    table = [(of_class[i:j], rows[i:j]) for i, j in itertools.pairwise(ends)]
    rng = np.random.default_rng(how.seed)
    tries = min(MOST_TRIES, max(1, TRIED_GROUPS // max(1, len(names))))
    draws = [_draw(rng.permutation(len(names)), table, counts, wanted) for _ in range(tries)]
    _, taken = min(draws, key=lambda draw: draw[0])
    if not taken.any():
        raise errors.EmptyClass(
            f"None of {number(len(names), 'source group')} can be held out for val: each has more "
            "rows of its classes than wanted, or all of one. Hold out more, import a val split, or "
            "hold out rows: `featbank split` without --by-group."
        )
    held = taken[of_row]
    return np.flatnonzero(~held), np.flatnonzero(held)


def _draw(
    order: np.ndarray,
    table: Sequence[tuple[np.ndarray, np.ndarray]],
    counts: np.ndarray,
    wanted: np.ndarray,
) -> tuple[float, np.ndarray]:
    """The loss of `hold_out_groups` and the groups [G] bool that one order takes; `table` has
    classes and rows of each group."""
    missing, room = wanted.copy(), counts - 1
    weight = 1 / np.maximum(wanted, 1) ** 2
    taken = np.zeros(len(table), bool)
    for _ in range(MOST_PASSES):
        changed = False
        for g in order.tolist():
            k, n = table[g]
            more = -n if taken[g] else n
            lower = ((missing[k] - more) ** 2 - missing[k] ** 2) @ weight[k] < 0
            if lower and (more <= room[k]).all():
                missing[k] -= more
                room[k] -= more
                taken[g], changed = not taken[g], True
        if not changed:
            break
    return float(missing**2 @ weight), taken


def draw_val(
    labels: np.ndarray,
    groups: np.ndarray | None,
    num_classes: int,
    how: HoldOut,
    *,
    of: str = "train",
) -> tuple[np.ndarray, np.ndarray, str]:
    """Draw rows to hold out of the split `of` by class (`hold_out`), or whole source `groups` [N]
    (`hold_out_groups`): rows kept, rows held out, both ascending, and a description of these."""
    if groups is None:
        kept, held = hold_out(labels, num_classes, how)
        counts = [class_counts(rows, num_classes) for rows in (labels[held], labels)]
        return kept, held, how.describe(*counts, of=of)
    kept, held = hold_out_groups(labels, groups, num_classes, how)
    return kept, held, _described(labels[held], groups[held], num_classes, how, of)


def _described(
    labels: np.ndarray, groups: np.ndarray, num_classes: int, how: HoldOut, of: str
) -> str:
    """Describe source groups that were held out of a split, by labels and groups of their rows."""
    aim = f"{how.per_class} per class"
    if how.fraction is not None:
        aim = f"{100 * how.fraction:g} % of each class"
    none = int((class_counts(labels, num_classes) == 0).sum())
    lacking = f"; {number(none, 'class has', 'classes have')} no row in val" if none else ""
    return (
        f"{number(len(labels), 'row')} of {number(len(np.unique(groups)), 'whole source group')} "
        f"held out of {of}, close to {aim}, seed {how.seed}{lacking}"
    )
