"""Loss parameters: the formulas of METHODS §4 on counts, by hand and by `reference.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from featbank import errors
from stage2.methods.losses import LOSSES, LossParameters, Moment
from tests.stage2 import reference
from tests.stage2.cases import LOSS_CASES
from tests.stage2.compare import assert_close, assert_relative

COUNTS = np.array([500.0, 120, 40, 9, 1])
ARRAYS = ("scale", "shift", "margin", "weight", "smoothing")


def parameters(loss: str, *, epoch: int = 0, epochs: int = 1, **settings: Any) -> LossParameters:
    return LOSSES[loss](COUNTS, settings, Moment(epoch, epochs))


@pytest.mark.parametrize("over", ["uniform", "others"])
@pytest.mark.parametrize("case", LOSS_CASES["las"])
def test_las_smoothing(case: dict[str, Any], over: str) -> None:
    """Reference: MiSLAS eq. 1–3 and 7, one class at a time; ends at ε_1 and ε_K."""
    settings = {**case, "smooth_over": over}
    row = parameters("las", **settings)
    assert row.others == (over == "others"), f"got {row.others}"
    expected = reference.las_smoothing(settings, torch.from_numpy(COUNTS))
    assert_close(row.smoothing, expected, 1e-12, f"ε of {settings}")
    ends = [case["smooth_head"], case["smooth_tail"]]
    assert row.smoothing is not None
    assert_close(row.smoothing[[0, -1]], ends, 1e-12, "ε of the largest and smallest class")


@pytest.mark.parametrize(
    ("loss", "settings", "raw"),
    [
        ("weighted", {"rho": 1.0}, 1 / COUNTS),
        ("weighted", {"rho": 0.5}, 1 / np.sqrt(COUNTS)),
        ("weighted", {"rho": 1.2}, COUNTS**-1.2),
        ("class_balanced", {"beta": 0.999}, (1 - 0.999) / (1 - 0.999**COUNTS)),
        ("cb_focal", {"beta": 0.9}, (1 - 0.9) / (1 - 0.9**COUNTS)),
        ("class_balanced", {"beta": 0.0}, np.ones(5)),
    ],
)
def test_class_weights(loss: str, settings: dict[str, Any], raw: np.ndarray) -> None:
    """Reference: DisAlign eq. 11 and CB eq. 4, in proportion, with Σω = K."""
    row = parameters(loss, **settings)
    assert_relative(row.weight, 5 * raw / raw.sum(), 1e-10, f"ω of {loss} {settings}")
    assert row.by_weights == (loss != "cb_focal"), f"got {row.by_weights}: METHODS §4, normalise"


@pytest.mark.parametrize("beta", [0.9999, 1 - 1e-9, 1 - 1e-12])
def test_effective_numbers_near_one_are_inverse_counts(beta: float) -> None:
    """Reference: the limit β → 1 of CB eq. 4, ω ∝ 1/n, where 1−β^n cancels in floats."""
    expected = 1 / COUNTS if beta > 0.99999 else (1 - beta) / (1 - beta**COUNTS)
    row = parameters("class_balanced", beta=beta)
    assert_relative(row.weight, 5 * expected / expected.sum(), 1e-6, f"ω at β = {beta}")


def test_priors_margins_and_scales() -> None:
    """Reference: BALMS eq. 3, LA eq. 10, VS eq. 2, LDAM eq. 13, GLAG eq. 3–4 by hand."""
    log_prior = np.log(COUNTS / 670)
    margin = 30 * 0.5 * np.array([1 / 500, 1 / 120, 1 / 40, 1 / 9, 1]) ** 0.25
    expected: list[tuple[LossParameters, str, np.ndarray]] = [
        (parameters("balanced_softmax"), "shift", np.log(COUNTS)),
        (parameters("logit_adjusted", tau=1.5), "shift", 1.5 * log_prior),
        (parameters("vs", gamma=0.2, tau=0.7), "scale", (COUNTS / 500) ** 0.2),
        (parameters("vs", gamma=0.2, tau=0.7), "shift", 0.7 * log_prior),
        (parameters("ldam"), "margin", margin),
        (parameters("ldam", max_margin=0.3, scale=10.0), "margin", margin / 5),
        (parameters("los"), "smoothing", np.full(5, 0.98)),
    ]
    for row, name, value in expected:
        assert_close(getattr(row, name), value, 1e-10, name)


@pytest.mark.parametrize("epochs", [1, 4, 40])
def test_gradual_grows_from_nothing(epochs: int) -> None:
    """Reference: α = s(c^{t/T} − 1), GLAG eq. 3–4; 0 at t = 0."""
    assert LOSSES["gradual"].scheduled
    for epoch in range(epochs):
        row = parameters("gradual", base=3.0, strength=0.5, epoch=epoch, epochs=epochs)
        alpha = 0.5 * (3 ** (epoch / epochs) - 1)
        assert_close(row.shift, alpha * np.log(COUNTS / 670), 1e-10, f"t = {epoch} of {epochs}")


@pytest.mark.parametrize("defer", [0, 1, 3])
def test_ldam_defers_its_weights(defer: int) -> None:
    """Reference: DRW, class-balanced weights from epoch `defer` on, never for 0."""
    assert LOSSES["ldam"].scheduled
    for epoch in range(5):
        row = parameters("ldam", defer=defer, beta=0.99, epoch=epoch, epochs=5)
        weighted = bool(defer) and epoch >= defer
        assert (row.weight is not None) == weighted, f"epoch {epoch}: got weight {row.weight}"
        assert row.by_weights == weighted
        if weighted:
            assert_close(row.weight, parameters("class_balanced", beta=0.99).weight, 1e-12, "ω")


@pytest.mark.parametrize("loss", LOSSES)
def test_only_scheduled_losses_depend_on_the_epoch(loss: str) -> None:
    """Reference: the flag `scheduled`, by which the loop refreshes a loss."""
    for case in LOSS_CASES[loss]:
        rows = [LOSSES[loss](COUNTS, case, Moment(t, 6)) for t in range(6)]
        same = all(
            np.array_equal(getattr(row, name), getattr(rows[0], name), equal_nan=False)
            if getattr(rows[0], name) is not None and getattr(row, name) is not None
            else getattr(row, name) is getattr(rows[0], name)
            for row in rows
            for name in ARRAYS
        )
        assert same or LOSSES[loss].scheduled, f"{loss} {case} changes, but is not scheduled"


@pytest.mark.parametrize("loss", LOSSES)
def test_defaults_are_those_of_the_papers(loss: str) -> None:
    """Reference: METHODS §4, the values written beside each loss."""
    expected: dict[str, dict[str, Any]] = {
        "weighted": {"rho": 1.2, "normalise": "weights"},
        "class_balanced": {"beta": 0.9999, "normalise": "weights"},
        "gradual": {"base": 2.0, "strength": 1.0},
        "ldam": {"max_margin": 0.5, "scale": None, "defer": 0},  # the head's, or 30
        "las": {"smooth_over": "uniform", "smooth_shape": "concave"},
        "los": {"smoothing": 0.98, "smooth_over": "uniform"},
        "logit_adjusted": {"tau": 1.0},
    }
    got = {s.name: s.default for s in LOSSES[loss].settings}
    for name, value in expected.get(loss, {}).items():
        assert got[name] == value, f"{name} of {loss}: got {got[name]}, expected {value}"
    assert LOSSES[loss].description
    assert LOSSES[loss].source


def test_unknown_and_wrong_settings_of_a_loss() -> None:
    """Reference: the house's sentence form, with the closest match."""
    with pytest.raises(errors.ConfigError, match="Did you mean 'gamma'"):
        parameters("focal", gama=1.0)
    with pytest.raises(errors.ConfigError, match="takes no setting"):
        parameters("ce", gamma=1.0)
    with pytest.raises(errors.ConfigError, match="must be a float ≥ 0, got -1"):
        parameters("focal", gamma=-1)
