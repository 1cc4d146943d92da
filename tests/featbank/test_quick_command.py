"""`featbank quick`: the bank, results and report that import, split, sweep and report make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank
from stage2.results.store import Store
from tests.conftest import Run, Toy

ARRAYS = ("x_train.npy", "y_train.npy", "--test", "x_test.npy", "y_test.npy")


@pytest.fixture
def quick(featbank: Run, make_toy: Callable[..., Toy], tmp_path: Path) -> Run:
    """Runs the command beside arrays of five classes, of every split."""
    toy = make_toy((60, 30, 20, 10, 6))
    for split, y in toy.labels.items():
        np.save(tmp_path / f"x_{split}.npy", toy.features[split]["instance"])
        np.save(tmp_path / f"y_{split}.npy", y)
    np.save(tmp_path / "w.npy", toy.classifier[0])
    np.save(tmp_path / "b.npy", toy.classifier[1])
    return lambda *arguments, **options: featbank("quick", *arguments, **options)


def runs(path: Path) -> dict[str, str]:
    """The statuses of the runs of a results file that holds one bank."""
    with Store(path) as store:
        (fingerprint,) = store.banks()
        return store.statuses(fingerprint)


def test_val_of_test_and_the_steps_by_hand(quick: Run, featbank: Run, tmp_path: Path) -> None:
    """Reference: import, split --val-from-test, sweep of the ready specification, report."""
    shown = quick(*ARRAYS, "--classifier", "w.npy", "b.npy", "-o", "mine").stdout
    assert "20 rows held out of test, 20 % of each class" in shown
    assert "logit_adjust" in shown
    assert "selected on val" in shown
    assert "--seen none takes it from train" in shown
    files = {path.name for path in (tmp_path / "mine").iterdir()}
    assert files >= {"bank.h5", "results.sqlite", "report.html"}
    assert not [name for name in files if name.startswith("tmp")]
    pairs = ("--train", *ARRAYS, "--classifier", "w.npy", "b.npy")
    featbank("import", *pairs, "-o", "imported.h5")
    featbank("split", "imported.h5", "--val-from-test", 4, "-o", "split.h5")
    with Bank(tmp_path / "mine/bank.h5") as made, Bank(tmp_path / "split.h5") as expected:
        assert made.fingerprint == expected.fingerprint
    featbank("sweep", "split.h5", "quick", "-o", "swept.sqlite")
    assert runs(tmp_path / "mine/results.sqlite") == runs(tmp_path / "swept.sqlite")


def test_again_takes_what_is_there(quick: Run, tmp_path: Path) -> None:
    """Reference: the bank's bytes, and the runs the sweep says it skips; other arrays are not taken
    for the same, unless they are to replace them."""
    quick(*ARRAYS)
    folder = tmp_path / "featbank-quick"
    before = (folder / "bank.h5").stat().st_mtime_ns
    count = len(runs(folder / "results.sqlite"))
    assert f"{count} runs were in" in quick(*ARRAYS).stdout
    assert (folder / "bank.h5").stat().st_mtime_ns == before
    np.save(tmp_path / "x_test.npy", np.load(tmp_path / "x_test.npy") + 1)
    assert "has other features" in quick(*ARRAYS, code=2).stderr
    assert "were in" not in quick(*ARRAYS, "--overwrite").stdout
    assert len(runs(folder / "results.sqlite")) == count


def test_val_of_train_of_a_frozen_model_and_a_given_val(quick: Run, tmp_path: Path) -> None:
    """Reference: the rows of each split."""
    quick(*ARRAYS, "--seen", "none", "-o", "frozen")
    quick(*ARRAYS, "--val", "x_val.npy", "y_val.npy", "-o", "given")
    with Bank(tmp_path / "frozen/bank.h5") as frozen, Bank(tmp_path / "given/bank.h5") as given:
        rows = [[bank.rows(s) for s in ("train", "val", "test")] for bank in (frozen, given)]
        assert not frozen.seen("val").any()
    assert rows == [[101, 25, 100], [126, 100, 100]]


def test_one_file_of_every_split(quick: Run, tmp_path: Path) -> None:
    """Reference: the same arrays as pairs."""
    arrays = {path.stem: np.load(path) for path in tmp_path.glob("[xy]_*.npy")}
    np.savez(tmp_path / "feats.npz", **arrays)
    quick("feats.npz", "-o", "one")
    quick(*ARRAYS, "--val", "x_val.npy", "y_val.npy", "-o", "pairs")
    with Bank(tmp_path / "one/bank.h5") as one, Bank(tmp_path / "pairs/bank.h5") as pairs:
        assert one.fingerprint == pairs.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x_train.npy", "y_train.npy"), "There is no test to measure on. Give --test X Y."),
        (("a", "b", "c"), "3 arrays are given. Give features and labels of train, X Y"),
        ((), "Missing argument 'X Y | FILE'"),
    ],
)
def test_wrong_input(quick: Run, arguments: tuple[str, ...], message: str) -> None:
    """One line with the remedy, exit code 2."""
    assert message in quick(*arguments, code=2).stderr
