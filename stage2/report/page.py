"""The page: template, style, program, data and plotly.js in one file that needs no network."""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.characters import visible_lines
from featbank.files import replacing
from stage2.report.banks import gather_banks
from stage2.report.gathering import TOP
from stage2.results.results import Results

SCRIPTS = (
    *("state.js", "table.js", "charts.js", "answer.js", "sweep.js", "settings.js", "inside.js"),
    *("together.js", "live.js", "maps.js", "banks.js", "page.js"),
)
"""The program of the page, in the order it runs."""


def report(
    results: Results | Sequence[Results],
    output: str | os.PathLike[str],
    *,
    condition: str | None = None,
    top: int = TOP,
    title: str | None = None,
    heads: Sequence[str | os.PathLike[str]] = (),
    features: str | os.PathLike[str] | None = None,
) -> int:
    """Write the page of a results file; one that is there is replaced.

    Parameters
    ----------
    results
        The results on a bank, or on several (`stage2.results.banks.banks_of`).
    output
        The page, ``.html``.
    condition, top, title, heads, features
        As of `stage2.report.banks.gather_banks`.

    Returns
    -------
    Size in bytes.

    Raises
    ------
    ConfigError
        For a name that does not end in .html, a missing folder, and as of `gather_banks`.
    """
    path = Path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise errors.ConfigError(f"{path} does not end in .html. Name the page like report.html.")
    if not path.parent.is_dir():
        raise errors.ConfigError(f"{path.parent} is not a folder. Create it first.")
    if path.is_dir():
        raise errors.ConfigError(f"{path} is a folder. Choose another name.")
    banks = [results] if isinstance(results, Results) else results
    data = gather_banks(
        banks, condition=condition, top=top, title=title, heads=heads, features=features
    )
    text = render(data).encode()
    with replacing(path) as part:
        part.write_bytes(text)
    return len(text)


def render(data: Mapping[str, Any]) -> str:
    """The page as HTML, from gathered data."""
    folder = files("stage2.report") / "template"
    parts = {
        "TITLE": html.escape(visible_lines(data["title"])),
        "STYLE": (folder / "page.css").read_text("utf-8"),
        "DATA": embedded(_visible(data)),
        "PLOTLY": _plotly(),
        "SCRIPT": "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    }
    template = (folder / "page.html").read_text("utf-8")
    return re.sub(r"<!-- ([A-Z]+) -->", lambda mark: parts[mark[1]], template)


def _visible(data: Any) -> Any:
    """Data with all control characters of its texts made visible."""
    if data is None or type(data) in (float, int, bool):  # most of a page by far
        return data
    if isinstance(data, str):
        return visible_lines(data)
    if isinstance(data, Mapping):
        return {_visible(key): _visible(value) for key, value in data.items()}
    return list(map(_visible, data)) if isinstance(data, list | tuple) else data


def embedded(data: Any) -> str:
    """JSON without characters that HTML interprets: nothing in it can end its element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})


def _plotly() -> str:
    """plotly.js, gzip in base64: a third of its size; the page unpacks it."""
    from plotly.offline import get_plotlyjs  # nobody but this page needs it

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
