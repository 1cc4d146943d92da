"""Progress: one display on a terminal, which lines never run through, and dated lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from featbank.cli import watching
from featbank.cli.progress import progress
from featbank.cli.terminal import guarded_streams, say
from featbank.cli.watching import Watch
from stage2.engine.loop import run_group
from stage2.engine.watching import Look, Moment
from stage2.methods.recipe import Recipe
from tests.stage2.synthetic import Problem, groups_of, problem

MOVES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Screen:
    """A terminal of some columns: what stands on its lines after what was written to it.

    It knows what rich sends: line ends, carriage returns, the cursor up, and lines erased.
    """

    def __init__(self, columns: int) -> None:
        self._columns, self.lines, self._row, self._column = columns, [""], 0, 0

    def feed(self, text: str) -> None:
        """Write to it."""
        while text:
            if move := MOVES.match(text):
                self._move(move[1], move[2])
                text = text[move.end() :]
                continue
            self._put(text[0])
            text = text[1:]

    def _move(self, amount: str, kind: str) -> None:
        if kind == "A":
            self._row -= int(amount or 1)
        elif kind == "K":
            self.lines[self._row] = ""

    def _put(self, sign: str) -> None:
        if sign == "\r":
            self._column = 0
        elif sign == "\n":
            self._row, self._column = self._row + 1, 0
        else:
            if self._column == self._columns:
                self._row, self._column = self._row + 1, 0
            self._grow()
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + sign + line[self._column + 1 :]
            self._column += 1
        self._grow()

    def _grow(self) -> None:
        self.lines += [""] * (self._row + 1 - len(self.lines))


def on_terminal(columns: int, work: Callable[[], None]) -> tuple[Screen, str]:
    """The screen after some work whose stdout is a pseudo-terminal, and all that it was sent."""
    outer, inner = pty.openpty()
    read = bytearray()

    def listen() -> None:
        with contextlib.suppress(OSError):  # how a pseudo-terminal ends
            while data := os.read(outer, 1 << 16):
                read.extend(data)

    listener = threading.Thread(target=listen)
    listener.start()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(inner, "w", encoding="utf-8") as stdout:
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(sys, "stdout", stdout)
        with guarded_streams():  # as around every command
            work()
    listener.join()
    os.close(outer)
    screen, text = Screen(columns), read.decode()
    screen.feed(text)
    return screen, text


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_stand_above_the_bar_and_nothing_is_left_of_it(columns: int) -> None:
    """Reference: the lines themselves, on a terminal that obeys what rich sends."""
    lines = [f"{number} {'long ' * 30}".strip() for number in range(3)]

    def work() -> None:
        with progress("images") as display:
            for done, line in enumerate(lines):
                display(100_000 + done, 1_000_000)
                display.within(10.5, f"epoch {done} {'and so on ' * 20}")
                display.shown.refresh()  # type: ignore[attr-defined]
                (display.say if done else say)(line)
            display.shown.refresh()  # type: ignore[attr-defined]

    screen, text = on_terminal(columns, work)
    assert [line.rstrip() for line in screen.lines if line.strip()] == [
        line[start : start + columns].rstrip()
        for line in lines
        for start in range(0, len(line), columns)
    ]
    assert "100002/1000000" in text
    assert "epoch 2 and so on" in text
    shown = [MOVES.sub("", line) for line in re.split(r"[\r\n]+", text)]
    assert all(len(line) <= columns for line in shown if line not in lines), shown


def test_a_bar_moves_within_a_group_and_never_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: 0, 5 of a group in work, 4 of the next before the first is stored, then 10."""
    monkeypatch.setattr(watching, "SECONDS_BETWEEN_LOOKS", 0)
    seen = []

    def work() -> None:
        with progress("runs") as display:
            for step in (
                lambda: display(0, 20),
                lambda: display.within(5, ""),
                lambda: display.within(4, ""),
                lambda: display(10, 20),
            ):
                step()
                (task,) = display.shown.tasks  # type: ignore[attr-defined]
                seen.append((task.completed, task.total, task.fields["numbers"]))

    on_terminal(80, work)
    assert seen == [(0, 20, "0/20"), (5, 20, "0/20"), (5, 20, "0/20"), (10, 20, "10/20")]


def test_a_log_has_dated_lines_of_epoch_loss_and_best(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: figures by hand, half a group of four runs after ten seconds."""
    clock = iter([0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr("featbank.cli.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("featbank.cli.progress.time.strftime", lambda form: "12:34:56")
    look = Look(Recipe("crt", lr=0.5), 1.25, 40.0)
    moment = SimpleNamespace(epoch=1, epochs=2, recipes=4, share=0.5, look=lambda: look)
    with progress("runs") as display:
        display._total = 8
        Watch(display)(moment)  # type: ignore[arg-type]
    assert capsys.readouterr().out == (
        "12:34:56 runs: 0 of 8, 0.2 per second, 30 s left, epoch 1/2 of 4 runs · loss 1.250 · "
        "best val 40.0 %: crt lr=0.5\n"
    )


@pytest.fixture
def small() -> Problem:
    """A small problem of two views."""
    return problem()


def test_moments_of_a_group(small: Problem) -> None:
    """Reference: the curves of the outcomes, cut at the epoch."""
    recipes = [Recipe("crt", lr=lr, epochs=3) for lr in (0.01, 0.1)]
    (group,) = groups_of(recipes, small)
    looks: list[tuple[float, Look]] = []

    def watch(moment: Moment) -> None:
        assert (moment.epochs, moment.recipes) == (3, 2)
        looks.append((moment.share, moment.look()))

    outcomes = {o.recipe: o for o in run_group(group, small.view("instance"), watch=watch)}
    assert [share for share, _ in looks] == pytest.approx([1 / 3, 2 / 3, 1])
    for epoch, (_, look) in enumerate(looks, 1):
        curves = outcomes[look.recipe].curves
        assert look.loss == pytest.approx(curves["loss"][epoch - 1])
        if look.val is None:
            assert look.loss == min(o.curves["loss"][epoch - 1] for o in outcomes.values())
        else:
            best = max(max(o.curves["val_macro"][:epoch]) for o in outcomes.values())
            assert look.val == pytest.approx(best)


def test_a_watched_group_has_the_same_parameters(small: Problem) -> None:
    """Reference: the same group without a watch, bit for bit."""
    (group,) = groups_of([Recipe("crt", epochs=3)], small)
    view = small.view("instance")
    (plain,), (watched,) = (
        run_group(group, view, watch=watch) for watch in (None, lambda moment: moment.look())
    )
    for name, value in plain.parameters.items():
        assert torch.equal(watched.parameters[name], value)


@pytest.mark.parametrize("command", ["train", "extract"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_stage_1_in_one_line(
    command: str, number: signal.Signals, tmp_path: Path, featbank: Callable[..., object]
) -> None:
    """SIGTERM as Ctrl-C: exit 1, and one line on stderr."""
    if command == "extract":
        featbank("train", "--dataset", "digits-lt", "--epochs", 1, "-o", "run")
        words = ["extract", "run", "-o", "bank.h5"]
    else:
        words = ["train", "--dataset", "digits-lt", "--epochs", "10000", "-o", "run"]
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    try:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "featbank", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, handler)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (1, "featbank: stopped.\n")
