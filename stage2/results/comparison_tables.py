"""Comparisons as tables for people, and in formats for programs and papers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from featbank.characters import in_markdown, visible
from stage2.engine.metrics import METRICS, RANKING
from stage2.results.compare import Compared
from stage2.results.differences import Comparison, Measure
from stage2.results.significance import LEVEL
from stage2.results.tables import Table, csv_text, markdown_of

_GAIN = "B\u00a0−\u00a0A"  # never broken over lines


def comparison_tables(compared: Compared) -> list[Table]:
    """The tables of a comparison: measures, seeds and classes of a single pair; else one table with
    a line for each configuration."""
    if len(compared.comparisons) == 1:
        return _pair(compared, compared.comparisons[0])
    first = compared.comparisons[0]
    every = [each.measures for each in compared.comparisons]  # groups may differ between banks
    of_a = {name: m.a for measures in every[::-1] for name, m in measures.items()}
    names = [name for name in METRICS if name in of_a]
    lines = [[first.a, compared.settings[first.a], *(f"{of_a[n]:.1f}" for n in names), "", ""]]
    for each in compared.comparisons:
        known = [each.measures.get(name) for name in names]
        cells = [f"{_points(m.difference)} {_interval(m)}" if m else "–" for m in known]
        if each.b in compared.tied:
            cells[names.index(RANKING)] += "*"
        settings = compared.settings[each.b]
        lines.append([each.b, settings, *cells, _p(each.p), _p(each.p_holm)])
    title = (
        f"Against {_described(compared, first.a)}: its accuracies in %, then differences from them "
        f"in points [{LEVEL} % interval]."
    )
    title += " *: ties with the best where it was chosen." if compared.tied else ""
    labels = [compared.labels[name] for name in names]
    spare = [compared.labels[name] for name in ("top1", "medium", "many", "few")]
    header = ["recipe", "settings", *labels, "p", "p Holm"]
    return [Table(title, header, lines, 2, ("p", *spare))]


def render_comparison(compared: Compared, form: str) -> str:
    """A comparison as ``json``, ``csv``, ``md`` or ``latex``; ``csv`` has a row per measure."""
    if form == "json":
        fields = asdict(compared)
        del fields["labels"]
        return json.dumps(fields, indent=1, allow_nan=False)
    if form == "csv":
        header = "a b measure accuracy_a accuracy_b difference low high std seeds p p_holm"
        return csv_text(header.split(), _measure_rows(compared))
    tables = comparison_tables(compared)
    if form == "latex":
        latex = [table.latex() for table in tables]
        return "\n\n".join([f"% {visible(compared.protocol)}", *latex])
    parts = [part for table in tables for part in (in_markdown(table.title), table.markdown())]
    return markdown_of(*parts, compared.protocol)


def _pair(compared: Compared, pair: Comparison) -> list[Table]:
    """The tables of one configuration against another."""
    measures = [
        [
            compared.labels[name],
            f"{m.a:.1f}",
            f"{m.b:.1f}",
            _points(m.difference),
            _interval(m),
            "–" if m.std is None else f"{m.std:.2f}",
        ]
        for name, m in pair.measures.items()
    ]
    seeds = [[str(t.seed), str(t.only_a), str(t.only_b), _p(t.p)] for t in pair.seeds]
    if len(seeds) > 1:
        seeds.append(["all", "", "", _p(pair.p)])
    classes = [
        [
            " ".join(c.name.split()),
            str(c.trained_on),
            str(c.rows),
            f"{c.a:.1f}",
            f"{c.b:.1f}",
            _points(c.difference),
        ]
        for c in pair.classes
    ]
    tables = [
        Table(
            f"A: {_described(compared, pair.a)}. B: {_described(compared, pair.b)}.",
            ["%", "A", "B", _GAIN, f"{LEVEL}\u00a0% interval", "std over seeds"],
            measures,
        ),
        Table(
            "Rows that only one of the two classifies correctly, and p of their difference",
            ["seed", "A alone", "B alone", "p"],
            seeds,
        ),
        Table(
            "The classes with the largest differences"
            + (", samples and rows of A's bank" if "@" in pair.a else ""),
            ["class", "training samples", "rows", "A", "B", _GAIN],
            classes,
        ),
    ]
    shown = (True, pair.p is not None, bool(classes))
    return [table for table, is_shown in zip(tables, shown, strict=True) if is_shown]


def _measure_rows(compared: Compared) -> Iterable[Sequence[Any]]:
    for each in compared.comparisons:
        seeds = " ".join(str(test.seed) for test in each.seeds)
        for name, m in each.measures.items():
            numbers = [m.a, m.b, m.difference, m.low, m.high, m.std]
            yield [each.a, each.b, name, *numbers, seeds, each.p, each.p_holm]


def _described(compared: Compared, configuration: str) -> str:
    """A configuration with its settings, and the reason why it was taken."""
    tie = "ties with the best" if configuration in compared.tied else ""
    parts = [compared.settings[configuration], compared.chosen.get(configuration), tie]
    text = ", ".join(part for part in parts if part)
    return f"{configuration} ({text})" if text else configuration


def _points(difference: float) -> str:
    return f"{difference:+.1f}".replace("-", "−")


def _interval(measure: Measure) -> str:
    return f"[{_points(measure.low)}, {_points(measure.high)}]"


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}" if p > 1e-300 else "< 1e-300"
