"""Agreement of the processes of a run: all continue, or one reports the error and all end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import distributed

from stage1.processes.distributed import ProcessGroup


@contextlib.contextmanager
def together(group: ProcessGroup) -> Iterator[None]:
    """Run work that takes every process about the same time; all leave the block together.

    Raises
    ------
    SystemExit
        Where another process failed first by rank: that one raises its error, the others end
        silently.
    """
    try:
        yield
    except BaseException:
        meet(group, failed=True)
        raise
    meet(group)


def meet(group: ProcessGroup, *, failed: bool = False) -> None:
    """Wait for all processes; `SystemExit` as in `together`, and where one has ended."""
    if group.size == 1:
        return
    states = [failed] * group.size
    try:
        distributed.all_gather_object(states, failed)
    except RuntimeError:  # torchrun has its exit code, and ends the others
        raise SystemExit(1) from None
    if any(states) and states.index(True) != group.rank:
        raise SystemExit(1)


def agree(group: ProcessGroup, value: object) -> bool:
    """Whether all processes have the same value."""
    values = [value] * group.size
    if group.size > 1:
        distributed.all_gather_object(values, value)
    return all(other == value for other in values)
