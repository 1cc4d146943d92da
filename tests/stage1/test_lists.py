"""List files, and the images they name."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank import errors
from stage1.data.datasets import load_dataset
from stage1.data.decoder import Decoder
from stage1.data.entries import ListEntry
from stage1.data.images import DatasetSettings
from stage1.data.lists import (
    count_classes,
    entries_within,
    read_class_names,
    read_list,
    warn_of_shared,
)
from tests.stage1.conftest import MakeLists


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
    with pytest.raises(errors.DataError, match="is not a readable text file"):
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
    with pytest.raises(errors.ConfigError, match="no such file of class names"):
        read_class_names(tmp_path / "none.txt")


def _images(folder: Path, arrays: list[np.ndarray]) -> Path:
    for row, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{row}.png")
    file = folder / "train.txt"
    file.write_text("".join(f"{row}.png 0\n" for row in range(len(arrays))))
    return file


def _decoded(file: Path, *, image_size: int | None = None) -> np.ndarray:
    """All images of a list file, whose folder is the root."""
    entries = read_list(file)
    decoder = Decoder.for_images(entries, file.parent, image_size=image_size)
    return decoder.images(entries)[0].numpy()


def test_decoding_keeps_order_and_pixels(tmp_path: Path) -> None:
    """Against the arrays saved; a grey image has three equal channels."""
    rng = np.random.default_rng(0)
    colours = [rng.integers(0, 256, (6, 9, 3), np.uint8) for _ in range(20)]
    grey = rng.integers(0, 256, (6, 9), np.uint8)
    images = _decoded(_images(tmp_path, [*colours, grey]))
    assert images.shape == (21, 3, 6, 9)
    assert (images[:20] == np.stack(colours).transpose(0, 3, 1, 2)).all()
    assert (images[20] == grey).all()


def test_image_size_scales_the_shorter_side_and_keeps_the_centre(tmp_path: Path) -> None:
    """Against slicing where no scaling is needed; a flat image stays flat where it is."""
    wide = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    tall = np.full((44, 40, 3), 77, np.uint8)
    images = _decoded(_images(tmp_path, [wide, tall]), image_size=10)
    assert (images[0] == wide[:, 5:15].transpose(2, 0, 1)).all()
    assert (images[1] == 77).all()


def test_a_bad_image_is_told_with_its_line(tmp_path: Path) -> None:
    """Another size, cut short, not an image, missing: the list, the line and the path."""
    arrays = [np.full((8, 8, 3), row, np.uint8) for row in range(3)]
    file = _images(tmp_path, arrays)
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png is 9×8, other images are 8×8"):
        _decoded(file)
    whole = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(whole).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:120])
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png is not a readable image"):
        _decoded(file)
    (tmp_path / "1.png").write_text("not an image")
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png is not a readable image"):
        _decoded(file)
    (tmp_path / "1.png").unlink()
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png does not exist"):
        _decoded(file)


def test_images_that_can_be_read_move_up_in_order(tmp_path: Path) -> None:
    """Reference: decoding a list of the whole images alone; the first readable gives the size."""
    arrays = [np.full((8, 8, 3), row, np.uint8) for row in range(30)]
    entries = read_list(_images(tmp_path, arrays))
    broken = {0, 1, 7, 29}
    for row in broken:
        (tmp_path / f"{row}.png").write_bytes(b"no image")
    decoder = Decoder.for_images(entries, tmp_path, skip=True)
    assert decoder.shape == (3, 8, 8)
    images, read = decoder.images(entries, skip=True)
    assert set(np.flatnonzero(~read)) == broken
    whole = [entry for entry, ok in zip(entries, read, strict=True) if ok]
    assert (images == decoder.images(whole)[0]).all()
    assert images[:, 0, 0, 0].tolist() == [row for row in range(30) if row not in broken]


def test_another_size_is_no_unreadable_image(tmp_path: Path) -> None:
    """A slip in the options, which leaving images out must not hide."""
    entries = read_list(_images(tmp_path, [np.zeros((8, 8, 3), np.uint8)] * 2))
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(errors.DataError, match=r"line 2: .*1\.png is 9×8"):
        Decoder(tmp_path, None, (3, 8, 8)).images(entries, skip=True)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_ends_of_lines(tmp_path: Path, encoding: str, end: str) -> None:
    """Lists and class names of any editor; the mark is part of no name, nor are U+2028 an end."""
    lines = ["größe\u2028/1.png\t0", "日本/2 .png 11", ""]
    file = tmp_path / "train.txt"
    file.write_bytes(end.join(lines).encode(encoding))
    entries = read_list(file)
    assert [(e.path, e.label) for e in entries] == [("größe\u2028/1.png", 0), ("日本/2 .png", 11)]
    assert entries[1].place == f"{file} line 2"
    names = ["größe", "日本", "a\tb"]
    file.write_bytes(end.join([*names, ""]).encode(encoding))
    assert read_class_names(file) == tuple(names)


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-32-be"])
def test_big_endian_text_with_its_mark(tmp_path: Path, encoding: str) -> None:
    """The other order of bytes."""
    file = tmp_path / "train.txt"
    file.write_bytes("\ufeffä.png 3\n".encode(encoding))
    assert [(e.path, e.label) for e in read_list(file)] == [("ä.png", 3)]


def test_files_joined_with_their_marks(tmp_path: Path) -> None:
    """As `cat` joins them: a mark at the start of a line is part of no path."""
    file = tmp_path / "train.txt"
    file.write_bytes(b"".join(f"{name}.png 0\n".encode("utf-8-sig") for name in "ab"))
    assert [entry.path for entry in read_list(file)] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "content",
    ["é.png 0\n".encode("latin-1"), "é.png 0\n".encode("utf-16-le"), b"\xff\xfea", b"\x1f\x8b\x08"],
)
def test_other_encodings_are_refused(tmp_path: Path, content: bytes) -> None:
    """Latin-1, UTF-16 without a mark or cut short, gzip: in one line that can be printed."""
    file = tmp_path / "train.txt"
    file.write_bytes(content)
    with pytest.raises(errors.DataError, match=r"train\.txt ") as caught:
        read_list(file)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "label", ["+1", "1_0", "１", "²", "0x1", "1e0", "1.", "true", "-", "1,", "0" * 19, "७" * 900]
)
def test_labels_are_ascii_digits(tmp_path: Path, label: str) -> None:
    """What Python's `int` takes is not enough; the message stays short."""
    file = tmp_path / "train.txt"
    file.write_text(f"a.png {label}\n")
    with pytest.raises(errors.DataError, match="line 1 has the label '") as caught:
        read_list(file)
    assert len(str(caught.value)) < 200 + len(str(file))


