"""Escape names from untrusted files for a terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters of C0 and C1, line ends, changes of writing direction, invisible characters,
surrogates and noncharacters. The joiners of Persian and of emoji (U+200C, U+200D) stay."""

_MARKDOWN = re.compile(r"[\\|`*]|<(?=[A-Za-z/!?])|(?<=\])[(\[]")
"""Marks of cells, spans, HTML and links; a plain ``n < 20`` stays."""

_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "≤": r"$\le$", "−": "$-$", "\u00a0": "~", "±": r"$\pm$", "–": "--"}
    | {"|": r"\textbar{}", "`": r"\textasciigrave{}"}
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def visible(text: str) -> str:
    r"""A text on one line, with its control characters as escapes.

    >>> visible("ape\x1b[2J\n")
    'ape\\x1b[2J\\n'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def clipped(text: str, most: int) -> str:
    r"""A name for a picture or a sentence: visible, and cut to `most` characters.

    >>> clipped("a very long\nname", 10)
    'a very lo…'
    """
    shown = visible(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def visible_lines(text: str) -> str:
    """As `visible`, but line ends and tabs stay."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))


def in_markdown(text: str) -> str:
    r"""Escape a text for Markdown.

    >>> in_markdown("a|b <script>")
    'a\\|b \\<script>'
    """
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", visible(text))


def in_latex(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> in_latex("50 % a_b")
    '50 \\% a\\_b'
    """
    return visible(text).translate(_LATEX)


def in_csv(value: Any) -> Any:
    """Guard a cell against spreadsheets: a text that would start a formula gets an apostrophe
    before it, as OWASP advises. Numbers stay, also as texts.

    >>> in_csv("=1+1"), in_csv("-0.5"), in_csv(-0.5)
    ("'=1+1", '-0.5', -0.5)
    """
    if not isinstance(value, str):
        return value
    formula = value.startswith(_FORMULA) and not _NUMBER.fullmatch(value)
    return f"'{visible(value)}" if formula else visible(value)
