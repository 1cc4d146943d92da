"""Draw docs/rooms.svg from the code: the rooms of each package, and who imports whom within it.

    python scripts/draw_rooms.py

A room is below all rooms that import it. Arrows implied by others are left out; an import cycle
is an error. tests/test_imports.py compares the picture with the code.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
BANDS = (("stage1", "stage2"), ("featbank",))
"""Packages side by side, and below them the one that both import."""
PACKAGES = tuple(package for band in BANDS for package in band)
WIDE, HIGH, GAP, RISE, FOOT = 118, 30, 14, 62, 54
"""Width and height of a room, gap between rooms, height of a level and of the last one with the
package below it, in pixels."""
STYLE = (
    "line{stroke:#9aa5b1;stroke-width:1;marker-end:url(#a)}rect{fill:#eef2f7;stroke:#52606d}"
    "text{font:12px sans-serif;text-anchor:middle;fill:#1f2933}.t{font-weight:bold}"
)
MARKER = (
    '<marker id="a" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" '
    'orient="auto"><path d="M0 0L6 3L0 6z" fill="#9aa5b1"/></marker>'
)

Arrows = dict[str, set[str]]
Places = dict[str, tuple[float, float]]


def arrows_of(package: str) -> Arrows:
    """Rooms of the package that each room imports; a module at the top level is a room."""
    arrows: Arrows = defaultdict(set)
    for file in sorted((ROOT / package).rglob("*.py")):
        room, *_ = file.relative_to(ROOT / package).with_suffix("").parts
        if not room.startswith("__"):
            arrows[room] |= _imported(file, package) - {room}
    return dict(arrows)


def _imported(file: Path, package: str) -> set[str]:
    """The rooms of a package that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            head, _, rest = node.module.partition(".")
            if head == package:
                rooms |= {rest.split(".")[0]} if rest else {alias.name for alias in node.names}
    return {room for room in rooms if _is_room(package, room)}


def _is_room(package: str, name: str) -> bool:
    place = ROOT / package / name
    return place.is_dir() or place.with_suffix(".py").is_file()


def floors(arrows: Arrows) -> dict[str, int]:
    """Level of each room: 0 if it imports none, else one above the highest that it imports.

    Raises
    ------
    ValueError
        For an import cycle, with its rooms.
    """
    levels: dict[str, int] = {}

    def level(room: str, above: tuple[str, ...]) -> int:
        if room in above:
            raise ValueError(" → ".join((*above[above.index(room) :], room)))
        if room not in levels:
            imported = [level(to, (*above, room)) for to in sorted(arrows.get(room, ()))]
            levels[room] = 1 + max(imported, default=-1)
        return levels[room]

    for room in sorted(arrows):
        level(room, ())
    return levels


def direct(arrows: Arrows) -> Arrows:
    """Arrows that no chain of other arrows implies."""
    reachable: Arrows = {}

    def below(room: str) -> set[str]:
        if room not in reachable:
            reachable[room] = set().union(*({to} | below(to) for to in arrows.get(room, ())))
        return reachable[room]

    return {
        room: {to for to in targets if not any(to in below(other) for other in targets)}
        for room, targets in arrows.items()
    }


def picture() -> str:
    """The SVG of all packages."""
    parts, right, bottom = [], 0, 0
    for band in BANDS:
        packages = {package: _rows(arrows_of(package)) for package in band}
        left, bottom = 20, bottom + max(map(len, packages.values())) * RISE + FOOT
        for package, rows in packages.items():
            width = max(map(len, rows)) * (WIDE + GAP) - GAP
            title = f'<text x="{left + width / 2}" y="{bottom - 6}" class="t">{package}</text>'
            rooms = _rooms(direct(arrows_of(package)), _places(rows, left, width, bottom))
            parts += [title, *rooms]
            left += width + 50
        right = max(right, left - 30)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom}" '
        f'width="{right}" height="{bottom}">\n<style>{STYLE}</style>\n<defs>{MARKER}</defs>\n'
        f"{body}\n</svg>\n"
    )


def _rows(arrows: Arrows) -> list[list[str]]:
    """Rooms by level, from the ground up."""
    levels = floors(arrows)
    return [
        [room for room in sorted(levels) if levels[room] == n]
        for n in range(max(levels.values()) + 1)
    ]


def _places(rows: list[list[str]], left: int, width: int, bottom: int) -> Places:
    """Upper left corner of each room; rows are centred."""
    return {
        room: (
            left + (width - len(row) * (WIDE + GAP) + GAP) / 2 + i * (WIDE + GAP),
            bottom - FOOT - n * RISE,
        )
        for n, row in enumerate(rows)
        for i, room in enumerate(row)
    }


def _rooms(arrows: Arrows, places: Places) -> Iterator[str]:
    """Arrows and boxes of a package."""
    for room, targets in sorted(arrows.items()):
        for to in sorted(targets):
            (x, y), (a, b) = places[room], places[to]
            yield f'<line x1="{x + WIDE / 2}" y1="{y + HIGH}" x2="{a + WIDE / 2}" y2="{b}"/>'
    for room, (x, y) in sorted(places.items()):
        yield f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="4"/>'
        yield f'<text x="{x + WIDE / 2}" y="{y + 19}">{escape(room)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
