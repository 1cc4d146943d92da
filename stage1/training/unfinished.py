"""A run that is not finished: what is kept of it while it trains, and how it goes on.

Its folder holds ``state.pt``, the state after some epoch; ``log.jsonl``, a line per epoch, to be
followed while it grows; and ``tensorboard``, where that is asked for.
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
from stage1.tensors import load_tensors, save_tensors
from stage1.training.settings import TrainSettings

FOLDER = "unfinished"
"""Name of the folder of an unfinished run in its run folder."""

LOG = "log.jsonl"
"""Name of the log: one JSON object per epoch."""

TENSORBOARD = "tensorboard"
"""Name of the folder of TensorBoard's event files."""

_FORMAT, _SCHEMA = "featbank unfinished stage 1", 1
_FREE = {"device", "checkpoint_every", "loss_settings", "dataset", "weights"}
_FREE_OF_DATA = {"root", "download", "stream", "allow_outside"}
_TOLD = 4


@dataclass(frozen=True)
class Weights:
    """The state dict after `epoch` (from 1), on the CPU, and its accuracies on val, if any."""

    epoch: int
    tensors: dict[str, torch.Tensor]
    val: dict[str, float | None] | None


@dataclass(frozen=True)
class State:
    """After an epoch: with the settings, all that the next ones depend on.

    `log` has the lines of `current.epoch` epochs; `best` is what ``keep`` best has found.
    """

    current: Weights
    optimiser: dict[str, Any]
    log: list[dict[str, Any]]
    best: Weights | None


def shaped_by(
    settings: TrainSettings,
    *,
    train_counts: tuple[int, ...],
    class_names: tuple[str, ...],
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    """What a run's result depends on, by name: a run of another cannot go on from its state.

    Where the images are, the number of a GPU and how often the state is kept are not among it; the
    content of the weights' file is.
    """
    fields, data = vars(settings), vars(settings.dataset)
    return {
        **{name: value for name, value in fields.items() if name not in _FREE},
        **{f"{settings.loss} {name}": value for name, value in settings.loss_settings.items()},
        **{name: value for name, value in data.items() if name not in _FREE_OF_DATA},
        "dataset": data["name"],
        **{f"training images of class {k}": n for k, n in enumerate(train_counts)},
        **{f"name of class {k}": name for k, name in enumerate(class_names)},
        "device": device.type,
        "processes": processes,
        "torch": str(torch.__version__),
    }


class Unfinished:
    """The unfinished run in the folder `run`, whose result depends on `shape`."""

    def __init__(self, run: Path, shape: Mapping[str, Any]) -> None:
        self._run, self._shape = run, dict(shape)
        self.folder = run / FOLDER
        self._state = state_file(run)
        self._kept = 0

    def read(self) -> State | None:
        """The state that is there, if any.

        Raises
        ------
        OutputExists
            Where it is that of another run: what differs.
        DataError
            For a file that is damaged.
        """
        if not self._state.exists():
            return None
        remedy = "Take --overwrite to start anew, or another folder."
        document = load_tensors(self._state, "state of an unfinished run", remedy)
        try:
            if (document["format"], document["schema"]) != (_FORMAT, _SCHEMA):
                raise errors.DataError(
                    f"{self._state} is of another version of featbank, or not of it. {remedy}"
                )
            differences = list(_differences(document["shape"], self._shape))
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
            more = len(differences) - _TOLD
            told = "; ".join(differences[:_TOLD]) + (f"; and {more} more" if more > 0 else "")
            raise errors.OutputExists(
                f"{self._run} has an unfinished run of other settings ({told}). {remedy}"
            )
        self._kept = state.current.epoch
        return state

    def damaged(self, error: Exception) -> errors.DataError:
        """The error for a state that does not hold together."""
        return errors.DataError(
            f"{self._state} is damaged ({errors.first_line(error)}). "
            "Take --overwrite to start anew, or another folder."
        )

    @contextlib.contextmanager
    def going_on(
        self, log: list[dict[str, Any]], *, epochs: int, report: Callable[[str], None]
    ) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Yield what writes a line of the log, which begins with `log`.

        Where the work ends early, what is kept is told; nothing is left where nothing is.
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
                        "The same command, without --overwrite, goes on from there."
                    )
            else:
                self._remove()
            raise

    def save(self, state: State) -> None:
        """Put `state` in place of the one before."""
        document = {"format": _FORMAT, "schema": _SCHEMA, "shape": self._shape}
        document |= {
            "current": vars(state.current),
            "optimiser": state.optimiser,
            "log": state.log,
            "best": state.best and vars(state.best),
        }
        save_tensors(self._state, document)
        self._kept = state.current.epoch

    def publish(self, checkpoint: Path, save: Callable[[Path], None]) -> None:
        """Give log and scalars their places, then the checkpoint, which makes the run complete.

        It is saved here first: where the disk is full, the run has nothing of this one.
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
    """Where the state of an unfinished run is."""
    return run / FOLDER / "state.pt"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys(itertools.chain(now, before)):
        if (old := before.get(name)) != (new := now.get(name)):
            yield f"{name} {_told(old)} → {_told(new)}"


def _told(value: Any) -> str:
    return "none" if value is None else str(value)


def _line(epoch: Mapping[str, Any]) -> str:
    return json.dumps(epoch) + "\n"


def _append(path: Path, line: str) -> None:
    with writing(path), path.open("a") as file:
        file.write(line)
