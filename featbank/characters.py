"""Names from files and paths as they may be shown: what a terminal would obey becomes visible."""

from __future__ import annotations

import re

_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters of C0 and C1, line ends, what turns the direction of writing, what is not
seen, and halves of characters. The joiners of Persian and of emoji (U+200C, U+200D) are none."""


def visible(text: str) -> str:
    r"""A text on one line, with every character that a terminal would obey as its escape.

    >>> visible("ape\x1b[2J\n")
    'ape\\x1b[2J\\n'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_lines(text: str) -> str:
    """The same, but line ends and tabs stay."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))
