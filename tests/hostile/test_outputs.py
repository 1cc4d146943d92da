"""Outputs on a disk that fills up: one line with the path, exit code 1, and what was there stays.

The limit on file sizes (RLIMIT_FSIZE) fails a write just as a full disk does. Commands run in forks
of this process, which the limit ends with.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from featbank import write_bank
from featbank.cli import main
from stage2 import load_head
from stage2.export.headfile import save_head
from tests.hostile.children import in_child, limit_file_size

WRITERS = {
    "plot": ("plot", "groups", "results.sqlite", "-o", "out.png"),
    "embed": ("embed", "bank.h5", "--per-class", "8", "-o", "out.csv"),
    "report": ("report", "results.sqlite", "-o", "out.html"),
    "predict": ("predict", "head.safetensors", "bank.h5", "-o", "out.npz"),
    "predict as csv": ("predict", "head.safetensors", "x.npy", "-o", "out.csv"),
    "export-features": ("export-features", "bank.h5", "--overwrite", "-o", "out"),
    "split": ("split", "bank.h5", "--val-per-class", "2", "--overwrite", "-o", "out.h5"),
    "import": ("import", "--train", "x.npy", "y.npy", "--overwrite", "-o", "out.h5"),
}
"""Commands that write ``out``."""

LIMIT = 33_000
"""Bytes that SQLite needs beside a results file to read it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank, its results, a head and arrays."""
    import matplotlib.figure  # noqa: F401  # once, for all forks
    import plotly.offline  # noqa: F401
    import sklearn.manifold  # noqa: F401

    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(3)
    y = np.repeat(np.arange(4), [30, 25, 9, 6])
    x = rng.normal(size=(len(y), 12)).astype(np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    write_bank(
        folder / "bank.h5",
        {"train": {"instance": x}, "test": {"instance": x[::2]}},
        {"train": y, "test": y[::2]},
        classifier={"instance": (x[:4] * 0.1, np.zeros(4, np.float32))},
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in (
            ("sweep", "bank.h5", "--recipe", "ncm", "--recipe", "tau_norm"),
            ("export", "results.sqlite", "ncm", "-o", "head.safetensors"),
        ):
            done = CliRunner().invoke(main, command)
            assert done.exit_code == 0, done.output
    finally:
        os.chdir(before)
    return folder


def limited(folder: Path, command: tuple[str, ...], size: int) -> tuple[int, str]:
    """Exit code and stderr of a command that can write files of at most `size` bytes."""

    def work() -> str:
        os.chdir(folder)
        limit_file_size(size)
        done = CliRunner().invoke(main, command)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return json.dumps([done.exit_code, done.stderr])

    outcome = in_child(work)
    assert outcome.kind == "returned", outcome
    code, stderr = json.loads(outcome.text)
    return code, stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder but the results, which a reader may touch."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.name.startswith("results.sqlite")
    }


@pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS.keys())
def test_a_full_disk(command: tuple[str, ...], made: Path, tmp_path: Path) -> None:
    """Reference: the folder before, with an earlier output in it."""
    folder = Path(shutil.copytree(made, tmp_path / "work"))
    out = folder / command[-1]
    if command[0] == "export-features":
        code, stderr = limited(folder, command, resource.RLIM_INFINITY)
        assert code == 0, stderr
    elif out.suffix == ".h5":
        shutil.copy(folder / "bank.h5", out)
    else:
        out.write_bytes(b"what was there")
    before = contents(folder)
    code, stderr = limited(folder, command, LIMIT if "results.sqlite" in command else 300)
    assert (code, stderr.count("\n")) == (1, 1), stderr
    assert f"featbank: the work failed: {command[-1]} could not be written (" in stderr, stderr
    assert contents(folder) == before


def test_a_head_on_a_full_disk(made: Path, tmp_path: Path) -> None:
    """Heads are smaller than what SQLite needs to read results: their writer alone."""
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"what was there")

    def work() -> str:
        head = load_head(made / "head.safetensors")
        limit_file_size(100)
        save_head(out, head, head.facts)
        return ""

    outcome = in_child(work)
    assert outcome.kind == "OSError", outcome
    assert f"{out} could not be written (File too large)" in outcome.text
    assert os.listdir(tmp_path) == ["out.safetensors"]
    assert out.read_bytes() == b"what was there"


def test_an_output_that_is_a_folder(made: Path, tmp_path: Path) -> None:
    """The same line where the name is taken by a folder, or its folder is read-only or gone."""
    folder = Path(shutil.copytree(made, tmp_path / "work"))
    (folder / "out.pdf").mkdir()
    code, stderr = limited(folder, (*WRITERS["plot"][:-1], "out.pdf"), resource.RLIM_INFINITY)
    assert (code, stderr.count("\n")) == (1, 1), stderr
    assert "out.pdf could not be written (Is a directory)" in stderr
    assert sorted(os.listdir(folder / "out.pdf")) == []
    assert not [name for name in os.listdir(folder) if name.endswith(".part")]


def test_a_reader_of_an_earlier_figure_sees_it_whole(made: Path, tmp_path: Path) -> None:
    """A figure is another file than the one it replaces, not the same one written over."""
    folder = Path(shutil.copytree(made, tmp_path / "work"))
    out = folder / "out.png"
    out.write_bytes(b"earlier")
    with out.open("rb") as earlier:
        assert limited(folder, WRITERS["plot"], resource.RLIM_INFINITY)[0] == 0
        assert earlier.read() == b"earlier"
    assert out.read_bytes()[:4] == b"\x89PNG"
