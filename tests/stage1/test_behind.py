"""Work behind the thread that computes, and the parts it comes in."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from stage1.data.images import Split
from stage1.inference.features import BATCH_BYTES, SHARD_BYTES, row_ranges
from stage1.inference.options import FeatureOptions
from stage1.processes.behind import WAITING, Behind


def test_calls_come_in_order_on_one_thread_and_few_wait() -> None:
    """Reference: 0…49; before a call is taken, at most `WAITING` − 1 others are not finished."""
    done: list[int] = []
    threads: set[int] = set()

    def work(number: int) -> None:
        threads.add(threading.get_ident())
        done.append(number)

    with Behind() as behind:
        for number in range(50):
            behind.call(work, number)
            assert number + 1 - len(done) <= WAITING
    assert done == list(range(50))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_the_first_error_comes_back_and_nothing_is_done_after_it() -> None:
    """The error of the third of ten calls, be it raised by a later call or on leaving."""
    done: list[int] = []

    def work(number: int) -> None:
        done.append(1 // (2 - number) and number)

    def make(calls: int) -> None:
        with Behind() as behind:
            for number in range(calls):
                behind.call(work, number)

    for calls in (3, 10):
        done.clear()
        with pytest.raises(ZeroDivisionError):
            make(calls)
        assert done == [0, 1]


@pytest.mark.parametrize("copies", [1, 4, 16, 64])
@pytest.mark.parametrize("width", [64, 4096])
def test_parts_are_bounded_and_cover_every_row_once(copies: int, width: int) -> None:
    """Reference: the rows counted one by one; a part above the bounds is one batch of images."""
    split = Split(torch.empty(0), torch.zeros(5000, dtype=torch.int64), np.arange(5000))
    options = FeatureOptions(("instance",), "float32", copies, 64, 0, 4096)
    parts = row_ranges({"train": split, "val": split}, options, width=width)
    for name, expected in (("train", copies), ("val", 1)):
        here = [part for part in parts if part.split == name]
        rows = np.concatenate([rows for part in here for rows in part.batches])
        assert (rows == np.arange(5000)).all()
        for part in here:
            assert part.copies == expected
            assert part.start % 256 == 0
            small = part.images <= 4096 and 4 * width * part.images <= SHARD_BYTES
            assert small or part.stop - part.start <= 256


@pytest.mark.parametrize(("width", "expected"), [(1 << 18, 256), (1 << 20, 64), (1 << 29, 1)])
def test_batches_of_many_tokens_are_smaller(width: int, expected: int) -> None:
    """Reference: 256 MiB by hand, and one image at least; half of it with two copies."""
    split = Split(torch.empty(0), torch.zeros(300, dtype=torch.int64), np.arange(300))
    for copies in (1, 2):
        options = FeatureOptions(("instance",), "float32", copies, 64, 0, 4096)
        parts = row_ranges({"train": split}, options, width=width)
        rows = np.concatenate([rows for part in parts for rows in part.batches])
        assert (rows == np.arange(300)).all()
        most = max(len(rows) for part in parts for rows in part.batches)
        assert most == max(1, expected // copies)
        assert most == 1 or 4 * width * copies * most <= BATCH_BYTES
