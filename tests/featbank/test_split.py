"""`featbank split`: a val split out of train, and shards that merge to the same bank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import Bank, BankWriter, errors, write_bank
from featbank.bank import HoldOut, blocks, schema
from featbank.bank.merge import merge
from featbank.bank.split import split_shards, split_val
from featbank.bank.verify import verify
from tests.conftest import Run, Toy


@pytest.fixture
def bank(make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """Train and test with paths, source rows that are not 0…N−1, and a classifier."""
    toy = make_toy(splits=("train", "test"))
    return toy.write(
        tmp_path / "b.h5",
        index={"train": np.arange(222)[::-1] * 3, "test": np.arange(100)},
        paths={s: [f"{s}/{i}.png" for i in range(len(y))] for s, y in toy.labels.items()},
        sources={"train": "images"},
    )


def content(path: Path, split: str, view: str = "instance") -> dict[int, tuple]:
    """Label, path and features of a split's rows by their index."""
    with Bank(path) as b:
        x, y = b.load(split, view)
        paths = b.paths(split) or [""] * len(y)
        return {
            int(i): (int(k), p, *map(float, row))
            for i, k, p, row in zip(b.index(split), y, paths, x, strict=True)
        }


def test_val_is_held_out_class_by_class(bank: Path) -> None:
    """Train and val together are the old train, row by row and in every view; val has n of each
    class, both point into the same source, and the counts are those of what is left."""
    out = bank.with_name("v.h5")
    split_val(bank, out, HoldOut(2, seed=1))
    for view in ("instance", "balanced"):
        train, val = content(out, "train", view), content(out, "val", view)
        assert not set(train) & set(val)
        assert train | val == content(bank, "train", view)
        assert content(out, "test", view) == content(bank, "test", view)
    with Bank(out) as b, Bank(bank) as before:
        assert np.bincount(b.labels("val")).tolist() == [2] * 5
        assert b.train_counts.tolist() == [118, 58, 23, 10, 3]
        assert b.source("val") == b.source("train") == "images"
        assert (np.diff(b.index("train")) < 0).all()  # rows keep their order
        for one, other in zip(b.classifier() or (), before.classifier() or (), strict=True):
            np.testing.assert_array_equal(one, other)
        assert b.provenance == {
            "made_by": "featbank split",
            "val_per_class": 2,
            "seed": 1,
            "from": {"path": str(bank), "fingerprint": before.fingerprint, "provenance": {}},
        }
    assert {check.status for check in verify(out)} == {"ok"}


