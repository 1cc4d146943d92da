"""Splitting a bank: a val split out of train or test, or shards of contiguous rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featbank import errors
from featbank.bank.blocks import Progress
from featbank.bank.checks import check_choice, check_disjoint, check_paths_apart
from featbank.bank.classes import HoldOut
from featbank.bank.composed import Bank
from featbank.bank.copying import (
    MapPieces,
    Piece,
    feature_bytes,
    maps_of,
    origin,
    refuse_inputs,
    whole,
    write_pieces,
)
from featbank.bank.maps import Maps
from featbank.bank.source_groups import draw_val
from featbank.wording import number

MOST_SHARDS = 10_000
"""The most files a bank is cut into."""

_TAKEN = {"train": "held_out", "test": "from_test"}
"""Columns of `schema.FLAGS` that mark rows held out, by the split they come from."""

_OTHERWISE = {
    "train": "Import a val split instead.",
    "test": "Hold val out of train: `featbank split --val-per-class`, or before stage 1 is trained "
    "`featbank train --val-per-class`.",
}
"""Remedies where a split has no rows to give."""


def split_val(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    how: HoldOut,
    *,
    of: str = "train",
    by_group: bool = False,
    seen: bool | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> str:
    """Write a bank with a val split held out of train, or of test, class by class.

    Held-out rows keep their index into the source data; everything else is copied. A val out of
    test leaves train as it is; the bank records its rows (`Bank.from_test`), so that results can
    say that their test is the rest.

    Parameters
    ----------
    path
        A bank without a val split, or with an empty one.
    output
        The bank to write.
    how
        How many rows of each class to hold out.
    of
        The split that gives them, ``train`` or ``test``.
    by_group
        Whether to take whole source groups, with about as many rows of each class
        (`featbank.bank.source_groups.hold_out_groups`).
    seen
        Whether stage 1 was trained on the rows of train; by default as `Bank.seen` reports.
    overwrite
        Replace an existing output.
    progress
        Called with (MiB copied, MiB in all).

    Returns
    -------
    A description of the rows held out.

    Raises
    ------
    ConfigError
        If there are rows of val, none of `of` or no such split, or the output is the bank itself;
        for whole maps of `of` unless `by_group`.
    EmptyClass
        If no class has two rows.
    DataError
        If a held-out row, or its path, is in another split too.
    BankError, OutputExists, OutputBusy, NoSpace
        If the bank cannot be read, or the output cannot be written.
    """
    check_choice("split", of, tuple(_TAKEN))
    refuse_inputs(Path(output), [Path(path)])
    with Bank(path) as bank:
        if "val" in bank.evaluated:
            raise errors.ConfigError(
                f"{bank.path} has a val split of {number(bank.rows('val'), 'row')}. "
                "Hold out of a bank without one."
            )
        if not (of in bank.splits and bank.rows(of)):
            raise errors.ConfigError(f"{bank.path} has no rows of {of}. {_OTHERWISE[of]}")
        labels = bank.labels(of)
        groups = _require_groups(bank, of) if by_group else None
        kept, held, description = draw_val(labels, groups, bank.num_classes, how, of=of)
        marks = {} if seen is None else {"seen": seen}
        pieces = {split: whole(bank, split) for split in bank.splits}
        pieces["train"] = Piece(bank, "train", pieces["train"].rows, marks)
        marks = marks if of == "train" else {}
        pieces[of] = Piece(bank, of, kept, marks)
        pieces["val"] = Piece(bank, of, held, {**marks, _TAKEN[of]: True})
        check_disjoint(
            {split: piece.index for split, piece in pieces.items()},
            {split: bank.source(piece.split) for split, piece in pieces.items()},
        )
        check_paths_apart({s: paths for s, piece in pieces.items() if (paths := piece.paths)})
        maps = _maps_apart(bank, of, None if groups is None else groups[held])
        made = how.settings | ({} if of == "train" else {"taken_from": of})
        made |= {"by_group": True} if by_group else {}
        _write(
            *(bank, Path(output), pieces, made),
            maps=maps,
            overwrite=overwrite,
            progress=progress,
        )
        return description


def _require_groups(bank: Bank, split: str) -> np.ndarray:
    """Source groups [N] of a split; raise if the bank has none."""
    groups = bank.source_groups(split)
    if groups is None:
        raise errors.ConfigError(
            f"{bank.path} has no source groups of {split}. Give them with `featbank import "
            "--source-groups`, or leave --by-group out."
        )
    return groups


def _maps_apart(bank: Bank, of: str, held: np.ndarray | None) -> MapPieces:
    """Maps by split, where those of `of` whose source groups are `held` out of it become val's."""
    pieces: dict[str, dict[str, list[Maps]]] = maps_of(bank)
    if of not in pieces:
        return pieces
    if held is None:
        raise errors.ConfigError(
            f"{bank.path} has whole maps of {of}, whose rows would be in val. Add --by-group, "
            "which moves maps with their rows."
        )
    maps = bank.mapped[of]
    moved = np.isin(maps.images, held)
    for split, chosen in ((of, ~moved), ("val", moved)):
        some = [maps[m : m + 1] for m in np.flatnonzero(chosen).tolist()]
        pieces[split] = {view: some for view in bank.views}
    return {split: views for split, views in pieces.items() if any(views.values())}


