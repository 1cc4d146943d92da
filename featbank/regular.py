"""Files that may be opened: regular ones. A pipe would block, a device may never end."""

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
    """A path that is not opened; the message completes a sentence that starts with the path."""


def regular_status(path: Path) -> os.stat_result:
    """Status of a regular file; symbolic links are followed, nothing is opened.

    Raises
    ------
    FileNotFoundError
        Where nothing is there, or a link leads nowhere.
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
        raise Unopened(f"is {kind}, not a file")
    return status


def kind_of(path: Path) -> str | None:
    """What a path leads to that is no regular file; None for a file, or where nothing is there."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except (OSError, ValueError):  # ValueError: a NUL byte
        return None


def reason(error: Exception) -> str:
    """Why the system or a codec refused, without the path."""
    return getattr(error, "strerror", None) or str(error)


def unprintable(text: str) -> str | None:
    """The first control character other than a tab, or byte that is not UTF-8, of a name."""
    match = _UNPRINTABLE.search(text)
    return match and match.group()
