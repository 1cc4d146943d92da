"""Regular files, the only kind that is opened: a pipe would block, a device may never end."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")


class Unopened(Exception):
    """A path that is not opened; the message completes a sentence that starts with the path.

    `kind` is the kind of file, ``a folder`` for example, or None for one that cannot be reached.
    """

    def __init__(self, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind


def regular_status(path: Path) -> os.stat_result:
    """Status of a regular file. Symbolic links are followed, nothing is opened.

    Raises
    ------
    FileNotFoundError
        If nothing is there, or a link leads nowhere.
    Unopened
        For any other kind of file, and for one that cannot be reached.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte
        raise Unopened(f"cannot be opened ({reason(error)})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise Unopened(f"is {kind}, not a file", kind)
    return status


def kind_of(path: Path) -> str | None:
    """Kind of a path that is no regular file, ``a folder`` for example; None for any other path."""
    try:
        regular_status(path)
    except Unopened as error:
        return error.kind
    except FileNotFoundError:
        pass
    return None


def reason(error: Exception) -> str:
    """Reason that the system or a codec gave, without the path."""
    return getattr(error, "strerror", None) or str(error)


def unprintable(text: str) -> str | None:
    """First control character of a name, tabs excepted, or byte that is not UTF-8."""
    match = _UNPRINTABLE.search(text)
    return match and match.group()
