"""Output of commands: visible, in the stream's encoding, and never lost in silence.

While a command runs, `guarded_streams` wraps stdout and stderr. Names come from untrusted files, so
control characters are shown as escapes; characters that the stream cannot encode are replaced; a
closed pipe ends the command silently, and a stdout that cannot be written ends it in one line.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from featbank.characters import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN = {
    **{"≤": "<=", "≥": ">=", "…": "...", "–": "-", "−": "-", "—": "-", "±": "+-", "×": "x"},
    **{"→": "->", "▶": ">", "·": "-", "─": "-", "━": "-", "│": "|", "\u00a0": " ", "τ": "tau"},
    "Δ": "d",
}
"""Replacements of our own signs where a stream cannot encode them; any other becomes ``?``."""


def say(text: str, *, err: bool = False) -> None:
    """Print one line, with control characters in names made visible."""
    click.echo(visible(text), err=err)


def console() -> Console:
    """A console of rich on stdout; for a file or a pipe, wide enough to fold no line."""
    from rich.console import Console

    output = Console(file=styled_stdout(), highlight=False)
    if not output.is_terminal:
        output.width = 200
    return output


def styled_stdout() -> TextIO:
    """Stdout for rich, which writes escape sequences of its own; make its texts visible first."""
    return sys.stdout.styled if isinstance(sys.stdout, _Stream) else sys.stdout


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Wrap stdout and stderr while a command runs."""
    stdout, stderr = sys.stdout, sys.stderr
    devnull = open(os.devnull, "w") if stderr is None else None  # noqa: SIM115  # closed below
    sys.stderr = _Stream(devnull or stderr, _ignored)
    try:
        if stdout is None:
            _end("stdout is closed. Redirect it to /dev/null if nobody reads it.")
        sys.stdout = _Stream(stdout, _end_of_stdout)
        try:
            yield
        finally:
            sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        if devnull:
            devnull.close()


class _Stream(io.TextIOBase):
    """A text stream that writes as described above.

    It has no ``buffer``: click would write UTF-8 to it, whatever the encoding.

    Parameters
    ----------
    stream
        The stream underneath.
    failed
        Called with the stream and the error where a write fails.
    escapes
        Whether control characters become visible.
    """

    def __init__(
        self, stream: TextIO, failed: Callable[[TextIO, OSError], None], *, escapes: bool = True
    ) -> None:
        self._stream, self._failed, self._escapes = stream, failed, escapes

    @property
    def styled(self) -> TextIO:
        """The same stream, for escape sequences that are written on purpose."""
        return _Stream(self._stream, self._failed, escapes=False)  # type: ignore[return-value]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        shown = _encodable(visible_lines(text) if self._escapes else text, self.encoding)
        try:
            self._stream.write(shown)
        except OSError as error:
            self._failed(self._stream, error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(self._stream, error)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True


def _encodable(text: str, encoding: str) -> str:
    """The text with each character replaced that an encoding does not have."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if _has(encoding, c) else _PLAIN.get(c, "?") for c in text)
    return text


def _has(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _end_of_stdout(stream: TextIO, error: OSError) -> NoReturn:
    place = _place(stream)
    _silence(stream)
    if isinstance(error, BrokenPipeError):  # the reader has seen enough
        sys.exit(1)
    _end(f"{place} could not be written ({error.strerror or error}). Choose another place.")


def _end(fact: str) -> NoReturn:
    say(f"featbank: the work failed: {fact}", err=True)
    sys.exit(1)


def _ignored(stream: TextIO, error: OSError) -> None:
    _silence(stream)  # nowhere is left to report it


def _silence(stream: TextIO) -> None:
    """Discard what is left in a stream's buffer, which the interpreter would write at its exit."""
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def _place(stream: TextIO) -> str:
    """The file that a stream is redirected to, where the system knows it."""
    with contextlib.suppress(OSError, ValueError):
        path = os.readlink(f"/proc/self/fd/{stream.fileno()}")
        return path if path.startswith("/") else "stdout"
    return "stdout"
