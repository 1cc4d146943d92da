"""The sources of the methods: ``references.bib`` beside this file, by the keys parts name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

_ENTRY = re.compile(r"^@(\w+)\{(\w+),\n((?:  .*\n)*)\}$", re.MULTILINE)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)


@dataclass(frozen=True)
class Publication:
    """An entry of the bibliography.

    Attributes
    ----------
    kind
        Entry type of BibTeX: ``inproceedings``, ``article`` or ``misc``.
    fields
        Fields of BibTeX by name, as plain text; ``title``, ``author`` and ``year`` among them.
    """

    kind: str
    fields: Mapping[str, str]

    @property
    def families(self) -> list[str]:
        """Family names of the authors; a last ``others`` stands for more."""
        return [name.partition(",")[0] for name in self.fields["author"].split(" and ")]

    @property
    def short(self) -> str:
        """``Kang et al. 2020``: up to three authors by name."""
        names = self.families
        if len(names) > 3 or names[-1] == "others":
            authors = f"{names[0]} et al."
        else:
            authors = " & ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
        return f"{authors} {self.fields['year']}"

    @property
    def text(self) -> str:
        """``Kang et al. 2020, Decoupling …``."""
        note = f", {self.fields['note']}" if "note" in self.fields else ""
        return f"{self.short}, {self.fields['title']}{note}"


def _read(text: str) -> dict[str, Publication]:
    """Entries by key, of BibTeX with one field a line."""
    return {
        key: Publication(kind, dict(_FIELD.findall(body)))
        for kind, key, body in _ENTRY.findall(text)
    }


BIBLIOGRAPHY = _read(resources.files(__package__).joinpath("references.bib").read_text("utf-8"))
"""Publications by key."""


def citation(source: str) -> str:
    """The citation of a part's `source`: of the entry with that key, or else the text itself."""
    return BIBLIOGRAPHY[source].text if source in BIBLIOGRAPHY else source
