"""Folders of images: one sub-folder per class, in one folder or in train, val and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featbank import errors
from featbank.regular import unprintable
from stage1.data.catalogue import SPLITS
from stage1.data.entries import ListEntry


def split_folders(root: Path) -> dict[str, Path]:
    """Find the folder of each split of an image folder.

    Returns
    -------
    ``train`` and, where they exist, ``val`` and ``test``; only ``train``, which is `root` itself,
    where `root` holds the classes.

    Raises
    ------
    ConfigError
        For a `root` that is not a folder.
    """
    if not root.is_dir():
        raise errors.ConfigError(f"{root} is not a folder. Give --root the folder of the images.")
    folders = set(_folders(root))
    # A class may be called 'train', too: then it has other classes beside it, and no 'test'.
    if "train" in folders and ("test" in folders or folders <= set(SPLITS)):
        return {split: root / split for split in SPLITS if split in folders}
    return {"train": root}


def class_folders(folder: Path) -> tuple[str, ...]:
    """Sorted names of the classes: the sub-folders that are not hidden.

    Raises
    ------
    DataError
        For fewer than two, or a name that cannot be printed or stored.
    """
    names = tuple(_folders(folder))
    for name in names:
        _check_name(name, folder)
    if len(names) < 2:
        number = f"only one class folder, {names[0]!r}" if names else "no class folder"
        raise errors.DataError(f"{folder} holds {number}. Give 2 or more, a sub-folder per class.")
    return names


def read_folder(folder: Path, root: Path, class_names: Sequence[str]) -> list[ListEntry]:
    """List the images of a split, class by class and sorted; sub-folders of a class count, too.

    Files without an ending of torchvision's `IMG_EXTENSIONS` are skipped, and so are hidden ones,
    such as the ``._x.png`` that macOS leaves on other disks.

    Parameters
    ----------
    folder
        With a sub-folder per class; a class may lack its own.
    root
        Folder the paths of the entries start from.
    class_names
        K names, in label order.

    Raises
    ------
    EmptyClass
        For a class folder without an image.
    DataError
        For a folder that is none of the classes, or a name that cannot be printed or stored.
    """
    # torchvision takes seconds to load.
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    folders = _folders(folder)
    for name in folders:
        if name not in class_names:
            raise errors.DataError(
                f"{folder} has the class {name!r}, {root / 'train'} does not. Name it as there, or "
                f"take it out.{errors.did_you_mean(name, class_names)}"
            )
    labels = {name: class_names.index(name) for name in folders}
    samples = (
        make_dataset(folder, labels, extensions=IMG_EXTENSIONS, allow_empty=True) if labels else []
    )
    samples = [s for s in samples if not _is_hidden(Path(s[0]).relative_to(folder))]
    for path, _ in samples:
        _check_name(str(Path(path).relative_to(folder)), folder)
    entries = [
        ListEntry(Path(path).relative_to(root).as_posix(), label, f"class {class_names[label]!r}")
        for path, label in samples
    ]
    for name in sorted(set(folders) - {class_names[entry.label] for entry in entries}):
        raise errors.EmptyClass(
            f"{folder / name} holds no image ({', '.join(IMG_EXTENSIONS)}). "
            "Put some in, or take the folder out."
        )
    if not entries:
        raise errors.DataError(f"{folder} holds no class folder. Give a sub-folder per class.")
    return entries


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _check_name(name: str, folder: Path) -> None:
    if character := unprintable(name):
        raise errors.DataError(
            f"{folder} holds {name!r}, whose name has {character!r}: a control character, or a "
            "byte that is not UTF-8. Rename it."
        )


def _folders(folder: Path) -> list[str]:
    return sorted(
        child.name for child in folder.iterdir() if child.is_dir() and child.name[0] != "."
    )
