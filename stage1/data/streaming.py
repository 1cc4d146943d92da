"""Images that are decoded as they are used, for data sets that do not fit into memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from stage1.data.decoder import DECODERS, decode_image
from stage1.data.entries import ListEntry

AHEAD = 3
"""Batches that are decoded ahead of the one in use."""

TASK = 16
"""Images a thread decodes at a stretch: one by one, small ones cost more to hand out."""


class StreamedImages:
    """The images of a list as [N, 3, H, W] uint8 that are nowhere all at once.

    Parameters
    ----------
    entries
        N ≥ 1 lines.
    root
        Folder the paths start from.
    image_size
        As in `stage1.data.decoder.decode_images`.
    shape
        (3, H, W) that every image must have.

    Raises
    ------
    DataError
        For a file that is not there, with its list and line.
    """

    def __init__(
        self,
        entries: Sequence[ListEntry],
        root: Path,
        *,
        image_size: int | None,
        shape: tuple[int, ...],
    ) -> None:
        self._entries, self._root, self._image_size = tuple(entries), root, image_size
        self.shape = (len(entries), *shape)
        self._stamps = [entry.stamp(root) for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def digest(self) -> str:
        """SHA-256 over what tells the images from others: paths, file sizes and times, and S."""
        told = repr((self.shape, self._image_size, self._stamps))
        return hashlib.sha256(told.encode()).hexdigest()

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
                    pool.submit(self._decode_into, images[start : start + TASK], some)
                    for start, some in zip(range(0, len(rows), TASK), rows.split(TASK), strict=True)
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
            image[:] = decode_image(
                self._entries[row], self._root, image_size=self._image_size, shape=self.shape[1:]
            )


def _finished(images: np.ndarray, decoding: Iterable[Future[None]]) -> torch.Tensor:
    for future in decoding:
        future.result()
    return torch.from_numpy(images)
