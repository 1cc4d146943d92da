"""Conditions, the best of each kind and other orders, on made-up leaderboards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featbank import errors
from stage2.engine.metrics import METRICS
from stage2.methods.recipe import Recipe
from stage2.results.filters import DEEPEST, best_per, parse, sort, values_of, where
from stage2.results.leaderboard import Leaderboard
from stage2.results.protocol import Protocol
from stage2.results.tables import render, table_of

TERMS = Protocol("ab" * 32, {"train_counts": [1, 1], "views": ["instance"]}, "test", "val", 7)


def rows(
    recipe: Recipe, macro: float | None, *, seeds: int = 3, **metrics: float | None
) -> list[dict[str, Any]]:
    """A configuration's rows: what ranks it on val, and at the last epoch all metrics 1."""
    made = []
    for epoch in ("last", "selected"):
        row = {"recipe": recipe.id, "name": recipe.name, "parameters": recipe.parameters}
        row |= {"seeds": list(range(seeds)), "split": "test", "epoch": epoch}
        row |= {"status": "diverged" if macro is None else "done"}
        row |= {"selection": macro, "selection_std": None, "tied": None}
        for name in METRICS:
            row[name] = 1.0 if epoch == "last" else metrics.get(name, macro)
            row[f"{name}_std"] = None
        made.append(row)
    return made


@pytest.fixture
def board() -> Leaderboard:
    """Seven configurations by their macro accuracy on val, a diverged one last."""
    made = [
        rows(Recipe("lws", lr=0.05), 60.0, ece=9.0, top1=10.0),
        rows(Recipe("crt", lr=0.1), 55.0, ece=3.0, top1=70.0),
        rows(Recipe("ncm"), 50.0, seeds=1, ece=None),
        rows(Recipe("lws", lr=0.2), 45.0, ece=5.0, many=None),
        rows(Recipe("ldam", **{"head.scale": 20.0, "loss.scale": 16.0}), 40.0, ece=7.0),
        rows(Recipe("focal", view="balanced", nesterov=True), 35.0, ece=1.0),
        rows(Recipe("crt", lr=5.0), None),
    ]
    return Leaderboard([row for pair in made for row in pair], TERMS)


def left(board: Leaderboard) -> list[str]:
    """Name and learning rate of each configuration of a board."""
    return [
        f"{row['name']} {row['parameters'].get('lr', '')}".strip()
        for row, *_ in board.configurations()
    ]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("head=lws and lr<0.1", ["lws 0.05"]),
        ("name = lws", ["lws 0.05", "lws 0.2"]),
        ("name == 'lws' or name=\"ncm\"", ["lws 0.05", "ncm", "lws 0.2"]),
        ("lr >= 0.1 and lr <= 0.2", ["crt 0.1", "lws 0.2", "ldam 0.1", "focal 0.1"]),
        ("lr > 0.2", ["crt 5.0"]),
        ("lr != 0.1", ["lws 0.05", "lws 0.2", "crt 5.0"]),  # ncm has no lr
        ("not lr != 0.1", ["crt 0.1", "ncm", "ldam 0.1", "focal 0.1"]),
        ("not (head=lws or head=linear)", ["ncm", "ldam 0.1"]),
        ("NOT head=lws AND not head=linear", ["ncm", "ldam 0.1"]),
        ("head=ncm or head=lws and lr<0.1", ["lws 0.05", "ncm"]),  # and before or
        ("(head=ncm or head=lws) and lr<0.1", ["lws 0.05"]),
        ("seeds<3", ["ncm"]),
        ("top1>50", ["crt 0.1"]),  # of the selected epoch; ncm has exactly 50
        ("many>40 and name!=crt", ["lws 0.05", "ncm"]),  # one has no many at all
        ("ece>1e0 and selection>4.5e1", ["lws 0.05", "crt 0.1"]),
        ("status=diverged", ["crt 5.0"]),
        ("loss.scale<18", ["ldam 0.1"]),
        ("head.scale<18", []),
        ("focal.gamma>1", None),
        ("loss.gamma>0", ["focal 0.1"]),  # which is stored as a plain gamma
        ("view=balanced", ["focal 0.1"]),
        ("nesterov=true", ["focal 0.1"]),
        ("steps_per_epoch!=none", []),
        ("steps_per_epoch=none and nesterov=true", ["focal 0.1"]),
    ],
)
def test_conditions(board: Leaderboard, condition: str, expected: list[str] | None) -> None:
    """Reference: by hand; nothing that meets a condition, and unknown names, are told."""
    if not expected:
        message = "No configuration has a" if expected is None else "None of 7 configurations meets"
        with pytest.raises(errors.ConfigError, match=message):
            where(board, condition)
        return
    kept = where(board, condition)
    assert left(kept) == expected
    assert all(len(rows) == 2 for rows in kept.configurations()), "both epochs stay"


