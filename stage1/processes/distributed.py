"""Several processes as one: what `torchrun` starts, told from a process that runs alone."""

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
"""Seconds another process than the leader waits with an error of its own."""

_LONGEST = timedelta(hours=4)
"""Longest wait of the others, while the leader evaluates; torchrun ends them where it fails."""


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one is `rank` of 0…`size`−1 and computes on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the processes' tensors, in all of them."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model` with gradients averaged over the processes; it begins with the leader's state."""
        if self.size == 1:
            return model
        return DistributedDataParallel(
            model, device_ids=[self.device] if self.device.type == "cuda" else None
        )


def leads() -> bool:
    """Whether this process writes and reports, before there is a group."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """Let an error that all processes have be told by the leader alone.

    The others wait with theirs: where the leader fails, too, torchrun ends them meanwhile. Stopped
    from the keyboard, they leave without a word.
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
def process_group(device: str) -> Iterator[Group]:
    """The group this process belongs to: that of `torchrun`, else itself alone.

    Parameters
    ----------
    device
        As `featbank.devices.find_device` takes it. With ``auto`` or ``cuda``, each process has the
        GPU of its local rank.

    Raises
    ------
    ConfigError
        For a device that is not there, one GPU named for several processes, or fewer GPUs than
        local processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(0, 1, find_device(device))
        return
    where = _own_device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    backend = "nccl" if where.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, timeout=_LONGEST, device_id=where if where.type == "cuda" else None
    )
    yield Group(distributed.get_rank(), size, where)
    # Not after an error: the others may hang in a step, and destroying would wait for them.
    distributed.destroy_process_group()


def _own_device(device: str) -> torch.device:
    if device == "cpu" or not torch.cuda.is_available():
        return find_device(device)
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if ":" in device:
        raise errors.ConfigError(
            f"--device {device} is one GPU, and torchrun started several processes. "
            "Give --device cuda: each process takes its own."
        )
    if device not in ("auto", "cuda"):
        return find_device(device)
    if local >= there:
        raise errors.ConfigError(
            f"torchrun started more processes here than there are GPUs, {there}. "
            f"Give --nproc-per-node {there}."
        )
    return torch.device("cuda", local)
