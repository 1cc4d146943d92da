"""Images decoded as they are used, for data sets that do not fit into memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from stage1.data.decoder import DECODERS, Decoder
from stage1.data.entries import ListEntry

AHEAD = 3
"""Batches decoded ahead of the one in use."""

TASK = 16
"""Images that a thread decodes per task: small ones, one by one, cost more to hand out."""


class StreamedImages:
    """Images [N, 3, H, W] uint8 of a list that are never all in memory.

    Parameters
    ----------
    entries
        N ≥ 1.
    decoder
        With the folder they stand in and the shape they must have.

    Raises
    ------
    DataError
        For a file that is not there, with its list and line.
    """

    def __init__(self, entries: Sequence[ListEntry], decoder: Decoder) -> None:
        self._entries, self._decoder = tuple(entries), decoder
        self.shape = (len(entries), *decoder.shape)
        self._stamps = [entry.stamp(decoder.root) for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def digest(self) -> str:
        """SHA-256 over paths, sizes and times of the files, and the form they are decoded to."""
        key = repr((self.shape, self._decoder.image_size, self._stamps))
        return hashlib.sha256(key.encode()).hexdigest()

    def batches(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Decode the rows [B] of each batch, on threads, `AHEAD` batches ahead.

        Yields
        ------
        [B, 3, H, W] uint8, on the CPU.

        Raises
        ------
        DataError
            For an image that cannot be read or has another size, with its list and line.
        """
        pool = ThreadPoolExecutor(DECODERS)
        waiting: deque[tuple[np.ndarray, list[Future[None]]]] = deque()
        try:
            for rows in batches:
                images = np.empty((len(rows), *self.shape[1:]), np.uint8)
                decoding = [
                    pool.submit(self._decode_into, images[start : start + TASK], task)
                    for start, task in zip(range(0, len(rows), TASK), rows.split(TASK), strict=True)
                ]
                waiting.append((images, decoding))
                if len(waiting) > AHEAD:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode_into(self, images: np.ndarray, rows: torch.Tensor) -> None:
        for image, row in zip(images, rows.tolist(), strict=True):
            image[:] = self._decoder.image(self._entries[row])


def _finished(images: np.ndarray, decoding: Iterable[Future[None]]) -> torch.Tensor:
    for future in decoding:
        future.result()
    return torch.from_numpy(images)