def test_the_protocol_tells_of_it(board: Leaderboard) -> None:
    """Reference: by hand: the condition, how many, and that figures of the split were looked at."""
    protocol = where(board, "head = \n lws").protocol
    assert protocol.endswith("n < 20 · filtered: head = lws (2 of 7)"), protocol
    protocol = where(board, "top1>0 and lr<1").protocol
    assert protocol.endswith("· filtered: top1>0 and lr<1 (5 of 7, by its test figures)"), protocol
    protocol = best_per(where(board, "lr<1"), "head").protocol
    assert protocol.endswith(" · filtered: lr<1 (5 of 7) · best of each head"), protocol
    assert board.best().protocol.endswith("n < 20 · best of each recipe")
    assert sort(board, "ece").protocol.endswith("n < 20 · sorted by ece on test")
    assert where(board, "head=lws").protocol in render(where(board, "head=lws"), "md")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "ends where a name is expected"),
        ("head", "ends where one of = != < <= > >= is expected"),
        ("head=", "ends where a value is expected"),
        ("head=lws and", "ends where a name is expected"),
        ("head=lws lr<1", "has 'lr' where and, or, or its end is expected"),
        ("(head=lws", "ends where a closing parenthesis is expected"),
        ("head=lws)", "has ')' where and, or, or its end"),
        ("head=and", "has 'and' where a value is expected"),
        ("0.1<lr<0.2", "has '<' where and, or, or its end"),
        ("head='lws", 'cannot be read from "\'lws" on'),
        ("head=<lws", "has '<' where a value is expected"),
        ("'head'=lws", "where a name is expected"),
        ("head=lws; drop", "has 'drop' where"),
        ("not " * 2000 + "head=lws", f"is nested more than {DEEPEST} deep"),
        ("(" * 2000, f"is nested more than {DEEPEST} deep"),
        ("hed=lws", "No configuration has a 'hed'. Did you mean 'head'?"),
        ("head=lwss", "meets 'head=lwss'. head: Did you mean 'lws'?"),
        ("view=x", "meets 'view=x'. view: Choose from: balanced, instance."),
        ("lr<0", "None of 7 configurations meets 'lr<0'. Loosen the condition."),
        ("lr<fast", "lr is compared with a number, got 'fast'."),
        ("nesterov=1", "nesterov is compared with true or false, got '1'."),
        ("head<lws", "head is a text and has no order. Compare it by = or !=."),
        ("scale>1", "More than one part has a setting 'scale'. Write head.scale or loss.scale."),
        ("head=ncm and scale>1", "More than one part"),  # also where it could not matter
    ],
)
def test_what_is_no_condition(board: Leaderboard, condition: str, message: str) -> None:
    """Reference: one sentence that says where, and a remedy."""
    with pytest.raises(errors.ConfigError) as error:
        where(board, condition)
    assert message in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


COMPARISONS = ["head=='lws'", "head!='crt'", "lr<0.1", "lr>=0.1", "epochs==10", "epochs<=2.5"]

EXPRESSIONS = st.recursive(
    st.sampled_from(COMPARISONS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join),
        inner.map("not {}".format),
        inner.map("({})".format),
    ),
    max_leaves=8,
)


