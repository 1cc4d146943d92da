"""Features that are NaN or infinite behind right checksums are refused before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import Bank, errors
from featbank.bank.fingerprint import array_digest
from stage2 import Recipe, sweep
from stage2.engine.streamed import StreamedRows
from stage2.features.loading import load_view
from stage2.plots.embedding import embed
from stage2.results.store import Store
from tests.conftest import Toy

ROWS, DIM, STREAMED = 6000, 64, 2 << 20


def spoiled(path: Path, name: str, place: object, value: float) -> None:
    """Put a value into a bank with checksums and digests that fit it."""
    with h5py.File(path, "r+") as file:
        file[name][place] = value
        file[name].attrs["sha256"] = np.bytes_(array_digest(file[name][()]))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_not_finite_in_memory(
    make_toy: Callable[..., Toy], tmp_path: Path, split: str, dtype: str, value: float
) -> None:
    """Nothing is trained, whatever split it is."""
    path = make_toy().write(tmp_path / "b.h5", dtype=dtype)
    spoiled(path, f"{split}/balanced/feature", np.s_[0, 31, 2], value)
    results = tmp_path / "r.sqlite"
    with pytest.raises(errors.NotFinite, match=f"b.h5: {split}/balanced, copy 0: NaN .* in row 31"):
        sweep(path, [Recipe("crt", epochs=1, view="balanced")], results=results)
    with Bank(path) as bank, pytest.raises(errors.NotFinite, match=f"{split}/balanced: NaN"):
        embed(bank, split=split, view="balanced")
    assert len(sweep(path, [Recipe("crt", epochs=1)], results=results).outcomes) == 1


@pytest.mark.parametrize("spoiled_view", ["instance", "balanced"])
@pytest.mark.parametrize("order", [("instance", "balanced"), ("balanced", "instance")])
def test_not_finite_in_one_of_several_views(
    make_toy: Callable[..., Toy], tmp_path: Path, order: tuple[str, str], spoiled_view: str
) -> None:
    """Nothing is trained on the other, in whatever order they come."""
    path = make_toy().write(tmp_path / "b.h5")
    spoiled(path, f"train/{spoiled_view}/feature", np.s_[0, 3, 2], np.nan)
    recipes = [Recipe("crt", epochs=1, view=view) for view in order]
    with pytest.raises(errors.NotFinite, match=f"train/{spoiled_view}"):
        sweep(path, recipes, results=tmp_path / "r.sqlite")
    with Bank(path) as bank, Store(tmp_path / "r.sqlite") as store:
        assert not store.statuses(bank.fingerprint)


def test_not_finite_in_the_balanced_draws(make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    """Nothing is trained on ``train`` where a later recipe learns from them."""
    path = make_toy(splits=("train", "train_balanced", "test")).write(tmp_path / "b.h5")
    spoiled(path, "train_balanced/instance/feature", np.s_[0, 3, 2], np.inf)
    recipes = [Recipe("crt", epochs=1, train_on=on) for on in ("train", "train_balanced")]
    with pytest.raises(errors.NotFinite, match="train_balanced/instance"):
        sweep(path, recipes, results=tmp_path / "r.sqlite")
    with Bank(path) as bank, Store(tmp_path / "r.sqlite") as store:
        assert not store.statuses(bank.fingerprint)


@pytest.mark.parametrize("copy", [0, 1])
def test_not_finite_in_a_stream(
    make_toy: Callable[..., Toy], tmp_path: Path, copy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last row of a copy too; features known to be finite are not gone through again."""
    toy = make_toy((ROWS, ROWS // 2), dim=DIM, splits=("train",), views=("instance",))
    x = toy.features["train"]["instance"]
    toy.features["train"]["instance"] = np.stack([x, x + 1])
    path = toy.write(tmp_path / "b.h5")
    finite: set[tuple[str, str]] = set()
    with Bank(path) as bank:
        data = load_view(bank, "instance", memory=STREAMED, finite=finite)
        assert isinstance(data.train, StreamedRows)
        monkeypatch.setattr(Bank, "blocks", lambda *_, **__: pytest.fail("read again"))
        load_view(bank, "instance", memory=STREAMED, finite=finite)
    monkeypatch.undo()
    spoiled(path, "train/instance/feature", np.s_[copy, len(x) - 1, DIM - 1], np.nan)
    with (
        Bank(path) as bank,
        pytest.raises(errors.NotFinite, match=f"copy {copy}: NaN or infinity in row {len(x) - 1} "),
    ):
        load_view(bank, "instance", memory=STREAMED)
