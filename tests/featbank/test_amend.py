"""`featbank amend`: another text or default scale, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank
from featbank.bank.verify import verify
from tests.conftest import Run, Toy

NAMES = ["ant", "bee", "cat", "dog", "eel"]


@pytest.fixture
def bank(make_toy: Callable[..., Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank with text of its own, tokens and a classifier."""
    monkeypatch.chdir(tmp_path)
    toy = make_toy()
    for split, views in toy.features.items():
        views["tokens"] = np.ones((1, len(toy.labels[split]), 3, 4), np.float32)
    np.savez("t.npz", text=np.eye(5, 8)[::-1] + 1, class_names=NAMES[::-1])
    text = {"instance": (np.ones((2, 5, 8)), 5.0), "tokens": (np.ones((5, 4)), 7.0)}
    return toy.write(
        tmp_path / "b.h5", class_names=NAMES, text=text, default_scale={"tokens": "unit"}
    )


def test_text_and_scale_are_replaced(featbank: Run, bank: Path) -> None:
    """View by view; every other dataset has the digest that it had."""
    featbank("amend", "b.h5", "--text", "t.npz", "-o", "c.h5")
    featbank("amend", "c.h5", "--scale", "0.5", "-o", "d.h5")
    with Bank("b.h5") as before, Bank("d.h5") as after:
        text = after.text()
        assert text is not None
        np.testing.assert_array_equal(text.features[0], np.eye(5, 8) + 1)
        assert text.logit_scale == 100
        assert after.text("tokens").logit_scale == 7  # type: ignore[union-attr]
        assert {view: after.default_scale(view) for view in after.views} == dict.fromkeys(
            after.views, "0.5"
        )
        changed = ("text/instance/", "scale/", "provenance")
        for name in before.datasets:
            if not name.startswith(changed):
                assert after.digest(name) == before.digest(name), name
    assert not [check for check in verify("d.h5") if check.status == "failed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "There is nothing to amend. Give --text, --scale, --groups"),
        (("--text", "narrow.npy"), "has D = 7, the features of instance have D = 8"),
        (("--text", "few.npy"), "text of 4 classes, the bank has K = 5"),
        (("--text", "named.npz"), "no text of 1 class: eel"),
        (("--view-text", "other", "t.npz"), "text/other is given, the views are balanced"),
        (("--view-text", "tokens", "t.npz"), "the features of tokens have D = 4"),
        (("--scale", "0"), "'0' is not none, unit, standardise or a number > 0"),
    ],
)
def test_what_does_not_fit(
    featbank: Run, bank: Path, options: tuple[str, ...], message: str
) -> None:
    """One line, and no bank."""
    np.save("narrow.npy", np.ones((5, 7)))
    np.save("few.npy", np.ones((4, 8)))
    np.savez("named.npz", text=np.ones((4, 8)), names=NAMES[:4])
    assert message in featbank("amend", "b.h5", *options, "-o", "c.h5", code=2).stderr
    assert not Path("c.h5").exists()


def test_the_bank_itself_is_not_replaced(featbank: Run, bank: Path) -> None:
    """It is read while its copy is written."""
    command = ("amend", "b.h5", "--scale", "unit", "-o", "b.h5", "--overwrite")
    assert "b.h5 is read as well" in featbank(*command, code=2).stderr
