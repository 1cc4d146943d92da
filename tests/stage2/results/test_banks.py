"""Several banks of a results file: their names, the banks asked for, what holds between them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, errors
from featbank.bank.naming import check_label, label_of
from stage2.features.folds import deal
from stage2.methods.recipe import Recipe
from stage2.results.banks import banks_of, between, same_rows
from stage2.results.choice import choose_on
from stage2.results.naming import bank_names, matching_banks
from stage2.results.protocol import joined_line
from stage2.results.record import identity_of
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.stage2.results.several import put
from tests.stage2.results.tampering import change
from tests.stage2.synthetic import problem


@pytest.fixture
def store(several: Path) -> Iterator[Store]:
    """The results file of four banks, opened."""
    with Store(several) as opened:
        yield opened


def test_labels() -> None:
    """Reference: the rule, by hand; a label that anyone wrote into a bank is dropped, not shown."""
    for label in ("r32", "ResNet-50 (mixup)", "七面鳥"):
        assert check_label(label) == label == label_of({"label": label})
    for label in ("", " r32", "a,b", "all", "bell\x07", "x" * 61):
        with pytest.raises(errors.ConfigError, match="cannot name a bank. Give 1 to 60 printable"):
            check_label(label)
        assert label_of({"label": label}) is None
    assert label_of({"label": 3}) is None
    assert label_of({}) is None


def test_names_are_labels_or_files() -> None:
    """Reference: by hand; two banks of one name have the first digits of their fingerprints too."""
    records = {
        "a1" * 32: {"path": "one/r32.h5"},
        "b2" * 32: {"path": "two/r32.h5"},
        "c3" * 32: {"path": "x.h5", "label": "mixup"},
        "d4" * 32: {"path": "a1a1.h5"},
    }
    assert [*bank_names(records).values()] == [
        "r32-a1a1a1a1a1a1",
        "r32-b2b2b2b2b2b2",
        "mixup",
        "a1a1",
    ]
    expected = {
        "mixup": "c3",
        "x.h5": "c3",
        "two/r32.h5": "b2",
        "r32-a1a1a1a1a1a1": "a1",
        "a1a1": "d4",  # a name before the beginning of a fingerprint
        "a1a1a1": "a1",
        "r33": "",
        "r32": "a1 b2",
        "r32.h5": "a1 b2",
    }
    for wanted, digits in expected.items():
        matches = [fingerprint[:2] for fingerprint in matching_banks(records, wanted)]
        assert matches == digits.split(), f"{wanted}: {matches}"


def test_banks_by_name(store: Store) -> None:
    """Reference: the records, by the names of files and the label of one."""
    assert [each.name for each in banks_of(store, "ResNet-50,r32")] == ["ResNet-50", "r32"]
    digits = next(f for f, about in store.banks().items() if about["path"].endswith("steep.h5"))
    found = banks_of(store, f"r32.h5, {digits[:8]}")
    assert [each.fingerprint for each in found] == [
        Results(store, bank=name).fingerprint for name in ("r32", "steep")
    ]
    assert [each.name for each in banks_of(store, "r50.h5")] == ["ResNet-50"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (None, "the file holds results of 4 banks. Choose one with --bank: .*ResNet-50, .*r50.h5"),
        ("r33,r32", "r33 matches 0 banks. Choose one with --bank: [0-9a-f]{12} "),
        ("r32,,steep", "--bank r32,,steep names an empty bank"),
        ("r32,r32.h5", "'r32' and 'r32.h5' are the same bank. Name it once."),
        ("all", "r32 has 6 classes and four 4, so their figures cannot be compared"),
    ],
)
def test_wrong_banks(wanted: str | None, message: str, store: Store) -> None:
    """Reference: the messages; each states the fact and the remedy in one line."""
    with pytest.raises(errors.ConfigError, match=message) as caught:
        banks_of(store, wanted)
    assert "\n" not in str(caught.value)


def test_an_ambiguous_name_lists_fingerprints(tmp_path: Path) -> None:
    """Two files of one name in two folders: the name means both, the fingerprints one each."""
    for seed, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        bank = put(problem(seed=seed), tmp_path / folder / "b.h5")
        sweep(bank, [Recipe("ncm")], results=tmp_path / "r.sqlite")
    with Store(tmp_path / "r.sqlite") as store:
        fingerprints = [*store.banks()]
        with pytest.raises(errors.ConfigError, match="b matches 2 banks") as caught:
            banks_of(store, "b")
        assert all(fingerprint[:12] in str(caught.value) for fingerprint in fingerprints)
        names = [each.name for each in banks_of(store, "all")]
        assert names == [f"b-{fingerprint[:12]}" for fingerprint in fingerprints]


def test_classes_of_other_names_are_refused(tmp_path: Path) -> None:
    """Reference: the third class has another name; a bank without names is not refused."""
    names = [f"class {k}" for k in range(6)]
    kinds = {"a": names, "b": [*names[:2], "owl", *names[3:]], "c": None}
    for seed, (name, class_names) in enumerate(kinds.items()):
        bank = put(problem(seed=seed), tmp_path / f"{name}.h5", class_names=class_names)
        sweep(bank, [Recipe("ncm")], results=tmp_path / "r.sqlite")
    with Store(tmp_path / "r.sqlite") as store:
        with pytest.raises(
            errors.ConfigError, match="class 2 of a and b is not the same, 'class 2'"
        ):
            banks_of(store, "a,b")
        assert len(banks_of(store, "b,c")) == 2


def test_identities_of_rows(several: Path, store: Store) -> None:
    """Reference: SHA-256 of source, indices and labels with hashlib; that of folds is of the rows
    of train that are held out."""
    with Bank(several.with_name("steep.h5")) as bank:
        index, labels = bank.index("test"), bank.labels("test")
        data = b"test\0" + index.astype("<i8").tobytes() + labels.astype("<i8").tobytes()
        expected = hashlib.sha256(data).hexdigest()
        assert identity_of(bank, "test") == expected
        assert store.banks()[bank.fingerprint]["identities"]["test"] == expected
        folds = deal(bank.labels("train"), 3)
        held = [a[folds.rows].astype("<i8").tobytes() for a in (bank.index("train"), folds.labels)]
        assert (
            identity_of(bank, "3-fold", folds)
            == hashlib.sha256(b"train\0" + b"".join(held)).hexdigest()
        )


def test_same_rows_or_not(several: Path, tmp_path: Path) -> None:
    """Reference: the banks as they were made: ``steep`` has other indices, an older file no
    digests."""
    with Store(several) as store:
        r32, r50, steep = banks_of(store, "r32,ResNet-50,steep")
    assert (same_rows(r32, r50, "test"), same_rows(r32, steep, "test")) == (True, False)
    assert between([r32, r50]) == ["the same test rows"]
    assert between([r32, r50, steep]) == [
        "not the same test rows",
        "imbalance r32 18, ResNet-50 18, steep 30",  # 70 / 4 and 120 / 4
        "many, medium, few: other classes on each",
    ]
    older = tmp_path / "older.sqlite"
    older.write_bytes(several.read_bytes())
    change(older, "UPDATE bank SET about = json_remove(about, '$.identities')")
    with Store(older) as store:
        r32, r50 = banks_of(store, "r32,ResNet-50")
        assert same_rows(r32, r50, "test") is None
        assert same_rows(r32, r32, "test") is True
        assert between([r32, r50]) == ["test rows not known to be the same"]


def test_the_protocol_of_several(store: Store) -> None:
    """Reference: the parts of each bank's own line: none is lost, none is said twice."""
    banks = banks_of(store, "r32,ResNet-50")
    parts = {bank.name: bank.board.protocol_parts for bank in banks}
    line = joined_line(parts, between(banks))
    for bank in banks:
        assert f"[{bank.name}] bank {bank.fingerprint[:12]} · " in line
        assert all(part in line for part in bank.board.protocol_parts)
        assert " · ".join(bank.board.protocol_parts) == bank.board.protocol
    own, rest = line.split(" [each bank] ")
    assert own.count("corrected for choosing") == 2
    assert rest.count("4 configurations tried") == 1
    assert rest.endswith(" [between the banks] the same test rows")
    assert joined_line({"r32": parts["r32"]}) == banks[0].board.protocol


