"""Image lists: text files of lines ``relative/path label``, as ImageNet-LT has them; decoding."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from featbank import errors, texts
from featbank.bank.checks import apart
from featbank.bank.classes import MOST_UNUSED, mostly_unused, other_bases
from featbank.regular import Unopened, regular_status, unprintable
from stage1.data.pixels import Undecoded, read_rgb

DECODERS = min(8, os.cpu_count() or 1)
"""Threads that decode images; Pillow releases the interpreter lock while it decodes."""

MAX_CLASSES = 1_000_000
"""More classes than any data set has: a label beyond is a slip, not a reason to fill memory."""


@dataclass(frozen=True)
class ListEntry:
    """An image: path relative to the root, label, and where it stands, a list's line or a class."""

    path: str
    label: int
    place: str

    def stamp(self, root: Path) -> tuple[str, int, int]:
        """Path, bytes and time of last change (ns) of the image's file.

        Raises
        ------
        Unreadable
            For a file that is not there, or not a regular one.
        """
        try:
            status = regular_status(root / self.path)
        except FileNotFoundError:
            raise _missing(self, root) from None
        except Unopened as error:
            raise _unreadable(self, root, error) from None
        return self.path, status.st_size, status.st_mtime_ns


def read_list(path: Path, *, num_classes: int | None = None) -> list[ListEntry]:
    """Read a list file; blank lines are skipped.

    Parameters
    ----------
    path
        Text, as `featbank.texts.read_lines` reads it; the last word of a line is the label, the
        rest the image's path.
    num_classes
        K, if it is known: labels must then be below it.

    Raises
    ------
    ConfigError
        For a missing file.
    DataError, LabelRange
        For a malformed line or a bad label, with the line number; for a file without a line.
    """
    remedy = "Give lines 'relative/path label'."
    entries = []
    for number, line in enumerate(texts.read_lines(path, "list file", remedy), 1):
        if line.strip():
            entries.append(_entry(line, f"{path} line {number}", num_classes))
    if not entries:
        raise errors.DataError(f"{path} names no image. {remedy}")
    return entries


def entries_within(
    entries: Sequence[ListEntry], root: Path, *, allow_outside: bool = False
) -> list[ListEntry]:
    """The entries with paths below `root`; those that go up or start from ``/`` are rewritten so.

    What counts is how a path is written. A symbolic link below `root` may lead anywhere.

    Parameters
    ----------
    entries
        Of a list.
    root
        Folder the paths start from.
    allow_outside
        Keep the paths that leave `root`.

    Raises
    ------
    DataError
        For a path that leaves `root`, with its list and line.
    """
    real = root.resolve()
    return [entry if allow_outside else _below(entry, root, real) for entry in entries]


def _below(entry: ListEntry, root: Path, real: Path) -> ListEntry:
    if not os.path.isabs(entry.path) and ".." not in Path(entry.path).parts:
        return entry
    below = os.path.relpath(root / entry.path, root)
    if _leads_up(below) and os.path.isabs(entry.path):  # the root may be a link
        below = os.path.relpath(entry.path, real)
    if _leads_up(below):
        raise errors.DataError(
            f"{entry.place}: {entry.path} is outside the root {root}. "
            "Give another --root, or --allow-outside where the list can be trusted."
        )
    return dataclasses.replace(entry, path=below)


def _leads_up(path: str) -> bool:
    return Path(path).parts[:1] == ("..",)


def count_classes(entries_of: Mapping[str, Sequence[ListEntry]]) -> int:
    """K of lists without class names: the highest label + 1, with warnings where that is doubtful.

    Raises
    ------
    LabelRange
        For more than `MOST_UNUSED` classes of which fewer than half have an image.
    """
    entries = [entry for of_split in entries_of.values() for entry in of_split]
    top = max(entries, key=lambda entry: entry.label)
    used, classes = len({entry.label for entry in entries}), top.label + 1
    if mostly_unused(used, classes):
        fact = (
            f"{top.place} has the label {top.label}, and {used:,} of {classes:,} classes are used"
        )
        remedy = "Check that label, or give --class-names."
        if classes > MOST_UNUSED:
            raise errors.LabelRange(f"{fact}. {remedy}")
        warnings.warn(f"{fact}. {remedy}")
    for question in other_bases({s: _labels(of_split) for s, of_split in entries_of.items()}):
        warnings.warn(f"In the lists, {question} Then subtract 1 there.")
    return classes