def test_the_seed_decides_which_rows(bank: Path) -> None:
    """The same seed gives the same bank, another one another."""
    prints = []
    for i, seed in enumerate((0, 0, 1)):
        out = bank.with_name(f"{i}.h5")
        split_val(bank, out, HoldOut(2, seed=seed))
        with Bank(out) as b:
            prints.append(b.fingerprint)
    assert prints[0] == prints[1] != prints[2]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_merged_shards_are_the_bank(data: st.DataObject, tmp_path_factory: object) -> None:
    """Any sizes, copies, views, splits and number of shards: same fingerprint, and shard i has the
    rows ⌊i·N/n⌋ … of every split."""
    folder = tmp_path_factory.mktemp("split")  # type: ignore[attr-defined]
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    names = ["train", *data.draw(st.sets(st.sampled_from(["val", "test", "train_balanced"])))]
    rows = {name: data.draw(st.integers(0, 40), label=name) for name in names}
    copies = {name: data.draw(st.integers(1, 3)) for name in names}
    dtype = data.draw(st.sampled_from(["float32", "float16"]))
    shards = data.draw(st.sampled_from([2, 3, 5, 11]), label="shards")
    paths = data.draw(st.booleans())
    with BankWriter(folder / "b.h5", ["a", "ü"], dim=3, dtype=dtype) as writer:
        for name, n in rows.items():
            texts = [f"{name}{'x' * (i % 7)}" for i in range(n)] if paths else None
            writer.split(name, rng.integers(0, 2, n), index=rng.permutation(n), paths=texts)
            for view in ("instance", "e0/instance"):
                target = writer.features(name, view, copies=copies[name])
                target.append(rng.normal(size=(copies[name] * n, 3)).astype(dtype))
        writer.classifier("e0/instance", rng.normal(size=(2, 3)))
        writer.batchnorm("instance", {"bn": (np.zeros(2), np.ones(2))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "CHUNK_BYTES", 60)  # several chunks and blocks
        patch.setattr(blocks, "BLOCK_BYTES", 120)
        parts = split_shards(folder / "b.h5", folder / "shards", shards)
        merge(parts, folder / "merged.h5")
    assert parts == sorted(parts) == sorted((folder / "shards").iterdir())
    with Bank(folder / "b.h5") as whole, Bank(folder / "merged.h5") as merged:
        assert merged.fingerprint == whole.fingerprint
        for i, part in enumerate(parts):
            with Bank(part) as shard:
                for name, n in rows.items():
                    expected = whole.index(name)[i * n // shards : (i + 1) * n // shards]
                    np.testing.assert_array_equal(shard.index(name), expected)


def test_memory_is_bounded_by_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read is larger than a block, whichever rows are wanted; progress stays below its end."""
    bank, block = tmp_path / "b.h5", 1 << 18
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    monkeypatch.setattr(schema, "CHUNK_BYTES", 1 << 16)
    x = np.random.default_rng(0).normal(size=(300, 3000)).astype(np.float32)
    with BankWriter(bank, ["a", "b"], dim=3000) as writer:
        writer.split("train", np.arange(300) % 2)
        writer.features("train", "instance").append(x)
    sizes, read = [], Bank.read

    def spy(self: Bank, *arguments: object, **options: object) -> np.ndarray:
        rows = read(self, *arguments, **options)  # type: ignore[arg-type]
        sizes.append(rows.nbytes)
        return rows

    monkeypatch.setattr(Bank, "read", spy)
    reports: list[tuple[int, int]] = []
    split_val(bank, tmp_path / "v.h5", HoldOut(2), progress=lambda *done: reports.append(done))
    assert max(sizes) <= block
    assert sum(sizes) >= x.nbytes
    split_shards(bank, tmp_path / "shards", 3, progress=lambda *done: reports.append(done))
    assert max(sizes) <= block
    for n in range(2):  # 3.4 MiB
        assert (n, 3) in reports
    assert {total for _, total in reports} == {3}
    assert max(done for done, _ in reports) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Splitting takes --val-from-test M, --val-per-class N, --val-fraction F or --sh"),
        (["--val-per-class", 1, "--shards", 2], "F or --shards N. Give one of them."),
        (["--shards", 2, "--seed", 1], "--seed, --seen and --by-group are for val"),
        (["--shards", 2, "--seen", "none"], "--seed, --seen and --by-group are for val"),
        (["--val-fraction", 0.6], "A fraction of 0.6 of each class cannot be held out."),
        (["--val-fraction", 0], "A fraction of 0 of each class cannot be held out."),
        (["--val-fraction", "nan"], "'nan' is not a finite number."),
        (["--val-fraction", 0.1, "--val-per-class", 1], "Give one of them."),
        (["--val-per-class", 1, "-o", "b.h5", "--overwrite"], "b.h5 is read as well."),
        (["--val-per-class", 1, "-o", "with-val.h5"], "with-val.h5 exists."),
        (["--val-per-class", 1, "-o", "no/v.h5"], "no is not a folder. Create it first."),
        (["--shards", 2, "-o", "b.h5"], "b.h5 is a file. Give a folder"),
        (["--shards", 3, "-o", "there"], "there/b-1of3.h5 exists. Choose another folder"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(
    featbank: Run, bank: Path, tmp_path: Path, arguments: list, message: str
) -> None:
    """Exit code 2, the fact and the remedy, and nothing written."""
    (tmp_path / "with-val.h5").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "b-1of3.h5").touch()
    before = {p: p.stat().st_size for p in tmp_path.rglob("*")}
    output = [] if "-o" in arguments else ["-o", "out"]
    done = featbank("split", "b.h5", *arguments, *output, code=2)
    assert message in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
    assert {p: p.stat().st_size for p in tmp_path.rglob("*")} == before


def test_a_val_split_is_not_held_out_twice(featbank: Run, toy_bank: Path) -> None:
    """The error says that there is one."""
    error = featbank("split", toy_bank, "--val-per-class", 1, "-o", "v.h5", code=2).stderr
    assert "has a val split of 100 rows. Hold out of a bank without one." in error


def test_held_out_rows_may_not_stay_in_train_balanced(
    make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """The oracle's split would be trained on val; said before anything is written."""
    toy = make_toy(splits=("train", "test"))
    toy.labels["train_balanced"] = toy.labels["train"]
    toy.features["train_balanced"] = toy.features["train"]
    toy.write(tmp_path / "b.h5", sources={"train": "images", "train_balanced": "images"})
    with pytest.raises(errors.DataError, match="share 5 rows of 'images'"):
        split_val(tmp_path / "b.h5", tmp_path / "v.h5", HoldOut(1))
    assert [p.name for p in tmp_path.iterdir()] == ["b.h5"]


def test_command(featbank: Run, bank: Path) -> None:
    """Both ways, as the help shows them, and the line that joins the shards again."""
    output = featbank("split", "b.h5", "--val-per-class", 2, "-o", "v.h5").stdout
    assert output.startswith("Wrote v.h5: 10 rows held out of train, 2 per class, seed 0. Fi")
    output = featbank("split", "v.h5", "--shards", 4, "-o", "new/shards").stdout
    assert output == (
        "Wrote new/shards/v-0of4.h5 … v-3of4.h5: 4 shards. "
        "Join them with: featbank merge new/shards/v-*of4.h5 -o BANK\n"
    )
    featbank("merge", *sorted(Path("new/shards").glob("v-*of4.h5")), "-o", "m.h5")
    with Bank("v.h5") as before, Bank("m.h5") as after:
        assert before.fingerprint == after.fingerprint


def test_real_features(featbank: Run, real_features: Path) -> None:
    """CIFAR-100-LT: of the smallest classes, of five rows, two go; shards come together."""
    featbank("import", real_features, "-o", "b.h5")
    featbank("split", "b.h5", "--val-per-class", 4, "-o", "v.h5")
    featbank("split", "v.h5", "--shards", 3, "-o", "shards")
    featbank("merge", *sorted(Path("shards").iterdir()), "-o", "m.h5")
    with Bank("v.h5") as before, Bank("m.h5") as after:
        assert before.fingerprint == after.fingerprint
        counts = np.bincount(after.labels("val"))
        assert counts.max() == 4
        assert counts.min() == 2
        assert after.train_counts.min() == 3
        groups = {name: int(mask.sum()) for name, mask in after.groups().items()}
        assert groups == {"many": 35, "medium": 35, "few": 30}


SIZES = (211, 101, 20, 7, 3, 2, 1, 0)


def bank_of(path: Path, counts: tuple[int, ...] = SIZES, *, classifier: bool = True) -> Path:
    """A bank with so many training rows of each class."""
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.random.default_rng(0).normal(size=(len(y), 4)).astype(np.float32)
    stage1 = {"instance": (np.ones((len(counts), 4)), None)} if classifier else {}
    names = [f"class {k}" for k in range(len(counts))]
    write_bank(path, {"train": {"instance": x}}, {"train": y}, class_names=names, classifier=stage1)
    return path


@pytest.mark.parametrize(
    ("how", "held"),
    [
        (HoldOut(1), [1, 1, 1, 1, 1, 1, 0, 0]),
        (HoldOut(5), [5, 5, 5, 3, 1, 1, 0, 0]),
        (HoldOut(1000), [105, 50, 10, 3, 1, 1, 0, 0]),
        (HoldOut(fraction=0.2), [42, 20, 4, 1, 1, 1, 0, 0]),
        (HoldOut(fraction=0.5), [105, 50, 10, 3, 1, 1, 0, 0]),
        (HoldOut(fraction=1e-9), [1, 1, 1, 1, 1, 1, 0, 0]),
    ],
)
def test_at_most_half_of_a_class_goes(tmp_path: Path, how: HoldOut, held: list[int]) -> None:
    """Every class of two rows or more is in val and stays in train, and groups stay as they were:
    20 rows are medium although 10 of them are left."""
    before, after = bank_of(tmp_path / "b.h5"), tmp_path / "v.h5"
    text = split_val(before, after, how)
    with Bank(before) as old, Bank(after) as new:
        assert np.bincount(new.labels("val"), minlength=8).tolist() == held
        assert new.full_counts.tolist() == old.train_counts.tolist() == list(SIZES)
        for name, mask in old.groups().items():
            np.testing.assert_array_equal(new.groups()[name], mask)
        assert new.schema == 2
        assert old.schema == 1
    assert text.startswith(f"{sum(held)} rows held out of train, ")
    assert "; 1 class of one row gave none" in text
    assert {check.status for check in verify(after)} == {"ok", "note"}


def test_groups_survive_shards_and_merging(tmp_path: Path) -> None:
    """What was held out is known row by row: three shards of a split bank are that bank again."""
    split_val(bank_of(tmp_path / "b.h5"), tmp_path / "v.h5", HoldOut(fraction=0.3))
    parts = split_shards(tmp_path / "v.h5", tmp_path / "shards", 3)
    merge(parts, tmp_path / "m.h5")
    with Bank(tmp_path / "v.h5") as one, Bank(tmp_path / "m.h5") as other:
        assert one.fingerprint == other.fingerprint
        assert other.full_counts.tolist() == list(SIZES)


@pytest.mark.parametrize(
    ("classifier", "seen", "expected"),
    [(True, None, True), (False, None, False), (True, "none", False), (False, "train", True)],
)
def test_val_is_as_seen_as_train_was(
    featbank: Run, tmp_path: Path, classifier: bool, seen: str | None, expected: bool
) -> None:
    """A stage-1 classifier stands for a stage 1 that was trained on these rows, unless it is said
    otherwise; then a note says so, and `info` as well, for `split` as for `import`."""
    bank_of(tmp_path / "b.h5", classifier=classifier)
    featbank("export-features", "b.h5", "-o", "arrays")
    options = ["--val-per-class", 2, *(["--seen", seen] if seen else [])]
    model = ["--classifier", "arrays/classifier/instance/weight.npy"]
    model += ["arrays/classifier/instance/bias.npy"]
    outputs = [
        featbank("split", "b.h5", *options, "-o", "v.h5").stdout,
        featbank(
            "import", "--train", "arrays/train/instance/feature.npy", "arrays/train/label.npy",
            *(model if classifier else []), "--class-names", "arrays/classes/name.txt", *options,
            "-o", "i.h5",
        ).stdout,
    ]  # fmt: skip
    for name, text in zip(("v.h5", "i.h5"), outputs, strict=True):
        assert ("stage 1 was probably trained on the rows of val" in text) == expected, text
        asks = "which makes val unclean, add --seen train" in text
        assert asks == (name == "i.h5" and not classifier and seen is None), text
        assert ("held out of train, seen by stage 1" in featbank("info", name).stdout) == expected
        with Bank(name) as bank:
            assert bank.seen("val").all() == bank.seen("val").any() == expected
            assert bank.seen("train").all() == expected


def test_a_bank_of_single_rows_has_none_to_spare(tmp_path: Path) -> None:
    """The error says so and what else to do."""
    with pytest.raises(errors.EmptyClass, match=r"largest of 3 classes has 1\. Import a val"):
        split_val(bank_of(tmp_path / "b.h5", (1, 1, 0)), tmp_path / "v.h5", HoldOut(1))


@pytest.mark.parametrize("column", ["seen", "held_out"])
def test_a_flag_that_is_neither_0_nor_1_is_damage(tmp_path: Path, column: str) -> None:
    """`Bank` and `verify` name the dataset and the row."""
    split_val(bank_of(tmp_path / "b.h5"), tmp_path / "v.h5", HoldOut(2), seen=False)
    with h5py.File(tmp_path / "v.h5", "r+") as raw:
        raw[f"val/{column}"][3] = 7
    with Bank(tmp_path / "v.h5") as bank, pytest.raises(errors.Corrupt, match=f"val/{column}: 7"):
        bank.flags("val", column)


def test_a_huge_number_is_half_of_each_class(featbank: Run, bank: Path) -> None:
    """As any number that no class can spare, up to what 64 bits hold; from Python any."""
    out = bank.with_name("v.h5")
    output = featbank("split", bank, "--val-per-class", 2**63 - 1, "-o", out).stdout
    assert "5 smaller classes gave at most half of their rows" in output
    split_val(bank, bank.with_name("w.h5"), HoldOut(2**70))
    for path in (out, bank.with_name("w.h5")):
        with Bank(path) as b:
            assert np.bincount(b.labels("val")).tolist() == [60, 30, 12, 6, 2]
    error = featbank("split", bank, "--val-per-class", 2**63, "-o", "x.h5", code=2).stderr
    assert "is too large" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("how", "held", "counts", "words"),
    [
        (
            HoldOut(2),
            [2, 1, 0],
            [9, 3, 1],
            "3 rows held out of train, 2 per class, seed 0; 1 smaller class gave at most half of "
            "its rows; 1 class of one row gave none",
        ),
        (HoldOut(1), [1], [2], "1 row held out of train, 1 per class, seed 0"),
        (
            HoldOut(None, 3e-7),
            [1, 1, 0, 0],
            [9, 4, 1, 1],
            "2 rows held out of train, less than 0.01 % of each class, at least 1, seed 0; 2 "
            "classes of one row gave none",
        ),
        (HoldOut(None, 0.125), [4], [32], "4 rows held out of train, 12.5 % of each class"),
    ],
)
def test_what_was_held_out_in_words(
    how: HoldOut, held: list[int], counts: list[int], words: str
) -> None:
    """Singular and plural, and small shares without an exponent."""
    assert words in how.describe(np.array(held), np.array(counts))


def test_images_of_val_may_not_be_in_another_split(
    make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """By path, as `verify` checks it; nothing is written."""
    toy = make_toy((8, 6, 4), splits=("train", "train_balanced"))
    names = [f"im{row}.jpg" for row in range(18)]
    balanced = names + [f"more{row}.jpg" for row in range(len(toy.labels["train_balanced"]) - 18)]
    path = toy.write(tmp_path / "b.h5", paths={"train": names, "train_balanced": balanced})
    with pytest.raises(
        errors.DataError, match=r"train_balanced and val share 3 paths, such as 'im"
    ):
        split_val(path, tmp_path / "v.h5", HoldOut(1))
    assert not (tmp_path / "v.h5").exists()
    toy.write(tmp_path / "c.h5", paths={"train": ["same.jpg"] * 18})  # one image in many rows
    with pytest.raises(errors.DataError, match=r"train and val share 1 path, such as 'same.jpg'"):
        split_val(tmp_path / "c.h5", tmp_path / "v.h5", HoldOut(1))
