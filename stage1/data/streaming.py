"""Images decoded as they are used, for data sets that do not fit into memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from stage1.data.decoder import DECODERS, Decoder, Place
from stage1.data.entries import ListEntry

AHEAD = 3
"""Batches decoded ahead of the one in use."""

TASK = 16
"""Images that a thread decodes per task: small ones, one by one, cost more to hand out."""


@dataclass(frozen=True)
class Cuts:
    """Views that are cut from each original when it is decoded.

    Attributes
    ----------
    boxes
        One for each of V views: top, left, height and width of a box by a seed and the (H, W) of
        the original; None for the view that evaluation sees.
    seeds
        Seeds [V, B] for the rows [B] of a batch; called once for each batch, in order.
    """

    boxes: Sequence[Callable[[int, tuple[int, int]], Sequence[int]] | None]
    seeds: Callable[[torch.Tensor], np.ndarray]

    def places(self, seeds: Iterable[int]) -> list[Place | None]:
        """Places for `Decoder.views`, by the seeds [V] of an image."""
        return [box and partial(box, seed) for box, seed in zip(self.boxes, seeds, strict=True)]


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
        form = (self.shape, self._decoder.image_size, self._decoder.resize)
        key = repr((*form[: 2 + bool(form[2])], self._stamps))
        return hashlib.sha256(key.encode()).hexdigest()

    @property
    def cut(self) -> bool:
        """Whether images are cut from originals of any size."""
        return self._decoder.image_size is not None

    def batches(
        self, batches: Iterable[torch.Tensor], cuts: Cuts | None = None
    ) -> Iterator[torch.Tensor]:
        """Decode the rows [B] of each batch, on threads, `AHEAD` batches ahead.

        Yields
        ------
        [B, 3, H, W] uint8, on the CPU; [B, V, 3, H, W] with V `cuts`, which need `cut`.

        Raises
        ------
        DataError
            For an image that cannot be read or has another size, with its list and line.
        """
        pool = ThreadPoolExecutor(DECODERS)
        waiting: deque[tuple[np.ndarray, list[Future[None]]]] = deque()
        try:
            for rows in batches:
                places = None
                if cuts:
                    places = [cuts.places(seeds) for seeds in cuts.seeds(rows).T.tolist()]
                views = (len(cuts.boxes),) if cuts else ()
                images = np.empty((len(rows), *views, *self.shape[1:]), np.uint8)
                decoding = [
                    pool.submit(
                        self._decode_into,
                        images[start : start + TASK],
                        task,
                        places and places[start : start + TASK],
                    )
                    for start, task in zip(range(0, len(rows), TASK), rows.split(TASK), strict=True)
                ]
                waiting.append((images, decoding))
                if len(waiting) > AHEAD:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode_into(
        self,
        images: np.ndarray,
        rows: torch.Tensor,
        places: Sequence[Sequence[Place | None]] | None,
    ) -> None:
        for number, row in enumerate(rows.tolist()):
            entry = self._entries[row]
            if places is None:
                images[number] = self._decoder.image(entry)
            else:
                for view, pixels in enumerate(self._decoder.views(entry, places[number])):
                    images[number, view] = pixels


def _finished(images: np.ndarray, decoding: Iterable[Future[None]]) -> torch.Tensor:
    for future in decoding:
        future.result()
    return torch.from_numpy(images)
