"""`featbank verify`: each check fails alone on a bank broken in just that way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import Bank, BankWriter, errors
from featbank.bank.fingerprint import array_digest, fingerprint
from featbank.bank.judged import STATUSES, Check
from featbank.bank.verify import verify
from tests.conftest import Run, Toy

Defect = Callable[[h5py.File], None]


@pytest.fixture
def bank(make_toy: Callable[..., Toy], tmp_path: Path) -> Path:
    """A bank with everything: two copies, paths, classifier, BatchNorm statistics."""
    toy, path = make_toy(), tmp_path / "b.h5"
    with BankWriter(path, list("abcde"), dim=8) as writer:
        for split, y in toy.labels.items():
            writer.split(split, y, paths=[f"{split}/{i:03}.png" for i in range(len(y))])
            for view, x in toy.features[split].items():
                rows = writer.features(split, view, copies=2)
                rows.append(x)
                rows.append(x + 1)
        writer.classifier("instance", *toy.classifier)
        writer.batchnorm("instance", {"bn1": (np.zeros(3), np.ones(3))})
    return path


def sealed(path: Path, change: Defect) -> None:
    """Change a bank in place, and make its digests and its fingerprint those of the new content."""
    with h5py.File(path, "r+") as file:
        change(file)
        digests = {}

        def seal(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                digests[name] = array_digest(item[()])
                item.attrs["sha256"] = np.bytes_(digests[name])

        file.visititems(seal)
        del digests["provenance"]
        file.attrs["fingerprint"] = np.bytes_(fingerprint(digests))


def changed(name: str, place: object, value: object) -> Defect:
    """Puts `value` at `place` of the dataset `name`."""

    def change(file: h5py.File) -> None:
        file[name][place] = value

    return change


def both(*changes: Defect) -> Defect:
    def change(file: h5py.File) -> None:
        for each in changes:
            each(file)

    return change


def other_source(split: str, source: str) -> Defect:
    def change(file: h5py.File) -> None:
        file[f"{split}/index"].attrs["source"] = np.bytes_(source)

    return change


def flip(path: Path, name: str, chunk: int = 0, byte: int = 5) -> None:
    """Flip a bit of a stored chunk, below HDF5."""
    with h5py.File(path) as file:
        offset = file[name].id.get_chunk_info(chunk).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + byte] ^= 1
    path.write_bytes(content)


def by_status(checks: list[Check], status: str) -> dict[str, tuple[str, ...]]:
    """Findings of the checks with a status, by name."""
    return {check.name: check.findings for check in checks if check.status == status}


def test_a_whole_bank_passes(bank: Path) -> None:
    """Every check is ok, once, and says what it looked at."""
    checks = verify(bank)
    assert [check.name for check in checks] == [
        "structure", "checksums", "digests", "fingerprint", "features", "labels", "train_count",
        "index", "splits", "paths", "sources", "classes", "class facts", "classifier", "batchnorm",
        "norm", "experts",
        "text", "scale", "repeats",
    ]  # fmt: skip
    assert {check.status for check in checks} == {"ok"}, checks
    assert all(check.detail and not check.findings for check in checks)
    details = {check.name: check.detail for check in checks}
    # (222 + 100 + 100) rows × 2 views × 2 copies
    assert "1,688 rows" in details["features"]
    assert "422 rows" in details["labels"]
    assert "SHA-256 of 22 datasets" in details["digests"]
    assert "5 classes, 222 samples" in details["train_count"]


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (changed("val/balanced/feature", np.s_[1, 7:9, 3], np.nan), "features",
         "val/balanced/feature, copy 1: 2 rows NaN or infinite, first 7"),
        (changed("train/instance/feature", np.s_[0, 221, 0], -np.inf), "features",
         "train/instance/feature, copy 0: 1 row NaN or infinite, first 221"),
        (changed("test/label", 4, 5), "labels", "test: label 5 in row 4 is outside 0…4"),
        (changed("test/label", 0, -1), "labels", "test: label -1 in row 0 is outside 0…4"),
        (changed("classes/train_count", 1, 61), "train_count",
         "class 1 has 60 rows in train, classes/train_count says 61"),
        (changed("train/label", 0, 1), "train_count",
         "class 0 has 119 rows in train, classes/train_count says 120 (2 such classes)"),
        (changed("val/index", 3, -2), "index", "val: index -2 in row 3 is negative"),
        (changed("val/index", 3, 50), "index", "val: index 50 in row 50 occurs before"),
        (other_source("val", "train"), "splits", "train and val share 100 rows of 'train'"),
        (changed("test/path", 9, b"val/021.png"), "paths",
         "val and test share 1 path, such as 'val/021.png'"),
        (changed("val/path", 2, b"\xff.png"), "paths", "val/path: 1 row not UTF-8, first 2"),
        (changed("classifier/instance/weight", np.s_[2, 0], np.nan), "classifier",
         "classifier/instance/weight: 1 row NaN or infinite, first 2"),
        (changed("classifier/instance/bias", 4, np.inf), "classifier",
         "classifier/instance/bias: 1 row NaN or infinite, first 4"),
        (changed("batchnorm/instance/bn1/mean", 1, np.nan), "batchnorm",
         "batchnorm/instance/bn1/mean: 1 row NaN or infinite, first 1"),
        (changed("batchnorm/instance/bn1/variance", 2, -0.5), "batchnorm",
         "bn1/variance: 1 row negative, NaN or infinite, first 2"),
        (changed("batchnorm/instance/bn1/variance", 0, np.nan), "batchnorm",
         "bn1/variance: 1 row negative, NaN or infinite, first 0"),
    ],
)  # fmt: skip
def test_each_defect_fails_its_check_alone(
    bank: Path, change: Defect, check: str, message: str
) -> None:
    """Content that is wrong but well sealed: one check fails, and tells where."""
    sealed(bank, change)
    checks = verify(bank)
    failed = by_status(checks, "failed")
    assert list(failed) == [check], failed
    assert len(failed[check]) == 1
    assert message in failed[check][0], failed
    assert not by_status(checks, "skipped")


def test_float16_infinity(make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    """Infinite and NaN bit patterns of float16, the largest finite value being none of them."""
    path = make_toy().write(tmp_path / "b.h5", dtype="float16")
    sealed(path, changed("train/instance/feature", np.s_[0, 3, 1], np.float16(65504)))
    assert not by_status(verify(path), "failed")
    for row, value in ((8, np.inf), (6, -np.inf), (4, np.nan)):
        sealed(path, changed("train/instance/feature", np.s_[0, row, 1], np.float16(value)))
        (finding,) = by_status(verify(path), "failed")["features"]
        assert finding.endswith(f"first {row}"), finding


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (changed("val/label", 0, 1), "digests", "val/label: its attribute sha256 is "),
        (changed("train/balanced/feature", np.s_[1, 5, 0], 0), "digests",
         "train/balanced/feature: "),
        (lambda file: file["provenance"].attrs.modify("sha256", np.bytes_("0" * 64)),
         "digests", "provenance: its attribute sha256 is 000000000000…"),
        (lambda file: file["val/label"].attrs.pop("sha256"), "digests", "val/label: it has no sha"),
        (lambda file: file.attrs.modify("fingerprint", np.bytes_("0" * 64)), "fingerprint",
         "it is 000000000000…, the datasets' digests give "),
    ],
)  # fmt: skip
def test_broken_seals(bank: Path, change: Defect, check: str, message: str) -> None:
    """Content without its digest, or digests without their fingerprint: that check alone."""
    with h5py.File(bank, "r+") as file:
        change(file)
    failed = by_status(verify(bank), "failed")
    assert list(failed) == [check], failed
    assert message in failed[check][0], failed


def test_a_flipped_bit_is_placed_and_the_rest_is_checked(bank: Path) -> None:
    """A failing checksum names dataset, copy and rows; the digest of that dataset cannot be had,
    and a second defect elsewhere is found in the same run."""
    sealed(bank, changed("test/balanced/feature", np.s_[0, 0, 0], np.nan))
    flip(bank, "train/instance/feature", chunk=1)
    checks = verify(bank)
    failed = by_status(checks, "failed")
    assert list(failed) == ["checksums", "features"], failed
    assert failed["checksums"][0].startswith("train/instance/feature, rows 0…221 of copy 1: ")
    assert failed["features"] == ("test/balanced/feature, copy 0: 1 row NaN or infinite, first 0",)
    assert list(by_status(checks, "skipped")) == ["digests"]


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("train/label", ["digests", "labels", "train_count", "classes"]),
        ("val/label", ["digests", "labels", "classes"]),
        ("test/index", ["digests", "index", "splits"]),
        ("val/path", ["digests", "paths"]),
        ("classifier/instance/bias", ["digests", "classifier"]),
        ("batchnorm/instance/bn1/mean", ["digests", "batchnorm"]),
        ("val/instance/feature", ["digests", "features"]),
    ],
)
def test_what_cannot_be_read_is_skipped(bank: Path, name: str, skipped: list[str]) -> None:
    """Checks without their data are neither passed nor failed, and say what they lack."""
    flip(bank, name)
    checks = verify(bank)
    assert list(by_status(checks, "failed")) == ["checksums"]
    assert list(by_status(checks, "skipped")) == skipped
    assert all(name in findings[0] for findings in by_status(checks, "skipped").values())


def test_classes_that_differ_are_a_note(bank: Path) -> None:
    """A class of test that train lacks, and one that val lacks: a note, no failure."""

    def change(file: h5py.File) -> None:
        file["train/label"][:] = np.minimum(file["train/label"][:], 3)
        file["classes/train_count"][:] = np.bincount(file["train/label"][:], minlength=5)
        file["val/label"][:] = np.clip(file["val/label"][:], 1, 3)

    sealed(bank, change)
    checks = verify(bank)
    assert not by_status(checks, "failed")
    assert by_status(checks, "note") == {
        "classes": (
            "val has no row of 1 class (0) of train",
            "test has 1 class (4) without a sample in train",
        )
    }


def test_repeated_rows_are_a_note(bank: Path) -> None:
    """Features of train that occur in val or test, of one view and of any copy."""

    def change(file: h5py.File) -> None:
        file["test/balanced/feature"][0, 10:13] = file["train/balanced/feature"][1, 40:43]
        file["val/instance/feature"][1, 99] = file["train/balanced/feature"][0, 0]  # other view

    sealed(bank, change)
    checks = verify(bank)
    assert not by_status(checks, "failed")
    assert by_status(checks, "note") == {
        "repeats": ("test/balanced/feature: 3 rows with the features of a row of train, first 10",)
    }


def test_train_balanced_may_share_rows_with_train(
    make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """The oracle's split is made of train's own images."""
    toy = make_toy()
    toy.labels["train_balanced"] = toy.labels["train"][:50]
    toy.features["train_balanced"] = {v: x[:50] for v, x in toy.features["train"].items()}
    names = [f"{i}.png" for i in range(222)]
    toy.write(
        tmp_path / "b.h5",
        sources={"train": "images", "train_balanced": "images"},
        paths={"train": names, "train_balanced": names[:50]},
    )
    checks = verify(tmp_path / "b.h5")
    assert not by_status(checks, "failed")
    assert list(by_status(checks, "note")) == ["classes"]


def test_banks_without_options_and_rows(tmp_path: Path) -> None:
    """Train alone, and an empty split, are nothing to complain about."""
    x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 1, 0])
    for name, splits in (("train", {"train": y}), ("empty", {"train": y, "test": y[:0]})):
        path = tmp_path / f"{name}.h5"
        with BankWriter(path, ["a", "b"], dim=4) as writer:
            for split, labels in splits.items():
                writer.split(split, labels, paths=["p"] * 0 if split == "test" else None)
                writer.features(split, "instance").append(x[: len(labels)])
        assert not by_status(verify(path), "failed"), name
        assert not by_status(verify(path), "skipped"), name


def test_many_blocks_give_the_same_verdict(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a chunk each, chunks of a few rows: digests match, rows are counted right, and
    damage is reported by chunk."""
    from featbank.bank import blocks, schema

    monkeypatch.setattr(schema, "CHUNK_BYTES", 300)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 700)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 8)).astype(np.float32), np.arange(50) % 3
    with BankWriter(bank, ["a", "b", "c"], dim=8, overwrite=True) as writer:
        writer.split("train", y)
        rows = writer.features("train", "instance", copies=2)
        for copy in x:
            rows.append(copy)
    assert not by_status(verify(bank), "failed")
    sealed(bank, changed("train/instance/feature", np.s_[1, 20:45, 2], np.nan))
    assert by_status(verify(bank), "failed") == {
        "features": ("train/instance/feature, copy 1: 25 rows NaN or infinite, first 20",)
    }
    flip(bank, "train/instance/feature", chunk=2)
    flip(bank, "train/instance/feature", chunk=8)
    failed = by_status(verify(bank), "failed")  # of the blocks, only these chunks are lost
    assert [finding.split(":")[0] for finding in failed["checksums"]] == [
        "train/instance/feature, rows 18…26 of copy 0",
        "train/instance/feature, rows 18…26 of copy 1",
    ]
    assert failed["features"] == (
        "train/instance/feature, copy 1: 18 rows NaN or infinite, first 27",
    )


