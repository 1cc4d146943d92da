"""Writing files that appear whole or not at all, and digests of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a part file beside `path`, which replaces `path` at the end, or is removed on an error.

    Raises
    ------
    OSError
        If it cannot be written: `path` and the cause, in one line.
    """
    part = part_of(path)
    try:
        with writing(path):
            yield part
            publish(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def part_of(path: Path) -> Path:
    """Part file of this process for `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report `path` and the cause in one line if it, or its part file, cannot be written.

    Raises
    ------
    OSError
        With the system's ``errno``. An error about another file passes unchanged.
    """
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        concerned = name.startswith((str(path), str(part_of(path)))) or name == str(path.parent)
        if error.errno is None or not concerned:
            raise
        failure = OSError(
            f"{path} could not be written ({os.strerror(error.errno)}). Nothing has "
            "changed: fix the cause and run again."
        )
        failure.errno = error.errno
        raise failure from None


def publish(part: Path, path: Path) -> None:
    """Flush `part` to disk, rename it to `path`, and flush the new name to disk."""
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
