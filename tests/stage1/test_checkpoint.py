"""Reading and writing checkpoints."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from featbank import __version__, errors
from featbank.files import replacing
from stage1.training.checkpoint import load_checkpoint, save_checkpoint


def test_what_is_saved_is_what_is_read(digits_run: Path, tmp_path: Path) -> None:
    """Against the first reading; folder and file name the same checkpoint."""
    path, first = load_checkpoint(digits_run)
    assert path == digits_run / "checkpoint.pt"
    save_checkpoint(tmp_path / "copy.pt", first)
    _, copy = load_checkpoint(tmp_path / "copy.pt")
    for name, value in vars(first).items():
        if name != "weights":
            assert getattr(copy, name) == value
    assert all(copy.weights[name].equal(tensor) for name, tensor in first.weights.items())
    assert first.versions["featbank"] == __version__
    assert first.settings.epochs == 3


class _Evil:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    """The marker that a pickle would leave must not appear."""
    torch.save(
        {"format": "featbank stage 1", "x": _Evil(tmp_path / "marker")}, tmp_path / "evil.pt"
    )
    with pytest.raises(errors.DataError, match=r"evil\.pt is not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "marker").exists()


def test_files_that_are_no_checkpoint(digits_run: Path, tmp_path: Path) -> None:
    """Missing, empty, text, cut short at every tenth, another archive, another torch file."""
    with pytest.raises(errors.ConfigError, match="no such checkpoint"):
        load_checkpoint(tmp_path)
    whole, bad = (digits_run / "checkpoint.pt").read_bytes(), tmp_path / "bad.pt"
    for content in (b"", b"hello", *(whole[: len(whole) * i // 10] for i in range(1, 10))):
        bad.write_bytes(content)
        with pytest.raises(
            errors.DataError, match=r"bad\.pt is not a readable checkpoint"
        ) as caught:
            load_checkpoint(bad)
        assert "\n" not in str(caught.value)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(errors.DataError, match="is not a readable checkpoint"):
        load_checkpoint(bad)
    for other in ([1], {"format": "lightning"}, {"weights": torch.ones(1)}):
        torch.save(other, bad)
        with pytest.raises(errors.DataError, match="but not one of `featbank train`"):
            load_checkpoint(bad)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", {}),
        ("weights", None),
        ("class_names", ("a", "b")),
        ("class_names", 3),
        ("image_shape", (3, 8, 8)),
        ("settings", {"lr": 1}),
        ("settings", None),
        ("preprocessing", {}),
        ("surplus", 1),
    ],
)
def test_a_document_that_does_not_hold_together(
    digits_run: Path, tmp_path: Path, key: str, value: object
) -> None:
    """Each change to a good document is reported as damage, in one line."""
    document = torch.load(digits_run / "checkpoint.pt", weights_only=True)
    torch.save({**document, key: value}, tmp_path / "bad.pt")
    with pytest.raises(
        errors.DataError, match=r"bad\.pt is damaged \(.*\)\. Train again"
    ) as caught:
        load_checkpoint(tmp_path / "bad.pt")
    assert "\n" not in str(caught.value)


def test_a_newer_schema_is_reported(digits_run: Path, tmp_path: Path) -> None:
    """The version that wrote it knows more than this one."""
    document = torch.load(digits_run / "checkpoint.pt", weights_only=True)
    torch.save({**document, "schema": 4}, tmp_path / "new.pt")
    with pytest.raises(errors.DataError, match="has schema 4, this version reads 1 to 3"):
        load_checkpoint(tmp_path / "new.pt")


def test_a_checkpoint_of_schema_1_is_read(digits_run: Path, tmp_path: Path) -> None:
    """Reference: the same weights; it has no epoch, and no settings of later versions."""
    document = torch.load(digits_run / "checkpoint.pt", weights_only=True)
    assert (document.pop("epoch"), document["schema"]) == (3, 3)
    later = ("compile", "keep", "checkpoint_every", "sampler", "expert_weights")
    for name in (*later, "drop_augmentation"):
        del document["settings"][name]
    for name in ("resize", "train_balanced_list"):
        del document["settings"]["dataset"][name]
    torch.save({**document, "schema": 1}, tmp_path / "old.pt")
    _, old = load_checkpoint(tmp_path / "old.pt")
    assert old.epoch is None
    assert old.settings.keep == "last"
    assert all(old.weights[name].equal(tensor) for name, tensor in document["weights"].items())


def _write_half(part: Path) -> None:
    part.write_text("half")
    raise RuntimeError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """An error between opening and the end leaves the old content and no part file."""
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as part:
        _write_half(part)
    assert target.read_text() == "old"
    with replacing(target) as part:
        part.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "new"