def test_a_bank_that_cannot_be_opened(bank: Path) -> None:
    """Structure alone fails, with what opening says; where there is no bank, that is raised."""
    with h5py.File(bank, "r+") as file:
        del file["train/label"]
    (check,) = verify(bank)
    assert (check.name, check.status) == ("structure", "failed")
    assert "train/label is missing" in check.findings[0]
    for path in (bank.with_name("gone.h5"), bank.parent):
        with pytest.raises(errors.NotABank, match=path.name):
            verify(path)


def test_command_on_a_whole_bank(featbank: Run, bank: Path) -> None:
    """A line for each check and one in the end; the JSON object has the same checks."""
    lines = featbank("verify", bank).stdout.splitlines()
    assert lines[-1] == f"{bank} passed 20 checks."
    assert all(re.match(r"ok      \w+ +\S", line) for line in lines[:-1]), lines
    assert len(lines) == 21
    verdict = json.loads(featbank("verify", bank, "--json").stdout)
    with Bank(bank) as b:
        assert verdict["fingerprint"] == b.fingerprint
    assert (verdict["path"], verdict["passed"]) == (str(bank), True)
    assert [set(check) for check in verdict["checks"]] == [
        {"name", "status", "detail", "found"}
    ] * 20


def test_command_lists_all_that_is_wrong(featbank: Run, bank: Path) -> None:
    """Three defects and a note: lines on stdout, one on stderr, exit code 2; JSON stays whole."""
    sealed(
        bank,
        both(
            changed("test/label", 4, 9),
            changed("train/instance/feature", np.s_[:, 2, 0], np.nan),
            changed("val/instance/feature", np.s_[1, 9, 0], np.nan),
            changed("batchnorm/instance/bn1/variance", 0, -1),
        ),
    )
    done = featbank("verify", bank, code=2)
    assert done.stderr == (
        f"featbank: {bank} failed 3 of 20 checks: features, labels, batchnorm. "
        "Restore or rebuild it.\n"
    )
    lines = done.stdout.splitlines()
    assert sum(line.startswith("FAILED ") for line in lines) == 3
    assert lines[4].startswith("FAILED  features    train/instance/feature, copy 0: 1 row NaN")
    assert lines[5].strip().startswith("train/instance/feature, copy 1: 1 row NaN")
    assert lines[6].strip().startswith("val/instance/feature, copy 1: 1 row NaN")
    done = featbank("verify", bank, "--json", code=2)
    assert done.stderr.count("\n") == 1
    verdict = json.loads(done.stdout)
    assert verdict["passed"] is False
    assert {check["status"] for check in verdict["checks"]} <= set(STATUSES)
    failed = [check["name"] for check in verdict["checks"] if check["status"] == "failed"]
    assert failed == ["features", "labels", "batchnorm"]


