"""Whole sweeps on the simulated GPU: streamed features, folds, exported heads."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from stage1.inference.features import _on_host
from stage2 import Recipe, sweep
from stage2.engine.loop import run_group
from stage2.engine.outcome import Outcome
from stage2.engine.plan import plan
from stage2.engine.streamed import StreamedRows
from stage2.export.exporting import export_head
from tests.stage2.cuda.launches import SMALL
from tests.stage2.cuda.running import assert_same, gpu, on_device
from tests.stage2.cuda.simulated import Refused, SimulatedTensor
from tests.stage2.cuda.streams import Event, Stream
from tests.stage2.engine.test_streamed import Arrays
from tests.stage2.synthetic import MEMORY, problem


def _streamed(recipes: list[Recipe], device: str, dtype: str = "float32") -> dict[Recipe, Outcome]:
    """Train on features of which a third of the rows is in memory, and evaluate on streamed ones in
    blocks of 8 rows."""
    made = problem((40, 24, 12, 9, 6, 4), dim=6)
    (group,) = plan(recipes, made.shape, memory=MEMORY, device=device)
    view = on_device(made.view(), device)
    rows = {"train": view.train, **view.evaluated}
    cut = {
        split: StreamedRows(
            Arrays(made.x[split, "instance"][None].astype(dtype)),
            known.labels,
            budget=3 * 4 * known.dim * max(8, len(known.labels) // 6),
        )
        for split, known in rows.items()
    }
    data = type(view)(**{**vars(view), "train": cut.pop("train"), "evaluated": cut})
    return {outcome.recipe: outcome for outcome in run_group(group, data)}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a split in many blocks."""
    monkeypatch.setattr("stage2.engine.streamed.READ_BYTES", 1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_streamed_features(dtype: str) -> None:
    """Reference: the CPU. Copies run late on the simulated GPU, from pinned buffers: rows that are
    used before they arrive, or overwritten before they are copied, would change the result."""
    recipes = [Recipe("ce", lr=lr, epochs=3, batch_size=16) for lr in (0.05, 0.1)]
    with gpu():
        got = _streamed(recipes, "cuda", dtype)
    assert_same(got, _streamed(recipes, "cpu", dtype))


def test_streaming_waits_for_nothing() -> None:
    """Reference: the waits and blocking copies of a run of fewer epochs, which are as many; only
    the thread that reads waits, for a block whose computations are done."""
    counts = []
    for epochs in (2, 5):
        with gpu() as device:
            _streamed([Recipe("ce", lr=0.1, epochs=epochs, batch_size=16)], "cuda")
        counts.append(device.waits + device.copies)
    more = set(counts[1] - counts[0])
    assert not {place for place in more if "temperature.py" not in place}


@pytest.mark.parametrize("missing", ["wait", "record"])
def test_a_block_used_too_early_is_noticed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the test above; blocks that are read before they arrive, and memory that PyTorch
    would give away before its kernels have run."""
    recipes = [Recipe("ce", lr=0.1, epochs=1, batch_size=16)]
    with gpu():
        if missing == "wait":
            wait = Stream.wait_event
            monkeypatch.setattr(Stream, "wait_event", lambda s, e: wait(s, e) if s.aside else None)
            with pytest.raises(AssertionError):
                assert_same(_streamed(recipes, "cuda"), _streamed(recipes, "cpu"))
        else:
            monkeypatch.setattr(SimulatedTensor, "record_stream", lambda *_: None)
            with pytest.raises(Refused, match="another stream"):
                _streamed(recipes, "cuda")


@pytest.mark.parametrize("waits", ["filled", "copied"])
def test_a_missing_wait_is_noticed(waits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the test above, without one of the waits for a copy."""
    recipes = [Recipe("ce", lr=lr, epochs=3, batch_size=16) for lr in (0.05, 0.1)]
    if waits == "filled":
        monkeypatch.setattr(StreamedRows, "_await", lambda rows, event: None)
    else:
        monkeypatch.setattr("stage2.engine.staging.Staging.end", _end_without_buffers)
    with gpu():
        got = _streamed(recipes, "cuda")
    with pytest.raises(AssertionError):
        assert_same(got, _streamed(recipes, "cpu"))


def _end_without_buffers(staging: object) -> Event:
    """An end that also forgets which buffers are still to be copied."""
    staging._copied = _Forgetful()  # type: ignore[attr-defined]
    return staging._stream.record_event()  # type: ignore[attr-defined]


class _Forgetful(list):
    def __getitem__(self, turn: object) -> None:
        return None

    def __setitem__(self, turn: object, event: object) -> None:
        return None


def test_sweeps_with_folds(tmp_path: Path) -> None:
    """Reference: the CPU."""
    recipes = [Recipe("ce", lr=0.05, epochs=2), Recipe("ncm"), Recipe("knn", k=3)]
    with SMALL.bank(tmp_path / "bank.h5") as bank:
        with gpu():
            got = sweep(bank, recipes, device="cuda", folds=2, screen=True)
        expected = sweep(bank, recipes, device="cpu", folds=2, screen=True)
    trained = [{o.recipe: o for o in s.outcomes if o.parameters} for s in (got, expected)]
    assert_same(*trained)


@pytest.mark.parametrize("name", ["crt", "lws", "disalign", "knn", "ncm", "tau_norm", "ridge"])
def test_exported_heads(name: str, tmp_path: Path) -> None:
    """Reference: the head of the same recipe, trained and exported on the CPU."""
    recipe = Recipe(name, **({"epochs": 2} if Recipe(name).stepped else {}))
    x = torch.from_numpy(SMALL.x["test", "instance"])
    results, path = tmp_path / "results.sqlite", tmp_path / "bank.h5"
    with SMALL.bank(path) as bank:
        sweep(bank, [recipe], results=results, device="cpu")
    logits = []
    for device in ("cuda", "cpu"):
        with gpu() if device == "cuda" else contextlib.nullcontext():
            exported = export_head(
                results, recipe.id, tmp_path / f"{device}.safetensors", features=path, device=device
            )
        assert sum(exported.changed.values()) <= 1, f"got {exported.changed}"
        with torch.no_grad():
            logits.append(exported.module(x))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)


def test_features_arrive_before_they_are_read() -> None:
    """Reference: the features; their copies to the host run late, on the stream of their device."""
    x = torch.arange(6.0).view(2, 3)
    with gpu():
        arrays = _on_host({"instance": x.to("cuda")})
        np.testing.assert_array_equal(arrays()["instance"], x.numpy())
