"""Banks from elsewhere: a copy on this machine, kept by its fingerprint.

A copy lies in ``$FEATBANK_CACHE/FINGERPRINT/``, by default under ``~/.cache/featbank``. It appears
whole or not at all, and is made once however many processes ask for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.bank import Bank
from featbank.files import replacing

VARIABLE = "FEATBANK_CACHE"
"""The environment's variable that names the folder of copies."""

PIECE = 32 << 20
"""Bytes of a bank's file that are sent at a time."""

_ADDRESS = "address"
"""File beside a copy with the URL that it came from."""


def is_url(place: str) -> bool:
    """Whether a bank's place is a URL, such as ``s3://bucket/bank.h5``."""
    return bool(re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", place))


def fetched(url: str) -> Path:
    """The copy of the bank at a URL, of any file system that fsspec knows.

    Raises
    ------
    ConfigError
        Where fsspec, or its package for this file system, is not installed.
    BankError
        Where there is no bank.
    OSError
        Where it cannot be read, or the copy not be written.
    """
    files, place = _file_system(url)
    try:
        with files.open(place, "rb") as file:
            fingerprint = _fingerprint_in(file, url)
    except FileNotFoundError:
        raise errors.NotABank(f"{url} does not exist. Name a bank that does.") from None
    path = copy_of(fingerprint, place, lambda part: files.get_file(place, str(part)))
    with replacing(path.with_name(_ADDRESS)) as part:
        part.write_text(url, encoding="utf-8")
    return path


def address_of(path: Path) -> str | None:
    """The URL that a copy was fetched from; None for other files."""
    try:
        return path.with_name(_ADDRESS).read_text(encoding="utf-8")
    except OSError:
        return None


def copy_of(fingerprint: str, name: str, write: Callable[[Path], None]) -> Path:
    """The copy of a bank on this machine, which `write` makes where there is none.

    Parameters
    ----------
    fingerprint
        The bank's.
    name
        Its path elsewhere, of which the copy takes the last part.
    write
        Writes the bank to a path.

    Raises
    ------
    Mismatch
        Where what was written is another bank.
    """
    from filelock import FileLock  # of this function alone

    path = _folder() / fingerprint / (name.rstrip("/").rpartition("/")[2] or "bank.h5")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(".lock")):
        if not path.exists():
            with replacing(path) as part:
                write(part)
                require(part, fingerprint, name)
    return path


class Sender:
    """Sends a bank's file to other machines; it stays open, whatever is renamed.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("rb")  # noqa: SIM115  for as long as this object lives

    def piece(self, start: int) -> bytes:
        """`PIECE` bytes from `start` on, fewer at the end."""
        return os.pread(self._file.fileno(), PIECE, start)


def require(path: Path, fingerprint: str, name: str) -> None:
    """Raise Mismatch where the bank at a path has another fingerprint; the message has `name`."""
    with Bank(path) as bank:
        if bank.fingerprint != fingerprint:
            raise errors.Mismatch(
                f"{name} is another bank by now: its fingerprint starts with "
                f"{bank.fingerprint[:12]}, not {fingerprint[:12]}. Run the command again."
            )


def _folder() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "featbank" / "banks"


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the file's path on it."""
    try:
        import fsspec  # an extra
    except ImportError:
        raise errors.ConfigError(
            f"Reading {url} needs the package fsspec. Run pip install 'featbank[remote]'."
        ) from None
    try:
        files, place = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:  # of its protocol
        raise errors.ConfigError(f"{url} cannot be read. {errors.first_line(error)}.") from None
    return files, place


def _fingerprint_in(file: Any, url: str) -> str:
    """The fingerprint that the header of an open bank has; `Bank` checks the rest of the copy."""
    import h5py  # of this function alone

    try:
        with h5py.File(file, "r") as bank:
            text = bytes(bank.attrs["fingerprint"]).decode()
    except (OSError, KeyError, TypeError, UnicodeDecodeError):
        text = ""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise errors.NotABank(f"{url} is not a bank. Name a file that featbank wrote.")
    return text
