"""BibTeX: parsed by a small reader of the format, and against what recipes are made of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from featbank import errors
from stage2.methods.bibliography import BIBLIOGRAPHY, citation
from stage2.methods.optimisers import OPTIMISERS
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from stage2.methods.registries import REGISTRIES
from stage2.results.cite import TEXTBOOK, bibtex, cite, entry_key, uses
from tests.conftest import ROOT
from tests.stage2.results.tampering import change
from tests.stage2.results.trajectories import moved, write

REQUIRED = {
    "inproceedings": {"author", "title", "booktitle", "year"},
    "article": {"author", "title", "journal", "year"},
    "misc": {"author", "title", "howpublished", "year"},
}
"""Fields that BibTeX's standard styles ask for."""


def balanced_group(text: str, start: int) -> int:
    """Place after the brace that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise AssertionError(f"a brace is left open: {text[start : start + 80]}")


def parsed(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Type and fields of each entry by key; what stands between entries must be comments."""
    entries: dict[str, tuple[str, dict[str, str]]] = {}
    place = 0
    while match := re.compile(r"@(\w+)\{([a-z0-9]+),").search(text, place):
        between = text[place : match.start()].split("\n")
        assert all(not line or line.startswith("% ") for line in between), between
        place = balanced_group(text, match.start() + len(match[1]) + 1)
        body, at = text[match.end() : place - 1], 0
        fields: dict[str, str] = {}
        while name := re.compile(r"\s*(\w+) = (?=\{)").match(body, at):
            at = balanced_group(body, name.end())
            assert name[1] not in fields, f"{match[2]} has two fields {name[1]}"
            fields[name[1]] = body[name.end() + 1 : at - 1]
            assert body[at] == ",", body[at:]
            at += 1
        assert not body[at:].strip(), f"what is this: {body[at:]!r}"
        assert match[2] not in entries, f"two entries {match[2]}"
        entries[match[2]] = match[1], fields
    assert all(not line or line.startswith("% ") for line in text[place:].split("\n"))
    return entries


def test_every_source_of_a_method_is_in_the_bibliography() -> None:
    """Reference: the registries; a part may also bring its citation. Every entry is used."""
    named = {preset.source for preset in PRESETS.values()}
    named |= {entry.source for registry in REGISTRIES.values() for entry in registry.values()}
    assert all(" " in text for text in named - set(BIBLIOGRAPHY)), named - set(BIBLIOGRAPHY)
    switched_on = {"temperature", "ride", "ldam", "ltwb"}
    searches = {"halving", "optuna", "tpe"}
    ensembles = {"selection"}
    assert set(BIBLIOGRAPHY) == named & set(BIBLIOGRAPHY) | switched_on | searches | ensembles


def test_every_line_of_the_bibliography_is_read() -> None:
    """Reference: the file, line by line."""
    text = (ROOT / "stage2/methods/references.bib").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and line[0] not in "%}"]
    read = [len(publication.fields) + 1 for publication in BIBLIOGRAPHY.values()]
    assert len(lines) == sum(read)


def test_the_whole_bibliography_is_bibtex() -> None:
    """Reference: the grammar, by the reader above; the fields of the standard styles; ASCII."""
    text = cite(BIBLIOGRAPHY)
    assert text.isascii()
    entries = parsed(text)
    assert len(entries) == len(BIBLIOGRAPHY) + 1
    for key, (kind, fields) in entries.items():
        assert REQUIRED[kind] <= set(fields), f"{key} lacks {REQUIRED[kind] - set(fields)}"
        assert all(value.strip() for value in fields.values()), key
        assert re.fullmatch(r"(19|20)\d\d", fields["year"]), key
        assert re.fullmatch(r"\{.+\}", fields["title"]), f"{key} would lose its capitals"
        authors = fields["author"].split(" and ")
        assert len(set(authors)) == len(authors), key
        for author in authors:
            assert author == "others" or author[0] == "{" or author.count(", ") == 1, author
    assert entries["lin2017focal"][1]["author"].endswith(r"Doll{\'a}r, Piotr")
    assert entries["hastie2009elements"][1]["note"] == r"{\S}4.3"


def test_keys_are_stable() -> None:
    """Reference: by hand; texts in people's papers hang on them."""
    expected = {
        "crt": "kang2020decoupling",
        "mislas": "zhong2021improving",
        "disalign": "zhang2021distribution",
        "balms": "ren2020balanced",
        "logit_adjust": "menon2021long",
        "glag": "zhang2022long",
        "los": "sun2025rethinking",
        "ltwb": "alshammari2022long",
        "temperature": "guo2017calibration",
        "gda": "hastie2009elements",
    }
    assert {key: entry_key(BIBLIOGRAPHY[key]) for key in expected} == expected
    keys = [entry_key(source) for source in BIBLIOGRAPHY.values()]
    assert len(set(keys)) == len(keys)


