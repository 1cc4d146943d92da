"""``featbank sweep --log``: loggers by name, refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Run


def test_a_sweep_logs(featbank: Run, toy_bank: Path, tmp_path: Path) -> None:
    """Reference: a folder of event files for each run; results are there as well."""
    pytest.importorskip("tensorboard")
    featbank(
        *("sweep", toy_bank, "--recipe", "ncm", "--recipe", "crt", "--set", "epochs=1"),
        *("--seeds", "0,1", "--log", "tensorboard:tb", "-o", "r.sqlite"),
    )
    runs = sorted(path.name for path in tmp_path.glob("tb/*/*") if path.is_dir())
    assert [name.split("-")[0] for name in runs] == ["crt", "crt", "ncm"]
    assert (tmp_path / "r.sqlite").exists()


def test_an_unknown_logger_is_one_line_and_exit_2(
    featbank: Run, toy_bank: Path, tmp_path: Path
) -> None:
    """Reference: the closest name; nothing is trained."""
    error = featbank("sweep", toy_bank, "--log", "tensorbord:tb", "-o", "r.sqlite", code=2).stderr
    assert "No logger is called 'tensorbord'. Did you mean 'tensorboard'?" in error
    assert error.count("\n") == 1, error
    assert not (tmp_path / "r.sqlite").exists()
