"""Two machines' worth of processes train and extract as one; one machine is killed and restarted.

A machine is an agent of torchrun and its process, in a namespace of host names of their own where
that is allowed. The folder of the run and of the bank is one that both share.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from featbank.bank.shards import Shards
from featbank.cli import main
from stage1.processes import distributed
from stage1.processes.distributed import ProcessGroup
from stage1.training.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tests.hostile.test_extract_kill import content
from tests.stage1.test_distributed import codes_of, fork_two

NEW_HOST_NAMES = 0x04000000
"""CLONE_NEWUTS of sched.h."""

OPTIONS = (
    "--dataset digits-lt --imbalance 100 --augmentation none --device cpu --lr 0.02 "
    "--epochs 5 --warmup 0 --checkpoint-every 1"
)
TRAIN = ["train", *OPTIONS.split()]
EXTRACT = ["--augmentations", "10", "--balanced-batches", "8", "--device", "cpu"]


KILLED = 1, -signal.SIGKILL
"""How the machines end of which the second is killed."""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _node(
    rank: int, port: int, arguments: Sequence[object], output: Path, first: Callable[[], None]
) -> int:
    """Start a machine: the number of its agent, which leads a group of processes.

    What its processes print goes to the file `output`; they call `first`.
    """
    if child := os.fork():
        return child
    try:
        os.setsid()
        if ctypes.CDLL(None).unshare(NEW_HOST_NAMES) == 0:
            socket.sethostname(f"node{rank}")
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # these names are nobody's address
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        config = LaunchConfig(
            min_nodes=2,
            max_nodes=2,
            nproc_per_node=1,
            run_id="tests",
            rdzv_backend="static",
            rdzv_endpoint=f"127.0.0.1:{port}",
            rdzv_configs={"rank": rank, "timeout": 60},
            max_restarts=0,
            start_method="fork",
        )

        def work(arguments: list[str]) -> None:
            first()
            print(f"on {socket.gethostname()}", flush=True)
            main(arguments)

        elastic_launch(config, work)(list(map(str, arguments)))
        os._exit(0)
    except ChildFailedError:
        os._exit(1)
    finally:
        os._exit(99)


def _run(
    arguments: Sequence[object],
    outputs: Path,
    *,
    second: Callable[[], None] = lambda: None,
    codes: Sequence[int] = (0, 0),
) -> list[str]:
    """Run a command on two machines, the second of which calls `second`, and that end with these
    codes: what each has printed."""
    port, paths = _free_port(), [outputs.with_suffix(f".{rank}") for rank in range(2)]
    for path in paths:
        path.unlink(missing_ok=True)
    hooks = (lambda: None), second
    nodes = [_node(rank, port, arguments, paths[rank], hooks[rank]) for rank in range(2)]
    assert codes_of(nodes) == [*codes]
    return [path.read_text() for path in paths]


def _dies_at(owner: type, name: str, call: int) -> Callable[[], None]:
    """Let a machine lose its power, agent and all, after some calls of a method."""

    def patch() -> None:
        method, calls = getattr(owner, name), iter(range(1, call + 1))

        def called(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            if next(calls) == call:
                os.killpg(os.getpgrp(), signal.SIGKILL)
            return result

        setattr(owner, name, called)

    return patch


def _elsewhere() -> None:
    distributed.PATIENCE = 0
    Path("elsewhere").mkdir(exist_ok=True)
    os.chdir("elsewhere")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes of one machine that were left alone."""
    folder = tmp_path_factory.mktemp("whole")
    assert codes_of(fork_two([*TRAIN, "-o", f"{folder}/run"], folder / "printed")) == [0, 0]
    return folder / "run"


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run)[1].weights


