"""Text files that users write: image lists and class names."""

from __future__ import annotations

import codecs
from pathlib import Path

from featbank import errors
from featbank.regular import Unopened, reason, regular_status, unprintable

_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by the byte order mark that announces them; everything else is UTF-8."""


def read_class_names(path: Path) -> list[str]:
    """Read class names, one per line, in label order; blank lines at the end are dropped.

    Raises
    ------
    ConfigError
        For a missing file.
    DataError
        As `read_lines`; for a file without names, and for an empty line or a NUL, with its line.
    """
    remedy = "Give one class name per line, in label order."
    names = [line.strip() for line in _lines(path, "file of class names", remedy)]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise errors.DataError(f"{path} has no class names. {remedy}")
    for number, name in enumerate(names, 1):
        if not name:
            raise errors.DataError(
                f"{path}: line {number} is empty. Every line is the name of a class: fill it in, "
                "or remove it."
            )
        if "\0" in name:
            raise errors.DataError(
                f"{path}: line {number} has a NUL. Save the file as UTF-8. {remedy}"
            )
    return names


def read_lines(path: Path, kind: str, remedy: str) -> list[str]:
    """Read the lines of a text file, ended by LF, CR LF or CR.

    Parameters
    ----------
    path
        UTF-8 text, with a byte order mark or without; UTF-16 or UTF-32 with one.
    kind
        What the file is, for messages: ``list file``.
    remedy
        Sentence on what it should hold.

    Raises
    ------
    ConfigError
        For a missing file.
    DataError
        For anything but a regular text file, and for a control character, with its line.
    """
    lines = _lines(path, kind, remedy)
    for number, line in enumerate(lines, 1):
        if character := unprintable(line):
            raise errors.DataError(
                f"{path} line {number} has the control character {character!r}. Remove it; "
                "if it is part of a file's name, rename the file."
            )
    return lines


def _lines(path: Path, kind: str, remedy: str) -> list[str]:
    try:
        regular_status(path)
        return _decoded(path.read_bytes())
    except FileNotFoundError:
        raise errors.ConfigError(f"{path}: no such {kind}. Check the path.") from None
    except Unopened as error:
        raise errors.DataError(f"{path} {error}. {remedy}") from None
    except (OSError, UnicodeError) as error:
        raise errors.DataError(
            f"{path} is not a readable text file ({reason(error)}). Save it as UTF-8. {remedy}"
        ) from None


def _decoded(content: bytes) -> list[str]:
    encodings = (name for mark, name in _ENCODINGS.items() if content.startswith(mark))
    text = content.decode(next(encodings, "utf-8"))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    # Files joined by `cat` have a mark at the start of each part.
    return [line.removeprefix("\ufeff") for line in lines] if text else []
