"""README and docs as the tests read them: fenced blocks, their marks, links and anchors."""

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
"""Languages of blocks that are run."""
SHOWN = ("", "text", "toml", "{toctree}", "{eval-rst}")
"""Languages of blocks that are not."""
MARK = re.compile(r"<!-- not run:(.*)-->")


@dataclass(frozen=True)
class Block:
    """A fenced block: where its first line stands, and why it is not run, or None."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command; of a console, those behind a ``$``."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        words = [shlex.split(line, comments=True) for line in lines]
        return [line for line in words if line]


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page in order."""
    opened: tuple[int, str, str | None] | None = None
    mark = None
    held: list[str] = []
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        if opened is None and line.startswith("```"):
            opened, held = (number + 1, line[3:], mark), []
        elif opened is not None and line == "```":
            text = "".join(f"{row}\n" for row in held)
            yield Block(page, opened[0], opened[1], text, opened[2])
            opened = None
        elif opened is not None:
            held.append(line)
        found = MARK.fullmatch(line)
        mark = found[1].strip() if found else None
    assert opened is None, f"{page}:{opened} is not closed"


BLOCKS = [block for page in PAGES for block in blocks(page)]
MEANT = [block for block in BLOCKS if block.language in RUN]


def expanded(page: str) -> str:
    """A page with what the site generates in it."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from registries import expand
    finally:
        sys.path.pop(0)
    text: str = expand((ROOT / page).read_text())
    return text


def without_code(text: str) -> str:
    """A page without fenced blocks and code spans, whose brackets are no links."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def links(text: str) -> list[str]:
    """Relative links of a page, images among them."""
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", without_code(text))


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings: small letters, hyphens for blanks, no punctuation."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", outside, re.M)
    plain = (title.replace("`", "").replace("\\", "").lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


def existing(page: str, target: str) -> Path:
    """The file a link of a page leads to."""
    return ((ROOT / page).parent / target).resolve() if target else ROOT / page