def test_a_machine_is_killed_while_both_train(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the run of one machine, bit by bit. The other machine ends with one line, and so
    do both where the second looks for the run in a folder of its own."""
    run, outputs = tmp_path / "run", tmp_path / "printed"
    command = [*TRAIN, "-o", run]
    left, killed = _run(command, outputs, second=_dies_at(ProcessGroup, "total", 3), codes=KILLED)
    assert "another process of this run has ended, or its machine cannot be reached" in left
    assert "RuntimeError" not in left
    assert "epoch 5/5" not in left
    assert not (run / "checkpoint.pt").exists()
    monkeypatch.chdir(tmp_path)
    apart = _run([*TRAIN, "-o", "run"], outputs, second=_elsewhere, codes=(1, 1))
    assert "featbank: run has another state on another machine." in apart[0]
    resumed, other = _run(command, outputs)
    assert f"Resuming {run} after epoch" in resumed
    assert other.count("\n") == 1, other
    expected = _weights(whole)
    for name, tensor in _weights(run).items():
        assert tensor.equal(expected[name]), f"{name} differs"
    names = {text.split("on ")[1].split()[0] for text in (killed, other, resumed)}
    assert names in ({"node0", "node1"}, {socket.gethostname()})


def test_a_machine_is_killed_while_both_extract(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the bank that one process makes, every dataset, provenance and fingerprint; shards
    that were finished are not made again. A second machine whose folder is another one says so."""
    bank, outputs = tmp_path / "bank.h5", tmp_path / "printed"
    command = ["extract", whole, *EXTRACT, "-o", bank]
    _run(command, outputs, second=_dies_at(Shards, "write", 1), codes=KILLED)
    assert not bank.exists()
    shards = list(tmp_path.glob(".bank.h5.shards/*.shard"))
    assert shards
    monkeypatch.chdir(tmp_path)
    apart = _run([*command[:-1], "bank.h5"], outputs, second=_elsewhere, codes=(1, 1))
    assert "featbank: .bank.h5.shards is not there, though another process has made it" in apart[1]
    assert {*shards} <= {*tmp_path.glob(".bank.h5.shards/*.shard")}
    (tmp_path / "elsewhere").rmdir()
    resumed, _ = _run(command, outputs)
    assert "Resuming" in resumed
    assert {path.name for path in tmp_path.iterdir()} == {"bank.h5", "printed.0", "printed.1"}
    one = tmp_path / "one.h5"
    child = os.fork()
    if not child:
        try:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            main(["extract", str(whole), *EXTRACT, "-o", str(one)])
        finally:
            os._exit(int(not one.exists()))
    assert codes_of([child]) == [0]
    np.testing.assert_equal(content(bank), content(one))


def _torchrun(rank: int, port: int, arguments: Sequence[object]) -> subprocess.Popen[bytes]:
    """Start torchrun itself as the machine of a rank."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1]
    command += ["--node-rank", rank, "--master-addr", "127.0.0.1", "--master-port", port]
    command += ["-m", "featbank", *arguments]
    if subprocess.run(["unshare", "--uts", "true"], check=False, capture_output=True).returncode:
        start = []
    else:
        start = ["unshare", "--uts", "sh", "-c", f'hostname node{rank} && exec "$@"', "sh"]
    return subprocess.Popen(
        [*start, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.long
def test_torchrun_on_two_machines(tmp_path: Path) -> None:
    """Reference: two processes of one machine that were left alone, bit by bit; then the bank of
    one process."""
    options = [*TRAIN, "--epochs", "60", "-o"]
    assert codes_of(fork_two([*options, f"{tmp_path}/whole"], tmp_path / "printed")) == [0, 0]
    run, bank = tmp_path / "run", tmp_path / "bank.h5"
    nodes = [_torchrun(rank, port, [*options, run]) for port in [_free_port()] for rank in range(2)]
    end = time.monotonic() + 120
    while not (run / "unfinished" / "state.pt").exists() and time.monotonic() < end:
        time.sleep(0.01)
    children = Path(f"/proc/{nodes[1].pid}/task/{nodes[1].pid}/children").read_text().split()
    for process in (*map(int, children), nodes[1].pid):
        os.kill(process, signal.SIGKILL)
    assert [node.wait(120) for node in nodes] == [1, -signal.SIGKILL]
    assert not (run / "checkpoint.pt").exists()
    for arguments in ([*options, run], ["extract", run, *EXTRACT, "-o", bank]):
        port = _free_port()
        nodes = [_torchrun(rank, port, arguments) for rank in range(2)]
        assert [node.wait(300) for node in nodes] == [0, 0]
    expected = _weights(tmp_path / "whole")
    for name, tensor in _weights(run).items():
        assert tensor.equal(expected[name]), f"{name} differs"
    one = subprocess.run(
        [sys.executable, "-m", "featbank", "extract", run, *EXTRACT, "-o", tmp_path / "one.h5"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert one.returncode == 0
    np.testing.assert_equal(content(bank), content(tmp_path / "one.h5"))
