"""Training: the loop, and what it leaves."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from featbank import errors
from stage1.augment import augment, mixup
from stage1.backbones import Backbone, build_backbone
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings, Preprocessing, Split
from stage1.processes.distributed import ProcessGroup
from stage1.training.checkpoint import load_checkpoint, state_of
from stage1.training.fit import draws_of, fit
from stage1.training.settings import default_settings
from stage1.training.train import train

MakeLists = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("changes", [{}, {"nesterov": True}, {"mixup": 0.8}])
def test_steps_match_sgd_written_out(changes: dict[str, Any]) -> None:
    """Against g = ∇L + wd·w, v = μv + g, w −= lr·v (Nesterov: g + μv), batch by batch.

    The reference draws from generators of the same seeds; 50 rows at batch 16 drop the last two.
    """
    torch.manual_seed(0)
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8)
    labels = torch.randint(4, (50,))
    pre = Preprocessing(mean=(120.0,), std=(60.0,), pad=1, flip=True)
    settings = default_settings(
        "digits-lt", epochs=2, batch_size=16, lr=0.05, momentum=0.8, weight_decay=0.01, **changes
    )
    model = build_backbone("resnet8", in_channels=1, num_classes=4)
    slow = build_backbone("resnet8", in_channels=1, num_classes=4)
    slow.load_state_dict(model.state_dict())
    epochs = list(fit(model, Split(images, labels, np.arange(50)), pre, settings=settings))

    velocity = {name: torch.zeros_like(w) for name, w in slow.named_parameters()}
    losses = []
    for epoch in range(2):
        draws = draws_of(0, epoch, ProcessGroup(0, 1, torch.device("cpu")))
        order = torch.randperm(50, generator=draws.order)
        for step in range(3):
            rows = order[16 * step : 16 * step + 16]
            x, y = augment(images[rows], pre, generator=draws.images), labels[rows]
            targets = F.one_hot(y, 4).float()
            if settings.mixup:
                x, other, share = mixup(x, y, 0.8, generator=draws.images, weights=draws.shares)
                targets = share * targets + (1 - share) * F.one_hot(other, 4)
            loss = -(targets * slow(x).log_softmax(1)).sum(1).mean()
            slow.zero_grad()
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for name, w in slow.named_parameters():
                    assert w.grad is not None
                    gradient = w.grad + 0.01 * w
                    velocity[name] = 0.8 * velocity[name] + gradient
                    ahead = gradient + 0.8 * velocity[name]
                    w.sub_(0.05 * (ahead if settings.nesterov else velocity[name]))
    for name, w in slow.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), w, rtol=1e-3, atol=5e-4)
    assert epochs[1]["loss"] == pytest.approx(np.mean(losses[3:]), rel=1e-4)


def test_a_run_leaves_a_checkpoint_and_a_log(digits_run: Path) -> None:
    """Against the checkpoint's own model measured afresh, and the three lines of the log."""
    assert sorted(path.name for path in digits_run.iterdir()) == ["checkpoint.pt", "log.jsonl"]
    lines = [json.loads(line) for line in (digits_run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all({"loss", "lr", "train_accuracy", "val_accuracy", "seconds"} <= set(x) for x in lines)
    assert ["test_accuracy" in line for line in lines] == [False, False, True]
    _, checkpoint = load_checkpoint(digits_run)
    dataset = load_dataset(DatasetSettings("digits-lt"))
    assert checkpoint.settings.dataset == dataset.settings
    assert checkpoint.train_counts == tuple(dataset.train_counts)
    for name in ("val", "test"):
        split, pre = dataset.splits[name], checkpoint.preprocessing
        x = (split.images - pre.mean[0]) / pre.std[0]
        with torch.no_grad():
            right = (checkpoint.model()(x).argmax(1) == split.labels).double().mean()
        assert checkpoint.accuracy[name]["top1"] == pytest.approx(100 * right.item())
        assert lines[-1][f"{name}_accuracy"] == checkpoint.accuracy[name]["top1"]


def test_training_learns() -> None:
    """Against chance: 8 epochs take the loss far below log 10 and the training rows above 85 %."""
    dataset = load_dataset(DatasetSettings("digits-lt", imbalance=10))
    torch.manual_seed(0)
    model = build_backbone("resnet8", in_channels=1, num_classes=10)
    settings = default_settings("digits-lt", epochs=8)
    *_, last = fit(model, dataset.splits["train"], dataset.preprocessing, settings=settings)
    assert last["loss"] < 0.6
    assert last["train_accuracy"] > 85


def test_the_same_seed_gives_the_same_weights(digits_run: Path, tmp_path: Path) -> None:
    """Against the first run, whatever the global generator did since; another seed differs."""
    first = load_checkpoint(digits_run)[1].weights
    torch.manual_seed(99)
    state = torch.get_rng_state()
    train(default_settings("digits-lt", epochs=3), tmp_path / "again")
    assert torch.get_rng_state().equal(state), "training moved the caller's generator"
    again = load_checkpoint(tmp_path / "again")[1].weights
    assert all(again[name].equal(tensor) for name, tensor in first.items())
    train(default_settings("digits-lt", epochs=1, seed=1), tmp_path / "other")
    other = load_checkpoint(tmp_path / "other")[1].weights
    assert not other["stem.weight"].equal(first["stem.weight"])


def test_few_images_without_val_in_bf16(make_lists: MakeLists, tmp_path: Path) -> None:
    """Five images at batch 128 are one step; the classes without images are None, not 0."""
    dataset = DatasetSettings("lists", **make_lists(train=[0, 0, 1, 1, 2], test=[0, 1]))
    settings = default_settings(dataset, epochs=2, backbone="resnet8", precision="bf16")
    lines: list[str] = []
    progress: list[tuple[int, int]] = []
    path = train(settings, tmp_path, report=lines.append, progress=lambda *p: progress.append(p))
    _, checkpoint = load_checkpoint(path)
    assert list(checkpoint.accuracy) == ["test"]
    assert checkpoint.accuracy["test"]["many"] is None
    assert checkpoint.weights["classifier.weight"].dtype == torch.float32
    assert progress == [(0, 10), (5, 10), (5, 10), (10, 10)]
    assert lines[1].startswith("lists: 5 train, 2 test images of 3×12×16, 3 classes with 2…1")
    assert lines[-1].startswith("test: top1")
    assert "many –" in lines[-1]


def test_a_run_that_is_there_stays(digits_run: Path) -> None:
    """Refused before anything is read; with `overwrite` a run that fails leaves the old one."""
    before = {path.name: path.read_bytes() for path in digits_run.iterdir()}
    with pytest.raises(errors.OutputExists, match=r"checkpoint\.pt exists\."):
        train(default_settings("digits-lt", epochs=1), digits_run)
    diverging = default_settings("digits-lt", epochs=2, lr=1e9)
    with pytest.raises(errors.NotFinite, match=r"epoch 1 is nan: training diverged at lr 1e\+09"):
        train(diverging, digits_run, overwrite=True)
    assert {path.name: path.read_bytes() for path in digits_run.iterdir()} == before


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    """No folder, no part file; a file in the place of the folder is reported."""
    with pytest.raises(errors.NotFinite):
        train(default_settings("digits-lt", epochs=1, lr=1e9), tmp_path / "run")
    with pytest.raises(errors.ConfigError, match="Device 'tpu'"):
        train(default_settings("digits-lt", device="tpu"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(errors.ConfigError, match="is not a folder"):
        train(default_settings("digits-lt", epochs=1), tmp_path / "file")


def test_the_best_on_val_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: accuracies by hand, and the state after the second epoch, of 30, 70, 70, 40 %.

    Test is measured once, of the kept weights; a run stopped after the third knows them still.
    """
    settings = default_settings("digits-lt", epochs=4, warmup=0, keep="best", checkpoint_every=1)
    measured: list[str] = []
    seen: list[dict[str, torch.Tensor]] = []

    def measure(model: Backbone, _: object, split: str) -> dict[str, float | None]:
        measured.append(split)
        seen.append(state_of(model))
        return {"top1": 55.0 if split == "test" else (30.0, 70.0, 70.0, 40.0)[len(seen) - 1]}

    monkeypatch.setattr("stage1.training.train._measure", measure)
    _, best = load_checkpoint(train(settings, tmp_path / "run"))
    assert measured == ["val"] * 4 + ["test"]
    assert (best.epoch, best.accuracy) == (2, {"val": {"top1": 70.0}, "test": {"top1": 55.0}})
    for kept in (best.weights, seen[4]):
        assert all(kept[name].equal(tensor) for name, tensor in seen[1].items())
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert (line["val_accuracy"], line["test_accuracy"], line["kept_epoch"]) == (40, 55, 2)

    def stop(line: str) -> None:
        if line.startswith("epoch 4/"):
            raise KeyboardInterrupt

    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "stopped", report=stop)
    del seen[3:]
    _, resumed = load_checkpoint(train(settings, tmp_path / "stopped"))
    assert resumed.epoch == 2
    assert all(resumed.weights[name].equal(tensor) for name, tensor in best.weights.items())


def test_the_best_needs_a_val_split(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: the line, before training; nothing is left."""
    dataset = DatasetSettings("lists", **make_lists(train=[0, 1], test=[0, 1]))
    settings = default_settings(dataset, epochs=1, backbone="resnet8", keep="best")
    with pytest.raises(errors.ConfigError) as caught:
        train(settings, tmp_path / "run")
    assert str(caught.value) == (
        "--keep best needs a val split, and lists has none. "
        "Give --val-per-class, --val-fraction or --val-list, or leave --keep out."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_compiled_run_matches_a_plain_one(tmp_path: Path) -> None:
    """Reference: the run without; the names of the weights are the same, so extraction reads it."""
    plain = default_settings("digits-lt", epochs=1, lr=0.01)
    weights = [
        load_checkpoint(train(settings, tmp_path / str(settings.compile)))[1].weights
        for settings in (plain, dataclasses.replace(plain, compile=True))
    ]
    assert list(weights[0]) == list(weights[1])
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-3, atol=1e-4)


def test_scalars_for_tensorboard(tmp_path: Path) -> None:
    """Reference: the log, after a run that was stopped and resumed."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = default_settings("digits-lt", epochs=4, warmup=0, checkpoint_every=2)

    def stop(line: str) -> None:
        if line.startswith("epoch 3/"):
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(settings, run, report=stop, tensorboard=True)
    train(settings, run, tensorboard=True)
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt",
        "log.jsonl",
        "tensorboard",
    ]
    events = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    names = ["loss", "lr", "train_accuracy", "val_accuracy", "test_accuracy", "images_per_second"]
    assert sorted(events.Tags()["scalars"]) == sorted(names)
    for name in names:
        plotted = {event.step: event.value for event in events.Scalars(name)}
        assert plotted == pytest.approx({line["epoch"]: line[name] for line in log if name in line})


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the line, before anything is read."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(errors.ConfigError, match=r"Run pip install 'featbank\[tensorboard\]'"):
        train(default_settings("digits-lt", epochs=1), tmp_path / "run", tensorboard=True)
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_does_not_compile_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the line; nothing is left."""

    def no_compiler(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_with(model, backend=no_compiler))
    settings = default_settings("digits-lt", epochs=1, compile=True)
    with pytest.raises(errors.ConfigError, match=r"No working .*\)\. Leave --compile out"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
