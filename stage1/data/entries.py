"""Images of a data set by path, before they are decoded, and the errors of their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featbank import errors
from featbank.regular import Unopened, regular_status


@dataclass(frozen=True)
class ListEntry:
    """An image: path below the root, label, and place for messages: a list line or a class."""

    path: str
    label: int
    place: str

    def stamp(self, root: Path) -> tuple[str, int, int]:
        """Path, size in bytes and time of last change (ns) of the file.

        Raises
        ------
        Unreadable
            For a file that is not there, or not a regular one.
        """
        try:
            status = regular_status(root / self.path)
        except FileNotFoundError:
            raise missing(self, root) from None
        except Unopened as error:
            raise unreadable(self, root, error) from None
        return self.path, status.st_size, status.st_mtime_ns


class Unreadable(errors.DataError):
    """An image that is missing or broken; `Decoder` can skip it."""


def missing(entry: ListEntry, root: Path) -> Unreadable:
    slash = "Write / between its folders, not \\. " if "\\" in entry.path else ""
    return Unreadable(
        f"{entry.place}: {root / entry.path} does not exist. {slash}Check the list and --root."
    )


def unreadable(entry: ListEntry, root: Path, why: Exception) -> Unreadable:
    return Unreadable(
        f"{entry.place}: {root / entry.path} {why}. "
        "Replace it, take it out, or give --skip-unreadable."
    )
