"""A bank whose three class groups have names of their own, from sweep to card.

Keys stay many, medium and few in JSON and files; whatever people see has the bank's names.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from featbank import Bank, errors
from featbank.bank import ClassGroups
from stage2.results import filters
from stage2.results.results import Results
from stage2.results.store import Store
from tests.conftest import Run, Toy

NAMES = ("frequent", "common", "rare")
MEMBER = [1, 0, 2, 2, -1]  # by no threshold of the counts 120, 60, 25, 12, 5
USUAL = {"many", "medium", "few"}


EPOCHS = ("--set", "epochs=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for such a bank and its results, swept once."""
    return tmp_path_factory.mktemp("groups")


@pytest.fixture
def swept(featbank: Run, made: Path, make_toy: Callable[..., Toy]) -> Path:
    """Results of two recipes on such a bank, whose class 4 is the background."""
    bank, results = made / "b.h5", made / "r.sqlite"
    if not results.exists():
        groups = ClassGroups.by_list(MEMBER, NAMES, background=4)
        make_toy().write(bank, class_groups=groups, background=4)
        recipes = ("--recipe", "crt", "--recipe", "disalign")
        featbank("sweep", bank, *recipes, *EPOCHS, "-o", results)
    for file in (bank, results):
        shutil.copy(file, ".")
    return Path("r.sqlite")


def words(text: str) -> set[str]:
    """The words of a text."""
    return set("".join(c if c.isalnum() else " " for c in text).split())


def test_group_metrics_are_those_of_the_members(swept: Path) -> None:
    """Reference: means of the accuracies of classes that are stored beside them."""
    with Store(swept) as store:
        results = Results(store)
        assert results.groups.names == NAMES
        for run in store.runs(results.fingerprint):
            per_class = store.per_class(results.fingerprint, run.recipe, "test", "last")
            values = run.metrics["test", "last"]
            assert values["macro"] == pytest.approx(np.mean(per_class))
            for g, key in enumerate(("many", "medium", "few")):
                members = [k for k, group in enumerate(MEMBER) if group == g]
                assert values[key] == pytest.approx(np.mean(per_class[members]))


@pytest.mark.parametrize("width", [80, 120])
def test_leaderboards_show_the_names(
    swept: Path, featbank: Run, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """At both widths; columns are left out by the bank's names."""
    monkeypatch.setattr(
        "featbank.cli.tables.console",
        lambda: Console(file=sys.stdout, width=width, force_terminal=True, color_system=None),
    )
    text = featbank("leaderboard", swept, "--columns", "ece_few,brier").stdout
    assert words(text) >= {"rare", "ECE"}
    assert not words(text) & USUAL
    assert "frequent: as listed, common: as listed, rare: as listed" in " ".join(text.split())
    assert "background: class 4" in " ".join(text.split())


def test_names_sort_and_filter(swept: Path, featbank: Run) -> None:
    """Names and keys mean the same; others are refused with both."""
    by_name, by_key = (
        featbank("leaderboard", swept, "--sort", name, "--format", "json").stdout
        for name in ("rare", "few")
    )
    assert json.loads(by_name) == json.loads(by_key)
    assert {*json.loads(by_name)[0]} >= USUAL
    assert "frequent" not in json.loads(by_name)[0]
    kept = [
        featbank("leaderboard", swept, "--where", f"{name}>=0", "--format", "csv").stdout
        for name in ("rare", "few")
    ]
    assert kept[0] == kept[1]
    assert featbank("leaderboard", swept, "--columns", "ece_common", "--format", "md").stdout
    with Store(swept) as store:
        board = Results(store).board
        with pytest.raises(errors.ConfigError, match="Did you mean 'rare'"):
            filters.sort(board, "rarer")
        with pytest.raises(errors.ConfigError, match="rare is a metric"):
            filters.best_per(board, "rare")


def test_the_rest_shows_the_names(swept: Path, featbank: Run) -> None:
    """compare, every plot of groups, embed, the report, an exported head, its card and evaluate."""
    pair = featbank("compare", swept, "crt", "disalign").stdout
    assert words(pair) >= {*NAMES}
    assert not words(pair) & USUAL
    for kind in ("groups", "classes", "confidence", "confusion"):
        featbank("plot", kind, swept, "-o", f"{kind}.svg")
    featbank("plot", "scatter", swept, "--metric", "rare", "-o", "scatter.svg")
    featbank("embed", "b.h5", "--classes", "rare:2,many:1", "--per-class", "5", "-o", "e.csv")
    assert {line.split(",")[3] for line in Path("e.csv").read_text().splitlines()[1:]} == {
        "rare",
        "frequent",
    }
    featbank("report", swept, "-o", "r.html")
    page = Path("r.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">', 1)[1].split("</script>", 1)[0])
    assert data["groupNames"] == dict(zip(("many", "medium", "few"), NAMES, strict=True))
    assert data["classes"]["group"] == ["medium", "many", "few", "few", ""]
    assert "rare" in {column["label"] for column in data["columns"]}
    featbank("export", swept, "crt", "--bank", "b.h5", "-o", "h.safetensors", "--card", "h.md")
    card = Path("h.md").read_text(encoding="utf-8")
    assert "frequent 1 (as listed), common 1 (as listed), rare 2 (as listed)" in card
    shown = featbank("evaluate", "h.safetensors", "b.h5", "--split", "test").stdout
    assert words(shown) >= {*NAMES}
    (row,) = json.loads(
        featbank("evaluate", "h.safetensors", "b.h5", "--split", "test", "--format", "json").stdout
    )
    with Store(swept) as store:
        run = Results(store).find("crt").runs[0]
    assert row["few"] == pytest.approx(run.metrics["test", "selected"]["few"])


def test_banks_of_other_names_are_shown_by_the_usual_ones(
    swept: Path, featbank: Run, make_toy: Callable[..., Toy]
) -> None:
    """A line says what each bank calls them."""
    make_toy().write(Path("usual.h5"))
    featbank("sweep", "usual.h5", "--recipe", "crt", *EPOCHS, "-o", swept)
    for options in ((), ("--by", "bank", "--metric", "few")):
        text = featbank("leaderboard", swept, "--bank", "all", *options, "--format", "md").stdout
        assert "b frequent, common, rare; usual many, medium, few" in text.replace("\\", "")
    header = text.splitlines()[0]
    assert "rare" not in words(header)
    featbank("report", swept, "--bank", "all", "-o", "two.html")
    featbank("plot", "groups", swept, "--bank", "all", "-o", "two.svg")


def test_a_damaged_record_is_refused(swept: Path) -> None:
    """Groups of a results file are checked like everything in it."""
    from stage2.results import content

    with Store(swept) as store:
        (record,) = store.banks().values()
    about = json.loads(json.dumps(record))
    assert content.about(json.dumps(about))["background"] == 4
    for change in (
        {"class_groups": {"names": ["a"], "rules": ["b"], "member": [0] * 5}},
        {"class_groups": {"names": list("abc"), "rules": list("abc"), "member": [0] * 4}},
        {"class_groups": {"names": list("abc"), "rules": list("abc"), "member": ["x"] * 5}},
        {"class_groups": 3},
        {"background": 5},
        {"background": "b"},
        {"outside_counts": 1},
    ):
        with pytest.raises(content.Unexpected):
            content.about(json.dumps(about | change))


def test_old_banks_have_old_records(featbank: Run, make_toy: Callable[..., Toy]) -> None:
    """A bank without such facts writes the record of before, and a head of the same schema."""
    from stage2.results.classes import class_record

    with Bank(make_toy().write(Path("usual.h5"))) as bank:
        assert class_record(bank) == {}
