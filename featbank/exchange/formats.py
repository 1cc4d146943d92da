"""Files of arrays, by suffix. Nothing here runs code that a file brings: no pickle is opened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featbank import errors
from featbank.exchange import matlab, tables
from featbank.exchange.opened import Opened
from featbank.regular import Unopened, regular_status


def npy(path: Path) -> Opened:
    """Open ``.npy``: the array stays on disk."""
    array = np.lib.format.open_memmap(path, mode="r")
    return Opened(("",), lambda _: array)


def npz(path: Path) -> Opened:
    """Open ``.npz``: an array is read when it is asked for."""
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array: rename it to .npy")
    return Opened(tuple(loaded), loaded.__getitem__)


def pytorch(path: Path) -> Opened:
    """Open ``.pt`` and ``.safetensors``."""
    from featbank.exchange import tensors  # PyTorch takes seconds to import

    return tensors.tensor_file(path)


READERS: Mapping[str, Callable[[Path], Opened]] = {
    ".npy": npy,
    ".npz": npz,
    ".mat": matlab.mat,
    **dict.fromkeys((".pt", ".pth", ".bin", ".safetensors"), pytorch),
    **dict.fromkeys(tables.DELIMITERS, tables.csv_table),
    ".parquet": tables.parquet_table,
}
"""What opens a file: suffix → reader."""

TABLES = (*tables.DELIMITERS, ".parquet")


@dataclass(frozen=True)
class Source(Mapping[str, np.ndarray]):
    """A file of arrays, opened: a mapping name → array that reads on demand."""

    path: Path
    opened: Opened

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.opened.names:
            asked = f"has no key {name!r}" if name else "has several arrays"
            raise errors.DataError(
                f"{self.path} {asked}. Write {self.path}:KEY with one of: {_some(self)}."
            )
        with readable(self.path):
            return self.opened.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.opened.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.opened.names)

    def __len__(self) -> int:
        return len(self.opened.names)

    @property
    def single(self) -> bool:
        """Whether the file is one array without a name."""
        return self.opened.names == ("",)


def open_source(path: Path) -> Source:
    """Open a file of arrays.

    Raises
    ------
    DataError
        For a missing file, a folder, an unknown suffix, an unreadable file, or a pickle.
    """
    require_file(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise errors.DataError(
            f"{path}: files of type {path.suffix or '(no suffix)'} are not read. "
            f"Give one of {', '.join(READERS)}."
        )
    with readable(path):
        source = Source(path, reader(path))
    if not source:
        raise errors.DataError(f"{path} holds no arrays of numbers. Check what was saved in it.")
    return source


def read_array(place: str) -> np.ndarray:
    """Read the array at ``FILE`` or ``FILE:KEY``; a file with one array needs no key.

    Raises
    ------
    DataError
        As `open_source`, and for a missing key.
    """
    path, key = locate(place)
    source = open_source(path)
    if key and source.single:
        raise errors.DataError(f"{path} is a single array without key {key!r}. Drop it.")
    return source[key or (next(iter(source)) if len(source) == 1 else "")]


def locate(place: str) -> tuple[Path, str]:
    """File and key of ``FILE`` or ``FILE:KEY``; the key is empty where there is none."""
    if Path(place).exists() or ":" not in place:
        return Path(place), ""
    path, _, key = place.rpartition(":")
    return Path(path), key


def same_place(one: str, other: str) -> bool:
    """Whether two places are the same array, also through links; a file's only key may be left out.

    Examples
    --------
    >>> same_place("gone.npz:x", "gone.npz:x"), same_place("gone.npz:x", "gone.npz:z")
    (True, False)
    """
    (path, key), (other_path, other_key) = locate(one), locate(other)
    if path != other_path and not (
        path.exists() and other_path.exists() and path.samefile(other_path)
    ):
        return False
    return key == other_key or not (key and other_key)


def files_of(place: str) -> list[Path]:
    """Files that are read at a place: one, or those below a folder."""
    path, _ = locate(place)
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def require_file(path: Path) -> None:
    """Raise where `path` is no regular file: a pipe would block, a device may never end."""
    try:
        regular_status(path)
    except FileNotFoundError:
        raise errors.DataError(f"{path}: no such file. Check the path.") from None
    except Unopened as error:
        raise errors.DataError(f"{path} {error}. Check the path.") from None


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with a file; its parser may raise anything."""
    try:
        yield
    except (errors.FeatbankError, MemoryError):
        raise
    except ImportError as error:
        raise errors.ConfigError(
            f"{path} needs {error.name}, which is not installed. "
            f"Run: pip install 'featbank[parquet]'"
        ) from None
    except Exception as error:
        if isinstance(error, ValueError) and "bject" in str(error):  # NumPy's of dtype object
            raise errors.DataError(
                f"{path} is not a readable {path.suffix} file of numbers: it holds Python objects. "
                "Save texts as y.astype(str) and numbers as x.astype(np.float32), without pickled "
                "objects."
            ) from None
        reason = errors.first_line(error).rstrip(". ")
        raise errors.DataError(
            f"{path} is not a readable {path.suffix} file of numbers ({reason}). Save it again, "
            "as plain arrays or tensors without pickled objects."
        ) from None


def _some(names: Mapping[str, np.ndarray], most: int = 20) -> str:
    first = list(names)[:most]
    return ", ".join(first) + (", …" if len(names) > most else "")
