"""Text files that a user writes, read by import and by stage 1 alike."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, errors
from featbank.texts import read_class_names
from stage1.data import lists
from tests.conftest import Run

PAIR = ["--train", "f.npy", "l.npy"]
NAMES = ["Ölbaum", "zweiter Name", "三"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("rest", ["", "{end}", "{end} {end}\t{end}{end}"])
def test_class_names_of_any_editor(tmp_path: Path, encoding: str, end: str, rest: str) -> None:
    """The same names, whatever the encoding, the line ends and the empty lines at the end."""
    file = tmp_path / "names.txt"
    file.write_bytes((end.join(NAMES) + rest.format(end=end)).encode(encoding))
    assert read_class_names(file) == NAMES
    assert lists.read_class_names(file) == tuple(NAMES)


def test_import_takes_utf_16(featbank: Run, tmp_path: Path) -> None:
    """As an editor of Windows saves it."""
    np.save(tmp_path / "f.npy", np.eye(3))
    np.save(tmp_path / "l.npy", np.arange(3))
    (tmp_path / "names.txt").write_text("\r\n".join(NAMES), encoding="utf-16")
    featbank("import", "--train", "f.npy", "l.npy", "--class-names", "names.txt", "-o", "b.h5")
    with Bank(tmp_path / "b.h5") as bank:
        assert list(bank.class_names) == NAMES


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)  # from its folder: the whole path may be too long for a socket


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_pipe, "a named pipe"),
        (_socket, "a socket"),
        (_device, "a device"),
        (Path.mkdir, "a folder"),
    ],
)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("odd.npz", [*PAIR, "--classifier", "odd.npz:w", "l.npy"]),
        ("odd.csv", ["odd.csv"]),
        ("odd.txt", [*PAIR, "--class-names", "odd.txt"]),
    ],
)
def test_what_is_no_file_is_named(
    featbank: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    kind: str,
    name: str,
    arguments: list[str],
) -> None:
    """Wherever import reads a file; nothing blocks."""
    monkeypatch.chdir(tmp_path)
    np.save("f.npy", np.eye(3))
    np.save("l.npy", np.arange(3))
    make(Path(name))
    error = featbank("import", *arguments, "--dry-run", code=2).stderr
    assert f"{name} is {kind}, not a file. " in error


def test_a_pipe_in_a_folder_of_arrays(featbank: Run, tmp_path: Path) -> None:
    """Not opened, either."""
    for folder in ("f", "l"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", np.zeros(1))
    os.mkfifo(tmp_path / "f" / "b.npy")
    error = featbank("import", "--train", "f", "l", "--dry-run", code=2).stderr
    assert "f/b.npy is a named pipe, not a file" in error


def test_an_empty_line_among_names_has_its_number(tmp_path: Path) -> None:
    """Both readers say the same."""
    file = tmp_path / "names.txt"
    file.write_text("a\n\u00a0\nb\n\n")
    for read in (read_class_names, lists.read_class_names):
        with pytest.raises(errors.DataError, match="line 2 is empty"):
            read(file)
