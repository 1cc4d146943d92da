"""Lists, class names and image paths that lead to what is no image: refused, and never opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank import errors
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings, ImageDataset
from tests.hostile.children import in_child


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5, 3), len(path.name), np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of images, with a list of training and one of test images beside it."""
    for name in ("a", "b", "c", "d"):
        write_image(tmp_path / "images" / f"{name}.png")
    (tmp_path / "train.txt").write_text("a.png 0\nb.png 1\n")
    (tmp_path / "test.txt").write_text("c.png 0\nd.png 1\n")
    return tmp_path / "images"


def load(root: Path, **options: object) -> ImageDataset:
    lists = {f"{split}_list": str(root.parent / f"{split}.txt") for split in ("train", "test")}
    return load_dataset(DatasetSettings("lists", root=str(root), **(lists | options)))  # type: ignore[arg-type]


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(path.parent)  # socket paths are short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


NO_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "does not exist"),
    "a link to nothing": (link_to_nothing, "does not exist"),
    "a link to itself": (link_to_itself, "cannot be opened \\(Too many levels"),
    "a folder": (Path.mkdir, "is a folder, not a file"),
    "a pipe": (os.mkfifo, "is a named pipe, not a file"),
    "a socket": (bound, "is a socket, not a file"),
    "a device": (link_to_a_device, "is a device, not a file"),
    "an empty file": (Path.touch, "is empty \\(0 bytes\\)"),
    "a text": (lambda path: path.write_text("no image"), "is not a readable image"),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("make", "says"), NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_no_image_is_named_with_its_line_or_left_out(
    root: Path, make: Callable[[Path], object], says: str, streamed: bool
) -> None:
    """In a child with a time limit, as a pipe hangs who opens it."""
    make(root / "x.png")
    (root.parent / "train.txt").write_text("a.png 0\nx.png 1\nb.png 1\n")
    outcome = in_child(lambda: str(load(root, stream=streamed).train_counts.tolist()))
    assert outcome.kind == "Unreadable", outcome
    assert outcome.text.count("\n") == 0
    with pytest.raises(errors.DataError, match=rf"train\.txt line 2: .*/x\.png {says}.*\. \w"):
        raise errors.DataError(outcome.text)
    with pytest.warns(UserWarning, match=r"left out, 1 in all: .* line 2 \(x\.png\)\.$"):
        counts = load(root, stream=streamed, skip_unreadable=True).train_counts
    assert counts.tolist() == [1, 1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_image_that_may_not_be_read(root: Path) -> None:
    """The system's own reason."""
    (root / "b.png").chmod(0)
    with pytest.raises(errors.DataError, match=r"b\.png cannot be opened \(Permission denied\)"):
        load(root)


def test_a_name_that_is_too_long(root: Path) -> None:
    """The system's own reason."""
    (root.parent / "train.txt").write_text(f"a.png 0\n{'n' * 300}.png 1\n")
    with pytest.raises(errors.DataError, match=r"line 2: .* cannot be opened \(File name too long"):
        load(root)


@pytest.mark.parametrize("option", ["train_list", "test_list", "val_list", "class_names"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a socket", "a device", "a link to itself"])
def test_a_text_file_that_is_none(root: Path, option: str, kind: str) -> None:
    """The path and what is there."""
    make, says = NO_IMAGES[kind]
    make(root.parent / "x.txt")
    outcome = in_child(lambda: str(load(root, **{option: str(root.parent / "x.txt")})))
    assert outcome.kind == "DataError", outcome
    with pytest.raises(errors.DataError, match=rf"x\.txt {says}.*\. Give "):
        raise errors.DataError(outcome.text)


LEAVING = ["../secret.png", "sub/../../secret.png", "./.././secret.png", "..", "/etc/hostname"]


@pytest.mark.parametrize("path", LEAVING)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("way", [{}, {"stream": True}, {"skip_unreadable": True}])
def test_a_line_that_leaves_the_root_is_refused(
    root: Path, path: str, split: str, way: dict[str, bool]
) -> None:
    """Before any image is read, and never merely left out."""
    write_image(root.parent / "secret.png")
    (root / "sub").mkdir()
    with (root.parent / f"{split}.txt").open("a") as file:
        file.write(f"{path} 1\n")
    with pytest.raises(
        errors.DataError, match=rf"{split}\.txt line 3: .* is outside the root"
    ) as e:
        load(root, **way)
    assert "--allow-outside" in str(e.value)


def test_outside_is_read_where_that_is_allowed(root: Path) -> None:
    """By `..` and from `/`; the paths stay as they are written."""
    write_image(root.parent / "one.png")
    write_image(root.parent / "other.png")
    lines = f"../one.png 0\n{root.parent}/other.png 1\n"
    (root.parent / "train.txt").write_text(lines)
    for stream in (False, True):
        train = load(root, allow_outside=True, stream=stream).splits["train"]
        assert train.paths == ("../one.png", f"{root.parent}/other.png")


def test_paths_that_only_look_as_if_they_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are stored relative to the root; names with dots are names."""
    write_image(root / "..c" / "e..png")
    write_image(root.parent / "elsewhere" / "f.png")
    (root / "link").symlink_to(root.parent / "elsewhere")
    lines = f"sub/../a.png 0\n{root}/b.png 1\n..c/e..png 1\nlink/f.png 1\n"
    (root.parent / "train.txt").write_text(lines)
    paths = ("a.png", "b.png", "..c/e..png", "link/f.png")
    assert load(root).splits["train"].paths == paths
    monkeypatch.chdir(root.parent)
    assert load(Path("images")).splits["train"].paths == paths


def test_a_link_and_a_step_up_do_not_leave_together(root: Path) -> None:
    """`link/../x.png` is x.png below the root, not beside what the link leads to."""
    write_image(root.parent / "x.png")
    (root.parent / "elsewhere").mkdir()
    (root / "link").symlink_to(root.parent / "elsewhere")
    (root.parent / "train.txt").write_text("a.png 0\nlink/../x.png 1\n")
    with pytest.raises(errors.DataError, match=r"line 2: .*images/x\.png does not exist"):
        load(root)


@pytest.mark.parametrize("character", ["\x1b[2J", "\0", "\x07", "\x0b", "\x85", "\x9b2J", "\x7f"])
def test_control_characters_in_a_list_are_shown_not_sent(root: Path, character: str) -> None:
    """A message is one line of what can be printed."""
    text = f"a.png 0\nb{character}.png 1\n"
    (root.parent / "train.txt").write_bytes(text.encode())
    with pytest.raises(errors.DataError, match=r"train\.txt line 2 has the control char") as caught:
        load(root)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["e\x1b[0m.png", "two\nlines.png", b"caf\xe9.png"])
def test_names_in_folders_that_cannot_be_printed(tmp_path: Path, name: str | bytes) -> None:
    """A class's name, or an image's."""
    name = os.fsdecode(name)
    for split in ("train", "test"):
        for class_name in ("cat", "dog"):
            write_image(tmp_path / "images" / split / class_name / "1.png")
    write_image(tmp_path / "names" / "train" / "cat" / name)
    classes = tmp_path / "classes"
    for class_name in ("cat", name):
        write_image(classes / "train" / class_name / "1.png")
        write_image(classes / "test" / class_name / "1.png")
    (tmp_path / "names" / "train" / "dog").mkdir()
    (tmp_path / "names" / "test" / "cat").mkdir(parents=True)
    for folder in ("names", "classes"):
        with pytest.raises(errors.DataError, match=r"holds '.*', whose name has '\\") as caught:
            load_dataset(DatasetSettings("folder", root=str(tmp_path / folder)))
        assert str(caught.value).isprintable()


def test_a_folder_that_is_called_as_an_image(tmp_path: Path) -> None:
    """It is a folder with images, as any other; a pipe called so is refused."""
    for name in ("train/cat/1.png", "train/cat/2.png/3.png", "train/dog/1.png", "test/cat/1.png"):
        write_image(tmp_path / name)
    settings = DatasetSettings("folder", root=str(tmp_path))
    assert load_dataset(settings).train_counts.tolist() == [2, 1]
    os.mkfifo(tmp_path / "train/dog/2.png")
    outcome = in_child(lambda: str(load_dataset(settings)))
    assert outcome.kind == "Unreadable"
    assert "class 'dog': " in outcome.text
    assert "is a named pipe" in outcome.text


def test_folders_of_windows(root: Path) -> None:
    """A list whose folders are apart by backslashes: the remedy says it."""
    (root.parent / "train.txt").write_text("a.png 0\nsub\\b.png 1\n")
    with pytest.raises(errors.DataError, match=r"does not exist\. Write / between its folders"):
        load(root)
