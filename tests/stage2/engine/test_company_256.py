"""A recipe among 256 on the real features gives what it gives alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featbank import Bank, write_bank
from featbank.exchange import read_file
from stage2 import Recipe, sweep
from stage2.methods.recipe import expand

NAMES = ("crt", "lws", "mislas", "disalign", "los", "balanced_softmax")


def test_alone_and_among_256(real_features: Path, tmp_path: Path) -> None:
    """Reference: the same recipe alone, 3 epochs at its preset's learning rate.

    Parameters within 1e-4 and accuracy within 0.05 points, whatever it is swept with.
    """
    arrays = read_file(real_features)
    write_bank(tmp_path / "b.h5", arrays.features, arrays.labels, classifier=arrays.classifier)
    watched = [Recipe(name, epochs=3) for name in NAMES]
    grid = {"lr": np.geomspace(0.01, 0.5, 42), "epochs": [3]}
    others = [r for r in expand(dict.fromkeys(NAMES, grid)) if r not in watched]
    company = [*others[: 256 - len(watched)], *watched]
    assert len(set(company)) == 256
    with Bank(tmp_path / "b.h5") as bank:
        among = {outcome.recipe: outcome for outcome in sweep(bank, company).outcomes}
        for recipe in watched:
            (alone,) = sweep(bank, [recipe]).outcomes
            for name, expected in alone.parameters.items():
                gap = float((among[recipe].parameters[name] - expected).abs().max())
                assert gap <= 1e-4, f"{name} of {recipe.name}: differs by {gap:.1e}, allowed 1e-4"
            got, expected_top1 = (
                outcome.evaluations["test", "last"].metrics["top1"]
                for outcome in (among[recipe], alone)
            )
            assert abs(got - expected_top1) <= 0.05, f"{recipe.name}: {got}, not {expected_top1}"
