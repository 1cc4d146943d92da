"""Runs that were stopped or killed go on to the result of one that was not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featbank import errors
from stage1.backbones import build_backbone
from stage1.data.images import DatasetSettings
from stage1.training.settings import TrainSettings, default_settings
from stage1.training.train import train
from tests.stage1.conftest import MakeLists

EPOCHS = 5


def _settings(**changes: Any) -> TrainSettings:
    changes = {"epochs": EPOCHS, "checkpoint_every": 2, "device": "cpu"} | changes
    return default_settings(DatasetSettings("digits-lt", imbalance=100.0), **changes)


def _few(options: dict[str, str], **changes: Any) -> TrainSettings:
    """A run of milliseconds."""
    changes = {"epochs": EPOCHS, "checkpoint_every": 2, "device": "cpu", "batch_size": 4} | changes
    return default_settings(
        DatasetSettings("lists", **options), **{"backbone": "resnet8"} | changes
    )


def _result(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The checkpoint, and the log but for times."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    log = [{k: v for k, v in line.items() if "second" not in k} for line in lines]
    return torch.load(run / "checkpoint.pt", weights_only=True), log


def _assert_same(run: Path, whole: Path) -> None:
    (resumed, log), (expected, expected_log) = _result(run), _result(whole)
    assert log == expected_log
    for name, tensor in expected.pop("weights").items():
        assert resumed["weights"][name].equal(tensor), f"{name} differs"
    del resumed["weights"]
    assert resumed == expected
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.pt", "log.jsonl"]


def _stop_after(epoch: int) -> Callable[[str], None]:
    """A report that is interrupted from the keyboard when it hears of `epoch`."""

    def report(line: str) -> None:
        if line.startswith(f"epoch {epoch}/"):
            raise KeyboardInterrupt

    return report


def _stop(settings: TrainSettings, run: Path, epoch: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(settings, run, report=_stop_after(epoch), **options)


def _kill(settings: TrainSettings, run: Path, *, after: int) -> None:
    """Train in a fork of this process, which is killed when it reports epoch `after`."""

    def report(line: str) -> None:
        if line.startswith(f"epoch {after}/"):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            train(settings, run, report=report)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(
    "changes", [{}, {"mixup": 0.7, "deferred_sampling": True, "deferral": 0.5, "keep": "best"}]
)
def test_killed_and_resumed_it_ends_as_an_uninterrupted_run(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """Reference: the run that was left alone, bit by bit; killed twice, after 1 and 3 epochs."""
    settings = _settings(**changes)
    train(settings, tmp_path / "whole")
    run, lines = tmp_path / "run", list[str]()
    _kill(settings, run, after=1)
    _kill(settings, run, after=3)
    assert not (run / "checkpoint.pt").exists()
    train(settings, run, report=lines.append)
    assert lines[2] == f"Resuming {run} after epoch 2 of {EPOCHS}"
    assert lines[3].startswith(f"epoch 3/{EPOCHS}")
    _assert_same(run, tmp_path / "whole")


def test_dropout_goes_on_as_it_would_have(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: the uninterrupted run of a backbone with dropout, which draws in every step."""
    backbone = "torchvision:mobilenet_v3_small"
    model = build_backbone(backbone, in_channels=3, num_classes=3)
    assert any(isinstance(module, torch.nn.Dropout) and module.p for module in model.modules())
    options = make_lists(train=[0, 0, 1, 1, 2, 2, 0, 1], test=[0, 1, 2])
    settings = _few(options, backbone=backbone, epochs=3, checkpoint_every=1, lr=0.01)
    train(settings, tmp_path / "whole")
    torch.manual_seed(5)
    _stop(settings, tmp_path / "run", 2)
    torch.manual_seed(6)
    train(settings, tmp_path / "run")
    _assert_same(tmp_path / "run", tmp_path / "whole")


