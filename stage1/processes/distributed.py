"""The processes that `torchrun` starts, or a single process, as one group."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from featbank import errors
from featbank.devices import find_device

PATIENCE = 5
"""Seconds that a process other than the leader waits before it raises an error."""

_LONGEST = timedelta(hours=4)
"""Longest wait of the others while the leader evaluates; if it fails, torchrun ends them."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run: this one is `rank` of 0…`size`−1 and computes on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True for the one process that writes and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum the tensors of all processes, in place, in each of them."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model` with gradients averaged over the processes, in the state of the leader's."""
        if self.size == 1:
            return model
        return DistributedDataParallel(
            model, device_ids=[self.device] if self.device.type == "cuda" else None
        )


def leads() -> bool:
    """True for the process that writes and reports, before there is a group."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """Let only the leader report an error that all processes raise.

    The others wait before they raise: if the leader fails, too, torchrun ends them meanwhile. On
    Ctrl-C they exit silently.
    """
    try:
        yield
    except KeyboardInterrupt:
        if leads():
            raise
        sys.exit(1)
    except Exception:
        if not leads():
            time.sleep(PATIENCE)
        raise


@contextlib.contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """The group of this process: that of `torchrun`, else the process alone.

    Parameters
    ----------
    device
        As in `featbank.devices.find_device`. With ``auto`` or ``cuda``, each process has the GPU of
        its local rank.

    Raises
    ------
    ConfigError
        For a missing device, one GPU named for several processes, or fewer GPUs than local
        processes.
    OSError
        Where another process has ended, or its machine cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup(0, 1, find_device(device))
        return
    local = _local_device(device)
    if local.type == "cuda":
        torch.cuda.set_device(local)
    backend = "nccl" if local.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, timeout=_LONGEST, device_id=local if local.type == "cuda" else None
    )
    try:
        yield ProcessGroup(distributed.get_rank(), size, local)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise OSError(
            "another process of this run has ended, or its machine cannot be reached. Its own "
            "output says why; the same command on every machine resumes what is saved."
        ) from None
    # Not after an error: the others may hang in a step, and destroying would wait for them.
    distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    """Whether an error is that of a connection between processes."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _local_device(device: str) -> torch.device:
    """The device of this process among those of `torchrun` on this machine."""
    if device == "cpu" or not torch.cuda.is_available():
        return find_device(device)
    rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if ":" in device:
        raise errors.ConfigError(
            f"--device {device} is one GPU, and torchrun started several processes. "
            "Give --device cuda: each process takes its own."
        )
    if device not in ("auto", "cuda"):
        return find_device(device)
    if rank >= gpus:
        raise errors.ConfigError(
            f"torchrun started more processes here than there are GPUs, {gpus}. "
            f"Give --nproc-per-node {gpus}."
        )
    return torch.device("cuda", rank)
