"""List files, and the images they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank import errors
from stage1.lists import (
    decode_images,
    decode_readable,
    image_shape,
    read_class_names,
    read_list,
)


def test_paths_may_hold_spaces_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    """Against the entries written out."""
    file = tmp_path / "train.txt"
    file.write_text("a b/1.png 0\n\n  c.png\t12 \n")
    entries = read_list(file)
    assert [(e.path, e.label) for e in entries] == [("a b/1.png", 0), ("c.png", 12)]
    assert entries[1].place == f"{file} line 3"


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("lonely", errors.DataError, "line 2 reads 'lonely'"),
        ("a.png one", errors.DataError, "line 2 has the label 'one'"),
        ("a.png 1.5", errors.DataError, "line 2 has the label '1.5'"),
        ("a.png ٣", errors.DataError, "line 2 has the label '٣'"),
        ("a.png --1", errors.DataError, "line 2 has the label '--1'"),
        ("a.png " + "9" * 5000, errors.DataError, "line 2 has the label '999"),
        ("a.png -1", errors.LabelRange, "line 2 has the label -1, outside 0…2"),
        ("a.png 3", errors.LabelRange, "line 2 has the label 3, outside 0…2"),
    ],
)
def test_a_bad_line_is_told_with_its_number(
    tmp_path: Path, line: str, error: type[Exception], words: str
) -> None:
    """One sentence that names the file, the line and what it says."""
    file = tmp_path / "train.txt"
    file.write_text(f"good.png 0\n{line}\n")
    with pytest.raises(error, match=words) as caught:
        read_list(file, num_classes=3)
    assert str(file) in str(caught.value)


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, empty, binary, and a label no data set has."""
    with pytest.raises(errors.ConfigError, match="no such list file"):
        read_list(tmp_path / "none.txt")
    file = tmp_path / "train.txt"
    file.write_text("\n\n")
    with pytest.raises(errors.DataError, match="names no image"):
        read_list(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(errors.DataError, match="cannot be read as text"):
        read_list(file)
    file.write_text(f"a.png {10**9}\n")
    with pytest.raises(errors.LabelRange, match="outside 0…999999"):
        read_list(file)


def test_class_names(tmp_path: Path) -> None:
    """Against the names written out, and the two ways a file can be wrong."""
    file = tmp_path / "classes.txt"
    file.write_text("cat\nhot dog\n")
    assert read_class_names(file) == ("cat", "hot dog")
    file.write_text("cat\n\ndog\n")
    with pytest.raises(errors.DataError, match="line 2 is empty"):
        read_class_names(file)
    file.write_text("cat\n")
    with pytest.raises(errors.DataError, match="1 class names"):
        read_class_names(file)
    with pytest.raises(errors.ConfigError, match="no such class-name file"):
        read_class_names(tmp_path / "none.txt")


def _images(folder: Path, arrays: list[np.ndarray]) -> Path:
    for row, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{row}.png")
    file = folder / "train.txt"
    file.write_text("".join(f"{row}.png 0\n" for row in range(len(arrays))))
    return file


def test_decoding_keeps_order_and_pixels(tmp_path: Path) -> None:
    """Against the arrays saved; a grey image has three equal channels."""
    rng = np.random.default_rng(0)
    colours = [rng.integers(0, 256, (6, 9, 3), np.uint8) for _ in range(20)]
    grey = rng.integers(0, 256, (6, 9), np.uint8)
    images = decode_images(read_list(_images(tmp_path, [*colours, grey])), tmp_path).numpy()
    assert images.shape == (21, 3, 6, 9)
    assert (images[:20] == np.stack(colours).transpose(0, 3, 1, 2)).all()
    assert (images[20] == grey).all()


def test_image_size_scales_the_shorter_side_and_keeps_the_centre(tmp_path: Path) -> None:
    """Against slicing where no scaling is needed; a flat image stays flat where it is."""
    wide = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    tall = np.full((44, 40, 3), 77, np.uint8)
    entries = read_list(_images(tmp_path, [wide, tall]))
    images = decode_images(entries, tmp_path, image_size=10).numpy()
    assert (images[0] == wide[:, 5:15].transpose(2, 0, 1)).all()
    assert (images[1] == 77).all()


def test_a_bad_image_is_told_with_its_line(tmp_path: Path) -> None:
    """Another size, cut short, not an image, missing: the list, the line and the path."""
    arrays = [np.full((8, 8, 3), row, np.uint8) for row in range(3)]
    file = _images(tmp_path, arrays)
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png is 9×8, other images are 8×8"):
        decode_images(read_list(file), tmp_path)
    whole = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(whole).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:120])
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png is not a readable image"):
        decode_images(read_list(file), tmp_path)
    (tmp_path / "1.png").write_text("not an image")
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png is not a readable image"):
        decode_images(read_list(file), tmp_path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png does not exist"):
        decode_images(read_list(file), tmp_path)


def test_images_that_can_be_read_move_up_in_order(tmp_path: Path) -> None:
    """Reference: decoding a list of the whole images alone; the first readable gives the size."""
    arrays = [np.full((8, 8, 3), row, np.uint8) for row in range(30)]
    entries = read_list(_images(tmp_path, arrays))
    broken = {0, 1, 7, 29}
    for row in broken:
        (tmp_path / f"{row}.png").write_bytes(b"no image")
    shape = image_shape(entries, tmp_path, image_size=None, skip=True)
    assert shape == (3, 8, 8)
    images, read = decode_readable(entries, tmp_path, image_size=None, shape=shape)
    assert set(np.flatnonzero(~read)) == broken
    whole = [entry for entry, ok in zip(entries, read, strict=True) if ok]
    assert (images == decode_images(whole, tmp_path)).all()
    assert images[:, 0, 0, 0].tolist() == [row for row in range(30) if row not in broken]


def test_another_size_is_no_unreadable_image(tmp_path: Path) -> None:
    """A slip in the options, which leaving images out must not hide."""
    entries = read_list(_images(tmp_path, [np.zeros((8, 8, 3), np.uint8)] * 2))
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png is 9×8"):
        decode_readable(entries, tmp_path, image_size=None, shape=(3, 8, 8))
