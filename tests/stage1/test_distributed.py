"""Several processes train as one: two on the CPU, forked or under torchrun."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

from featbank import errors
from featbank.cli import main
from featbank.cli.train import train
from stage1.augment import augment
from stage1.backbones import build_backbone
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings
from stage1.processes.distributed import ProcessGroup, process_group
from stage1.training.checkpoint import load_checkpoint
from stage1.training.fit import draws_of
from stage1.training.settings import learning_rate
from stage1.training.unfinished import State, Unfinished
from tests.conftest import ROOT
from tests.stage1.processes import launch_two

_OPTIONS = (
    "--dataset digits-lt --imbalance 100 --augmentation none --device cpu --lr 0.02 "
    "--epochs 3 --warmup 0 --checkpoint-every 1"
)
OPTIONS = ["train", *_OPTIONS.split()]


def torchrun(*arguments: str, code: int) -> str:
    """Output of `featbank` under torchrun with two processes, and of torchrun itself."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*start, "-m", "featbank", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def fork_two(
    arguments: list[str], output: Path, *, first: Callable[[], None] | None = None
) -> list[int]:
    """Run a command in two forks of this process, which call `first`: their process numbers.

    What they print to stdout goes into files named as `output`, with the suffix ``.0`` or ``.1``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(2):
        if child := os.fork():
            children.append(child)
            continue
        try:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            sys.stdout = output.with_suffix(f".{rank}").open("w")
            if first:
                first()
            main(arguments)
        except SystemExit as exit:
            sys.stdout.flush()
            os._exit(int(exit.code or 0))
        finally:
            os._exit(99)
    return children


def codes_of(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, and beside it ``printed.0`` and ``printed.1``."""
    folder = tmp_path_factory.mktemp("whole")
    assert codes_of(fork_two([*OPTIONS, "-o", f"{folder}/run"], folder / "printed")) == [0, 0]
    return folder / "run"


def test_two_processes_match_one_that_takes_both_halves(whole: Path) -> None:
    """Reference: each half of a batch under BatchNorm of its own, gradients averaged by hand.

    The running statistics that are kept are the first half's.
    """
    _, checkpoint = load_checkpoint(whole)
    settings = checkpoint.settings

    dataset = load_dataset(DatasetSettings("digits-lt", imbalance=100.0))
    split = dataset.splits["train"]
    assert isinstance(split.images, torch.Tensor)
    torch.manual_seed(0)
    first, second = (build_backbone("resnet8", in_channels=1, num_classes=10) for _ in range(2))
    optimiser = torch.optim.SGD(first.parameters(), lr=1, momentum=0.9, weight_decay=2e-4)
    pre = checkpoint.preprocessing
    N, B = len(split.labels), settings.batch_size
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    for epoch in range(3):
        optimiser.param_groups[0]["lr"] = learning_rate(settings, epoch)
        first.train()
        draws = draws_of(0, epoch, ProcessGroup(0, 1, torch.device("cpu")))
        losses = []
        for rows in torch.randperm(N, generator=draws.order)[: N // B * B].split(B):
            second.load_state_dict(first.state_dict())
            for model, half in ((first, rows[::2]), (second, rows[1::2])):
                model.zero_grad()
                x = augment(split.images[half], pre, generator=draws.images)
                loss = F.cross_entropy(model(x), split.labels[half])
                loss.backward()
                losses.append(loss.item())
            for mean, other in zip(first.parameters(), second.parameters(), strict=True):
                assert mean.grad is not None
                assert other.grad is not None
                mean.grad = (mean.grad + other.grad) / 2
            optimiser.step()
        assert lines[epoch]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    for name, expected in first.state_dict().items():
        torch.testing.assert_close(checkpoint.weights[name], expected, rtol=1e-3, atol=1e-5)


def test_the_leader_alone_prints(whole: Path) -> None:
    """Reference: by hand."""
    lines = whole.with_name("printed.0").read_text().splitlines()
    assert whole.with_name("printed.1").read_text() == ""
    assert lines[1].endswith("resnet8 on cpu and 1 more like it")
    epochs = [line.split("  ")[0].partition(" ")[2] for line in lines[2:5]]
    assert epochs == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[-1].startswith(f"Wrote {whole}/checkpoint.pt")


def _die_after_saving() -> None:
    """The process that saves the state of the first epoch is killed right then."""
    save = Unfinished.save

    def save_and_die(self: Unfinished, state: State) -> None:
        save(self, state)
        os.kill(os.getpid(), signal.SIGKILL)

    Unfinished.save = save_and_die  # type: ignore[method-assign]


def test_killed_processes_resume_under_torchrun(whole: Path, tmp_path: Path) -> None:
    """Reference: the run that was left alone, bit by bit; one process cannot resume it."""
    run = tmp_path / "run"
    leader, other = fork_two(
        [*OPTIONS, "-o", str(run)], tmp_path / "printed", first=_die_after_saving
    )
    assert codes_of([leader]) == [-signal.SIGKILL]
    os.kill(other, signal.SIGKILL)
    assert codes_of([other]) != [0]
    with pytest.raises(errors.OutputExists, match=r"\(processes 2 → 1\)"):
        CliRunner().invoke(train, [*OPTIONS[1:], "-o", str(run)], catch_exceptions=False)
    output = tmp_path / "resumed"
    assert launch_two([*OPTIONS, "-o", run], output) == 0
    text = output.read_text()
    assert text.count(f"Resuming {run} after epoch 1 of 3") == text.count("epoch 3/3") == 1, text
    expected = load_checkpoint(whole)[1].weights
    for name, tensor in load_checkpoint(run)[1].weights.items():
        assert tensor.equal(expected[name]), f"{name} differs"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.pt", "log.jsonl"]


@pytest.mark.long
def test_an_error_is_printed_once_and_ends_all(tmp_path: Path) -> None:
    """Reference: the one line, although both processes find it."""
    text = torchrun(*OPTIONS, "--batch-size", "31", "-o", str(tmp_path / "run"), code=1)
    assert text.count("featbank: A batch of 31 cannot be shared by 2 processes.") == 1, text
    assert "Give --batch-size 30, for example." in text
    assert not (tmp_path / "run").exists()


def test_a_group_of_one_is_no_group() -> None:
    """Reference: by hand; nothing is initialised."""
    with process_group("cpu") as group:
        assert (group.rank, group.size, group.leads) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        model, sums = torch.nn.Linear(1, 1), torch.ones(2)
        assert group.parallel(model) is model
        assert group.total(sums).equal(torch.ones(2))
