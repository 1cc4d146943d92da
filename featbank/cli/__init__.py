"""The command line. Its commands are imported when it is called, so that Ctrl-C during the imports
ends it in one line as well.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that stop a command."""


class _CommandLine:
    """The click group of `featbank.cli.commands`; called, it is the installed command."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        interrupts = _Interrupts()
        try:
            return self._group()(*arguments, **options)
        except (Exception, KeyboardInterrupt):
            if not interrupts.came:  # an import may turn an interrupt into any error
                raise
            stop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group(), name)

    @staticmethod
    def _group() -> Any:
        from featbank.cli import commands

        return commands.main


main = _CommandLine()


def stop() -> NoReturn:
    """Report that the command was stopped, and end it; of several processes only the leader does.

    A second signal ends it at once.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if os.environ.get("RANK", "0") == "0":
        print("featbank: stopped.", file=sys.stderr)
    sys.exit(1)


class _Interrupts:
    """Handlers of `SIGNALS` that raise KeyboardInterrupt, and remember that they did.

    An interrupt in a callback of the interpreter is lost there with a traceback, which happens
    during imports: it is then raised again a moment later.
    """

    def __init__(self) -> None:
        self.came = False
        self._process = os.getpid()
        self._unraisable = sys.unraisablehook
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job
                signal.signal(number, self._interrupt)
        signal.signal(signal.SIGALRM, self._interrupt)
        sys.unraisablehook = self._lost

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        if os.getpid() != self._process:  # a forked child reports nothing
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.came = True
        raise KeyboardInterrupt

    def _lost(self, unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            self._unraisable(unraisable)
