"""The command line as two processes that work together."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from featbank.cli import main


def launch_two(arguments: Sequence[object], output: Path) -> int:
    """Run a command in two processes as torchrun does; 0, or 1 where a process failed.

    The agent of torchrun is a fork of this process and starts forks, which have torch loaded
    already. What all of them print goes to the file `output`.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="tests",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        elastic_launch(config, _work)(list(map(str, arguments)))
        os._exit(0)
    except ChildFailedError:
        os._exit(1)
    finally:
        os._exit(99)


def _work(arguments: list[str]) -> None:
    main(arguments)
