"""A file of arrays, open for reading, and errors in one line where it cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.memory import size_text, whole_memory
from featbank.regular import Unopened, regular_status
from featbank.wording import listed

EXTRAS = {"datasets": "hf", "zarr": "zarr"}
"""Extra that installs a package; that of any other is ``parquet``."""


@dataclass(frozen=True)
class ArrayFile(Mapping[str, Any]):
    """An open file of arrays: a mapping name → array, or `OnDisk`, that reads on demand.

    `names` is ``("",)`` for a single array without a name; `read` takes one of them.
    """

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], Any]

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            problem = f"has no key {name!r}" if name else "has several arrays"
            raise errors.DataError(
                f"{self.path} {problem}. Write {self.path}:KEY with one of: "
                f"{listed(self.names, 20)}."
            )
        with readable(self.path):
            return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def single(self) -> bool:
        """Whether the file is one array without a name."""
        return self.names == ("",)

    def place(self, name: str) -> str:
        """``FILE:KEY`` of an array."""
        return f"{self.path}:{name}"


def require_file(path: Path) -> None:
    """Raise unless `path` is a regular file: a pipe would block, a device may never end."""
    try:
        regular_status(path)
    except FileNotFoundError:
        raise errors.DataError(f"{path}: no such file. Check the path.") from None
    except Unopened as error:
        raise errors.DataError(f"{path} {error}. Check the path.") from None


def require_room(place: str, size: int) -> None:
    """Raise if an array of `size` bytes exceeds the memory: equal values take no room in a file."""
    room = whole_memory()
    if room is not None and size > room:
        raise errors.DataError(
            f"{place} needs {size_text(size)} of memory, the machine has {size_text(room)}. Cut "
            "the file."
        )


def not_installed(path: Path, error: ImportError) -> errors.ConfigError:
    """The error for a file whose format needs a package that is missing."""
    return errors.ConfigError(
        f"{path} needs {error.name}, which is not installed. "
        f"Run: pip install 'featbank[{EXTRAS.get(str(error.name), 'parquet')}]'"
    )


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Report in one line why a file cannot be read; its parser may raise anything."""
    try:
        yield
    except (errors.FeatbankError, MemoryError):
        raise
    except ImportError as error:
        raise not_installed(path, error) from None
    except Exception as error:
        reason = errors.first_line(error).rstrip(". ")
        problem = f" ({reason}). Save it again, as plain arrays or tensors without pickled objects."
        if isinstance(error, ValueError) and "bject" in str(error):  # NumPy's of dtype object
            problem = (
                ": it holds Python objects. Save texts as y.astype(str) and numbers as "
                "x.astype(np.float32), without pickled objects."
            )
        raise errors.DataError(
            f"{path} is not a readable {path.suffix or 'folder or'} file of numbers{problem}"
        ) from None
