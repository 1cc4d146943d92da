"""`featbank merge`: shards one after another, views side by side, and everything else refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, errors, write_bank
from featbank.bank.merge import Merged, merge
from featbank.bank.verify import verify
from tests.conftest import Run, Toy

X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
W = np.ones((3, 4), np.float32)

Part = Callable[..., Path]


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Writes NAME.h5 with the rows `rows` of ten, as train, and `splits` more splits."""

    def write(
        name: str,
        rows: slice = slice(None),
        *,
        view: str = "instance",
        splits: tuple[str, ...] = (),
        shift: float = 0,
        copies: int = 1,
        **options: object,
    ) -> Path:
        every = ("train", *splits)
        options.setdefault("class_names", ["a", "b", "c"])
        options.setdefault("index", dict.fromkeys(every, np.arange(10)[rows]))
        x = np.stack([X[rows] + shift + i for i in range(copies)])
        path = tmp_path / f"{name}.h5"
        labels = options.pop("labels", dict.fromkeys(every, Y[rows]))
        write_bank(path, {split: {view: x} for split in every}, labels, **options)  # type: ignore[arg-type]
        return path

    return write


def test_shards_in_the_order_given(part: Part, tmp_path: Path) -> None:
    """Rows of each split follow each other; a split may be in some banks only."""
    out = tmp_path / "out.h5"
    shards = [
        part("2", slice(6, 10), splits=("test",), provenance={"made_by": "two"}),
        part("1", slice(0, 6)),
    ]
    assert merge(shards, out) == Merged("shards", ())
    order = [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
    with Bank(out) as bank:
        assert bank.splits == ("train", "test")
        features, labels = bank.load("train")
        np.testing.assert_array_equal(features, X[order])
        np.testing.assert_array_equal(labels, Y[order])
        np.testing.assert_array_equal(bank.index("train"), order)
        np.testing.assert_array_equal(bank.load("test")[0], X[6:])
        np.testing.assert_array_equal(bank.train_counts, [4, 3, 3])
        assert bank.provenance["made_by"] == "featbank merge"
        assert [p["path"] for p in bank.provenance["parts"]] == list(map(str, shards))
        assert bank.provenance["parts"][0]["provenance"] == {"made_by": "two"}
        with Bank(shards[1]) as shard:
            assert bank.provenance["parts"][1]["fingerprint"] == shard.fingerprint
    assert not [check for check in verify(out) if check.status == "failed"]


def test_shards_with_copies_and_models(part: Part, tmp_path: Path) -> None:
    """Copies stay apart, the classifier comes once; compared with the bank written in one go."""
    options = {"copies": 3, "classifier": {"instance": (W, None)}}
    whole = part("whole", **options)
    merge(
        [part("1", slice(0, 3), **options), part("2", slice(3, 10), **options)], tmp_path / "o.h5"
    )
    with Bank(whole) as expected, Bank(tmp_path / "o.h5") as got:
        assert got.fingerprint == expected.fingerprint


def test_views_side_by_side(part: Part, tmp_path: Path) -> None:
    """Banks of the same rows: every view with its copies and classifier, paths from where they
    are."""
    names = {"train": list("abcdefghij"), "test": list("klmnopqrst")}
    banks = [
        part("1", splits=("test",), classifier={"instance": (W, None)}),
        part("2", splits=("test",), view="clip", shift=100, copies=2, paths=names),
        part("3", splits=("test",), view="e0/instance", shift=200,
             classifier={"e0/instance": (2 * W, None)}),
    ]  # fmt: skip
    assert merge(banks, tmp_path / "o.h5") == Merged("views", ("clip",))
    with Bank(tmp_path / "o.h5") as bank:
        assert bank.views == ("instance", "clip", "e0/instance")
        for split in ("train", "test"):
            np.testing.assert_array_equal(bank.load(split, "instance")[0], X)
            np.testing.assert_array_equal(bank.load(split, "clip", copy=1)[0], X + 101)
            np.testing.assert_array_equal(bank.load(split, "e0/instance")[0], X + 200)
            assert bank.paths(split) == names[split]
        assert bank.classifiers == ("instance", "e0/instance")
        classifier = bank.classifier("e0/instance")
        assert classifier is not None
        np.testing.assert_array_equal(classifier[0], 2 * W)


def test_views_of_one_extraction_share_the_classifier(part: Part, tmp_path: Path) -> None:
    """Both banks have the instance view's classifier, one without that view: kept once."""
    model = {"classifier": {"instance": (W, np.arange(3.0))}}
    banks = [part("1", view="balanced", **model), part("2", view="instance", **model)]
    assert merge(banks, tmp_path / "o.h5") == Merged("views", ())
    with Bank(tmp_path / "o.h5") as bank:
        classifier = bank.classifier("balanced")
        assert classifier is not None
        np.testing.assert_array_equal(classifier[1], [0, 1, 2])
    alone = tmp_path / "alone.h5"
    merge([banks[0], part("3", view="other", **model)], alone)
    with Bank(alone) as bank:  # the instance view's classifier, without that view
        assert bank.classifiers == ("instance",)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"class_names": list("abcd")}, "num_classes: 3 and 4"),
        ({"class_names": ["a", "b", "x"]}, "the name of class 2: c and x"),
        ({"dtype": "float16"}, "the type of features: float32 and float16"),
        ({"copies": 2}, "the copies of train/instance: 1 and 2"),
        ({"sources": {"train": "images"}}, "the source of train: train and images"),
        ({"paths": {"train": list("abcde")}}, "train/path being there: no and yes"),
        ({"classifier": {"instance": (2 * W, None)}}, "classifier/instance/weight"),
        ({"classifier": {"instance": (W, [0, 0, 1])}}, "classifier/instance/bias"),
        ({"classifier": None}, "classifier/instance/bias: {2} has none"),
    ],
)
def test_shards_that_differ(part: Part, tmp_path: Path, other: dict, field: str) -> None:
    """The first field that differs, with both files; nothing is written."""
    model = {"classifier": {"instance": (W, None)}}
    names = {"class_names": list("abc")}
    if len(other.get("class_names", "abc")) > 3:
        model = {"classifier": None}
    one = part("1", slice(0, 5), **model, **names)
    two = part("2", slice(5, 10), **{**model, **names, **other})
    with pytest.raises(errors.Mismatch) as caught:
        merge([one, two], tmp_path / "o.h5")
    said = f"{one} and {two} differ in {field.replace('{2}', str(two))}"
    assert str(caught.value).startswith(said), caught.value
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.h5", "2.h5"]


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"labels": {"train": Y[::-1].copy()}}, "train/label"),
        ({"index": {"train": np.arange(10) + 1}}, "train/index"),
        ({"splits": ("test",)}, "the splits: train and train, test"),
        ({"sources": {"train": "images"}}, "the source of train: train and images"),
        ({"paths": {"train": list("abcdefghix")}}, "train/path"),
        ({"classifier": {"instance": (2 * W, None)}}, "classifier/instance/weight"),
    ],
)
def test_views_of_other_rows(part: Part, tmp_path: Path, other: dict, field: str) -> None:
    """Views side by side need the same rows, and one classifier under one name."""
    options = {"classifier": {"instance": (W, None)}, "paths": {"train": list("abcdefghij")}}
    one = part("1", **options)
    if "splits" in other:
        options["paths"] = {}
    two = part("2", view="clip", **{**options, **other})
    with pytest.raises(errors.Mismatch) as caught:
        merge([one, two], tmp_path / "o.h5")
    assert str(caught.value).startswith(f"{one} and {two} differ in {field}"), caught.value


