"""Parts of the site generated from the code, from registries and docstrings.

A comment in a page, such as ``<!-- generated: heads -->``, marks the place. The pages themselves
are plain Markdown, readable without the site.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from notebooks import rendered

from featbank.settings import Setting, flag
from stage1.data.catalogue import DATASETS, SPLITS
from stage2.engine import calibration
from stage2.engine.metrics import METRICS
from stage2.methods import family, samplers
from stage2.methods.bibliography import BIBLIOGRAPHY, citation
from stage2.methods.optimisers import SCHEDULES
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import COMMON, settings_of
from stage2.methods.registries import REGISTRIES, plural
from stage2.plots import BANK_KINDS, KINDS, PlotKind

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- generated: (\w+) -->")


def expand(text: str) -> str:
    """Replace the marks in a page by what is generated for them."""
    return MARK.sub(lambda mark: PAGES[mark[1]](), text)


def prose(docstring: str) -> str:
    """A docstring as Markdown: text outside code spans is escaped, literal blocks become fences."""
    paragraphs = []
    for paragraph in re.split(r"\n\n(?! )", docstring.strip()):
        body, colons, literal = paragraph.partition("::\n\n")
        spans = re.split(r"(`+[^`]+`+)", body + (":" if colons else ""))
        spans[::2] = [re.sub(r"([\\*_<>\[\]|~])", r"\\\1", text) for text in spans[::2]]
        paragraphs.append("".join(spans))
        if colons:
            paragraphs.append(f"```text\n{inspect.cleandoc(literal)}\n```")
    return "\n\n".join(paragraphs)


def _optimisers() -> str:
    schedules = "\n".join(f"- `{name}`: {prose(text)}" for name, text in SCHEDULES.items())
    entries = _entries("optimiser", _doc)
    return f"{entries}\n\n## Schedules\n\nFactor of the learning rate, T epochs.\n\n{schedules}"


def _sampler_doc(sampler: samplers.Sampler) -> str:
    """How often each class is drawn, and the sampler's own order of drawing if it has one."""
    return "\n\n".join(map(_doc, filter(None, (sampler.function, sampler.draw))))


def _calibration() -> str:
    (setting,) = (setting for setting in COMMON if setting.name == "calibration")
    things = (calibration, calibration.Calibration, calibration.calibrate)
    text = "\n\n".join(prose(_doc(thing).partition("\nParameters\n")[0]) for thing in things)
    return f"{text}\n\n{_table([(setting.name, setting.default, setting)])}"


def _recipes() -> str:
    return "\n\n".join(
        f"{_title(name, preset)}\n\n{_fixed(preset.settings)}\n\n"
        f"Origin of the settings: {prose(preset.provenance)}.{_reported(preset.reported)}"
        f"\n\n<details><summary>All settings, defaults and ranges</summary>\n\n"
        f"{_table(_resolved(name))}\n\n</details>"
        for name, preset in PRESETS.items()
    )


def _resolved(name: str) -> list[tuple[str, Any, Setting]]:
    takes = settings_of(name, {}).settings
    return [(key, value, takes[key]) for key, value in Recipe(name).settings.items()]


def _fixed(settings: Mapping[str, Any]) -> str:
    """Settings of a preset, its parts as links."""
    items = []
    for key, value in settings.items():
        linked = key in REGISTRIES and value != "none"
        shown = f"[{value}]({plural(key)}.md#{value})" if linked else f"`{value}`"
        items.append(f"{prose(key)} {shown}")
    return "Sets: " + ", ".join(items) + "."


def _reported(reported: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of papers, each with the paper that reports it."""
    figures = [
        f"{benchmark}: {top1} % ({BIBLIOGRAPHY[source].short})"
        for source, each in reported.items()
        for benchmark, top1 in each.items()
    ]
    return f"\n\nReported top-1: {'; '.join(figures)}." if figures else ""


def _entries(kind: str, doc: Callable[[Any], str]) -> str:
    entries = []
    for name, entry in REGISTRIES[kind].items():
        text = f"{_title(name, entry)}\n\n{prose(doc(entry))}"
        if entry.settings:
            text += "\n\n" + _table((s.name, s.default, s) for s in entry.settings)
        entries.append(text)
    return "\n\n".join(entries)


def _title(name: str, entry: Any) -> str:
    source = prose(citation(entry.source))
    return f"## {prose(name)}\n\n{prose(entry.description)}.\n*{source}*"


def _table(rows: Iterable[tuple[str, Any, Setting]]) -> str:
    lines = ["| setting | default | range | meaning |", "| --- | --- | --- | --- |"]
    for name, value, setting in rows:
        default = "not set" if value is None else f"`{value}`"
        range_, meaning = prose(setting.expects()), prose(setting.help)
        lines.append(f"| `{name}` | {default} | {range_} | {meaning} |")
    return "\n".join(lines)


def _readme() -> str:
    """The README, with links relative to the folder of the pages."""
    text = (ROOT / "README.md").read_text()
    return re.sub(r"\]\(docs/", "](", text)


def _doc(thing: type | ModuleType | Callable[..., Any]) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


def _metrics() -> str:
    rows = []
    for name, metric in METRICS.items():
        better = "lower" if metric.lower_is_better else "higher"
        rows.append(f"| `{name}` | {prose(metric.description)} | {better} |")
    return "\n".join(["| metric | meaning | better |", "| --- | --- | --- |", *rows])


def _plots() -> str:
    rows = []
    for name, kind in {**KINDS, **BANK_KINDS}.items():
        options = " ".join(f"`--{option.replace('_', '-')}`" for option in kind.options)
        banks = "1 or more" if isinstance(kind, PlotKind) and kind.banks else "1"
        rows.append(f"| `{name}` | {prose(kind.description)} | {options or '–'} | {banks} |")
    header = [
        "| kind | shows | options beside the common ones | banks |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*header, *rows])


def _datasets() -> str:
    rows = []
    for name, row in DATASETS.items():
        sizes = [f"{row.images[s]:,}" if s in row.images else "–" for s in SPLITS]
        needs = " ".join(f"`{flag(option)}`" for option in row.needs)
        cells = [f"`{name}`", f"{row.classes:,}" if row.classes else "–", *sizes]
        rows.append(f"| {' | '.join(cells)} | {needs or '–'} | {prose(row.description)} |")
    header = ["", "classes", *SPLITS, "needs", "images"]
    return "\n".join([f"| {' | '.join(header)} |", "| --- " * len(header) + "|", *rows])


PAGES: dict[str, Callable[[], str]] = {
    "readme": _readme,
    "recipes": _recipes,
    "heads": lambda: _entries("head", lambda head: _doc(type(head))),
    "losses": lambda: (
        f"{prose(_doc(family))}\n\n{_entries('loss', lambda loss: _doc(loss.function))}"
    ),
    "samplers": lambda: _entries("sampler", _sampler_doc),
    "generators": lambda: _entries("generator", lambda generator: _doc(type(generator))),
    "optimisers": _optimisers,
    "calibration": _calibration,
    "datasets": _datasets,
    "metrics": _metrics,
    "plots": _plots,
    "notebook": lambda: rendered(ROOT / "docs" / "python.ipynb"),
}
"""Texts by the names used in the marks."""
