"""Readers of data sets: settings and the row of the catalogue in, images in memory out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from featbank import errors
from featbank.bank.schema import SPLITS
from featbank.settings import flag
from stage1.data import catalogue
from stage1.data.catalogue import DatasetRow
from stage1.data.decoding import decoded
from stage1.data.entries import ListEntry
from stage1.data.folders import class_folders, read_folder, split_folders
from stage1.data.images import ImageDataset, Split, preprocessing_for
from stage1.data.lists import (
    count_classes,
    entries_within,
    read_class_names,
    read_list,
    warn_of_shared,
)
from stage1.data.longtail import long_tail_split
from stage1.data.settings import DatasetSettings


def long_tailed(
    settings: DatasetSettings,
    train: tuple[np.ndarray, np.ndarray],
    *,
    class_names: Sequence[str],
    pad: int,
    flip: bool,
    source: str = "train",
    held_out: Mapping[str, int | float] | None = None,
    test: tuple[np.ndarray, np.ndarray] | None = None,
) -> ImageDataset:
    """Cut arrays in memory to a long-tailed data set (`stage1.data.longtail.long_tail_split`).

    Parameters
    ----------
    settings
        With `imbalance`, `data_seed` and `train_balanced`.
    train
        Images [N, C, H, W] uint8 and labels [N], to hold images out of and cut to a long tail.
    class_names, pad, flip
        As in `ImageDataset` and `Preprocessing`.
    source
        Name of `train`, into which the rows of every split but `test` point.
    held_out
        Images per class, or shares of each class, of splits to take from `train` first.
    test
        The official test split, if any, kept whole.
    """
    images, labels = train
    assert settings.imbalance is not None
    rows = _rows(settings, labels, held_out)
    splits = {name: _take(images, labels, chosen, source) for name, chosen in rows.items()}
    if test is not None:
        splits["test"] = _take(*test, np.arange(len(test[1])), "test")
    splits = {name: splits[name] for name in SPLITS if name in splits}
    whole = splits["train"].images
    assert isinstance(whole, torch.Tensor)
    preprocessing = preprocessing_for(whole, pad=pad, flip=flip)
    return ImageDataset(settings, splits, tuple(class_names), preprocessing)


def _rows(
    settings: DatasetSettings, labels: np.ndarray, held_out: Mapping[str, int | float] | None
) -> dict[str, np.ndarray]:
    """Rows of `labels` by split; `train_balanced` is `train` at an imbalance of 1."""
    assert settings.data_seed is not None
    rows = long_tail_split(labels, settings.imbalance, seed=settings.data_seed, held_out=held_out)
    if settings.train_balanced:
        whole = long_tail_split(labels, 1, seed=settings.data_seed, held_out=held_out)
        rows["train_balanced"] = whole["train"]
    return rows


def _take(images: np.ndarray, labels: np.ndarray, rows: np.ndarray, source: str) -> Split:
    chosen = torch.from_numpy(np.ascontiguousarray(images[rows]))
    return Split(chosen, torch.from_numpy(labels[rows].astype(np.int64)), rows, source=source)


def digits(settings: DatasetSettings, row: DatasetRow) -> ImageDataset:
    """Read scikit-learn's 1,797 handwritten digits: 8×8, grey 0…16."""
    from sklearn.datasets import load_digits

    source = load_digits()
    return long_tailed(
        settings,
        (source.images.astype(np.uint8)[:, None], source.target),
        class_names=[str(name) for name in source.target_names],
        pad=1,
        flip=False,
        source="digits",
        held_out={"val": 15, "test": 40},
    )


def cifar(settings: DatasetSettings, row: DatasetRow) -> ImageDataset:
    """Read CIFAR-10 or CIFAR-100, by the number of classes of the row."""
    from torchvision import datasets  # takes seconds to load

    kind = getattr(datasets, f"CIFAR{row.classes}")
    try:
        splits = [
            kind(settings.root, train=train, download=settings.download) for train in (True, False)
        ]
    except RuntimeError:
        folder = Path(settings.root or "") / kind.base_folder
        raise errors.ConfigError(
            f"{folder} does not hold {kind.__name__} as its authors publish it. "
            "Add --download, or give --root the folder that holds it."
        ) from None
    train, test = ((s.data.transpose(0, 3, 1, 2), np.array(s.targets)) for s in splits)
    return long_tailed(
        settings,
        train,
        class_names=splits[0].classes,
        pad=4,
        flip=True,
        held_out=_val_of(settings),
        test=test,
    )


