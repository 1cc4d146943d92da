"""The processes of a run agree: all go on, or one tells what is wrong and all end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import distributed

from stage1.processes.distributed import Group


@contextlib.contextmanager
def together(group: Group) -> Iterator[None]:
    """Work that every process does in about the same time: they leave it together.

    Raises
    ------
    SystemExit
        Where another process failed, or several and this is not the first of them: that one raises
        its error, the others end without a word.
    """
    try:
        yield
    except BaseException:
        meet(group, failed=True)
        raise
    meet(group)


def meet(group: Group, *, failed: bool = False) -> None:
    """Wait for all processes; `SystemExit` as in `together`, and where one is gone."""
    if group.size == 1:
        return
    states = [failed] * group.size
    try:
        distributed.all_gather_object(states, failed)
    except RuntimeError:  # torchrun has its exit code, and ends the others
        raise SystemExit(1) from None
    if any(states) and states.index(True) != group.rank:
        raise SystemExit(1)
