"""Whole trainings against the reference loop: every preset, schedule and optimiser setting.

The reference is `reference.train`: torch.optim in float64 with autograd, one configuration, on the
index stream that `group_stream` gives and from the head's own start. Recipes of a test train
together, so that the engine is also tried on mixed stacks.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stage2.engine.loop import run_group
from stage2.methods.heads import HEADS
from stage2.methods.optimisers import SCHEDULES, STEPPED
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from tests.stage2 import reference
from tests.stage2.cases import has_formula
from tests.stage2.compare import assert_close, difference
from tests.stage2.synthetic import Problem, group_stream, groups_of, run

WITHIN = 1e-4
TRAINED = [name for name in PRESETS if has_formula(Recipe(name)) and not Recipe(name).generator]
"""Presets that `reference.train` can train; those with generators are in test_generation.py."""


def _check(recipes: list[Recipe], made: Problem, within: float = WITHIN) -> None:
    checked = 0
    for group in groups_of(recipes, made):
        view = made.view(group.stream.views[0])
        stream = group_stream(group.stream, view.train.labels)
        for outcome in run_group(group, view):
            recipe = outcome.recipe
            head, s = HEADS[recipe.head], {**recipe.settings, **recipe.part("loss")}
            start = {k: v[0] for k, v in head.init([recipe.part("head")], view.context).items()}
            expected = reference.train(
                recipe.head, s, start, stream, **made.double(group.stream.views[0])
            )
            assert outcome.status == "done", f"{recipe}: got {outcome.status}, expected done"
            assert set(outcome.parameters) == set(expected)
            for name, value in expected.items():
                got = outcome.parameters[name]
                assert_close(got, value, within, f"{name} of {recipe} after training")
            moved = max(difference(expected[name], start[name]) for name in expected)
            assert moved > 10 * within, f"{recipe} barely trains ({moved:.2g}): no test of anything"
            checked += 1
    assert checked == len(set(recipes)), f"got {checked} outcomes, expected {len(set(recipes))}"


@pytest.mark.parametrize("name", TRAINED)
def test_a_preset_trains_as_the_reference(name: str, small: Problem) -> None:
    """Reference: float64 loop; at the preset's settings, and in small batches."""
    # At its own lr of 5e-4 los hardly moves on this little data: 50 epochs.
    epochs = {"epochs": 50} if name == "los" else {}
    own = Recipe(name, **epochs)
    _check([own], small)
    # gradual and ldam change with the epoch, so few epochs of many steps are also of interest.
    _check([Recipe(name, batch_size=16, epochs=8, lr=max(own.settings["lr"], 0.02))], small)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_trains_as_the_reference(schedule: str, small: Problem) -> None:
    """Reference: METHODS §5 formulas in the float64 loop, with and without warm-up."""
    recipes = [
        Recipe(name, schedule=schedule, warmup=warmup, epochs=10, batch_size=32, lr=lr)
        for name in ("ce", "disalign")
        for warmup in (0, 3, 12)
        for lr in (0.05, 0.2)
    ]
    _check(recipes, small)