def _labels(entries: Sequence[ListEntry]) -> np.ndarray:
    return np.array([entry.label for entry in entries], np.int64)


def warn_of_shared(entries_of: Mapping[str, Sequence[ListEntry]]) -> None:
    """Warn of images that two splits have in common, by their paths, as `featbank verify` does."""
    places = {
        split: {os.path.normpath(entry.path): entry.place for entry in reversed(entries)}
        for split, entries in entries_of.items()
    }
    for one, other in apart(places):
        shared = [path for path in places[other] if path in places[one]]
        if shared:
            path = shared[-1]
            count = "1 image" if len(shared) == 1 else f"{len(shared):,} images"
            warnings.warn(
                f"The lists of {one} and {other} share {count}, such as {path} "
                f"({places[one][path]}, {places[other][path]}). Take them out of one of the two."
            )


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names, one per line, in label order; a name that comes twice is a warning.

    Raises
    ------
    ConfigError
        For a missing file.
    DataError
        For fewer than two names, a control character, or an empty line between names.
    """
    names = texts.read_class_names(path)
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if character := unprintable(name):
            raise errors.DataError(
                f"{path}: line {number} has the control character {character!r}. Take it out."
            )
        first.setdefault(name, number)
    if len(names) < 2:
        raise errors.DataError(f"{path} has {len(names)} class names. Give 2 or more.")
    if len(first) < len(names):
        number, name = next(row for row in enumerate(names, 1) if first[row[1]] != row[0])
        warnings.warn(
            f"{path} has {len(names) - len(first)} names again, such as {name!r} in lines "
            f"{first[name]} and {number}. Each line is a class: give all different names."
        )
    return tuple(names)


class Unreadable(errors.DataError):
    """An image that is missing or broken: the error that `decode_readable` passes over."""


def image_shape(
    entries: Sequence[ListEntry], root: Path, *, image_size: int | None, skip: bool = False
) -> tuple[int, ...]:
    """(3, H, W) of the decoded images: S×S, or the size of the first.

    Parameters
    ----------
    entries, root, image_size
        As in `decode_images`.
    skip
        Take the first that can be read.

    Raises
    ------
    DataError
        Where that image, or with `skip` every image, cannot be read.
    """
    if image_size is not None:
        return 3, image_size, image_size
    for entry in entries:
        try:
            return _decode(entry, root, None).shape
        except Unreadable:
            if not skip:
                raise
    raise _nothing_read(entries)


def decode_images(
    entries: Sequence[ListEntry],
    root: Path,
    *,
    image_size: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """Decode the images of a list, in its order, in a few threads.

    Parameters
    ----------
    entries
        N ≥ 1 lines.
    root
        Folder the paths start from.
    image_size
        S: the shorter side is resized to S and the centre S×S is kept. None keeps the image's own
        size, which all must share.
    shape
        (3, H, W) that the images must have; by default that of the first.

    Returns
    -------
    [N, 3, H, W] uint8

    Raises
    ------
    DataError
        For a missing or unreadable image or one of another size, with its list and line.
    """
    shape = shape or image_shape(entries, root, image_size=image_size)
    return _decode_all(entries, root, image_size, shape, skip=False)[0]


def decode_readable(
    entries: Sequence[ListEntry], root: Path, *, image_size: int | None, shape: tuple[int, ...]
) -> tuple[torch.Tensor, np.ndarray]:
    """Decode the images that can be read, as `decode_images` does, and tell which they are.

    Returns
    -------
    [n, 3, H, W] uint8, and [N] bool with n true.

    Raises
    ------
    DataError
        For an image of another size, or where none can be read.
    """
    images, read = _decode_all(entries, root, image_size, shape, skip=True)
    if not read.any():
        raise _nothing_read(entries)
    return images, read


def decode_image(
    entry: ListEntry, root: Path, *, image_size: int | None, shape: tuple[int, ...]
) -> np.ndarray:
    """One image, uint8 of `shape` (3, H, W); parameters as in `decode_images`.

    Raises
    ------
    Unreadable
        Where it is missing or broken.
    DataError
        Where it has another size.
    """
    image = _decode(entry, root, image_size)
    if image.shape != shape:
        raise errors.DataError(
            f"{entry.place}: {root / entry.path} is {_size(image.shape)}, other images are "
            f"{_size(shape)}. Give --image-size to bring all to one size."
        )
    return image


def _missing(entry: ListEntry, root: Path) -> Unreadable:
    slash = "Write / between its folders, not \\. " if "\\" in entry.path else ""
    return Unreadable(
        f"{entry.place}: {root / entry.path} does not exist. {slash}Check the list and --root."
    )


def _unreadable(entry: ListEntry, root: Path, why: Exception) -> Unreadable:
    return Unreadable(
        f"{entry.place}: {root / entry.path} {why}. "
        "Replace it, take it out, or give --skip-unreadable."
    )


def _nothing_read(entries: Sequence[ListEntry]) -> errors.DataError:
    return errors.DataError(
        f"{entries[0].place}: none of the {len(entries)} images from here on can be read. "
        "Check --root."
    )


def readable(
    entries: Sequence[ListEntry], root: Path, *, image_size: int | None, shape: tuple[int, ...]
) -> np.ndarray:
    """Which images of a list can be read, [N] bool; each is decoded, none kept.

    Raises
    ------
    DataError
        As `decode_readable`.
    """
    read = _decode_each(entries, root, image_size, shape, skip=True, keep=lambda row, image: None)
    if not read.any():
        raise _nothing_read(entries)
    return read


def _decode_all(
    entries: Sequence[ListEntry],
    root: Path,
    image_size: int | None,
    shape: tuple[int, ...],
    *,
    skip: bool,
) -> tuple[torch.Tensor, np.ndarray]:
    images = np.empty((len(entries), *shape), np.uint8)
    read = _decode_each(entries, root, image_size, shape, skip=skip, keep=images.__setitem__)
    if not read.all():
        for place, row in enumerate(np.flatnonzero(read)):  # moved up, not copied: memory is dear
            images[place] = images[row]
    return torch.from_numpy(images[: read.sum()]), read


def _decode_each(
    entries: Sequence[ListEntry],
    root: Path,
    image_size: int | None,
    shape: tuple[int, ...],
    *,
    skip: bool,
    keep: Callable[[int, np.ndarray], None],
) -> np.ndarray:
    def is_read(row: int) -> bool:
        try:
            keep(row, decode_image(entries[row], root, image_size=image_size, shape=shape))
        except Unreadable:
            if skip:
                return False
            raise
        return True

    with ThreadPoolExecutor(DECODERS) as pool:
        # map yields in list order, so the first bad line is the one that is told
        return np.array(list(pool.map(is_read, range(len(entries)))), bool)


def _entry(line: str, place: str, num_classes: int | None) -> ListEntry:
    words = line.rsplit(maxsplit=1)
    if len(words) != 2:
        raise errors.DataError(f"{place} reads {_short(line)}. Write 'relative/path label'.")
    path, label = words[0].strip(), words[1]
    if not re.fullmatch("-?[0-9]{1,18}", label):
        raise errors.DataError(f"{place} has the label {_short(label)}. Labels are integers 0…K−1.")
    top = (num_classes or MAX_CLASSES) - 1
    if not 0 <= int(label) <= top:
        raise errors.LabelRange(
            f"{place} has the label {label}, outside 0…{top}. Check the list or the class names."
        )
    return ListEntry(path, int(label), place)


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}…"


def _decode(entry: ListEntry, root: Path, image_size: int | None) -> np.ndarray:
    """One image [3, H, W] uint8."""
    try:
        image = read_rgb(root / entry.path)
    except FileNotFoundError:
        raise _missing(entry, root) from None
    except Undecoded as error:
        raise _unreadable(entry, root, error) from None
    if image_size is not None:
        from PIL import Image, ImageOps  # loaded where images are decoded

        # `fit` takes the centre square and scales it to S: the same view, resampled once.
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}×{shape[1]}"
