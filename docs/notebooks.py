"""The cells of a notebook, run one after the other, as Markdown for the site."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell: ``markdown`` or ``code``, its source, and as code what it printed and its value."""

    kind: str
    source: str
    printed: str = ""
    value: Any = None


def run(path: Path) -> Iterator[Cell]:
    """Run the cells of a notebook in the current folder, all in one namespace.

    An error is that of the cell. The notebooks here need no kernel: they use Python alone, without
    magics.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for place, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield Cell("markdown", source)
            continue
        tree, value = ast.parse(source), None
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            tree.body.pop()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, f"{path.name}, cell {place}", "exec"), names)
            if isinstance(last, ast.Expr):
                shown = ast.Expression(last.value)
                value = eval(compile(shown, f"{path.name}, cell {place}", "eval"), names)
        yield Cell("code", source, printed.getvalue(), value)


def shown(cell: Cell) -> str:
    """A cell as Markdown: code and what it shows, as a notebook would."""
    if cell.kind == "markdown":
        return cell.source
    parts = [f"```python\n{cell.source}\n```"]
    if cell.printed:
        parts.append(f"```text\n{cell.printed.rstrip()}\n```")
    if hasattr(cell.value, "_repr_png_"):
        picture = base64.b64encode(cell.value._repr_png_()).decode()
        parts.append(f'<img alt="the plot of the cell" src="data:image/png;base64,{picture}">')
    elif hasattr(cell.value, "_repr_html_"):
        parts.append(f'<div style="overflow-x: auto">{cell.value._repr_html_()}</div>')
    elif cell.value is not None:
        parts.append(f"```text\n{cell.value!r}\n```")
    return "\n\n".join(parts)


@cache
def rendered(path: Path) -> str:
    """A notebook, run in an empty folder, as Markdown without its title."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            text = "\n\n".join(map(shown, run(path)))
        finally:
            os.chdir(before)
    return text.partition("\n")[2].strip()