def test_command_on_a_flipped_bit(installed: Run, bank: Path) -> None:
    """A damaged file, as the installed command sees it: no traceback, all other lines there."""
    flip(bank, "val/path")
    done = installed("verify", bank, code=2)
    assert done.stdout.count("\n") == 20
    assert "FAILED  checksums   val/path, rows 0…99: " in done.stdout
    assert "SKIPPED paths       val/path could not be read whole" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "failed 3 of 20 checks: checksums, digests, paths" in done.stderr


def test_command_where_opening_fails(featbank: Run, bank: Path) -> None:
    """One check, one line on stderr; the JSON object has no fingerprint."""
    with h5py.File(bank, "r+") as file:
        file.attrs["schema"] = np.int64(99)
    done = featbank("verify", bank, "--json", code=2)
    verdict = json.loads(done.stdout)
    assert (verdict["fingerprint"], verdict["passed"], len(verdict["checks"])) == (None, False, 1)
    assert "has schema 99" in verdict["checks"][0]["found"][0]
    assert "failed 1 of 1 checks: structure" in done.stderr


def test_texts_of_a_file_do_not_reach_the_terminal_raw(featbank: Run, bank: Path) -> None:
    """A path or source with terminal control codes is printed without them."""
    sealed(
        bank,
        both(
            other_source("val", "\x1b[31mtrain"),
            changed("test/path", 0, b"\x1b[2J.png"),
            changed("val/path", 0, b"\x1b[2J.png"),
        ),
    )
    assert "\x1b" not in featbank("verify", bank, code=2).stdout
    assert "\x1b" not in featbank("info", bank).stdout


