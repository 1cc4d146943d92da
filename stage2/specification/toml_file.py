"""A TOML file with the lines of its keys and values, which `tomllib` does not give."""

from __future__ import annotations

import bisect
import itertools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.regular import kind_of

Place = tuple[str | int, ...]
"""Keys and array indices from the top: ``("recipes", "crt", "lr", 1)``."""

LARGEST = 1_000_000
"""Bytes of a file."""

DEEPEST = 32
"""Tables and arrays within one another."""

_LONG_KEY = re.compile(
    r"""(?:^|[\[{,])[ \t]*(?:(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){32}""",
    re.MULTILINE,
)
"""A dotted key of 32 parts or more; `tomllib` takes time that grows as their square."""

_LARGE_INTEGER = "{} has an integer of more than 64 bits. Write a float."

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""+|' + r"'''.*?'''+|" + r'"(?:[^"\\]|\\.)*"|' + r"'[^']*'", re.DOTALL
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


@dataclass(frozen=True)
class TomlFile:
    """A TOML file that was read.

    Attributes
    ----------
    name
        As messages call it.
    text
        Its text.
    values
        Its values.
    lines
        Their lines, see `place_lines`.
    """

    name: str
    text: str
    values: dict[str, Any]
    lines: dict[Place, int]

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest one around it; 1 for the whole file."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def opening(self) -> str:
        """The comment at its top, on one line."""
        comment = itertools.takewhile(lambda line: line[:1] == "#", self.text.splitlines())
        return " ".join(line.removeprefix("#").strip() for line in comment).strip()


def read_toml(file: Path, name: str) -> TomlFile:
    """Read a file, called `name` in messages.

    Raises
    ------
    ConfigError
        Where it cannot be read, or is not TOML, with the line.
    """
    if kind := kind_of(file):
        raise errors.ConfigError(f"{name} is {kind}, not a file. Name a TOML file.")
    try:
        if (size := file.stat().st_size) > LARGEST:
            raise errors.ConfigError(f"{name} has {size:,} bytes, at most {LARGEST:,}. Shorten it.")
        text = file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        if _LONG_KEY.search(text):
            raise RecursionError
        values = tomllib.loads(text)
        _check_values(values, name)
    except UnicodeDecodeError as error:
        raise errors.ConfigError(
            f"{name} is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from None
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise errors.ConfigError(f"{name}: {reason}. Name a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise errors.ConfigError(f"{name}:{_parse_error(error, text)} This is not TOML.") from None
    except RecursionError:
        raise errors.ConfigError(
            f"{name}: nested too deeply, more than {DEEPEST} deep. Write it flat."
        ) from None
    except ValueError:  # Python reads integers up to some length only
        raise errors.ConfigError(_LARGE_INTEGER.format(name)) from None
    return TomlFile(name, text, values, place_lines(text))


def _check_values(values: dict[str, Any], name: str) -> None:
    """Raise for values nested deeper than `DEEPEST`, and for integers of more than 64 bits."""
    level: list[Any] = [values]
    for _ in range(DEEPEST):
        inner = [v for t in level for v in (t.values() if isinstance(t, dict) else t)]
        if any(isinstance(value, int) and abs(value) >= 2**63 for value in inner):
            raise errors.ConfigError(_LARGE_INTEGER.format(name))
        level = [value for value in inner if isinstance(value, dict | list)]
    if level:
        raise RecursionError


def _parse_error(error: tomllib.TOMLDecodeError, text: str) -> str:
    """``4: Invalid value.``, from ``Invalid value (at line 4, column 6)``."""
    fact, line, _ = re.fullmatch(
        r"(.*?)(?: \(at (?:line (\d+), column (\d+)|end of document)\))?",
        errors.first_line(error),
    ).groups()  # type: ignore[union-attr]  # the pattern matches every line
    return f"{line or len(text.splitlines()) or 1}: {fact}."


def place_lines(text: str) -> dict[Place, int]:
    """The line, counted from 1, on which each table, key and array element starts.

    Parameters
    ----------
    text
        TOML that `tomllib` has read: it is valid.
    """
    scan = _Scan(text)
    scan.document()
    return scan.lines


class _Scan:
    """A scan of the text that follows brackets, strings and keys, and parses no value."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {}
        self._text, self._at = text, 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._tables: dict[Place, int] = {}  # tables of an array of tables so far

    def document(self) -> None:
        table: Place = ()
        while self._next():
            if self._text.startswith("[[", self._at):
                table = self._header(2)
            elif self._next() == "[":
                table = self._header(1)
            else:
                self._pair(table)

    def _header(self, brackets: int) -> Place:
        """Scan ``[a.b]`` or ``[[a.b]]``, and return the place of the table that it opens."""
        line = self._line()
        place: Place = ()
        self._at += brackets
        keys = self._key()
        self._at = self._text.index("]", self._at) + brackets
        for depth, key in enumerate(keys, 1):
            place = (*place, key)
            self.lines.setdefault(place, line)
            if depth == len(keys) and brackets == 2:
                self._tables[place] = self._tables.get(place, 0) + 1
            place = self._newest(place)
            self.lines.setdefault(place, line)
        return place

    def _newest(self, place: Place) -> Place:
        """The last table of an array of tables; any other place is itself."""
        return (*place, self._tables[place] - 1) if place in self._tables else place

    def _pair(self, table: Place) -> None:
        """Scan ``a.b = value`` within a table."""
        line, place = self._line(), table
        for key in self._key():
            place = (*place, key)
            self.lines.setdefault(place, line)
        self._at = self._text.index("=", self._at) + 1
        self._value(place)

    def _key(self) -> list[str]:
        """Scan a dotted key, and return its parts."""
        parts = []
        while True:
            character = self._next()
            match = (_STRING if character in "\"'" else _BARE_KEY).match(self._text, self._at)
            assert match, f"no key at {self._at}"
            self._at = match.end()
            quoted = character in "\"'"
            parts.append(tomllib.loads(f"key = {match[0]}")["key"] if quoted else match[0])
            if self._next() != ".":
                return parts
            self._at += 1

    def _value(self, place: Place) -> None:
        character = self._next()
        if character == "[":
            self._at += 1
            index = 0
            while self._next() != "]":
                self.lines[*place, index] = self._line()
                self._value((*place, index))
                index += 1
                self._comma()
            self._at += 1
        elif character == "{":
            self._at += 1
            while self._next() != "}":
                self._pair(place)
                self._comma()
            self._at += 1
        else:
            match = (_STRING if character in "\"'" else _SCALAR).match(self._text, self._at)
            assert match, f"no value at {self._at}"
            self._at = match.end()

    def _comma(self) -> None:
        if self._next() == ",":
            self._at += 1

    def _next(self) -> str:
        """Skip blanks and comments, and return the next character; empty at the end."""
        match = _BLANK.match(self._text, self._at)
        assert match
        self._at = match.end()
        return self._text[self._at : self._at + 1]

    def _line(self) -> int:
        return bisect.bisect_left(self._newlines, self._at) + 1
