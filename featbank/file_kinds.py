"""Kinds of files by how they start, and the commands that make and take them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LONGEST = 16
"""Bytes that are looked at."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes
    ----------
    name
        What a message calls it.
    start
        Its first bytes, `at` bytes after the beginning.
    takers
        The commands that take it.
    makers
        The commands that make it.
    """

    name: str
    start: bytes
    takers: str
    makers: str = ""
    at: int = 0


KINDS = {
    "bank": FileKind(
        "a bank or another HDF5 file",
        b"\x89HDF\r\n\x1a\n",
        "`featbank sweep` and `info`",
        "`featbank extract` or `featbank import`",
    ),
    "results": FileKind(
        "a results file",
        b"SQLite format 3\0",
        "`featbank leaderboard`, `report` and `export`",
        "`featbank sweep`",
    ),
    "head": FileKind(
        "a head or another safetensors file",
        b'{"',
        "`featbank predict` and `evaluate`",
        "`featbank export`",
        at=8,  # after the length of its header
    ),
    "array": FileKind("an array of NumPy", b"\x93NUMPY", "`featbank quick` and `import`"),
    "archive": FileKind(
        "a checkpoint or .npz", b"PK\x03\x04", "`featbank extract` and `featbank import`"
    ),
}
"""Kinds that a command may be given in place of another."""


def mistaken(path: Path, wanted: str) -> str | None:
    """The message for a file of another kind than `wanted`, of `KINDS`; None if it is of none."""
    try:
        with path.open("rb") as file:
            start = file.read(LONGEST)
    except OSError:
        return None
    for name, kind in KINDS.items():
        if name != wanted and start[kind.at :].startswith(kind.start):
            needed = KINDS[wanted].name.partition(" or ")[0]
            return (
                f"{path} is {kind.name}, not {needed}. {kind.takers} take such a file; here give "
                f"one made by {KINDS[wanted].makers}."
            )
    return None
