"""Loss parameters: the formulas of METHODS §4 on counts, by hand and by `reference.py`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from featbank import errors
from stage2.methods.family import LossParameters, Moment, growth
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe, cautions
from stage2.testing import settings_to_check
from tests.stage2 import reference
from tests.stage2.cases import LOSS_CASES
from tests.stage2.compare import assert_close, assert_relative

COUNTS = np.array([500.0, 120, 40, 9, 1])
FIELDS = [field.name for field in fields(LossParameters)]


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
    ("head", "tail", "odd"),
    [
        (0.4, 0.1, False),
        (0.5, 0.0, False),
        (0.5, 0.5, False),
        (0.0, 0.0, False),
        (0.51, 0.1, True),
        (0.1, 0.2, True),
        (0.7, 0.6, True),
    ],
)
def test_smoothing_outside_the_range_of_the_paper_is_warned_of(
    head: float, tail: float, odd: bool
) -> None:
    """Reference: MiSLAS §3.2, 0 ≤ ε_K ≤ ε_1 ≤ ½; one text, however many configurations."""
    recipes = [
        Recipe("mislas", smooth_head=head, smooth_tail=tail, lr=lr) for lr in (0.1, 0.2, 0.3)
    ]
    texts = cautions([*recipes, Recipe("los"), Recipe("ncm")])
    assert len(texts) == odd, f"got {texts}"
    other = cautions([Recipe("mislas", smooth_head=1.0, smooth_tail=0.0)])
    assert not odd or texts == other, "the text of one range is another's"
    assert not cautions([*recipes, Recipe("mislas")]), "a grid over the edge is meant"
    assert len(cautions([*recipes, Recipe("mislas-places")])) == odd, "another recipe"


def test_a_power_without_a_shape_is_refused() -> None:
    """Reference: the formulas: only the exponential shape has p [MiSLAS eq. 7]."""
    message = "has power=2, which the concave shape does not take. Leave power out, or set"
    with pytest.raises(errors.ConfigError, match=message):
        Recipe("mislas", power=2.0)
    assert Recipe("mislas", power=2.0, smooth_shape="exponential").settings["power"] == 2


@pytest.mark.parametrize(
    ("loss", "settings", "raw"),
    [
        ("weighted", {"rho": 1.0}, 1 / COUNTS),
        ("weighted", {"rho": 0.5}, 1 / np.sqrt(COUNTS)),
        ("weighted", {"rho": 1.2}, COUNTS**-1.2),
        ("class_balanced", {"beta": 0.999}, (1 - 0.999) / (1 - 0.999**COUNTS)),
        ("cb_focal", {"beta": 0.9}, (1 - 0.9) / (1 - 0.9**COUNTS)),
        ("class_balanced", {"beta": 0.0}, np.ones(5)),
        ("sigmoid_focal", {"beta": 0.99}, (1 - 0.99) / (1 - 0.99**COUNTS)),
        ("sigmoid_focal", {"beta": 0.0}, np.ones(5)),
    ],
)
def test_class_weights(loss: str, settings: dict[str, Any], raw: np.ndarray) -> None:
    """Reference: DisAlign eq. 11 and CB eq. 4, in proportion, with Σω = K."""
    row = parameters(loss, **settings)
    assert_relative(row.weight, 5 * raw / raw.sum(), 1e-10, f"ω of {loss} {settings}")
    expected = loss in ("weighted", "class_balanced")
    assert row.by_weights == expected, f"got {row.by_weights}: METHODS §4, normalise"


def test_cb_bce_is_a_mean_over_classes() -> None:
    """Reference: the weights of class_balanced, over K; without a class over those that are."""
    row = parameters("cb_bce", beta=0.99)
    effective = parameters("class_balanced", beta=0.99).weight
    assert effective is not None
    assert_relative(row.weight, effective / 5, 1e-12, "ω/K")
    assert not row.by_weights
    holes = LOSSES["cb_bce"](np.array([500.0, 0, 9]), {"beta": 0.0, "empty_classes": "ignore"})
    assert_close(holes.weight, [0.5, 0, 0.5], 1e-12, "ω/K where a class is empty")


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
        (parameters("ldam", max_margin=2, scale=1.0, exponent=0.5), "margin", 2 * COUNTS**-0.5),
        (parameters("los"), "smoothing", np.full(5, 0.98)),
    ]
    for row, name, value in expected:
        assert_close(getattr(row, name), value, 1e-10, name)


@pytest.mark.parametrize("base", [0.125, 0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("epochs", [1, 2, 4, 40])
def test_gradual_grows_from_nothing_to_its_strength(epochs: int, base: float) -> None:
    """Reference: α = s(c^e − 1)/(c − 1), GLAG eq. 3–4, and s·e at c = 1; e = t/(T−1)."""
    strength, log_prior = 0.5, np.log(COUNTS / 670)
    for epoch in range(epochs):
        row = parameters("gradual", base=base, strength=strength, epoch=epoch, epochs=epochs)
        e = epoch / (epochs - 1) if epochs > 1 else 0.0
        alpha = strength * (e if base == 1 else (base**e - 1) / (base - 1))
        assert_close(row.shift, alpha * log_prior, 1e-10, f"t = {epoch} of {epochs}")
        if epoch == epochs - 1 > 0:
            assert_close(row.shift, strength * log_prior, 1e-12, "the last epoch")


def test_eq_3_of_glag_is_a_strength() -> None:
    """Reference: s(c^e − 1) as the paper writes it, c = 2 and, by ``strength`` = s(c−1), c = 6."""
    for base, strength in ((2.0, 0.7), (6.0, 0.7 * 5)):
        for epoch in range(9):
            row = parameters("gradual", base=base, strength=strength, epoch=epoch, epochs=9)
            literal = 0.7 * (base ** (epoch / 8) - 1) * np.log(COUNTS / 670)
            assert_close(row.shift, literal, 1e-10, f"c = {base}, t = {epoch}")


def test_growth_bends_as_its_base_says() -> None:
    """Reference: second differences of (c^e − 1)/(c − 1): below 0, 0 and above 0; no break at 1."""
    e = np.linspace(0, 1, 11)
    for base, sign in ((0.2, -1), (1.0, 0), (4.0, 1), (1e30, 1)):
        values = np.array([growth(each, base) for each in e])
        second = np.diff(values, 2)
        assert (np.abs(second) < 1e-12).all() if sign == 0 else (sign * second >= 0).all(), base
        assert_close(values[[0, -1]], [0, 1], 1e-12, f"ends at c = {base}")
    for near in (1 - 1e-9, 1 + 1e-9):
        assert_close([growth(each, near) for each in e], e, 1e-8, f"c = {near}")


@pytest.mark.parametrize("defer", [0, 1, 3])
def test_ldam_defers_its_weights(defer: int) -> None:
    """Reference: DRW, class-balanced weights from epoch `defer` on, never for 0."""
    for epoch in range(5):
        row = parameters("ldam", defer=defer, beta=0.99, epoch=epoch, epochs=5)
        weighted = bool(defer) and epoch >= defer
        assert (row.weight is not None) == weighted, f"epoch {epoch}: got weight {row.weight}"
        assert row.by_weights == weighted
        if weighted:
            assert_close(row.weight, parameters("class_balanced", beta=0.99).weight, 1e-12, "ω")


@pytest.mark.parametrize("loss", ["weighted", "class_balanced", "cb_focal"])
def test_weights_are_deferred(loss: str) -> None:
    """Reference: DRW; until epoch `defer` the plain mean, from then on the loss without it."""
    for defer in (0, 1, 3):
        for epoch in range(5):
            row = parameters(loss, defer=defer, epoch=epoch, epochs=5)
            whole = parameters(loss, epoch=epoch, epochs=5)
            assert row.gamma == whole.gamma
            if epoch >= defer:
                assert_close(row.weight, whole.weight, 1e-15, f"ω at {epoch}, deferred to {defer}")
                assert row.by_weights == whole.by_weights
            else:
                assert row.weight is None, f"epoch {epoch}, deferred to {defer}: {row.weight}"
                assert not row.by_weights


@pytest.mark.parametrize("loss", ["logit_adjusted", "balanced_softmax"])
def test_adjusted_losses_are_reweighted_late(loss: str) -> None:
    """Reference: SLA Tables 1 and 6, LA alone before epoch `defer`, then with ω of DisAlign eq. 11
    (LA+RW), ω of CB eq. 4 (LA+CB) or γ (LA+FL); over Σω of the batch, with γ over the batch."""
    inverse, effective = COUNTS**-0.7, (1 - 0.99) / (1 - 0.99**COUNTS)
    cases: list[tuple[dict[str, float], np.ndarray | None, float, bool]] = [
        ({"rho": 0.7}, inverse, 0.0, True),
        ({"beta": 0.99}, effective, 0.0, True),
        ({"gamma": 2.0}, None, 2.0, False),
        ({"beta": 0.99, "gamma": 1.0}, effective, 1.0, False),
    ]
    for settings, raw, gamma, by_weights in cases:
        for defer in (0, 3):
            for epoch in range(5):
                row = parameters(loss, **settings, defer=defer, epoch=epoch, epochs=5)
                plain = parameters(loss)
                assert_close(row.shift, plain.shift, 0, "the shift stays")
                if epoch < defer:
                    assert (row.weight, row.gamma, row.by_weights) == (None, 0.0, False), row
                    continue
                assert (row.gamma, row.by_weights) == (gamma, by_weights), f"{settings}: {row}"
                if raw is None:
                    assert row.weight is None
                else:
                    assert_relative(row.weight, 5 * raw / raw.sum(), 1e-10, f"ω of {settings}")


def test_reweighting_that_conflicts_or_does_nothing_is_refused() -> None:
    """Reference: two kinds of weights, and a deferral of nothing; one line with the remedy."""
    for loss in ("logit_adjusted", "balanced_softmax"):
        for settings, message in (
            ({"rho": 1.0, "beta": 0.99}, "has two kinds of class weights, rho=1 and beta=0.99. Ch"),
            ({"defer": 3}, "has defer=3 and nothing to defer. Set rho, beta or gamma, or leave"),
        ):
            with pytest.raises(errors.ConfigError, match=f"^Loss '{loss}' {message}"):
                parameters(loss, **settings)
            with pytest.raises(errors.ConfigError, match=f"^Recipe '{loss}' {message}"):
                Recipe(loss, **settings)


def test_focusing_has_no_optimum_to_find() -> None:
    """Reference: LA+RW is convex as LA is, LA+FL is not, and a deferral has no one objective."""
    for settings in ({}, {"rho": 1.0}, {"beta": 0.99}):
        Recipe("logit_adjusted", optimiser="lbfgs", **settings)
    with pytest.raises(errors.ConfigError, match="'logit_adjusted' is not convex with focusing"):
        Recipe("logit_adjusted", optimiser="lbfgs", gamma=1.0)
    with pytest.raises(errors.ConfigError, match="'logit_adjusted' changes over the epochs"):
        Recipe("logit_adjusted", optimiser="lbfgs", rho=1.0, defer=3)
    with pytest.raises(errors.ConfigError, match="'focal' is not convex. Choose"):
        Recipe("focal", optimiser="lbfgs")


def test_sla_parameters() -> None:
    """Reference: SLA eq. 9–12; m = τ_prior log π, γ without gradient, τ of the angle."""
    row = parameters("sla", gamma=1.5, tau=0.7, tau_prior=0.9)
    assert_close(row.shift, 0.9 * np.log(COUNTS / 670), 1e-12, "shift")
    assert (row.frozen_gamma, row.angle, row.gamma) == (1.5, 0.7, 0.0), f"got {row}"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("many+medium", [1, 1, 1, 0, 0]),
        ("many", [1, 1, 0, 0, 0]),
        ("medium", [0, 0, 1, 0, 0]),
        ("few", [0, 0, 0, 1, 1]),
        ("medium+few", [0, 0, 1, 1, 1]),
        ("many+medium+few", [1, 1, 1, 1, 1]),
    ],
)
def test_distilled_classes(groups: str, expected: list[int]) -> None:
    """Reference: METHODS §8, n > 100, 20 ≤ n ≤ 100, n < 20; and a group with no class."""
    got = parameters("distil", distil_groups=groups).distil_classes
    assert_close(got, expected, 0, groups)
    nobody = LOSSES["distil"](np.array([3.0, 2, 1]), {"distil_groups": "many"}).distil_classes
    assert_close(nobody, [0, 0, 0], 0, "no class has more than 100")


def test_distillation_goes_from_its_first_value_to_its_last() -> None:
    """Reference: a straight line over the epochs 0…T−1; one value where no last one is given."""
    for epochs, expected in ((1, [2.0]), (5, [2.0, 1.5, 1.0, 0.5, 0.0])):
        for epoch, alpha in enumerate(expected):
            row = parameters(
                "distil",
                distil_weight=2.0,
                distil_weight_end=0.0,
                temperature=3.0,
                temperature_end=1.0,
                epoch=epoch,
                epochs=epochs,
            )
            assert_close(row.distil, alpha, 1e-12, f"α at {epoch} of {epochs}")
            assert_close(row.temperature, 1 + alpha, 1e-12, f"T at {epoch} of {epochs}")
            same = parameters("distil", distil_weight=0.7, epoch=epoch, epochs=epochs)
            assert (same.distil, same.temperature) == (0.7, 2.0), f"got {same}"


def test_distillation_grows_as_eq_3() -> None:
    """Reference: GLAG eq. 3 with s = 1, c = 2, α(e) = 2^e − 1, at the settings of `glag`."""
    recipe = Recipe("glag")
    for epoch in range(40):
        row = LOSSES["distil"](COUNTS, recipe.part("loss"), Moment(epoch, 40))
        assert_close(row.distil, 2 ** (epoch / 39) - 1, 1e-12, f"α at {epoch}")
        assert row.temperature == 2.0
    constant = Recipe("glag", distil_weight=1.0)
    linear = Recipe("glag", distil_weight_base=1.0)
    for epoch in range(40):
        got = [
            LOSSES["distil"](COUNTS, each.part("loss"), Moment(epoch, 40)).distil
            for each in (constant, linear)
        ]
        assert_close(got, [1, epoch / 39], 1e-12, f"constant and linear at {epoch}")


def test_a_base_without_an_end_is_refused() -> None:
    """Reference: a setting does something, or it is an error of one line with the remedy."""
    message = "has distil_weight_base=2 and no distil_weight_end"
    with pytest.raises(errors.ConfigError, match=f"^Loss 'distil' {message}"):
        parameters("distil", distil_weight_base=2.0)
    with pytest.raises(errors.ConfigError, match=f"^Recipe 'distil' {message}"):
        Recipe("distil", distil_weight_base=2.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_scheduled_losses_depend_on_the_epoch(loss: str) -> None:
    """Reference: the parameters over 6 epochs; `changes`, by which the loop refreshes a loss."""
    for case in LOSS_CASES.get(loss) or settings_to_check(LOSSES[loss].settings):
        rows = [LOSSES[loss](COUNTS, case, Moment(t, 6)) for t in range(6)]
        same = all(
            np.array_equal(getattr(row, name), getattr(rows[0], name))
            if getattr(rows[0], name) is not None and getattr(row, name) is not None
            else getattr(row, name) is getattr(rows[0], name)
            for row in rows
            for name in FIELDS
        )
        assert LOSSES[loss].changes(case) == (not same), f"{loss} {case} is the same: {same}"


@pytest.mark.parametrize("loss", LOSS_CASES)
def test_every_setting_of_a_loss_is_compared_with_its_formula(loss: str) -> None:
    """Reference: the registry; `LOSS_CASES`, which the contract compares with `reference.loss` in
    float64, has every setting at another value than its default. Values at the default are
    compared by `test_a_preset_trains_as_the_reference`."""
    for setting in LOSSES[loss].settings:
        if setting.name == "empty_classes":  # `test_ignored_classes_leave_the_loss_of_the_others`
            continue
        values = [case[setting.name] for case in LOSS_CASES[loss] if setting.name in case]
        assert any(value != setting.default for value in values), f"{setting.name} of {loss}"


@pytest.mark.parametrize("loss", LOSS_CASES)
def test_kernels_and_what_losses_need(loss: str) -> None:
    """Reference: METHODS §4; some losses have their own kernel, one learns from stage 1."""
    own = {
        "cb_bce": "softmax_bce",
        "sigmoid_focal": "sigmoid_focal",
        "dot_regression": "dot_regression",
        "lade": "lade",
        "gcl": "clouded",
    }
    assert LOSSES[loss].kernel == own.get(loss, "family")
    assert LOSSES[loss].needs_classifier == (loss == "distil")


@pytest.mark.parametrize("loss", LOSSES)
def test_defaults_are_those_of_the_papers(loss: str) -> None:
    """Reference: METHODS §4, the values written beside each loss."""
    expected: dict[str, dict[str, Any]] = {
        "weighted": {"rho": 1.2, "normalise": "weights"},
        "class_balanced": {"beta": 0.9999, "normalise": "weights"},
        "gradual": {"base": 2.0, "strength": 1.0},
        "sla": {"gamma": 1.0, "tau": 1.0, "tau_prior": 1.0},
        "cb_bce": {"beta": 0.9999},
        "distil": {"distil_groups": "many+medium"},
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