@pytest.mark.parametrize(
    ("text", "line"),
    [("\na\nb\n", 1), ("a\n \nb\n", 2), ("a\nb\n\nc\n\n", 3), ("\ufeff\na\nb", 1)],
)
def test_an_empty_class_name_is_refused_with_its_number(
    tmp_path: Path, text: str, line: int
) -> None:
    """At the start and in the middle; lines at the end are no names."""
    file = tmp_path / "classes.txt"
    file.write_text(text)
    with pytest.raises(errors.DataError, match=f"line {line} is empty"):
        read_class_names(file)


def test_a_class_name_that_comes_twice(tmp_path: Path) -> None:
    """Allowed, as ImageNet has two cranes, with one warning that has the lines."""
    file = tmp_path / "classes.txt"
    file.write_text("crane\nmaillot\ncrane \nowl\nmaillot\n")
    with pytest.warns(
        UserWarning, match=r"2 names again, such as 'crane' in lines 1 and 3"
    ) as seen:
        assert len(read_class_names(file)) == 5
    assert len(seen) == 1


def test_lists_that_share_images(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A warning for each pair of splits, by the path however it is written."""
    texts = {"train": "a 0\nb 1\n./c 1\n", "val": "d 0\n", "test": "e 0\nb 1\nx/../c 0\nd 1\n"}
    entries_of = {}
    for split, text in texts.items():
        (tmp_path / f"{split}.txt").write_text(text)
        entries_of[split] = read_list(tmp_path / f"{split}.txt")
    warn_of_shared(entries_of)
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == 2
    assert "train and test share 2 images, such as b (" in messages[0]
    assert "train.txt line 2, " in messages[0]
    assert "test.txt line 2)" in messages[0]
    assert "val and test share 1 image, such as d (" in messages[1]
    recwarn.clear()
    warn_of_shared({split: entries_of[split] for split in ("train", "val")})
    assert not recwarn.list


def listed(**labels: list[int]) -> dict[str, list[ListEntry]]:
    """Entries of lists with these labels."""
    return {
        split: [ListEntry(f"{split}{i}.png", y, f"{split}.txt line {i + 1}") for i, y in rows]
        for split, values in labels.items()
        for rows in [list(enumerate(values))]
    }


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"train": [0, 1, 123_456], "test": [1]}, "train.txt line 3 has the label 123456, and 3 of "
         "123,457 classes are used. Check that label, or give --class-names."),
        ({"train": [0, 1], "val": [700_000, 0]}, "val.txt line 1 has the label 700000, and 3 of"),
    ],
)  # fmt: skip
def test_one_slip_makes_no_hundred_thousand_classes(
    labels: dict[str, list[int]], words: str
) -> None:
    """The label is named with its line."""
    with pytest.raises(errors.LabelRange) as caught:
        count_classes(listed(**labels))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"train": [0, 1, 2], "test": [2, 1, 612]}, "test.txt line 3 has the label 612, and 4 "
         "of 613 classes are used. Check that label"),
        ({"train": [2, 1, 3], "test": [1, 0, 2]}, "test labels go from 0 to 2, train labels "
         "from 1 to 3: does train count from 1?"),
        ({"train": [0, 1], "test": [2, 1]}, "train labels go from 0 to 1, test labels from 1 to 2"),
    ],
)  # fmt: skip
def test_labels_that_may_be_slips_are_a_warning(labels: dict[str, list[int]], words: str) -> None:
    """K is what the labels say."""
    with pytest.warns(UserWarning, match=re.escape(words)) as caught:
        assert count_classes(listed(**labels)) == max(map(max, labels.values())) + 1
    assert len(caught) == 1


def test_labels_without_a_doubt(recwarn: pytest.WarningsRecorder) -> None:
    """Half of the classes are enough; a split may lack the first."""
    assert count_classes(listed(train=[0, 3], test=[3])) == 4
    assert count_classes(listed(train=[0, 1, 2], test=[1, 2])) == 3
    assert not recwarn.list


def test_a_data_set_with_a_slip(make_lists: MakeLists, tmp_path: Path) -> None:
    """Refused, unless class names say how many there are: then the label is out of range."""
    options = make_lists(train=[0, 1, 200_000], test=[0])
    with pytest.raises(errors.LabelRange, match="3 of 200,001 classes are used"):
        load_dataset(DatasetSettings("lists", **options))
    options = make_lists(train=[0, 1, 9], test=[0])
    names = tmp_path / "names.txt"
    names.write_text("\n".join(map(str, range(10))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(DatasetSettings("lists", class_names=str(names), **options))


def test_absolute_paths_below_a_root_that_is_a_link(tmp_path: Path) -> None:
    """Written with the link or with what it leads to, they are inside; others are not."""
    real, link = tmp_path / "disk" / "images", tmp_path / "data"
    real.mkdir(parents=True)
    link.symlink_to("disk")
    for root in (link / "images", real):
        for start in {root, real}:
            (entry,) = entries_within([ListEntry(f"{start}/b/../a.png", 0, "l.txt line 1")], root)
            assert entry.path == "a.png"
    for outside in (f"{real}x/a.png", f"{real}/../a.png", "../a.png"):
        with pytest.raises(errors.DataError, match="is outside the root"):
            entries_within([ListEntry(outside, 0, "l.txt line 1")], link / "images")


@pytest.mark.parametrize(
    ("options", "held"),
    [
        ({"val_per_class": 2}, [2, 2, 1, 0]),
        ({"val_fraction": 0.5}, [4, 2, 1, 0]),
        ({"val_fraction": 0.1}, [1, 1, 1, 0]),
    ],
)
def test_val_is_held_out_of_the_list_of_train(
    make_lists: MakeLists, options: dict[str, float], held: list[int]
) -> None:
    """At most half of a class, by the seed; train and val point into the same list."""
    train = [0] * 8 + [1] * 5 + [2] * 2 + [3]
    lists = make_lists(train=train, test=[1, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small classes give less
        one, same, other = (
            load_dataset(DatasetSettings("lists", **lists, **options, data_seed=seed))
            for seed in (0, 0, 1)
        )
    val, rest = one.splits["val"], one.splits["train"]
    assert list(one.splits) == ["train", "val", "test"]
    assert np.bincount(val.labels, minlength=4).tolist() == held
    assert sorted([*val.index, *rest.index]) == list(range(16))
    assert val.source == rest.source == "train"
    for split in (val, rest):
        assert split.labels.tolist() == [train[row] for row in split.index]
    assert (same.splits["val"].index == val.index).all()
    assert (other.splits["val"].index != val.index).any()


def test_wrong_ways_to_hold_val_out(make_lists: MakeLists) -> None:
    """One line each, with what to leave out."""
    lists = make_lists(train=[0, 0, 1, 1], val=[0, 1], test=[1, 0])
    for options, words in (
        ({"val_per_class": 1}, "val.txt is the val split. Leave out --val-list, or --val-per-cl"),
        ({"val_fraction": 0.5}, "val.txt is the val split. Leave out --val-list, or --val-per-cl"),
        ({"val_fraction": 0.6}, "'val_fraction' of data set 'lists' must be a float"),
        ({"val_fraction": 0.0}, "'val_fraction' of data set 'lists' must be a float"),
        ({"val_per_class": 1, "val_fraction": 0.5}, "are both given. Give one of the two."),
    ):
        with pytest.raises(errors.ConfigError, match=re.escape(words)) as error:
            load_dataset(DatasetSettings("lists", **lists, **options))
        assert "\n" not in str(error.value)
    singles = {**make_lists(train=[0, 1], test=[1, 0]), "val_list": None}
    with pytest.raises(errors.ConfigError, match="No class has an image to spare for val"):
        load_dataset(DatasetSettings("lists", **singles, val_fraction=0.5))
