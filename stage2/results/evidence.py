"""Evidence by which choosing compares configurations: their correct rows, and losses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from stage2.results import content
from stage2.results.rows import StoredRows

LOSSES = "losses"
"""The array of an evaluation that choosing uses, of `stage2.engine.details.DETAILS`."""

_LENGTH = 8
"""Bytes of the length of a header in safetensors."""


class Evidence(NamedTuple):
    """Rows of a split under R configurations.

    Attributes
    ----------
    correct
        Seeds of each configuration that classify each row correctly, [R, N] uint8; of each part
        its right rows, summed over the seeds, [R, M] uint32.
    losses
        The mean loss of its seeds on each row, [R, N] float16; None where they were not asked for,
        or a configuration that counts has none.
    """

    correct: np.ndarray
    losses: np.ndarray | None


@dataclass
class EvidenceReader:
    """Reads evidence, a configuration at a time.

    Parameters
    ----------
    rows
        The results file.
    fingerprint, split
        The bank's, and the split.
    """

    rows: StoredRows
    fingerprint: str
    split: str
    _places: dict[tuple[bytes, int], tuple[int, int, str] | None] = field(default_factory=dict)

    def read(self, runs: Sequence[Sequence[tuple[str, str]]], *, with_losses: int = 0) -> Evidence:
        """The evidence of configurations, given by recipe and epoch of their runs, of the first
        `with_losses` of them with losses."""
        record = self.rows.bank(self.fingerprint)
        parts = record.get("parts", {}).get(self.split)
        count = parts or record["rows"].get(self.split, 0)
        correct = np.empty((len(runs), count), np.uint32 if parts else np.uint8)
        losses: np.ndarray | None = None
        if with_losses:
            losses = np.empty((with_losses, count), np.float16)
        for place, configuration in enumerate(runs):
            seeds = [self._run(*run, record, losses is not None) for run in configuration]
            correct[place] = np.sum([bits for bits, _ in seeds], axis=0, dtype=correct.dtype)
            if losses is None or place >= with_losses:
                continue
            known = [values for _, values in seeds if values is not None]
            if len(known) < len(seeds):
                losses = None
            else:
                losses[place] = known[0] if len(known) == 1 else np.mean(known, axis=0)
        return Evidence(correct, losses)

    def _run(
        self, recipe: str, epoch: str, record: Mapping[str, Any], with_losses: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Correct rows of a run [N] bool, and its losses [N] where it has any."""
        key = (self.fingerprint, recipe, self.split, epoch)
        count = record["rows"].get(self.split, 0)
        stored = self.rows.heavy("evaluation", key)
        column = "correct"
        try:
            correct = content.correct(stored[column], record, self.split)
            column = "details"
            return correct, self._losses(stored[column], record, count) if with_losses else None
        except content.Unexpected as problem:
            self.rows.refuse("evaluation", key, column, problem)

    def _losses(self, value: Any, record: Mapping[str, Any], count: int) -> np.ndarray | None:
        """The losses in a safetensors blob; where its header was seen before, without a look at the
        other arrays."""
        if value is None:  # written under schema 1
            return None
        header = b""
        if isinstance(value, bytes):
            header = value[: _LENGTH + int.from_bytes(value[:_LENGTH], "little")]
        known = (header, len(value) if header else 0)
        if known not in self._places:
            arrays = content.details(value, record, count)
            self._places[known] = None
            if LOSSES in arrays:
                start, end = json.loads(header[_LENGTH:])[LOSSES]["data_offsets"]
                place = len(header) + start, len(header) + end, arrays[LOSSES].dtype.str
                self._places[known] = place
        if (found := self._places[known]) is None:
            return None
        start, end, kind = found
        return content.losses(np.frombuffer(value[start:end], kind))
