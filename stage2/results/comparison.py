"""What a comparison says, and how people and programs read it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass

from featbank.characters import in_csv, in_markdown, visible
from stage2.engine.metrics import METRICS
from stage2.results.significance import LEVEL
from stage2.results.tables import latex, markdown

_GAIN = "B\u00a0−\u00a0A"  # never broken over lines


@dataclass(frozen=True)
class Measure:
    """An accuracy of A and B in percent, their difference B − A in points, its interval, and the
    standard deviation of the difference over seeds (None for one)."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    std: float | None


@dataclass(frozen=True)
class SeedTest:
    """McNemar's exact test of one seed: rows that only A, and only B, has right."""

    seed: int
    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class ClassDifference:
    """A class: training samples, rows of the split, accuracies in percent, B − A in points."""

    index: int
    name: str
    trained_on: int
    rows: int
    a: float
    b: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes
    ----------
    a, b
        Ids of the configurations.
    measures
        ``top1``, ``macro``, and of ``many``, ``medium``, ``few`` those that have rows.
    p
        Of the test over all seeds.
    p_holm
        Adjusted for the number of comparisons.
    seeds
        The seeds' own tests.
    classes
        Those with the largest differences, largest first.
    """

    a: str
    b: str
    measures: dict[str, Measure]
    p: float
    p_holm: float
    seeds: tuple[SeedTest, ...]
    classes: tuple[ClassDifference, ...]


@dataclass(frozen=True)
class Compared:
    """Comparisons of configurations with the first one.

    Attributes
    ----------
    comparisons
        One per further configuration.
    settings
        In what each configuration differs from its preset, by id.
    chosen
        Which configurations were taken for names of recipes, and why, by id.
    protocol
        One line.
    """

    comparisons: tuple[Comparison, ...]
    settings: dict[str, str]
    chosen: dict[str, str]
    protocol: str


@dataclass(frozen=True)
class Block:
    """A table with a title above it; its first `texts` columns are texts."""

    title: str
    header: list[str]
    lines: list[list[str]]
    texts: int = 1


def blocks(compared: Compared) -> list[Block]:
    """The tables: of one comparison its measures, seeds and classes; of several a line for each."""
    if len(compared.comparisons) == 1:
        return _pair(compared, compared.comparisons[0])
    first = compared.comparisons[0]
    told = [METRICS[name].label for name in first.measures]
    lines = [
        [
            first.a,
            compared.settings[first.a],
            *(f"{measure.a:.1f}" for measure in first.measures.values()),
            "",
            "",
        ]
    ]
    for each in compared.comparisons:
        cells = [f"{_points(m.difference)} {_interval(m)}" for m in each.measures.values()]
        settings = compared.settings[each.b]
        lines.append([each.b, settings, *cells, _p(each.p), _p(each.p_holm)])
    title = (
        f"Against {_told(compared, first.a)}: its accuracies in %, then differences from them in "
        f"points [{LEVEL} % interval]."
    )
    return [Block(title, ["recipe", "settings", *told, "p", "p Holm"], lines, 2)]


def render(compared: Compared, form: str) -> str:
    """A comparison as ``json``, ``csv``, ``md`` or ``latex``; csv has a row per measure."""
    if form == "json":
        return json.dumps(asdict(compared), indent=1, allow_nan=False)
    if form == "csv":
        return _csv(compared)
    found = blocks(compared)
    if form == "md":
        tables = [
            f"{in_markdown(block.title)}\n\n{markdown(block.header, block.lines)}"
            for block in found
        ]
        return "\n\n".join([*tables, in_markdown(compared.protocol)])
    tables = [
        f"% {visible(block.title)}\n{latex(block.header, block.lines, texts=block.texts)}"
        for block in found
    ]
    return "\n\n".join([f"% {visible(compared.protocol)}", *tables])


def _pair(compared: Compared, each: Comparison) -> list[Block]:
    lines = [
        [
            METRICS[name].label,
            f"{m.a:.1f}",
            f"{m.b:.1f}",
            _points(m.difference),
            _interval(m),
            "–" if m.std is None else f"{m.std:.2f}",
        ]
        for name, m in each.measures.items()
    ]
    header = ["%", "A", "B", _GAIN, f"{LEVEL}\u00a0% interval", "std over seeds"]
    title = f"A: {_told(compared, each.a)}. B: {_told(compared, each.b)}."
    found = [Block(title, header, lines)]
    lines = [[str(t.seed), str(t.only_a), str(t.only_b), _p(t.p)] for t in each.seeds]
    if len(each.seeds) > 1:
        lines.append(["all", "", "", _p(each.p)])
    found.append(
        Block(
            "Rows that one alone has right, and p of their difference",
            ["seed", "A alone", "B alone", "p"],
            lines,
        )
    )
    if each.classes:
        lines = [
            [
                " ".join(c.name.split()),
                str(c.trained_on),
                str(c.rows),
                f"{c.a:.1f}",
                f"{c.b:.1f}",
                _points(c.difference),
            ]
            for c in each.classes
        ]
        header = ["class", "training samples", "rows", "A", "B", _GAIN]
        found.append(Block("The classes with the largest differences", header, lines))
    return found


def _csv(compared: Compared) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = "a b measure accuracy_a accuracy_b difference low high std seeds p p_holm"
    writer.writerow(header.split())
    for each in compared.comparisons:
        seeds = " ".join(str(test.seed) for test in each.seeds)
        for name, m in each.measures.items():
            numbers = [m.a, m.b, m.difference, m.low, m.high, m.std]
            writer.writerow(
                [in_csv(each.a), in_csv(each.b), name, *numbers, seeds, each.p, each.p_holm]
            )
    return out.getvalue().rstrip("\n")


def _told(compared: Compared, configuration: str) -> str:
    parts = [compared.settings[configuration], compared.chosen.get(configuration)]
    told = ", ".join(part for part in parts if part)
    return f"{configuration} ({told})" if told else configuration


def _points(difference: float) -> str:
    return f"{difference:+.1f}".replace("-", "−")


def _interval(measure: Measure) -> str:
    return f"[{_points(measure.low)}, {_points(measure.high)}]"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}" if p > 1e-300 else "< 1e-300"