def test_what_is_kept_is_reported(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: by hand; before the first state nothing is left, after it the folder is named."""
    settings, run = _few(make_lists(train=[0, 1, 1, 0], test=[0, 1])), tmp_path / "run"
    _stop(settings, run, 1)
    assert not run.exists()
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        _stop_after(3)(line)

    with pytest.raises(KeyboardInterrupt):
        train(settings, run, report=report)
    assert lines[-1] == (
        f"2 of 5 epochs stay in {run}/unfinished. "
        "The same command without --overwrite resumes from there."
    )
    assert sorted(p.name for p in (run / "unfinished").iterdir()) == ["log.jsonl", "state.pt"]


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"lr": 0.05}, "lr 0.1 → 0.05"),
        ({"epochs": 7, "weight_decay": 0.0}, "epochs 5 → 7; weight_decay 0.0002 → 0.0"),
        ({"loss": "mine", "loss_settings": {"tau": 2.0}}, "loss ce → mine; mine tau none → 2.0"),
    ],
)
def test_other_settings_do_not_go_on(
    changes: dict[str, Any], differences: str, make_lists: MakeLists, tmp_path: Path
) -> None:
    """Reference: the line; the state stays until --overwrite, which starts over."""
    options, run = make_lists(train=[0, 1, 1, 0], test=[0, 1]), tmp_path / "run"
    _stop(_few(options), run, 3)
    before = (run / "unfinished" / "state.pt").read_bytes()
    changed: dict[str, Any] = {
        "settings": _few(options, **changes),
        "objective": lambda counts: lambda z, y, epoch: torch.nn.functional.cross_entropy(z, y),
    }
    with pytest.raises(errors.OutputExists) as caught:
        train(run=run, **changed)
    assert str(caught.value) == (
        f"{run} has an unfinished run of other settings ({differences}). "
        "Use --overwrite to start over, or choose another folder."
    )
    assert (run / "unfinished" / "state.pt").read_bytes() == before
    train(run=run, overwrite=True, **changed)
    train(run=tmp_path / "whole", **changed)
    _assert_same(run, tmp_path / "whole")


def test_other_images_processes_and_versions_do_not_go_on(
    make_lists: MakeLists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the line."""
    run, labels = tmp_path / "run", [0, 1, 1, 0]
    _stop(_few(make_lists(train=labels, test=[0, 1])), run, 3)
    other = _few(make_lists(train=[0, 1, 1, 1], test=[0, 1]))
    counts = "training images of class 0 2 → 1; training images of class 1 2 → 3"
    with pytest.raises(errors.OutputExists, match=counts):
        train(other, run)
    monkeypatch.setattr(torch, "__version__", "9.9")
    with pytest.raises(errors.OutputExists, match=r"\(torch .* → 9\.9\)\. Use --overwrite"):
        train(_few(make_lists(train=labels, test=[0, 1])), run)


def test_what_does_not_shape_the_result_may_change(make_lists: MakeLists, tmp_path: Path) -> None:
    """Reference: the uninterrupted run; kept states, place of the images and device's name."""
    options, run = make_lists(train=[0, 1, 1, 0], test=[0, 1]), tmp_path / "run"
    train(_few(options, checkpoint_every=1), tmp_path / "whole")
    _stop(_few(options), run, 3)
    moved = tmp_path / "moved"
    Path(options["root"]).rename(moved)
    train(_few({**options, "root": str(moved)}, checkpoint_every=1, device="auto"), run)
    weights = [_result(folder)[0]["weights"] for folder in (run, tmp_path / "whole")]
    assert all(weights[0][name].equal(tensor) for name, tensor in weights[1].items())


def test_a_broken_state_is_reported(make_lists: MakeLists, tmp_path: Path) -> None:
    """Cut short, another torch file, parts missing or of another shape: one line, all stays."""
    settings, run = _few(make_lists(train=[0, 1, 1, 0], test=[0, 1])), tmp_path / "run"
    _stop(settings, run, 3)
    file = run / "unfinished" / "state.pt"
    whole, document = file.read_bytes(), torch.load(file, weights_only=True)

    def refusal() -> str:
        before = file.read_bytes()
        with pytest.raises(errors.DataError) as caught:
            train(settings, run)
        message = str(caught.value)
        assert message.startswith(str(file))
        assert message.endswith("Use --overwrite to start over, or choose another folder.")
        assert "\n" not in message
        assert file.read_bytes() == before
        return message

    file.write_bytes(whole[: len(whole) // 2])
    assert "is not a readable state of an unfinished run" in refusal()
    current = document["current"]
    for broken in (
        {"a": 1},
        [],
        {**document, "current": None},
        {**document, "current": {**current, "tensors": {}}},
        {**document, "optimiser": {}},
        {**document, "log": None},
    ):
        torch.save(broken, file)
        assert "is damaged (" in refusal()
    torch.save({**document, "schema": 9}, file)
    assert "is of another version of featbank" in refusal()


def test_a_finished_run_stays_until_the_new_one_is_complete(
    make_lists: MakeLists, tmp_path: Path
) -> None:
    """Reference: its bytes; the unfinished one beside it resumes without --overwrite."""
    options, run = make_lists(train=[0, 1, 1, 0], test=[0, 1]), tmp_path / "run"
    train(_few(options), run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(errors.OutputExists, match=r"checkpoint\.pt exists"):
        train(_few(options, lr=0.05), run)
    _stop(_few(options, lr=0.05), run, 3, overwrite=True)
    assert {path.name: path.read_bytes() for path in run.glob("*.*")} == before
    train(_few(options, lr=0.05), run)
    train(_few(options, lr=0.05), tmp_path / "whole")
    _assert_same(run, tmp_path / "whole")
