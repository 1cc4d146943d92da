"""A disk that fills up while a run trains: one line with the path, and nothing half-written.

The limit on file sizes (RLIMIT_FSIZE) fails a write just as a full disk does, at any byte. torch
reports such a write by a RuntimeError.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from stage1.training.settings import default_settings
from stage1.training.train import train
from tests.hostile.children import Outcome, in_child, limit_file_size

LOG_ONLY = 100
"""Bytes that hold no line of the log."""

NO_CHECKPOINT = 100_000
"""Bytes that hold the log, not the weights."""


def train_here(run: Path, **options: object) -> Path:
    settings = default_settings("digits-lt", epochs=2, checkpoint_every=1)
    train(settings, run, **options)  # type: ignore[arg-type]
    return run


def trained(run: Path, *, limit: int, **options: object) -> Outcome:
    """Train in a child that can write files of at most `limit` bytes."""

    def work() -> str:
        limit_file_size(limit)
        return str(train_here(run, **options))

    return in_child(work)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; whatever training imports is there from then on, for every child."""
    return train_here(tmp_path_factory.mktemp("runs") / "run")


def files(folder: Path) -> Mapping[str, bytes]:
    """Everything below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("limit", "name"), [(LOG_ONLY, "log.jsonl"), (NO_CHECKPOINT, "state.pt"), (0, "log.jsonl")]
)
def test_a_new_run_leaves_nothing(tmp_path: Path, limit: int, name: str) -> None:
    """OSError is what the command line reports in one line, with exit code 1."""
    outcome = trained(tmp_path / "run", limit=limit)
    assert "OSError" in outcome.bases, outcome
    file = tmp_path / "run" / "unfinished" / name
    assert outcome.text.startswith(f"{file} could not be written (File too large)"), outcome
    assert outcome.text.count("\n") == 0
    assert os.listdir(tmp_path) == []


def test_a_run_that_is_there_stays_as_it_is(finished: Path) -> None:
    """With --overwrite: log and checkpoint are replaced together or not at all."""
    before = files(finished)
    assert set(before) == {"checkpoint.pt", "log.jsonl"}
    for limit in (LOG_ONLY, NO_CHECKPOINT):
        assert trained(finished, limit=limit, overwrite=True).kind == "OSError"
        assert files(finished) == before


@pytest.mark.usefixtures("finished")
def test_the_state_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that cannot be written leaves the state of the epoch before, to resume from."""
    import stage1.training.train

    whole = stage1.training.train.save_checkpoint

    def full(path: Path, checkpoint: object) -> None:
        limit_file_size(NO_CHECKPOINT)
        whole(path, checkpoint)  # type: ignore[arg-type]

    monkeypatch.setattr(stage1.training.train, "save_checkpoint", full)
    outcome = trained(tmp_path / "run", limit=resource.RLIM_INFINITY)
    assert outcome.kind == "OSError", outcome
    assert "checkpoint.pt could not be written (File too large)" in outcome.text
    assert sorted(files(tmp_path / "run")) == [
        "unfinished",
        "unfinished/log.jsonl",
        "unfinished/state.pt",
    ]
    monkeypatch.undo()
    assert trained(tmp_path / "run", limit=resource.RLIM_INFINITY).kind == "returned"
    assert sorted(files(tmp_path / "run")) == ["checkpoint.pt", "log.jsonl"]


@pytest.mark.usefixtures("finished")
def test_scalars_that_cannot_be_written(tmp_path: Path) -> None:
    """TensorBoard's files, too, are named."""
    pytest.importorskip("tensorboard")
    outcome = trained(tmp_path / "run", limit=500, tensorboard=True)
    assert outcome.kind == "OSError", outcome
    assert "could not be written" in outcome.text
    assert str(tmp_path / "run") in outcome.text
    assert os.listdir(tmp_path) == []
