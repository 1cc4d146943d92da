"""Pages of the site that are written from the code: the methods, from registries and docstrings.

A page says where with a comment, ``<!-- generated: heads -->``; the pages themselves are plain
Markdown that reads without the site.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from featbank.settings import Setting
from stage2.engine import calibration
from stage2.methods import family, samplers
from stage2.methods.bibliography import citation
from stage2.methods.optimisers import SCHEDULES
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import COMMON, settings_of
from stage2.methods.registries import REGISTRIES, plural

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- generated: (\w+) -->")


def expand(text: str) -> str:
    """A page with all that is generated in its place."""
    return MARK.sub(lambda mark: PAGES[mark[1]](), text)


def prose(docstring: str) -> str:
    """A docstring as Markdown: what is not code is escaped, literal blocks become fences."""
    written = []
    for paragraph in re.split(r"\n\n(?! )", docstring.strip()):
        body, colons, literal = paragraph.partition("::\n\n")
        spans = re.split(r"(`+[^`]+`+)", body + (":" if colons else ""))
        spans[::2] = [re.sub(r"([\\*_<>\[\]|~])", r"\\\1", text) for text in spans[::2]]
        written.append("".join(spans))
        if colons:
            written.append(f"```text\n{inspect.cleandoc(literal)}\n```")
    return "\n\n".join(written)


def _heads() -> str:
    return _entries("head", lambda head: _doc(type(head)))


def _losses() -> str:
    formula = prose(_doc(family))
    return formula + "\n\n" + _entries("loss", lambda loss: _doc(loss.function))


def _samplers() -> str:
    return _entries("sampler", _sampler_doc)


def _sampler_doc(sampler: samplers.Sampler) -> str:
    """How often each class is drawn and, where it has a way of its own, how."""
    own = sampler.draw
    return _doc(sampler.function) + (f"\n\n{_doc(own)}" if own else "")


def _generators() -> str:
    return _entries("generator", lambda generator: _doc(type(generator)))


def _optimisers() -> str:
    listed = "\n".join(f"- `{name}`: {prose(formula)}" for name, formula in SCHEDULES.items())
    entries = _entries("optimiser", _doc)
    return f"{entries}\n\n## Schedules\n\nFactor of the learning rate, T epochs.\n\n{listed}"


def _calibration() -> str:
    (setting,) = (setting for setting in COMMON if setting.name == "calibration")
    told = [_doc(calibration), _doc(calibration.Calibration), _doc(calibration.calibrate)]
    text = "\n\n".join(prose(doc.partition("\nParameters\n")[0]) for doc in told)
    return f"{text}\n\n{_table([(setting.name, setting.default, setting)])}"


def _recipes() -> str:
    return "\n\n".join(
        f"{_title(name, preset)}\n\n{_fixed(preset.settings)}{_reported(preset.paper)}"
        f"\n\n<details><summary>All settings, defaults and ranges</summary>\n\n"
        f"{_table(_resolved(name))}\n\n</details>"
        for name, preset in PRESETS.items()
    )


def _resolved(name: str) -> list[tuple[str, Any, Setting]]:
    takes = settings_of(name, {}).settings
    return [(key, value, takes[key]) for key, value in Recipe(name).settings.items()]


def _fixed(settings: Mapping[str, Any]) -> str:
    """What a preset sets, its parts as links."""
    told = []
    for key, value in settings.items():
        linked = key in REGISTRIES and value != "none"
        shown = f"[{value}]({plural(key)}.md#{value})" if linked else f"`{value}`"
        told.append(f"{key.replace('_', chr(92) + '_')} {shown}")
    return "Sets: " + ", ".join(told) + "."


def _reported(paper: Mapping[str, float]) -> str:
    if not paper:
        return ""
    told = "; ".join(f"{benchmark}: {top1} %" for benchmark, top1 in paper.items())
    return f"\n\nTop-1 in its paper: {told}."


def _entries(kind: str, doc: Callable[[Any], str]) -> str:
    told = []
    for name, entry in REGISTRIES[kind].items():
        text = f"{_title(name, entry)}\n\n{prose(doc(entry))}"
        if entry.settings:
            text += "\n\n" + _table((s.name, s.default, s) for s in entry.settings)
        told.append(text)
    return "\n\n".join(told)


def _title(name: str, entry: Any) -> str:
    source = prose(citation(entry.source))
    return f"## {name.replace('_', chr(92) + '_')}\n\n{prose(entry.description)}.\n*{source}*"


def _table(rows: Iterable[tuple[str, Any, Setting]]) -> str:
    lines = ["| setting | default | range | meaning |", "| --- | --- | --- | --- |"]
    for name, value, setting in rows:
        told = "derived" if value is None else f"`{value}`"
        lines.append(f"| `{name}` | {told} | {prose(setting.expects())} | {prose(setting.help)} |")
    return "\n".join(lines)


def _readme() -> str:
    """The README, its links as seen from the folder of the pages."""
    text = (ROOT / "README.md").read_text()
    return re.sub(r"\]\(docs/", "](", text)


def _doc(thing: type | ModuleType | Callable[..., Any]) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


PAGES: dict[str, Callable[[], str]] = {
    "readme": _readme,
    "recipes": _recipes,
    "heads": _heads,
    "losses": _losses,
    "samplers": _samplers,
    "generators": _generators,
    "optimisers": _optimisers,
    "calibration": _calibration,
}
"""What a comment in a page stands for."""
