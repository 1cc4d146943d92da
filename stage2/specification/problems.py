"""Problems of a specification, each with its origin: a line of the file, or an option."""

from __future__ import annotations

from typing import NamedTuple

from featbank import errors

MOST = 20
"""Problems that are listed; one more ends the check, as thousands would take long."""


class Origin(NamedTuple):
    """The place that a value comes from.

    Attributes
    ----------
    name
        The file, or an option as written; empty where messages name it themselves.
    line
        In the file; 0 for an option.
    """

    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


class Problems:
    """Problems noted while a specification is checked, each message once.

    Parameters
    ----------
    title
        The file; empty where everything comes from options.
    """

    def __init__(self, title: str) -> None:
        self._title, self._messages = title, dict[tuple[Origin, str], None]()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, origin: Origin, message: object) -> None:
        """Note a problem; raise a `ConfigError` with all of them where they are too many."""
        self._messages[origin, str(message)] = None
        if len(self) > MOST:
            self.check()

    def check(self) -> None:
        """Raise a `ConfigError` with every problem, those of options first, then line by line."""
        ordered = sorted(self._messages, key=lambda problem: problem[0].line)
        lines = [f"{origin}: {text}" if origin.name else text for origin, text in ordered]
        if len(lines) == 1:
            raise errors.ConfigError(lines[0])
        if lines:
            count = f"more than {MOST}" if len(lines) > MOST else len(lines)
            title = f"{self._title}: " if self._title else ""
            raise errors.SeveralErrors(f"{title}{count} errors.", lines[:MOST])
