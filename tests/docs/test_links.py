"""Links and anchors of README and docs exist; generated pages agree with the code."""

from __future__ import annotations

import re

import pytest

from stage2.methods.bibliography import BIBLIOGRAPHY, citation
from stage2.methods.optimisers import SCHEDULES
from stage2.methods.presets import PRESETS
from stage2.methods.registries import REGISTRIES, plural
from tests.conftest import ROOT
from tests.docs.pages import PAGES, anchors, existing, expanded, links

METHODS = {
    "recipes": PRESETS,
    **{plural(kind): registry for kind, registry in REGISTRIES.items()},
}


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page: str) -> None:
    """Reference: the files beside the page, and their headings."""
    for link in links(expanded(page)):
        target, _, anchor = link.partition("#")
        file = existing(page, target)
        assert file.exists(), f"{page}: {link}"
        if anchor:
            headings = anchors(expanded(str(file.relative_to(ROOT))))
            assert anchor in headings, f"{page}: {link} is none of {sorted(headings)}"


def test_every_page_is_in_the_contents() -> None:
    """Reference: the files of the pages."""
    listed = set()
    for page in ("docs/index.md", "docs/methods.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", (ROOT / page).read_text(), re.S):
            names = (line.strip(">").split("<")[-1] for line in block.splitlines())
            listed |= {f"docs/{name}.md" for name in names if name and not name.startswith(":")}
    assert listed == set(PAGES) - {"README.md", "docs/index.md"}


@pytest.mark.parametrize("page", METHODS)
def test_methods_are_documented(page: str) -> None:
    """Reference: the registries: every name is a heading with its source and settings."""
    text = expanded(f"docs/methods/{page}.md")
    headings = {title.replace("\\", "") for title in re.findall(r"^## (.+)$", text, re.M)}
    assert headings - {"Schedules"} == set(METHODS[page])
    for name, entry in METHODS[page].items():
        title = name.replace("_", r"\_")
        section = re.split(rf"^## {re.escape(title)}$", text, flags=re.M)[1].partition("\n## ")[0]
        assert citation(entry.source).split(",")[0] in section, name
        names = [s if isinstance(s, str) else s.name for s in entry.settings]
        for setting in (key.rpartition(".")[2] for key in names):
            assert re.search(rf"^\| `([a-z]+\.)?{re.escape(setting)}` \|", section, re.M), setting
    if page == "optimisers":
        assert all(f"- `{name}`: " in text for name in SCHEDULES)


def test_formulas_survive() -> None:
    """Reference: docstrings of a head, a loss and a generator, escaped by hand."""
    assert "z\\_k = (1 + σ(x)·α\\_k)·z⁰\\_k + σ(x)·β\\_k" in expanded("docs/methods/heads.md")
    losses = expanded("docs/methods/losses.md")
    assert "```text\nu_k = a_k·z_k + m_k − Δ_y·1[k=y]\n" in losses
    assert "κ = (1−p\\_y)^γ exp(τ(cosθ\\*\\_y − cosθ))" in losses
    afg = expanded("docs/methods/generators.md")
    assert "```text\nmean        (1−β)x̂ + β Σ_j ω_j μ_j\n" in afg


def test_published_numbers_are_shown() -> None:
    """Reference: `PRESETS`; each beside the paper that reports it, and the settings' origin."""
    text = expanded("docs/methods/recipes.md")
    for preset in PRESETS.values():
        assert f"Origin of the settings: {preset.provenance}." in text.replace("\\", "")
        for source, figures in preset.reported.items():
            for benchmark, top1 in figures.items():
                assert f"{benchmark}: {top1} % ({BIBLIOGRAPHY[source].short})" in text