_OPTIMISER_CASES: list[dict[str, Any]] = [
    {"momentum": 0.0},
    {"momentum": 0.5},
    {"momentum": 0.9, "nesterov": True},
    {"weight_decay": 0.0},
    {"weight_decay": 0.5},
    {"weight_decay": 0.5, "momentum": 0.9, "nesterov": True},
    {"optimiser": "adamw", "lr": 0.01},
    {"optimiser": "adamw", "lr": 0.05, "weight_decay": 0.5},
    {"optimiser": "adamw", "lr": 0.05, "weight_decay": 0.0, "schedule": "cosine_step"},
    {"optimiser": "adamw", "lr": 0.05, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    {"weight_decay": 0.5, "decay_bias": False},
    {"optimiser": "adamw", "lr": 0.05, "weight_decay": 0.5, "decay_bias": False},
]


@pytest.mark.parametrize("name", ["crt", "lws", "mislas", "disalign", "ldam"])
def test_optimiser_settings_train_as_the_reference(name: str, small: Problem) -> None:
    """Reference: torch.optim.SGD and AdamW in float64; decay acts on every trained parameter."""
    assert {c.get("optimiser", "sgd") for c in _OPTIMISER_CASES} == set(STEPPED)
    common = {"batch_size": 50, "epochs": 6}
    _check([Recipe(name, **{**common, "lr": 0.05, **case}) for case in _OPTIMISER_CASES], small)


@pytest.mark.parametrize("optimiser", STEPPED)
@pytest.mark.parametrize("name", ["ce", "mislas", "ldam", "mlp"])
def test_bounded_rows_train_as_the_reference(name: str, optimiser: str, small: Problem) -> None:
    """Reference: float64 loop that shortens rows after each step, or once an epoch."""
    cases: list[dict[str, Any]] = [
        {},
        {"max_norm": 0.4},
        {"max_norm": 0.4, "max_norm_when": "epoch"},
        {"max_norm_fraction": 0.2},
        {"max_norm_fraction": 0.2, "max_norm_when": "epoch"},
    ]
    common = {"batch_size": 50, "epochs": 4, "lr": 0.05, "optimiser": optimiser}
    _check([Recipe(name, **common, **case) for case in cases], small)


@pytest.mark.parametrize("optimiser", STEPPED)
def test_decay_towards_stage_1_trains_as_the_reference(optimiser: str, small: Problem) -> None:
    """Reference: float64 loop in which ΔW = W − W₀ is what is trained and decayed."""
    recipes = [
        Recipe(
            "mislas", decay=decay, weight_decay=0.3, epochs=5, batch_size=30, optimiser=optimiser
        )
        for decay in ("weight", "delta")
    ]
    _check(recipes, small)


@pytest.mark.parametrize("optimiser", STEPPED)
def test_delta_lr_slows_the_weight_and_bias_alone(optimiser: str, small: Problem) -> None:
    """Reference: per-group learning rates of torch.optim; at 0, W₀ and b₀ exactly."""
    recipes = [
        Recipe("mislas", delta_lr=d, epochs=5, batch_size=30, optimiser=optimiser, lr=0.05)
        for d in (0.0, 0.05, 1.0, 3.0)
    ]
    _check(recipes, small)
    (group,) = groups_of(recipes, small)
    frozen = run_group(group, small.view("balanced"))[0]
    assert frozen.recipe.settings["delta_lr"] == 0
    assert_close(frozen.parameters["weight"], small.w0, 0.0, "W at delta_lr=0")
    assert_close(frozen.parameters["bias"], small.b0, 0.0, "b at delta_lr=0")
    assert difference(frozen.parameters["scale"], torch.ones(6)) > 0.01, "s should have moved"


@pytest.mark.parametrize("decay", ["weight", "delta"])
@pytest.mark.parametrize("optimiser", STEPPED)
def test_retention_trains_as_the_reference(optimiser: str, decay: str, small: Problem) -> None:
    """Reference: float64 loop from W = rW₀, of which ΔW is decayed with decay=delta; r and the
    rates of s and W in one stack."""
    common = {"decay": decay, "weight_decay": 0.3, "epochs": 5, "batch_size": 30, "lr": 0.05}
    recipes = [
        Recipe("mislas", retention=r, delta_lr=d, scale_lr=s, optimiser=optimiser, **common)
        for r in (0.0, 0.4, 1.0)
        for d, s in ((0.2, 1.0), (1.0, 0.0), (0.5, 0.3))
    ]
    _check(recipes, small)


def test_retention_spans_lws_and_crt(small: Problem) -> None:
    """Reference: MiSLAS §3.2: r = 1 with ΔW frozen is LWS, r = 0 with s frozen is cRT, in float64
    from W = 0."""
    common = {"loss": "ce", "epochs": 5, "batch_size": 30, "lr": 0.05}
    lws, other, crt = (
        Recipe("lws", sampler="class_aware", **common),
        Recipe("mislas", delta_lr=0.0, weight_decay=5e-4, view="instance", **common),
        Recipe("mislas", retention=0.0, scale_lr=0.0, delta_lr=1.0, view="instance", **common),
    )
    got = run([lws, other, crt], small)
    assert_close(got[other].parameters["scale"], got[lws].parameters["scale"], WITHIN, "s of LWS")
    assert_close(got[crt].parameters["scale"], torch.ones(6), 0.0, "s, frozen")
    group = next(g for g in groups_of([crt], small))
    stream = group_stream(group.stream, small.view().train.labels)
    linear = {"weight": torch.zeros(6, small.w0.shape[1]), "bias": torch.zeros(6)}
    expected = reference.train("linear", crt.settings, linear, stream, **small.double())
    for name, value in expected.items():
        assert_close(got[crt].parameters[name], value, WITHIN, f"{name} of cRT")
    assert difference(expected["weight"], linear["weight"]) > 0.01, "cRT should have moved"


DISALIGN = [
    {"form": form, "learn": learn, "confidence": confidence, "init": init}
    for form in ("eq6", "eq5")
    for learn in ("both", "magnitude", "margin")
    for confidence in ("learned", "off")
    for init in ("identity", "released")
]
"""Every way to calibrate z⁰."""


@pytest.mark.parametrize("optimiser", STEPPED)
def test_forms_of_disalign_train_as_the_reference(optimiser: str, small: Problem) -> None:
    """Reference: float64 loop of DisAlign eq. 5 and eq. 6 as written, with what is not learned left
    out of the optimiser; each beside all others of its tile. Weight decay tells the forms apart."""
    common = {"weight_decay": 0.3, "epochs": 5, "batch_size": 30, "lr": 0.05}
    recipes = [Recipe("disalign", optimiser=optimiser, **common, **case) for case in DISALIGN]
    _check(recipes, small)
    plain = {**common, "optimiser": optimiser, "weight_decay": 0.0}
    ends = []
    for settings in (plain, {**plain, "weight_decay": 0.3}):
        of6, of5 = (Recipe("disalign", form=form, **settings) for form in ("eq6", "eq5"))
        got = run([of6, of5], small)
        ends.append(difference(got[of5].parameters["alpha"] - 1, got[of6].parameters["alpha"]))
    assert ends[0] < WITHIN, f"without decay the forms differ by {ends[0]}"
    assert ends[1] > 1e-2, f"with decay the forms differ by {ends[1]}"


@pytest.mark.parametrize("optimiser", STEPPED)
def test_learn_scale_trains_s_and_its_absence_keeps_it(optimiser: str, small: Problem) -> None:
    """Reference: float64 loop with s among the trained parameters or not, in one stack."""
    recipes = [
        Recipe(name, learn_scale=learn, epochs=5, batch_size=30, optimiser=optimiser, **extra)
        for learn in (True, False)
        for name, extra in (
            ("ldam", {"init": "stage1", "lr": 0.05}),
            ("ce", {"head": "cosine", "lr": 0.05, "scale": 12.0}),
        )
    ]
    _check(recipes, small)
    for outcome in [o for g in groups_of(recipes, small) for o in run_group(g, small.view())]:
        s = outcome.recipe.part("head")
        gap = difference(outcome.parameters["scale"], [s["scale"]])
        assert (gap > 1e-3) == s["learn_scale"], f"{outcome.recipe}: s moved by {gap}"


def test_scheduled_losses_change_with_the_epoch(small: Problem) -> None:
    """Reference: float64 loop with α(t) of GraLoss and the deferral of LDAM, in one group."""
    recipes = [
        Recipe("gradual", base=4.0, strength=2.0, epochs=6, batch_size=25),
        *(Recipe("gradual", strength=s, epochs=6, batch_size=25) for s in (0.0, 0.5)),
        *(Recipe("ldam", defer=d, beta=0.99, epochs=6, batch_size=25) for d in (0, 1, 4, 5)),
        Recipe("ce", epochs=6, batch_size=25),
    ]
    _check(recipes, small)


def test_released_disalign_and_steps_per_epoch(small: Problem) -> None:
    """Reference: float64 loop from α=1, v=0.1; ⌈N/B⌉+1 steps as MiSLAS's own loop runs."""
    recipes = [
        Recipe("disalign", init="released", epochs=4, batch_size=32, steps_per_epoch=6),
        Recipe("mislas", epochs=4, batch_size=32, steps_per_epoch=6),
        Recipe("crt", epochs=2, batch_size=32, steps_per_epoch=1),
    ]
    _check(recipes, small)
    steps = {g.stream.steps for g in groups_of(recipes, small)}
    assert steps == {6, 1}, f"got {steps}, expected 6 and 1"


@pytest.mark.parametrize(("batch_size", "steps"), [(32, 4), (150, 1), (75, 2), (151, 1), (149, 1)])
def test_an_epoch_is_the_whole_batches_of_the_data(
    batch_size: int, steps: int, small: Problem
) -> None:
    """Reference: METHODS §2, ⌊N/B⌋ steps with N = 150; a batch larger than N is all of N."""
    (group,) = groups_of([Recipe("ce", batch_size=batch_size)], small)
    got = group_stream(group.stream, small.view().train.labels).shape
    assert tuple(got) == (10, steps, min(batch_size, 150)), f"got {got}, expected {steps} steps"


def test_the_curves_are_the_mean_loss_of_each_epoch(small: Problem) -> None:
    """Reference: float64 losses before each step of a run at a vanishing learning rate."""
    recipe = Recipe("balanced_softmax", lr=1e-12, epochs=3, batch_size=30)
    (group,) = groups_of([recipe], small)
    (outcome,) = run_group(group, small.view())
    data = small.double()
    stream = group_stream(group.stream, small.view().train.labels)
    head = HEADS["linear"].init([recipe.part("head")], small.view().context)
    start = {k: v[0].double() for k, v in head.items()}
    expected = []
    for batches in stream:
        losses = []
        for rows in batches:
            z = reference.logits("linear", start, data["x"][rows], data["w0"], data["b0"])
            losses.append(reference.loss("balanced_softmax", z, data["y"][rows], {}, data["n"]))
        expected.append(torch.stack(losses).mean())
    assert_close(outcome.curves["loss"], torch.stack(expected), 1e-6, "loss curve")