def test_real_features(featbank: Run, real_features: Path) -> None:
    """CIFAR-100's known duplicates between train and test show as a note, and nothing else."""
    featbank("import", real_features, "-o", "b.h5")
    verdict = json.loads(featbank("verify", "b.h5", "--json").stdout)
    assert {c["name"] for c in verdict["checks"] if c["status"] != "ok"} == {"repeats"}
    (repeats,) = (c for c in verdict["checks"] if c["name"] == "repeats")
    assert [finding.split(" ")[:2] for finding in repeats["found"]] == [
        ["test/instance/feature:", "5"],
        ["test/balanced/feature:", "5"],
    ]


def test_every_figure_of_the_classifier_is_shown(
    featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    """Also of views near chance, and of those beside them; in ``--json``, too."""
    toy = make_toy(views=("instance", *(f"expert{i}" for i in range(10))))
    weight, bias = toy.classifier
    wrong = {f"expert{i}": (-weight, bias) for i in range(9)}
    path = toy.write(tmp_path / "b.h5", classifier={"instance": (weight, bias), **wrong})
    lines = featbank("verify", path).stdout.splitlines()
    for view in toy.features["train"]:
        (line,) = [line for line in lines if f" {view}: right on " in line]
        assert "(chance 20.0 %)" in line
        assert "averaged by class" in line
    checks = json.loads(featbank("verify", path, "--json").stdout)["checks"]
    (check,) = [check for check in checks if check["name"] == "classifier"]
    assert len(check["found"]) == 9
    assert check["detail"].count("averaged by class") == 11