def ways_to_val(bank: Bank) -> str:
    """The ways to a val that stage 1 has not seen, for a bank without one: a remedy's sentence."""
    if not bank.seen("train").any():
        return "Hold one out with `featbank split BANK --val-fraction 0.2`."
    before = (
        "Train stage 1 with one held out (`featbank train --val-per-class` or `--val-fraction`)"
    )
    if "test" not in bank.evaluated:
        return f"{before}."
    return f"{before}, or take it from test with `featbank split BANK --val-from-test 5`."


def split_shards(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    shards: int,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Cut a bank into shards ``NAME-0of4.h5``, …, which `featbank.bank.merge.merge` joins.

    Shard i of n has the rows ⌊i·N/n⌋ … ⌊(i+1)·N/n⌋ − 1 of every split of N rows.

    Parameters
    ----------
    path
        The bank.
    folder
        The folder for the shards; created if missing.
    shards
        Number of shards n ≥ 2.
    overwrite
        Replace existing shards.
    progress
        Called with (MiB copied, MiB in all).

    Returns
    -------
    Paths of the shards, in the order in which they merge to the bank.

    Raises
    ------
    ConfigError
        For fewer than two shards or more than `MOST_SHARDS`, or if the folder is a file.
    BankError, OutputExists, OutputBusy, NoSpace
        If the bank cannot be read, or a shard cannot be written.
    """
    if not 2 <= shards <= MOST_SHARDS:
        raise errors.ConfigError(
            f"A bank cannot be cut into {shards} shards. Give 2 or more, at most {MOST_SHARDS:,}."
        )
    with Bank(path) as bank:
        outputs = _shard_paths(bank.path, Path(folder), shards, overwrite)
        size = feature_bytes(bank)
        every = {split: np.arange(bank.rows(split)) for split in bank.splits}
        for i, output in enumerate(outputs):
            pieces = {
                split: Piece(
                    bank, split, rows[i * len(rows) // shards : (i + 1) * len(rows) // shards]
                )
                for split, rows in every.items()
            }
            made = {"shard": i, "shards": shards}
            maps = {
                split: {
                    view: [m[i * len(m) // shards : (i + 1) * len(m) // shards] for m in every_map]
                    for view, every_map in views.items()
                }
                for split, views in maps_of(bank).items()
            }
            done = size * i // shards
            _write(
                *(bank, output, pieces, made),
                maps=maps,
                done=done,
                overwrite=overwrite,
                progress=progress,
            )
    return outputs


def _shard_paths(bank: Path, folder: Path, shards: int, overwrite: bool) -> list[Path]:
    """Names of the shards, sorting in their order; raise if one exists."""
    digits = len(str(shards - 1))
    paths = [folder / f"{bank.stem}-{i:0{digits}}of{shards}.h5" for i in range(shards)]
    if folder.exists() and not folder.is_dir():
        raise errors.ConfigError(f"{folder} is a file. Give a folder for the shards.")
    existing = next((path for path in paths if path.exists()), None)
    if existing and not overwrite:
        raise errors.OutputExists(f"{existing} exists. Choose another folder or --overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    return paths


def _write(
    bank: Bank,
    output: Path,
    pieces: Mapping[str, Piece],
    made: Mapping[str, Any],
    *,
    done: int = 0,
    **options: Any,
) -> None:
    """Write pieces of a bank as a bank; earlier shards took `done` bytes of its features."""
    write_pieces(
        output,
        [bank],
        {split: [piece] for split, piece in pieces.items()},
        provenance={"made_by": "featbank split", **made, "from": origin(bank)},
        total=feature_bytes(bank),
        done=done,
        **options,
    )
