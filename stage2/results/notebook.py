"""Tables of results for notebooks and data frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from featbank import errors
from featbank.characters import clipped, visible
from featbank.wording import number
from stage2.results.leaderboard import Leaderboard
from stage2.results.tables import Table, starred_protocol, table_of

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
"""Lines of a leaderboard in a notebook."""

_PRINTED, _WIDEST = 5, 24
"""Lines of a leaderboard as text, and characters of a cell there."""


def data_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a data frame, a column for each name.

    Raises
    ------
    ConfigError
        Where pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise errors.ConfigError(
            "Data frames need the package pandas. Run pip install 'featbank[pandas]'."
        ) from error
    return pd.DataFrame([dict(row) for row in rows])


def html(table: Table, note: str = "") -> str:
    """A table in HTML, its title above it and a `note` below."""
    align = ["left"] * table.texts + ["right"] * (len(table.header) - table.texts)
    head = "".join(map(_cell("th"), table.header, align))
    body = "".join(f"<tr>{''.join(map(_cell('td'), line, align))}</tr>" for line in table.lines)
    title = f"<p>{escape(visible(table.title))}</p>" if table.title else ""
    below = f"<p><small>{escape(visible(note))}</small></p>" if note else ""
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def board_html(board: Leaderboard) -> str:
    """The first configurations of a leaderboard in HTML, the protocol below them."""
    table = table_of(board.first(SHOWN))._replace(title="")
    count = len(board.configurations())
    more = f"{SHOWN} of {number(count, 'configuration')} shown · " if count > SHOWN else ""
    return html(table, more + starred_protocol(board))


def board_text(board: Leaderboard) -> str:
    """The first configurations of a leaderboard in a few lines of text."""
    table = table_of(board.first(_PRINTED))
    lines = [[clipped(cell, _WIDEST) for cell in line] for line in (table.header, *table.lines)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(
            cell.ljust(width) if place < table.texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    count = len(board.configurations())
    order = f"best on {board.select_on} first" if board.select_on else "by name"
    title = f"{number(count, 'configuration')} on {board.terms.split}, {order}"
    rest = [f"… and {count - _PRINTED} more"] if count > _PRINTED else []
    return "\n".join([title, *texts, *rest])


def _cell(tag: str) -> Any:
    """Make a cell of a text and its alignment."""
    return lambda text, side: f'<{tag} style="text-align: {side}">{escape(visible(text))}</{tag}>'
