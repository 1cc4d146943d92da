"""The formula of what streaming reads, beside the bytes that the code reads of a real bank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank, write_bank
from stage2 import Recipe
from stage2.benchmark.streaming import Streamed
from stage2.engine.loop import run_group
from stage2.engine.streamed import StreamedRows
from stage2.features.loading import load_view
from stage2.features.planning import plan_bank
from stage2.methods.samplers import SAMPLERS

DIM, MEMORY, EPOCHS = 64, 8 << 20, 3
COUNTS = 3 * np.array([9000, 4000, 2500, 1200, 500, 200, 60, 20])
ROWS = {"train": int(COUNTS.sum()), "val": 40, "test": 40}


class Reads(Bank):
    """A bank that counts the bytes of training features that are read."""

    read_bytes = 0

    def read(self, split: str, view: str, start: int, stop: int, **options: Any) -> np.ndarray:
        """As of a bank."""
        if split == "train":
            self.read_bytes += (stop - start) * self.dim * np.dtype(self.dtype).itemsize
        return super().read(split, view, start, stop, **options)


def _bank(path: Path, dtype: str, *, by_class: bool) -> Reads:
    rng = np.random.default_rng(0)
    labels = {name: np.arange(rows) % len(COUNTS) for name, rows in ROWS.items()}
    train = np.arange(len(COUNTS)).repeat(COUNTS)
    labels["train"] = train if by_class else rng.permutation(train)
    features = {
        name: {"instance": rng.standard_normal((rows, DIM), dtype=np.float32)}
        for name, rows in ROWS.items()
    }
    write_bank(path, features, labels, dtype=dtype)
    return Reads(path)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("sampler", ["instance", "class_aware", "class_balanced", "sqrt"])
def test_streaming_reads_what_the_formula_says(
    sampler: str, dtype: str, by_class: bool, tmp_path: Path
) -> None:
    """Reference: bytes that training reads of a bank, per epoch and before the first one."""
    with _bank(tmp_path / "bank.h5", dtype, by_class=by_class) as bank:
        settings = {"sampler": sampler, "batch_size": 128, "lr": 0.01}
        recipes = [Recipe("ce", epochs=n, **settings) for n in (EPOCHS, 2 * EPOCHS)]
        short, long = (plan_bank(bank, [recipe], memory=MEMORY)[0] for recipe in recipes)
        view = load_view(bank, "instance", memory=MEMORY)
        assert isinstance(view.train, StreamedRows)
        assert not isinstance(view.evaluated["val"], StreamedRows)
        seen = []
        for group in (short, short, long):
            run_group(group, view)
            seen.append(bank.read_bytes)
        streamed = Streamed(
            COUNTS,
            DIM,
            np.dtype(dtype).itemsize,
            bank.chunk_rows("train", "instance"),
            3 * 4 * DIM * view.train._buffer_rows,
            sorted=by_class,
        )
        draws = short.stream.steps * short.stream.batch_size
    epoch = streamed.epoch_bytes(sampler, draws)
    again, longer = seen[1] - seen[0], seen[2] - seen[1]
    assert again == pytest.approx(EPOCHS * epoch, rel=0.03), "a group does not read its epochs"
    assert longer == pytest.approx(2 * EPOCHS * epoch, rel=0.03)
    before = seen[0] - again
    assert before == pytest.approx(streamed.start_bytes(), rel=0.03)


def test_tiles_of_a_group_share_what_is_read(tmp_path: Path) -> None:
    """Reference: the same bytes for one configuration and for many of several heads."""
    with _bank(tmp_path / "bank.h5", "float16", by_class=False) as bank:
        view = load_view(bank, "instance", memory=MEMORY)
        seen = []
        rates = np.geomspace(0.01, 0.1, 8).tolist()
        many = [Recipe(n, epochs=3, lr=r, batch_size=64) for n in ("ce", "ldam") for r in rates]
        for recipes in ([many[0]], [many[0]], many):
            (group,) = plan_bank(bank, recipes, memory=MEMORY)
            run_group(group, view)
            seen.append(bank.read_bytes)
    assert len(group.tiles) > 1
    assert seen[2] - seen[1] == seen[1] - seen[0]


def test_every_sampler_has_a_formula() -> None:
    """Reference: by hand; an epoch reads all blocks or fewer, and none where all rows are held."""
    streamed = Streamed(COUNTS, DIM, 2, 100, 3 * 4 * DIM * 9000)
    assert streamed.held().tolist() == [0, 0, 3060, 3600, 1500, 600, 180, 60]
    for sampler in SAMPLERS:
        assert 0 < streamed.epoch_bytes(sampler, ROWS["train"]) <= streamed.size
    everything = Streamed(COUNTS, DIM, 2, 100, 3 * 4 * DIM * ROWS["train"])
    assert everything.epoch_bytes("instance", ROWS["train"]) == pytest.approx(0, abs=1e-6)
    assert everything.start_bytes() == pytest.approx(2 * everything.size)
