"""Source groups and cells of an import: the image, patient or recording that each row is from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featbank import errors
from featbank.bank import checks
from featbank.exchange.arrays import Arrays
from featbank.exchange.formats import read_array
from featbank.exchange.integers import as_integers, as_texts, as_vector
from featbank.wording import number


def add_source_groups(arrays: Arrays, split: str, place: str) -> None:
    """Add the source group of every row of a split: integers ≥ 0 or texts [N]."""
    arrays.source_groups[split] = np.asarray(read_array(place))
    arrays.places[f"{split}/source_group"] = place


def add_cells(arrays: Arrays, split: str, place: str) -> None:
    """Add row and column of every row of a split in the grid of its image: integers [N, 2]."""
    arrays.cells[split] = np.asarray(read_array(place))
    arrays.places[f"{split}/cell"] = place


def settle_origins(arrays: Arrays) -> None:
    """Number source groups that are texts, the same in all splits, keep these, and check both.

    Raises
    ------
    ConfigError
        For a split that is not there.
    DataError
        If there is not one for each row, or one is no integer ≥ 0.
    """
    for name, given in (("source groups", arrays.source_groups), ("cells", arrays.cells)):
        for split in given:
            checks.check_choice(f"split of {name}", split, tuple(arrays.labels))
    known = {s: as_vector(groups) for s, groups in arrays.source_groups.items()}
    for split, groups in known.items():
        _check_each(groups, split, len(arrays.labels[split]))
    if any(groups.dtype.kind in "SU" for groups in known.values()):
        texts = {
            split: np.char.strip(as_texts(groups, f"{split}/source_group"))
            if groups.dtype.kind in "SU"
            else _names_of(groups, arrays.source_group_names)
            for split, groups in known.items()
        }
        names = np.unique(np.concatenate(list(texts.values())))
        arrays.source_group_names = names.tolist()
        known = {split: np.searchsorted(names, groups) for split, groups in texts.items()}
    for split, groups in known.items():
        rows = len(arrays.labels[split])
        integers = as_integers(groups, f"{split}/source_group")
        arrays.source_groups[split] = checks.not_negative(
            integers, f"{split}/source_group", (rows,)
        )
    for split, cells in arrays.cells.items():
        rows = len(arrays.labels[split])
        arrays.cells[split] = checks.not_negative(cells, f"{split}/cell", (rows, 2))


def _check_each(groups: np.ndarray, split: str, rows: int) -> None:
    """Raise unless there is a source group for each of so many rows, and no text is empty."""
    name = f"{split}/source_group"
    if groups.shape != (rows,):
        raise errors.DataError(
            f"{name} has shape {list(groups.shape)}, {split} has {number(rows, 'label')}. Give one "
            "source group for each."
        )
    if groups.dtype.kind in "SU":
        none = np.flatnonzero(np.char.strip(groups) == groups.dtype.type())
        if none.size:
            raise errors.DataError(
                f"{name}: row {none[0]} is empty ({number(none.size, 'such row')}). Name a group "
                "for each row, such as one of its own where it is unknown."
            )


def _names_of(groups: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    """Texts for source groups [N] that are numbers: their names, where an export has them."""
    ends = groups.min(initial=0), groups.max(initial=0)
    if names and groups.dtype.kind in "iu" and ends[0] >= 0 and ends[1] < len(names):
        return np.array(names)[groups]
    return groups.astype(str)