def test_the_text_people_read_comes_from_the_same_data() -> None:
    """Reference: the forms as `featbank methods` has always printed them."""
    assert citation("lda") == "Friedman 1989, Regularized Discriminant Analysis"
    assert citation("adamw").startswith("Loshchilov & Hutter 2019, Decoupled")
    assert citation("dc").startswith("Yang, Liu & Xu 2021, Free Lunch")
    assert citation("crt").startswith("Kang et al. 2020, Decoupling")
    assert citation("sla").startswith("Liu et al. 2024, Improving")
    assert citation("gda").endswith("The Elements of Statistical Learning, §4.3")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe("los"), {"los", "crt"}),
        (Recipe("mislas"), {"mislas", "crt"}),
        (Recipe("mislas", view="instance", sampler="instance"), {"mislas"}),
        (Recipe("ncm", calibration="vector"), {"crt", "temperature"}),
        (Recipe("glag"), {"glag", "crt"}),
        (Recipe("lda"), {"lda"}),
        (Recipe("crt", optimiser="lbfgs"), {"crt", "lbfgs"}),
        (Recipe("ldam", **{"loss.defer": 5}), {"ldam"}),
        (Recipe("crt", max_norm=1.0, optimiser="adamw"), {"crt", "ltwb", "adamw"}),
        (Recipe("crt", generator="remix"), {"crt", "remix"}),
        (Recipe("weighted", view="expert0/instance+expert1/instance"),
         {"disalign", "crt", "ride", "sla"}),
        (Recipe("weighted", **{"loss.defer": 5}), {"disalign", "crt", "ldam"}),
    ],
)  # fmt: skip
def test_exactly_what_a_recipe_uses(recipe: Recipe, expected: set[str]) -> None:
    """Reference: by hand, from the papers that METHODS names for each part."""
    assert set(uses(recipe.name, recipe.settings)) == expected


def test_a_results_file_counts_with_every_recipe(tmp_path: Path) -> None:
    """Reference: the union of the recipes' own uses, of all banks in the file."""
    path = tmp_path / "results.sqlite"
    recipes = [Recipe("crt", lr=0.1), Recipe("crt", lr=0.2), Recipe("disalign"), Recipe("knn")]
    write(path, [moved(recipe, None) for recipe in recipes[:2]], (9, 3))
    write(path, [moved(recipe, None) for recipe in recipes[2:]], (9, 3), fingerprint="cd")
    text = cite([str(path)])
    expected = {key for recipe in recipes for key in uses(recipe.name, recipe.settings)}
    assert set(parsed(text)) == {"featbank", *(entry_key(BIBLIOGRAPHY[k]) for k in expected)}
    assert text.count("% recipe crt, head linear, sampler class_aware\n") == 1
    more = parsed(cite([str(path), "mislas"]))
    assert set(more) == set(parsed(text)) | {"zhong2021improving"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("status = 'stopped'", {"halving"}),
        ("""versions = '{"optuna": "5.0.0"}'""", {"optuna", "tpe"}),
    ],
)
def test_a_results_file_counts_with_its_searches(
    changed: str, expected: set[str], tmp_path: Path
) -> None:
    """Reference: what the searches leave in the file: a run that was stopped, Optuna's version."""
    path = tmp_path / "results.sqlite"
    write(path, [moved(Recipe("crt"), None), moved(Recipe("crt", lr=0.2), None)], (9, 3))
    plain = set(parsed(cite([str(path)])))
    change(path, f"UPDATE run SET {changed} WHERE id = ?", (Recipe("crt").id,))
    cited = set(parsed(cite([str(path)])))
    assert cited - plain == {entry_key(BIBLIOGRAPHY[key]) for key in expected}


def test_a_method_has_one_entry_under_all_its_parts() -> None:
    """Reference: by hand. `lws` is a recipe and a head; `smote` only a generator."""
    assert "% recipe lws, head lws, sampler class_aware\n" in cite(["lws"])
    assert set(parsed(cite(["smote"]))) == {"featbank", "chawla2002smote"}
    for part, plain in TEXTBOOK.items():  # named, they are cited all the same
        assert f"{part} {plain}" in cite([plain])
    assert bibtex(BIBLIOGRAPHY["smote"], "k") in cite(["smote"]).replace("chawla2002smote", "k")


def test_a_method_of_ones_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the example of the README, whose source is "you"."""
    monkeypatch.setattr(OPTIMISERS["sgd"], "source", "you")
    text = cite(["sgd", "crt"])
    assert "% optimiser sgd\n% by 'you', which featbank has no entry for" in text
    assert set(parsed(text)) == {"featbank", "kang2020decoupling"}


def test_what_is_neither_file_nor_method(tmp_path: Path) -> None:
    """Reference: one sentence, the closest name."""
    with pytest.raises(errors.ConfigError, match="neither a results file nor a method. Did you"):
        cite(["mislass"])
    with pytest.raises(errors.ConfigError, match="`featbank methods` lists the methods"):
        cite([str(tmp_path / "gone.sqlite")])
    write(tmp_path / "empty.sqlite", [], (9, 3))
    with pytest.raises(errors.ConfigError, match="holds no finished run"):
        cite([str(tmp_path / "empty.sqlite")])