def test_neither_shards_nor_views(part: Part, make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    """Some views in common, others not."""
    both = make_toy().write(tmp_path / "both.h5")
    one = make_toy(views=("instance",)).write(tmp_path / "one.h5")
    with pytest.raises(
        errors.Mismatch, match="Merge banks of the same views, or of none"
    ) as caught:
        merge([both, one], tmp_path / "o.h5")
    assert "instance, balanced" in str(caught.value)


def test_a_source_row_comes_once(part: Part, tmp_path: Path) -> None:
    """The error names both banks, the row and its index."""
    banks = [
        part("1", slice(0, 4)),
        part("2", slice(4, 7)),
        part("3", index={"train": np.array([20, 21, 5, 22, 23, 24, 25, 26, 27, 28])}),
    ]
    with pytest.raises(errors.Mismatch) as caught:
        merge(banks, tmp_path / "o.h5")
    assert str(caught.value).startswith(
        f"{banks[2]}: row 2 of train has index 5, as a row of {banks[1]} has."
    )


def test_splits_stay_apart(part: Part, tmp_path: Path) -> None:
    """Train of one shard and test of another may not be the same source rows; said at once."""
    source = {"train": "images", "test": "images"}
    banks = [
        part("1", slice(0, 5), sources=source),
        part("2", slice(5, 8), splits=("test",), sources=source,
             index={"train": np.array([5, 6, 7]), "test": np.array([3, 11, 12])}),
    ]  # fmt: skip
    with pytest.raises(errors.DataError, match="train and test share 1 .* 'images'.* 3"):
        merge(banks, tmp_path / "no folder" / "o.h5")  # said before the output is looked at


def test_a_damaged_part_leaves_no_bank(part: Part, tmp_path: Path) -> None:
    """A failing checksum while copying names the file; the output is discarded."""
    import h5py

    banks = [part("1", slice(0, 5)), part("2", slice(5, 10))]
    with h5py.File(banks[1]) as file:
        offset = file["train/instance/feature"].id.get_chunk_info(0).byte_offset
    content = bytearray(banks[1].read_bytes())
    content[offset] ^= 1
    banks[1].write_bytes(content)
    with pytest.raises(errors.Corrupt, match="2.h5 is damaged: train/instance/feature"):
        merge(banks, tmp_path / "o.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.h5", "2.h5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1.h5", "-o", "o.h5"], "One bank was given. Merging takes two or more."),
        (["1.h5", "./1.h5", "-o", "o.h5"], "1.h5 is given twice. Give each bank once."),
        (["1.h5", "2.h5", "-o", "2.h5", "--overwrite"], "2.h5 is read as well. Choose another"),
        (["1.h5", "gone.h5", "-o", "o.h5"], "gone.h5: no such file."),
        (["1.h5", ".", "-o", "o.h5"], ". is a folder. Give the bank, a file."),
        (["1.h5", "2.h5", "-o", "."], "Give the name of a file."),
        (["1.h5", "2.h5", "-o", "old.h5"], "old.h5 exists. Choose another name or --overwrite."),
        (["1.h5", "old.h5", "-o", "o.h5"], "old.h5 is not a readable HDF5 file"),
    ],
)
def test_wrong_input_is_one_line(
    featbank: Run, part: Part, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """Exit code 2, one line, and the files as they were."""
    part("1", slice(0, 5))
    part("2", slice(5, 10))
    (tmp_path / "old.h5").write_text("old")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    done = featbank("merge", *arguments, code=2)
    assert message in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_command_tells_which_case_it_was(featbank: Run, part: Part) -> None:
    """One line for shards, one more where a view gets another's classifier."""
    part("1", slice(0, 5))
    part("2", slice(5, 10))
    output = featbank("merge", "1.h5", "2.h5", "-o", "o.h5").stdout
    with Bank("o.h5") as bank:
        assert output == (
            "Wrote o.h5: the rows of 2 shards, one after another. "
            f"Fingerprint {bank.fingerprint[:12]}.\n"
        )
    part("w", slice(0, 5), view="clip", classifier={"clip": (W, None)})
    part("c", slice(0, 5), view="dino")
    part("i", slice(0, 5), view="instance", classifier={"instance": (W, None)})
    output = featbank("merge", "w.h5", "c.h5", "i.h5", "-o", "o.h5", "--overwrite").stdout
    assert "the views of 3 banks, side by side" in output
    assert "Note: dino had no stage-1 classifier and now has the instance view's." in output


def test_shards_whose_splits_share_images_are_refused(
    make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """An image of train in one shard and of test in another: `verify` would fail on the whole."""
    toy = make_toy(splits=("train", "test"))
    for shard in range(2):
        paths = {s: [f"{s}/{shard}-{i}.png" for i in range(len(y))] for s, y in toy.labels.items()}
        if shard:
            paths["test"][3] = "train/0-7.png"
        index = {s: np.arange(len(y)) + 1000 * shard for s, y in toy.labels.items()}
        toy.write(tmp_path / f"{shard}.h5", paths=paths, index=index)
    with pytest.raises(errors.DataError, match=r"train and test share 1 path, such as 'train/0-7"):
        merge([tmp_path / "0.h5", tmp_path / "1.h5"], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_a_row_is_seen_if_one_of_the_backbones_saw_it(part: Part, tmp_path: Path) -> None:
    """Whatever was said of each bank, and where nothing was, by its classifier."""
    half = np.arange(10) < 5
    resnet = part("r", splits=("val", "test"), classifier={"instance": (W, None)})
    clip = {"view": "clip", "splits": ("val", "test")}
    for name, marks, val in (
        ("none", {"train": False, "val": False}, 0),
        ("some", {"val": half}, 5),
        ("test", {"test": True}, 0),
    ):
        merge([resnet, part(name, **clip, seen=marks)], tmp_path / "o.h5", overwrite=True)
        with Bank(tmp_path / "o.h5") as bank:
            assert bank.seen("train").all(), name
            assert bank.seen("val").sum() == val, name
            assert bank.seen("test").all() == (name == "test"), name
    merge([part("u", splits=("val", "test")), part("plain", **clip)], tmp_path / "p.h5")
    with Bank(tmp_path / "p.h5") as bank:
        assert bank.norm("clip") is not None, "features of a backbone that saw no row"
        assert not bank.seen("train").any()


def test_views_of_several_sizes(part: Part, tmp_path: Path) -> None:
    """Tokens beside rows of another D; classifier and text serve the views of their D."""
    text = {"instance": (np.ones((2, 3, 4)), 100.0)}
    one = part("1", text=text, default_scale={"instance": "unit"})
    labels, options = {"train": Y}, {"class_names": list("abc")}
    tokens = np.arange(180, dtype=np.float32).reshape(1, 10, 6, 3)
    write_bank(tmp_path / "2.h5", {"train": {"tokens": tokens}}, labels, **options)
    write_bank(tmp_path / "3.h5", {"train": {"wide": X - 1}}, labels, **options)
    out = tmp_path / "o.h5"
    merged = merge([tmp_path / "2.h5", one, tmp_path / "3.h5"], out)
    assert merged == Merged("views", (), ("wide",))
    with Bank(out) as bank:
        assert (bank.schema, bank.dim, bank.views) == (5, 4, ("instance", "tokens", "wide"))
        assert (bank.tokens("tokens"), bank.dim_of("tokens"), bank.tokens()) == (6, 3, None)
        np.testing.assert_array_equal(bank.load("train", "tokens")[0], tokens[0])
        assert bank.text("tokens") is None
        for view in ("instance", "wide"):
            assert bank.text(view).features.shape == (2, 3, 4)  # type: ignore[union-attr]
        assert bank.default_scale() == "unit"
        assert bank.default_scale("wide") is None
    assert not [check for check in verify(out) if check.status == "failed"]


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"text": {"instance": (np.ones((1, 3, 4)), 50.0)}}, "text/instance/logit_scale"),
        ({"text": None}, "text/instance/feature: {2} has none"),
        ({"default_scale": {"instance": "none"}}, "scale/instance/default"),
    ],
)
def test_shards_of_another_text(part: Part, tmp_path: Path, other: dict, field: str) -> None:
    """Text and default scale are of the bank, not of its rows."""
    same = {"text": {"instance": (np.ones((1, 3, 4)), 100.0)}}
    same["default_scale"] = {"instance": "unit"}
    one, two = part("1", slice(0, 5), **same), part("2", slice(5, 10), **{**same, **other})
    with pytest.raises(errors.Mismatch, match=field.replace("{2}", str(two))):
        merge([one, two], tmp_path / "o.h5")


def test_shards_of_another_size(part: Part, tmp_path: Path) -> None:
    """Of D and of tokens."""
    one = part("1", slice(0, 5))
    for name, shape in (("2", (5, 3)), ("3", (1, 5, 2, 4))):
        path = tmp_path / f"{name}.h5"
        index = {"train": np.arange(5, 10)}
        x = {"train": {"instance": np.ones(shape)}}
        write_bank(path, x, {"train": Y[5:]}, class_names=list("abc"), index=index)
        with pytest.raises(errors.Mismatch, match="differ in the size of instance: .4. and"):
            merge([one, path], tmp_path / "o.h5")
