"""Unfinished runs: the state that is kept while training, and resuming from it.

The folder of an unfinished run holds ``state.pt``, the state after an epoch; ``log.jsonl``, which
grows by a line per epoch; and, on request, ``tensorboard``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featbank import errors
from featbank.files import publish, replacing, writing
from stage1.data.images import ImageDataset
from stage1.processes.distributed import ProcessGroup
from stage1.tensors import load_tensors, save_tensors
from stage1.training.settings import TrainSettings

FOLDER = "unfinished"
"""Name of the folder of an unfinished run in its run folder."""

LOG = "log.jsonl"
"""Name of the log: one JSON object per epoch."""

TENSORBOARD = "tensorboard"
"""Name of the folder of TensorBoard's event files."""

_FORMAT, _SCHEMA = "featbank unfinished stage 1", 1
# Settings that do not change the result.
_FREE = {"device", "checkpoint_every", "loss_settings", "dataset", "weights"}
_FREE_OF_DATA = {"root", "download", "stream", "allow_outside"}
_SHOWN = 4
"""Differences that an error lists."""

REMEDY = "Use --overwrite to start over, or choose another folder."


@dataclass(frozen=True)
class Weights:
    """The state dict after `epoch` (from 1), on the CPU, and its accuracies on val, if any."""

    epoch: int
    tensors: dict[str, torch.Tensor]
    val: dict[str, float | None] | None


@dataclass(frozen=True)
class State:
    """State after an epoch: with the settings, everything that later epochs depend on.

    `log` has the lines of `current.epoch` epochs; `best` are the best weights so far, for ``keep``.
    """

    current: Weights
    optimiser: dict[str, Any]
    log: list[dict[str, Any]]
    best: Weights | None


def run_key(settings: TrainSettings, dataset: ImageDataset, group: ProcessGroup) -> dict[str, Any]:
    """Values that the result of a run depends on, by name: only equal keys can resume a state.

    The place of the images, the number of a GPU and the interval between states are not among them;
    the content of the weights' file is.
    """
    fields, data = vars(settings), vars(settings.dataset)
    return {
        **{name: value for name, value in fields.items() if name not in _FREE},
        **{f"{settings.loss} {name}": value for name, value in settings.loss_settings.items()},
        **{name: value for name, value in data.items() if name not in _FREE_OF_DATA},
        "dataset": data["name"],
        **{f"training images of class {k}": n for k, n in enumerate(dataset.train_counts.tolist())},
        **{f"name of class {k}": name for k, name in enumerate(dataset.class_names)},
        "device": group.device.type,
        "processes": group.size,
        "torch": str(torch.__version__),
    }


class Unfinished:
    """The unfinished run in the folder `run`; `key` is its `run_key`."""

    def __init__(self, run: Path, key: Mapping[str, Any]) -> None:
        self._run, self._key = run, dict(key)
        self.folder = run / FOLDER
        self._state = state_file(run)
        self._kept = 0

    def read(self) -> State | None:
        """Read the state, if there is one.

        Raises
        ------
        OutputExists
            For the state of a run with another key, with the differences.
        DataError
            For a damaged file.
        """
        if not self._state.exists():
            return None
        document = load_tensors(self._state, "state of an unfinished run", REMEDY)
        try:
            if (document["format"], document["schema"]) != (_FORMAT, _SCHEMA):
                raise errors.DataError(
                    f"{self._state} is of another version of featbank, or not of it. {REMEDY}"
                )
            differences = list(_differences(document["shape"], self._key))
            state = State(
                Weights(**document["current"]),
                document["optimiser"],
                document["log"],
                document["best"] and Weights(**document["best"]),
            )
            if [line["epoch"] for line in state.log] != [*range(1, state.current.epoch + 1)]:
                raise ValueError("its log has other epochs")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self.damaged(error) from None
        if differences:
            more = len(differences) - _SHOWN
            shown = "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
            raise errors.OutputExists(
                f"{self._run} has an unfinished run of other settings ({shown}). {REMEDY}"
            )
        self._kept = state.current.epoch
        return state

    def damaged(self, error: Exception) -> errors.DataError:
        """Error for a state that is inconsistent."""
        return errors.DataError(f"{self._state} is damaged ({errors.first_line(error)}). {REMEDY}")

    @contextlib.contextmanager
    def keeping(
        self, log: list[dict[str, Any]], *, epochs: int, report: Callable[[str], None]
    ) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Yield a function that writes a line to the log, which starts with `log`.

        If the work ends early, report the epochs that are kept, or leave nothing if there are none.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise errors.ConfigError(
                f"{self._run} is not a folder. Choose another run folder."
            ) from None
        if not log:
            self._state.unlink(missing_ok=True)
            shutil.rmtree(self.folder / TENSORBOARD, ignore_errors=True)
        try:
            lines = self.folder / LOG
            with replacing(lines) as part:
                part.write_text("".join(map(_line, log)))
            yield lambda epoch: _append(lines, _line(epoch))
        except BaseException as error:
            if self._kept:
                if not isinstance(error, errors.NotFinite):
                    report(
                        f"{self._kept} of {epochs} epochs stay in {self.folder}. "
                        "The same command without --overwrite resumes from there."
                    )
            else:
                self._remove()
            raise

    def save(self, state: State) -> None:
        """Replace the state on disk."""
        document = {"format": _FORMAT, "schema": _SCHEMA, "shape": self._key}
        document |= {
            "current": vars(state.current),
            "optimiser": state.optimiser,
            "log": state.log,
            "best": state.best and vars(state.best),
        }
        save_tensors(self._state, document)
        self._kept = state.current.epoch

    def publish(self, checkpoint: Path, save: Callable[[Path], None]) -> None:
        """Move log and scalars to the run folder, then the checkpoint, which completes the run.

        It is saved beside the state first, so that a full disk leaves the run folder unchanged.
        """
        saved = self.folder / checkpoint.name
        save(saved)
        log = self._run / LOG
        with replacing(log) as part:
            shutil.copyfile(self.folder / LOG, part)
        shutil.rmtree(self._run / TENSORBOARD, ignore_errors=True)
        if (self.folder / TENSORBOARD).exists():
            os.replace(self.folder / TENSORBOARD, self._run / TENSORBOARD)
        publish(saved, checkpoint)
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):  # not empty: an earlier run stays
            self._run.rmdir()


def state_file(run: Path) -> Path:
    """File of the state of an unfinished run."""
    return run / FOLDER / "state.pt"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys(itertools.chain(now, before)):
        if (old := before.get(name)) != (new := now.get(name)):
            yield f"{name} {'none' if old is None else old} → {'none' if new is None else new}"


def _line(epoch: Mapping[str, Any]) -> str:
    return json.dumps(epoch) + "\n"


def _append(path: Path, line: str) -> None:
    with writing(path), path.open("a") as file:
        file.write(line)
