"""Draws docs/rooms.svg: the rooms of stage 1 and stage 2, and who imports whom, from the code.

    python scripts/draw_rooms.py

A room stands below all that import it; an arrow that follows from others is not drawn, and a circle
is an error. tests/test_imports.py draws the picture as well, and compares.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
STAGES = ("stage1", "stage2")
WIDE, HIGH, GAP, RISE = 118, 30, 14, 62
"""Size of a room, the gap beside it and the height of a floor, in pixels."""

Arrows = dict[str, set[str]]


def arrows_of(package: str) -> Arrows:
    """What each room of a package imports of it; a module at its top is a room of its own."""
    found: Arrows = defaultdict(set)
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT / package).with_suffix("").parts
        if parts == ("__init__",):
            continue
        room = parts[0]
        found[room] |= {to for to in _imported(file, package) if to != room}
    return dict(found)


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
    """The floor of each room: 0 where it imports none, else one above the highest it imports.

    Raises
    ------
    ValueError
        For a circle, with its rooms.
    """
    found: dict[str, int] = {}

    def floor(room: str, below: tuple[str, ...]) -> int:
        if room in below:
            raise ValueError(" → ".join((*below[below.index(room) :], room)))
        if room not in found:
            under = [floor(to, (*below, room)) for to in sorted(arrows.get(room, ()))]
            found[room] = 1 + max(under, default=-1)
        return found[room]

    for room in sorted(arrows):
        floor(room, ())
    return found


def direct(arrows: Arrows) -> Arrows:
    """The arrows that no chain of others says already."""
    reach: Arrows = {}

    def below(room: str) -> set[str]:
        if room not in reach:
            reach[room] = set().union(*({to} | below(to) for to in arrows.get(room, ())), set())
        return reach[room]

    return {
        room: {to for to in targets if not any(to in below(other) for other in targets)}
        for room, targets in arrows.items()
    }


def picture() -> str:
    """The SVG of all stages, side by side."""
    parts, left, top = [], 20, 0
    drawn = []
    for package in STAGES:
        arrows = arrows_of(package)
        level = floors(arrows)
        rows = [[r for r in sorted(level) if level[r] == n] for n in range(max(level.values()) + 1)]
        drawn.append((package, direct(arrows), rows))
        top = max(top, len(rows))
    height = top * RISE + 40
    for package, arrows, rows in drawn:
        width = max(len(row) for row in rows) * (WIDE + GAP) - GAP
        place = {
            room: (
                left + (width - len(row) * (WIDE + GAP) + GAP) / 2 + i * (WIDE + GAP),
                height - 40 - n * RISE,
            )
            for n, row in enumerate(rows)
            for i, room in enumerate(row)
        }
        parts.append(f'<text x="{left + width / 2}" y="{height - 6}" class="t">{package}</text>')
        for room, targets in sorted(arrows.items()):
            for to in sorted(targets):
                (x, y), (a, b) = place[room], place[to]
                parts.append(
                    f'<line x1="{x + WIDE / 2}" y1="{y + HIGH}" x2="{a + WIDE / 2}" y2="{b}"/>'
                )
        for room, (x, y) in sorted(place.items()):
            parts.append(f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="4"/>')
            parts.append(f'<text x="{x + WIDE / 2}" y="{y + 19}">{escape(room)}</text>')
        left += width + 50
    style = (
        "line{stroke:#9aa5b1;stroke-width:1;marker-end:url(#a)}rect{fill:#eef2f7;stroke:#52606d}"
        "text{font:12px sans-serif;text-anchor:middle;fill:#1f2933}.t{font-weight:bold}"
    )
    marker = (
        '<marker id="a" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 0L6 3L0 6z" fill="#9aa5b1"/></marker>'
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left - 30} {height}" '
        f'width="{left - 30}" height="{height}">\n<style>{style}</style>\n<defs>{marker}</defs>\n'
        f"{body}\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