def test_configurations_of_several_banks(store: Store) -> None:
    """Reference: the best of each recipe on each bank's own board, recipes side by side."""
    banks = banks_of(store, "r32,ResNet-50,steep")
    choice = choose_on(banks)
    labels = [each.label for each in choice.shown]
    best = {bank.name: bank.board.best().first_rows() for bank in banks}
    for bank in banks:
        expected = {row["recipe"] for row in best[bank.name]}
        assert {e.row["recipe"] for e in choice.shown if e.results is bank} == expected
    order = [row["name"] for row in best["r32"]]
    assert labels == [
        f"{name} · {bank.name}"
        for name in order
        for bank in banks
        if (name, bank.name) != ("ncm", "steep")
    ]
    assert "[steep] bank" in choice.protocol()
    with pytest.warns(UserWarning, match="2 of 3 configurations are drawn, the best on val"):
        few = choose_on(banks, most=6)
    assert {each.configuration.name for each in few.shown} == {*order[:2]}
    with pytest.warns(UserWarning, match="steep has none of the recipes that are drawn"):
        shown = choose_on(banks, recipes=["ncm"]).shown
    assert [each.label for each in shown] == ["ncm · r32", "ncm · ResNet-50"]
    with pytest.raises(errors.ConfigError, match="has no configuration 'nc1'"):
        choose_on(banks, recipes=["ncm", "nc1"])
    assert np.all([each.row["macro"] is not None for each in choice.shown])


def test_records_of_anyone(several: Path, tmp_path: Path) -> None:
    """Reference: the messages: a label or a digest of rows that featbank never writes is damage,
    and the names of files, which may be anything, stand on one line."""
    wrong = {
        "label": ["json('3')", "'bell' || char(7)"],
        "identities": ["json('[]')", 'json(\'{"test": "abc"}\')', "'x'"],
    }
    for key, values in wrong.items():
        for value in values:
            path = tmp_path / "wrong.sqlite"
            path.write_bytes(several.read_bytes())
            change(path, f"UPDATE bank SET about = json_set(about, '$.{key}', {value})")
            message = f"is damaged: column about has no {key} of a bank"
            with Store(path) as store, pytest.raises(errors.ConfigError, match=message):
                banks_of(store, "all")
    named = {"a1" * 32: {"path": "runs/=cmd\n\x1b[2J.h5"}}
    assert [*bank_names(named).values()] == ["=cmd\\n\\x1b[2J"]
    assert matching_banks(named, "=cmd\n\x1b[2J.h5") == [*named]
