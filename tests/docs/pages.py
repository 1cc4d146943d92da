"""Parsing of README and docs for the tests: fenced blocks, their marks, links and anchors."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
PAGES.insert(0, "README.md")
RUN = ("sh", "console", "python")
"""Languages of blocks that the tests run."""
SHOWN = ("", "text", "toml", "{toctree}", "{eval-rst}")
"""Languages of other blocks."""
MARK = re.compile(r"<!-- not run:(.*)-->")


@dataclass(frozen=True)
class Block:
    """A fenced block: the number of its first line, and the reason not to run it, or None."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command; in a console block, of the lines that start with ``$``."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        words = [shlex.split(line, comments=True) for line in lines]
        return [line for line in words if line]


def blocks(page: str) -> Iterator[Block]:
    """Blocks of a page in order."""
    fence: tuple[int, str, str | None] | None = None  # line, language and mark of an open block
    mark = None
    lines: list[str] = []
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        if fence is None and line.startswith("```"):
            fence, lines = (number + 1, line[3:], mark), []
        elif fence is not None and line == "```":
            text = "".join(f"{row}\n" for row in lines)
            yield Block(page, fence[0], fence[1], text, fence[2])
            fence = None
        elif fence is not None:
            lines.append(line)
        match = MARK.fullmatch(line)
        mark = match[1].strip() if match else None
    assert fence is None, f"{page}:{fence} is not closed"


BLOCKS = [block for page in PAGES for block in blocks(page)]
CODE = [block for block in BLOCKS if block.language in RUN]


def expanded(page: str) -> str:
    """Text of a page with the parts that the site generates."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from registries import expand
    finally:
        sys.path.pop(0)
    text: str = expand((ROOT / page).read_text())
    return text


def without_code(text: str) -> str:
    """Text without fenced blocks and code spans, whose brackets are not links."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def links(text: str) -> list[str]:
    """Relative links of a page, including images."""
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", without_code(text))


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings: lower case, hyphens for blanks, no punctuation."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", outside, re.M)
    plain = (title.replace("`", "").replace("\\", "").lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


def existing(page: str, target: str) -> Path:
    """File that a link of a page points to."""
    return ((ROOT / page).parent / target).resolve() if target else ROOT / page
