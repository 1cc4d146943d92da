"""Names from files of anyone as they may be shown: on a terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from typing import Any

_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters of C0 and C1, line ends, what turns the direction of writing, what is not
seen, halves of characters, and what is none. The joiners of Persian and of emoji (U+200C, U+200D)
stay."""

_MARKDOWN = re.compile(r"[\\|`*]|<(?=[A-Za-z/!?])|(?<=\])[(\[]")
"""What makes a cell, a span, HTML or a link of a text; a plain ``n < 20`` stays."""

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "≤": r"$\le$", "−": "$-$", "\u00a0": "~", "±": r"$\pm$", "–": "--"}
    | {"|": r"\textbar{}", "`": r"\textasciigrave{}"}
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def visible(text: str) -> str:
    r"""A text on one line, with every character that a terminal would obey as its escape.

    >>> visible("ape\x1b[2J\n")
    'ape\\x1b[2J\\n'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def clipped(text: str, most: int) -> str:
    r"""A name as a picture or a sentence has room for it: visible, and cut to `most` characters.

    >>> clipped("a very long\nname", 10)
    'a very lo…'
    """
    shown = visible(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def visible_lines(text: str) -> str:
    """The same, but line ends and tabs stay."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))


def in_markdown(text: str) -> str:
    r"""A text that Markdown shows as it is.

    >>> in_markdown("a|b <script>")
    'a\\|b \\<script>'
    """
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", visible(text))


def in_latex(text: str) -> str:
    r"""A text that LaTeX shows as it is.

    >>> in_latex("50 % a_b")
    '50 \\% a\\_b'
    """
    return visible(text).translate(_LATEX)


def in_csv(value: Any) -> Any:
    """A cell that no spreadsheet runs: a text that would begin a formula has an apostrophe before
    it, as OWASP advises. Numbers, also those in texts, stay.

    >>> in_csv("=1+1"), in_csv("-0.5"), in_csv(-0.5)
    ("'=1+1", '-0.5', -0.5)
    """
    if not isinstance(value, str):
        return value
    runs = value.startswith(_FORMULA) and not _NUMBER.fullmatch(value)
    return f"'{visible(value)}" if runs else visible(value)
