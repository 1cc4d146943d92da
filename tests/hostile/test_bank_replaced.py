"""A bank that is replaced, or overwritten in place, while a sweep trains on it.

What is stored belongs to the bank that was opened, whole groups of it; the sweep ends in one line
before it trains another group.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featbank import Bank, errors
from featbank.bank.checked import fingerprint_at
from stage2 import Recipe, sweep
from stage2.results.store import Store
from tests.conftest import Run
from tests.stage2.synthetic import problem

SEEDS = range(6)
RECIPES = [Recipe("lws", seed=seed, epochs=2, batch_size=32) for seed in SEEDS]
"""A group each."""


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank, another like it but for its numbers, and one of another size."""
    folder = tmp_path_factory.mktemp("banks")
    problem().bank(folder / "bank.h5").close()
    problem(seed=1).bank(folder / "other.h5").close()
    problem((700, 30, 10), dim=60).bank(folder / "larger.h5").close()
    return folder


@pytest.fixture
def folder(banks: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(banks, tmp_path / "work"))


def _renamed(path: Path, other: Path) -> None:
    os.replace(other, path)


def _copied_over(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def _as_link(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def _garbage(path: Path, other: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def _emptied(path: Path, other: Path) -> None:
    os.truncate(path, 0)


CHANGES = [_renamed, _copied_over, _as_link, _garbage, _emptied]


def _disturbed(path: Path, results: Path, change: Callable[[], None]) -> str:
    """Sweep, and make a change once the first group is stored; what the sweep says."""

    def progress(done: int, total: int) -> None:
        if done == 1:
            change()

    with pytest.raises(errors.BankError) as caught:
        sweep(path, RECIPES, results=results, device="cpu", progress=progress)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("other", ["other", "larger"])
def test_replaced_in_mid_sweep(folder: Path, change: Any, other: str) -> None:
    """Reference: the undisturbed sweep of the first bank, run by run; a sweep that is started again
    trains on what is there now, beside it."""
    path, results = folder / "bank.h5", folder / "r.sqlite"
    fingerprint, second = (fingerprint_at(folder / f"{name}.h5") for name in ("bank", other))
    assert fingerprint != second
    sweep(path, RECIPES, results=folder / "whole.sqlite", device="cpu")
    said = _disturbed(path, results, lambda: change(path, folder / f"{other}.h5"))
    taken = change in (_renamed, _copied_over, _as_link)
    what = f"the bank with fingerprint {second[:12]}" if second and taken else "something else"
    assert f"{path} was replaced by {what} while it was in use" in said
    assert f"Results so far belong to the bank with fingerprint {str(fingerprint)[:12]}" in said
    stored = _table(results, str(fingerprint))
    assert 1 <= len(stored) < len(RECIPES)
    if taken:
        sweep(path, RECIPES, results=results, device="cpu")
        with Store(results) as store:
            counts = [len(store.finished(str(each))) for each in (fingerprint, second)]
        assert counts == [len(stored), len(RECIPES)]
        assert _table(results, str(fingerprint)) == stored
    else:
        with pytest.raises(errors.BankError):
            sweep(path, RECIPES, results=results, device="cpu")


def _table(results: Path, fingerprint: str) -> dict[str, Any]:
    """The metrics of the runs on a bank by recipe, equal to those of the undisturbed sweep."""
    with Store(results) as store, Store(results.with_name("whole.sqlite")) as whole:
        found, expected = (
            {run.recipe: run.metrics for run in each.runs(fingerprint)} for each in (store, whole)
        )
        assert found.items() <= expected.items()
    return found


@pytest.mark.parametrize("harmless", ["touched", "copied", "removed", "moved"])
def test_what_is_the_same_bank(folder: Path, harmless: str) -> None:
    """Reference: the undisturbed sweep; its open file is there whatever becomes of its name."""
    path = folder / "bank.h5"

    def change(done: int, total: int) -> None:
        if done == 1 and harmless == "touched":
            os.utime(path, (0, 0))
        elif done == 1 and harmless == "copied":
            os.replace(shutil.copy(path, folder / "copy.h5"), path)
        elif done == 1:
            path.rename(folder / "elsewhere.h5")
            if harmless == "removed":
                (folder / "elsewhere.h5").unlink()

    whole = sweep(path, RECIPES, device="cpu").board
    assert sweep(path, RECIPES, device="cpu", progress=change).board == whole


def test_bytes_that_change_unseen_are_caught_by_their_checksums(folder: Path) -> None:
    """Reference: time and size of the file stay, so that nothing but the checksum can tell; a sweep
    that streams its features reads them again for each group."""
    path, results = folder / "streamed.h5", folder / "r.sqlite"
    problem((9000, 2000, 1000), dim=60).bank(path).close()
    with h5py.File(path) as file:
        place = file["train/balanced/feature"].id.get_chunk_info(0).byte_offset
    recipes = [Recipe("lws", seed=seed, epochs=1, view="balanced") for seed in SEEDS]

    def progress(done: int, total: int) -> None:
        if done > 1:
            return
        status = path.stat()
        with path.open("r+b") as file:
            file.seek(place + 100)
            file.write(b"\x55" * 8)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    fingerprint = str(fingerprint_at(path))
    with pytest.raises(errors.Corrupt, match=r"train/balanced/feature, rows .* checksum fails"):
        sweep(path, recipes, results=results, device="cpu", memory=2 << 20, progress=progress)
    with Store(results) as store:
        assert 1 <= len(store.finished(fingerprint)) < len(recipes)


def test_the_command_ends_with_one_line(folder: Path, featbank: Run, monkeypatch: Any) -> None:
    """Reference: exit code 2, one line on stderr; the first group is in the table."""
    path, results = folder / "bank.h5", folder / "r.sqlite"
    add = Store.add_runs

    def replaced(self: Store, *arguments: Any, **options: Any) -> None:
        add(self, *arguments, **options)
        if (folder / "other.h5").exists():
            os.replace(folder / "other.h5", path)

    monkeypatch.setattr(Store, "add_runs", replaced)
    options = ["--recipe", "lws", "--seeds", "0,1,2,3,4,5", "--set", "epochs=2"]
    done = featbank("sweep", path, *options, "--device", "cpu", "-o", results, code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("featbank:")]
    assert len(lines) == 1, done
    assert "bank.h5 was replaced by the bank with fingerprint" in lines[0]
    assert '"name": "lws"' in featbank("leaderboard", results, "--format", "json").stdout


@pytest.fixture
def opened(folder: Path) -> Iterator[Bank]:
    """The bank, open."""
    with Bank(folder / "bank.h5") as bank:
        yield bank


@pytest.mark.parametrize("change", CHANGES)
def test_an_open_bank_knows(folder: Path, opened: Bank, change: Any) -> None:
    """Reference: silence before, `Mismatch` after."""
    opened.check_unchanged()
    change(opened.path, folder / "larger.h5")
    with pytest.raises(errors.Mismatch, match="was replaced by"):
        opened.check_unchanged()