@given(
    EXPRESSIONS, st.sampled_from(["lws", "crt"]), st.sampled_from([0.05, 0.1]), st.integers(1, 10)
)
def test_conditions_bind_as_in_python(text: str, head: str, lr: float, epochs: int) -> None:
    """Reference: Python's own reading of the same text."""
    values = {"head": head, "lr": lr, "epochs": epochs}
    assert parse(text).holds(values) == eval(text, {}, values), text


@given(st.text("ab=!<>()'\" \nandort0.", max_size=30))
def test_a_text_is_a_condition_or_one_sentence(text: str) -> None:
    """Reference: no other error, whatever is typed."""
    message = ""
    try:
        parse(text)
    except errors.ConfigError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("head", ["lws 0.05", "crt 0.1", "ncm", "ldam 0.1"]),
        ("loss", ["lws 0.05", "ncm", "ldam 0.1", "focal 0.1"]),
        ("view", ["lws 0.05", "focal 0.1"]),
        ("loss.gamma", ["lws 0.05", "focal 0.1"]),
        ("name", ["lws 0.05", "crt 0.1", "ncm", "ldam 0.1", "focal 0.1"]),
    ],
)
def test_the_best_of_each(board: Leaderboard, setting: str, expected: list[str]) -> None:
    """Reference: by hand; what ranks decides, whatever the order shown."""
    assert left(best_per(board, setting)) == expected
    upside_down = best_per(sort(board, "selection:asc"), setting)
    assert sorted(left(upside_down)) == sorted(expected)
    _, header, lines, *_ = table_of(best_per(board, setting))
    if setting == "name":
        assert header[1:3] == ["recipe", "settings"]
    else:
        assert header[1:4] == ["recipe", setting, "settings"]
        assert len({line[2] for line in lines}) == len(lines), "one line for each value"
    for wrong, message in (
        ("haed", "Did you mean 'head'"),
        ("scale", "Write head.scale or loss.scale"),
        ("top1", "top1 is a metric"),
    ):
        with pytest.raises(errors.ConfigError, match=message):
            best_per(board, wrong)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("top1", ["crt 0.1", "ncm", "lws 0.2", "ldam 0.1", "focal 0.1", "lws 0.05", "crt 5.0"]),
        ("ece", ["focal 0.1", "crt 0.1", "lws 0.2", "ldam 0.1", "lws 0.05", "ncm", "crt 5.0"]),
        ("ece:desc", ["lws 0.05", "ldam 0.1", "lws 0.2", "crt 0.1", "focal 0.1", "ncm", "crt 5.0"]),
        ("top1:asc", ["lws 0.05", "focal 0.1", "ldam 0.1", "lws 0.2", "ncm", "crt 0.1", "crt 5.0"]),
    ],
)
def test_orders(board: Leaderboard, by: str, expected: list[str]) -> None:
    """Reference: by hand; best first unless told, what has no value last."""
    assert left(sort(board, by)) == expected


def test_what_is_no_order(board: Leaderboard) -> None:
    """Reference: one sentence and a remedy."""
    with pytest.raises(errors.ConfigError, match="No metric is called 'top2'. Did you mean 'top"):
        sort(board, "top2")
    with pytest.raises(errors.ConfigError, match="'ece:up' has no order 'up'. Write ece:asc"):
        sort(board, "ece:up")


def test_results_of_another_version_can_be_filtered(board: Leaderboard) -> None:
    """Reference: a recipe this version does not know still has the settings it was stored with."""
    for row in board.rows:
        row["name"] = f"{row['name']}-of-the-future"
    assert len(where(board, "loss.scale<18").configurations()) == 1
    values = values_of(board, board.configurations()[0])
    assert values["lr"] == 0.05
    assert "loss.lr" not in values


def test_no_setting_is_called_like_a_metric() -> None:
    """Reference: the registries: a name in a condition means one thing."""
    from stage2.methods.presets import PRESETS

    settings = {name for preset in PRESETS for name in Recipe(preset).settings}
    assert not settings & {*METRICS, "name", "recipe", "status", "seeds", "selection"}
