"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a part file beside `path` that takes its place at the end, and vanishes on an error.

    Raises
    ------
    OSError
        Where it cannot be written: `path` and the cause, in one line.
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
    """Where this process keeps what is to become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report `path` and the cause in one line where it, or its part, cannot be written.

    Raises
    ------
    OSError
        With ``errno`` alone of what the system said; an error that names another file as it is.
    """
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        ours = name.startswith((str(path), str(part_of(path)))) or name == str(path.parent)
        if error.errno is None or not ours:
            raise
        told = OSError(
            f"{path} could not be written ({os.strerror(error.errno)}). What was there is as it "
            "was; mend that, and run again."
        )
        told.errno = error.errno
        raise told from None


def publish(part: Path, path: Path) -> None:
    """Put the content of `part` on disk, then under the name `path`, and that name on disk."""
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
