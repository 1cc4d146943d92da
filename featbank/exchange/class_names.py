"""The file of class names: one per line, in label order."""

from __future__ import annotations

from pathlib import Path

from featbank import errors
from featbank.exchange.formats import require_file


def read_class_names(path: Path) -> list[str]:
    """Read one class name per line; line ends of any system, and empty lines at the end.

    Raises
    ------
    DataError
        Where there is no such file, it is not UTF-8, has no names, or a line is empty.
    """
    require_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise errors.DataError(
            f"{path} is not a readable text file: it is not UTF-8. Save it as UTF-8, one class "
            "name per line."
        ) from None
    # not splitlines(): that also cuts at characters that are no line ends in any editor
    names = [line.strip() for line in text.rstrip().split("\n")]
    if names == [""]:
        raise errors.DataError(f"{path} has no class names. Write one per line, in label order.")
    if "" in names:
        raise errors.DataError(
            f"{path}: line {names.index('') + 1} is empty. Every line is the name of a class: "
            "fill it in, or drop it."
        )
    return names
