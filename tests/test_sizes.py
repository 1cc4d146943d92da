"""What keeps the house easy to see: short files, short functions."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator

from tests.conftest import ROOT

FILE_LINES = 400
MEDIAN_LINES = 130
FUNCTION_LINES = 60
"""Of a function's body, without its docstring. Ruff holds the cyclomatic complexity."""

FILES = [
    file
    for package in ("featbank", "stage1", "stage2")
    for file in sorted((ROOT / package).rglob("*.py"))
]


def bodies(source: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function, without its signature and docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            statements = node.body[1:] if ast.get_docstring(node) else node.body
            if statements:
                yield node.name, (node.end_lineno or 0) - statements[0].lineno + 1


def test_files_and_functions_are_short() -> None:
    """At most `FILE_LINES` and `FUNCTION_LINES`; what exceeds them holds more than one thing."""
    long = []
    for file in FILES:
        source, place = file.read_text(encoding="utf-8"), file.relative_to(ROOT)
        if len(source.splitlines()) > FILE_LINES:
            long.append(str(place))
        long += [f"{place}::{name}" for name, size in bodies(source) if size > FUNCTION_LINES]
    assert long == []


def test_half_of_the_files_are_shorter_still() -> None:
    """The median of all files."""
    lines = [len(file.read_text(encoding="utf-8").splitlines()) for file in FILES]
    assert statistics.median(lines) <= MEDIAN_LINES