def lists(settings: DatasetSettings, row: DatasetRow) -> ImageDataset:
    """Read images named by list files: those of the settings, else the published ones of the row.

    Without a list of val, one can be held out of the images of train; those that are in the list of
    ``train_balanced``, too, are left out there, by their paths.

    K is the number of class names, else that of the row, else the highest label of all lists + 1
    (`stage1.data.lists.count_classes`).
    """
    assert settings.root is not None
    root = Path(settings.root)
    if not root.is_dir():
        raise errors.ConfigError(f"{root} is not a folder. Give --root the folder of the images.")
    names = read_class_names(Path(settings.class_names)) if settings.class_names else None
    if names is None and row.classes is not None:
        names = tuple(str(k) for k in range(row.classes))
    entries_of = {}
    for split, file in _list_files(settings, root, row).items():
        entries = read_list(file, num_classes=len(names) if names else None)
        entries_of[split] = entries_within(entries, root, allow_outside=settings.allow_outside)
    warn_of_shared(entries_of)
    if names is None:
        names = tuple(str(k) for k in range(count_classes(entries_of)))
    if len(names) < 2:
        raise errors.DataError(f"{settings.train_list} has one class only. Give 2 or more.")
    _warn_of_other_sizes(settings.name, {k: len(v) for k, v in entries_of.items()}, row)
    rows_of = {split: np.arange(len(entries)) for split, entries in entries_of.items()}
    sources = {}
    if held_out := _val_of(settings):
        if "val" in entries_of:
            raise errors.ConfigError(
                f"{settings.val_list} is the val split. Leave out --val-list, or --val-per-class "
                "and --val-fraction."
            )
        labels = np.array([entry.label for entry in entries_of["train"]])
        rows_of |= _rows(settings, labels, held_out)
        entries_of["val"] = entries_of["train"]
        sources = {"train": "train", "val": "train"}
        if "train_balanced" in entries_of:
            held = [entries_of["val"][row] for row in rows_of["val"]]
            rows_of["train_balanced"] = _others(entries_of["train_balanced"], held)
    return decoded(settings, root, names, entries_of, rows_of, sources=sources)


def _others(entries: Sequence[ListEntry], held: Sequence[ListEntry]) -> np.ndarray:
    """Rows of the entries whose path is none of those held out."""
    paths = {os.path.normpath(entry.path) for entry in held}
    others = [row for row, entry in enumerate(entries) if os.path.normpath(entry.path) not in paths]
    if not others:
        raise errors.DataError(
            "The list of train_balanced names only images that are held out for val. Give the list "
            "of all images, or leave --train-balanced-list out."
        )
    return np.array(others)


def _list_files(settings: DatasetSettings, root: Path, row: DatasetRow) -> dict[str, Path]:
    """List files by split: those of the settings, else the published ones, which must exist."""
    files = {}
    for split in (*catalogue.SPLITS, "train_balanced"):
        option = f"{split}_list"
        file = getattr(settings, option)
        if file is not None:
            files[split] = Path(file)
        elif option in row.files:
            files[split] = root / row.files[option]
            if not files[split].exists():
                raise errors.ConfigError(
                    f"{files[split]}: no such list file. Put it there, or name yours with "
                    f"{flag(option)}."
                )
    return files


def _warn_of_other_sizes(name: str, sizes: Mapping[str, int], row: DatasetRow) -> None:
    """Warn of lists that have other sizes than those published: they may be a part of them."""
    other = [
        f"{sizes[split]} {split} images, not {images}"
        for split, images in row.images.items()
        if sizes[split] != images
    ]
    if other:
        warnings.warn(
            f"These lists are not {name} as published: they have {', '.join(other)}. "
            "Compare with no published number unless that is meant."
        )


def folder(settings: DatasetSettings, row: DatasetRow) -> ImageDataset:
    """Read images in a folder per class, whose sorted names are the classes.

    A folder without ``test`` (or ``val``) can have one held out of its training images, first
    `test_per_class` images of each class, then `val_per_class`. The rest keeps its counts unless
    there is an `imbalance`.
    """
    assert settings.root is not None
    root = Path(settings.root)
    folders = split_folders(root)
    names = class_folders(folders["train"])
    held_out = _held_out(settings, root, folders)
    entries_of = {split: read_folder(there, root, names) for split, there in folders.items()}
    labels = np.array([entry.label for entry in entries_of["train"]])
    rows_of = _rows(settings, labels, held_out)
    sources = dict.fromkeys(rows_of, "images" if folders["train"] == root else "train")
    for split in rows_of:
        entries_of[split] = entries_of["train"]
    for split in folders.keys() - {"train"}:
        rows_of[split] = np.arange(len(entries_of[split]))
        sources[split] = split
    return decoded(settings, root, names, entries_of, rows_of, sources=sources)


READERS: dict[str, Callable[[DatasetSettings, DatasetRow], ImageDataset]] = {
    "digits": digits,
    "cifar": cifar,
    "lists": lists,
    "folder": folder,
}
"""The readers, by the name that rows of the catalogue give them."""


def _val_of(settings: DatasetSettings) -> dict[str, int | float]:
    """Images per class, or the share of each class, to hold out for val; nothing for none."""
    amount = settings.val_per_class or settings.val_fraction
    return {"val": amount} if amount else {}


def _held_out(
    settings: DatasetSettings, root: Path, folders: Mapping[str, Path]
) -> dict[str, int | float]:
    """Images per class, or shares, to hold out of the training images, by split."""
    test = {"test": settings.test_per_class} if settings.test_per_class else {}
    held_out: dict[str, int | float] = {**test, **_val_of(settings)}
    for split in held_out:
        if split in folders:
            option = "--val-fraction" if split == "val" and settings.val_fraction else None
            raise errors.ConfigError(
                f"{folders[split]} is there. Leave {option or f'--{split}-per-class'} out, or move "
                "it away."
            )
    if "test" not in folders and "test" not in held_out:
        raise errors.ConfigError(
            f"{root} has no test split. Give --test-per-class to hold one out of the images, or "
            "folders train and test with a sub-folder per class."
        )
    if settings.train_balanced and settings.imbalance is None:
        raise errors.ConfigError(
            "The --train-balanced of data set 'folder' needs --imbalance: without it, no image is "
            "cut away."
        )
    return held_out
