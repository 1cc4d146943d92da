"""BibTeX of the methods that recipes use, and of featbank itself."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from featbank import __version__, errors
from stage2.methods.bibliography import BIBLIOGRAPHY, Publication
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import CALIBRATION
from stage2.methods.registries import REGISTRIES
from stage2.results.configurations import SAMPLER
from stage2.results.ensembles import ENSEMBLE
from stage2.results.store import Store

TEXTBOOK = {"loss": "ce", "sampler": "instance", "optimiser": "sgd"}
"""Parts of a recipe that need no citation."""

CALIBRATIONS = tuple(kind for kind in CALIBRATION.choices if kind != "none")

FEATBANK = Publication(
    "misc",
    {
        "title": "featbank: Train a Backbone Once, Bank Its Features Once, and Compare Every "
        "Long-Tail Classifier on Them",
        "author": "{The featbank authors}",
        "howpublished": f"Software, version {__version__}",
        "year": "2026",
    },
)

_ESCAPED = {
    **{"á": r"{\'a}", "é": r"{\'e}", "í": r"{\'i}", "ć": r"{\'c}"},
    **{"ö": r"{\"o}", "ř": r"{\v r}"},
    **{"§": r"{\S}", "&": r"\&", "%": r"\%", "_": r"\_"},
}

Uses = dict[str, list[str]]
"""The reasons to cite each source, by its key: ``{"crt": ["recipe crt", "head linear"]}``."""


def cite(wanted: Iterable[str]) -> str:
    """BibTeX of featbank and of all that `wanted` uses; each entry under a line with its uses.

    Parameters
    ----------
    wanted
        Results files, of which every recipe and search counts; recipes, heads, losses, samplers,
        generators, optimisers and calibrations; keys of `BIBLIOGRAPHY`.

    Raises
    ------
    ConfigError
        For any other name, and for a results file without a run.
    """
    cited = _merged(_of_file(name) if Path(name).is_file() else _of_name(name) for name in wanted)
    entries = [bibtex(FEATBANK, "featbank")]
    for key in sorted(cited, key=_order):
        used = f"% {', '.join(cited[key])}\n"
        if key in BIBLIOGRAPHY:
            entries.append(used + bibtex(BIBLIOGRAPHY[key], entry_key(BIBLIOGRAPHY[key])))
        else:  # a method of the user's own
            entries.append(f"{used}% by {key!r}, which featbank has no entry for")
    return "\n\n".join(entries)


def uses(name: str, parameters: Mapping[str, Any]) -> Uses:
    """The sources of a recipe: of its preset, its parts but those of `TEXTBOOK`, its views, its
    calibration, and of methods that its settings switch on (a bound on the norm, a deferral).

    Parameters
    ----------
    name
        The name of its preset.
    parameters
        Its settings, all of them.
    """
    cited: Uses = {}
    if name in PRESETS:
        cited.setdefault(PRESETS[name].source, []).append(f"recipe {name}")
    if name == ENSEMBLE:
        cited["selection"] = ["ensemble of the sweep"]
        cited["temperature"] = ["temperatures of its members"]
    for part, registry in REGISTRIES.items():
        chosen = parameters.get(part, "none")
        if chosen in registry and TEXTBOOK.get(part) != chosen:
            cited.setdefault(registry[chosen].source, []).append(f"{part} {chosen}")
    view = parameters.get("view", "")
    if "balanced" in view:
        cited.setdefault("mislas", []).append("view balanced")
    if "expert" in view:
        for key in ("ride", "sla"):
            cited.setdefault(key, []).append("views of experts")
    if parameters.get("calibration") in CALIBRATIONS:
        cited.setdefault("temperature", []).append(f"calibration {parameters['calibration']}")
    for setting in ("max_norm", "max_norm_fraction"):
        if parameters.get(setting) is not None:
            cited.setdefault("ltwb", []).append(setting)
    if any(value for key, value in parameters.items() if key.rpartition(".")[2] == "defer"):
        cited.setdefault("ldam", []).append("defer")
    return cited


def bibtex(publication: Publication, key: str) -> str:
    """One entry, in ASCII; the title keeps its capitals."""
    fields = {**publication.fields, "title": f"{{{publication.fields['title']}}}"}
    lines = [f"  {name} = {{{_escaped(value)}}}," for name, value in fields.items()]
    return "\n".join([f"@{publication.kind}{{{key},", *lines, "}"])


def entry_key(publication: Publication) -> str:
    """Family name, year and first word of the title: ``kang2020decoupling``."""
    fields = publication.fields
    words = re.findall(r"\w+", fields["title"])
    word = next(word for word in words if word not in ("The", "On", "A"))
    plain = f"{publication.families[0]}{fields['year']}{word}"
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"\W", "", plain).lower()


def _merged(uses: Iterable[Uses]) -> Uses:
    """Uses as one, each reason once."""
    merged: Uses = {}
    for each in uses:
        for key, reasons in each.items():
            merged[key] = list(dict.fromkeys([*merged.get(key, []), *reasons]))
    return merged


def _of_file(path: str) -> Uses:
    with Store(path) as store:
        runs = [run for bank in store.banks() for run in store.unmeasured_runs(bank)]
    if not runs:
        raise errors.ConfigError(f"{path} holds no finished run. Run `featbank sweep` again.")
    configurations = {run.id: (run.name, run.parameters) for run in runs}.values()
    cited = _merged(uses(name, parameters) for name, parameters in configurations)
    if any(run.status == "stopped" for run in runs):
        cited["halving"] = ["search halving"]
    if any(SAMPLER in run.versions for run in runs):
        cited |= {key: ["search optuna"] for key in ("optuna", "tpe")}
    return cited


def _of_name(name: str) -> Uses:
    parts = [
        {registry[name].source: [f"{part} {name}"]}
        for part, registry in REGISTRIES.items()
        if name in registry
    ]
    cited = _merged([uses(name, Recipe(name).settings) if name in PRESETS else {}, *parts])
    if name in CALIBRATIONS:
        cited.setdefault("temperature", []).append(f"calibration {name}")
    if not cited and name in BIBLIOGRAPHY:
        cited[name] = [name]
    if not cited:
        methods = [key for registry in REGISTRIES.values() for key in registry]
        raise errors.ConfigError(
            f"{name!r} is neither a results file nor a method. "
            f"{_hint(name, {*PRESETS, *CALIBRATIONS, *BIBLIOGRAPHY, *methods})}"
        )
    return cited


def _hint(name: str, known: Iterable[str]) -> str:
    return errors.did_you_mean(name, known).strip() or "`featbank methods` lists the methods."


def _order(key: str) -> str:
    return entry_key(BIBLIOGRAPHY[key]) if key in BIBLIOGRAPHY else f"~{key}"


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(letter, letter) for letter in text)
