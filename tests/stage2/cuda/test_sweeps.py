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
from stage2.engine.rows import StreamedRows
from stage2.export.exporting import export_head
from tests.stage2.cuda.launches import SMALL
from tests.stage2.cuda.running import assert_same, gpu, on_device
from tests.stage2.cuda.streams import Event
from tests.stage2.engine.test_rows import Arrays
from tests.stage2.synthetic import MEMORY, problem


def _streamed(recipes: list[Recipe], device: str) -> dict[Recipe, Outcome]:
    """Train on features of which a third of the rows is in memory."""
    made = problem((40, 24, 12, 9, 6, 4), dim=6)
    (group,) = plan(recipes, made.shape, memory=MEMORY, device=device)
    view = on_device(made.view(), device)
    x = made.x["train", "instance"]
    budget = 3 * 4 * x.shape[1] * (len(x) // 6)
    train = StreamedRows(Arrays(x[None]), view.train.labels, budget=budget)
    data = type(view)(**{**vars(view), "train": train})
    return {outcome.recipe: outcome for outcome in run_group(group, data)}


def test_streamed_features() -> None:
    """Reference: the CPU. Copies run late on the simulated GPU, from pinned buffers: rows that are
    used before they arrive, or overwritten before they are copied, would change the result."""
    recipes = [Recipe("ce", lr=lr, epochs=3, batch_size=16) for lr in (0.05, 0.1)]
    with gpu():
        got = _streamed(recipes, "cuda")
    assert_same(got, _streamed(recipes, "cpu"))


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
