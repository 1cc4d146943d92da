"""The losses of the registry under autograd."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featbank import errors
from stage2.methods.losses import LOSSES
from stage2.objective import AutogradLoss, classifier_problem, objective_settings
from tests.stage2 import reference
from tests.stage2.cases import LOSS_CASES, MOMENT
from tests.stage2.compare import assert_close, assert_relative

COUNTS = np.array([500.0, 120, 40, 9, 1])
SUPPORTED = [
    (loss, s) for loss, all_s in LOSS_CASES.items() if not LOSSES[loss].unsuited for s in all_s
]
COSINE, BEST = torch.linspace(-0.9, 0.9, 24).double(), torch.tensor([0.9, 0.5, 0, -0.1, 0.3])
EPOCH, EPOCHS = MOMENT["epoch"], MOMENT["epochs"]


def batch(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [24, 5] that want a gradient, some of them sure and wrong, and labels [24]."""
    draws = torch.Generator().manual_seed(3)
    z = 3 * torch.randn(24, 5, generator=draws, dtype=torch.float64)
    y = torch.randint(5, (24,), generator=draws)
    return z.to(dtype).requires_grad_(), y


def expected(loss: str, s: dict[str, Any], z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    counts = torch.from_numpy(COUNTS)
    kappa = torch.exp(s["tau"] * (BEST.double()[y] - COSINE)) if loss == "sla" else None
    return reference.loss(loss, z, y, s, counts, epoch=EPOCH, epochs=EPOCHS, kappa=kappa)


def made(loss: str, settings: dict[str, Any] | None = None, **more: Any) -> AutogradLoss:
    more = {"class_counts": COUNTS, "epochs": EPOCHS, **more}
    if loss == "gcl":  # the formula has no noise
        settings = {**(settings or {}), "cloud": 0.0}
    return AutogradLoss(loss, settings, classifier="cosine", **more)


def called(objective: AutogradLoss, z: torch.Tensor, y: torch.Tensor, epoch: int) -> torch.Tensor:
    """Its value, with the angles above where it wants them."""
    if not objective.needs_angles(epoch):
        return objective(z, y, epoch)
    return objective(z, y, epoch, cosine=COSINE.to(z), best=BEST.to(z))


@pytest.mark.parametrize(("loss", "settings"), SUPPORTED)
def test_value_and_gradient(loss: str, settings: dict[str, Any]) -> None:
    """Reference: `reference.loss` by autograd in float64; float32 to 1e-5 of it."""
    objective = made(loss, settings)
    z, y = batch()
    value = expected(loss, settings, z, y)
    (gradient,) = torch.autograd.grad(value, z)
    for dtype, within in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        mine, _ = batch(dtype)
        before = mine.detach().clone()
        got = called(objective, mine, y, EPOCH)
        assert got.shape == (), f"got {got.shape}"
        assert got.dtype == dtype, f"got {got.dtype}"
        (2 * got).backward()
        assert_relative(got, value, within, f"{loss} {settings} in {dtype}")
        assert_relative(mine.grad, 2 * gradient, within, f"slope of {loss} {settings} in {dtype}")
        assert mine.detach().equal(before), "the logits were overwritten"


@pytest.mark.parametrize("loss", sorted({loss for loss, _ in SUPPORTED} - {"sla"}))
def test_mixed_labels(loss: str) -> None:
    """Reference: λ·L(y_i) + (1−λ)·L(y_j) of `reference.loss`, one backward through both."""
    settings = LOSS_CASES[loss][0]
    objective = made(loss, settings)
    z, y = batch()
    partner = y.flip(0)
    mixed = 0.3 * expected(loss, settings, z, y) + 0.7 * expected(loss, settings, z, partner)
    (gradient,) = torch.autograd.grad(mixed, z)
    got = 0.3 * objective(z, y, EPOCH) + 0.7 * objective(z, partner, EPOCH)
    assert_relative(got, mixed, 1e-9, loss)
    assert_relative(torch.autograd.grad(got, z)[0], gradient, 1e-9, f"slope of {loss}")


def test_odd_smoothing_is_warned_of() -> None:
    """Reference: MiSLAS's 0 ≤ ε_K ≤ ε_1 ≤ ½; the defaults are inside."""
    with pytest.warns(UserWarning, match="outside MiSLAS's range"):
        AutogradLoss("las", {"smooth_tail": 0.6}, class_counts=COUNTS, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutogradLoss("las", class_counts=COUNTS, epochs=1)


def test_under_autocast_it_is_float32() -> None:
    """Reference: the float64 loss of the bfloat16 logits themselves; weights get a gradient."""
    objective = AutogradLoss("las", class_counts=COUNTS, epochs=1)
    layer = nn.Linear(7, 5)
    x, y = torch.randn(24, 7, generator=torch.Generator().manual_seed(0)), batch()[1]
    with torch.autocast("cpu", torch.bfloat16):
        z = layer(x)
        got = objective(z, y, 0)
    assert (z.dtype, got.dtype) == (torch.bfloat16, torch.float32)
    z.retain_grad()
    got.backward()
    exact = z.detach().double().requires_grad_()
    value = expected("las", objective_settings("las", {}), exact, y)
    value.backward()
    assert_relative(got, value, 1e-6, "value")
    assert_relative(z.grad.float(), exact.grad, 2**-8, "slope, rounded to bfloat16")
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("loss", "settings"), [("gradual", {}), ("class_balanced", {"defer": 6}), ("weighted", {})]
)
def test_it_follows_the_epochs(loss: str, settings: dict[str, Any]) -> None:
    """Reference: `reference.loss` at every epoch, there and back; DRW acts from epoch 6 of 8."""
    objective = AutogradLoss(loss, settings, class_counts=COUNTS, epochs=8)
    full = objective_settings(loss, settings)
    z, y = batch()
    for epoch in [*range(8), 0]:
        counts = torch.from_numpy(COUNTS)
        value = reference.loss(loss, z, y, full, counts, epoch=epoch, epochs=8)
        assert_relative(objective(z, y, epoch), value, 1e-9, f"{loss} at epoch {epoch}")
        if loss == "class_balanced" and epoch < 6:
            assert_relative(value, F.cross_entropy(z, y), 1e-12, f"epoch {epoch}, deferred")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("loss", ["las", "class_balanced", "vs", "cb_bce", "sigmoid_focal", "sla"])
def test_on_a_gpu(loss: str) -> None:
    """Reference: the same on the CPU."""
    objective = made(loss, LOSS_CASES[loss][0])
    (here, y), (there, _) = batch(torch.float32), batch(torch.float32)
    called(objective, here, y, EPOCH).backward()
    moved = there.detach().cuda().requires_grad_()
    got = called(objective, moved, y.cuda(), EPOCH)
    got.backward()
    assert got.device.type == "cuda", f"got {got.device}"
    assert_relative(moved.grad, here.grad, 1e-5, f"slope of {loss}")


def test_sla_is_logit_adjusted_before_its_switch() -> None:
    """Reference: `reference.loss` of `logit_adjusted` at τ of the prior, of `sla` from the switch
    on; there and back."""
    settings = {"gamma": 2.0, "tau": 1.5, "tau_prior": 0.7}
    objective, counts = made("sla", settings, switch=3), torch.from_numpy(COUNTS)
    z, y = batch()
    before = reference.loss("logit_adjusted", z, y, {"tau": 0.7}, counts)
    after = expected("sla", settings, z, y)
    for epoch in (0, 2, 3, 7, 1):
        assert objective.needs_angles(epoch) == (epoch >= 3), f"epoch {epoch}"
        value = before if epoch < 3 else after
        assert_relative(called(objective, z, y, epoch), value, 1e-9, f"epoch {epoch}")
    assert not made("sla", {"tau": 0.0}).needs_angles(5), "τ = 0 weighs by no angle"


def test_the_weights_of_sla_carry_no_gradient() -> None:
    """Reference: neither cosine nor best gets one, under autocast in bfloat16 either."""
    z, y = batch(torch.float32)
    cosine, best = COSINE.float().requires_grad_(), BEST.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        made("sla")(z, y, 0, cosine=cosine, best=best).backward()
    assert z.grad is not None
    assert cosine.grad is None
    assert best.grad is None


@pytest.mark.parametrize(("loss", "switch"), [("ce", 2), ("sla", -1)])
def test_a_switch_is_for_losses_that_weigh_rows(loss: str, switch: int) -> None:
    """Reference: the sentence."""
    with pytest.raises(errors.ConfigError) as told:
        made(loss, switch=switch)
    assert str(told.value) == (
        f"A switch epoch is for loss 'sla' or 'gcl', and ≥ 0; got {switch} for {loss!r}. Leave it "
        "out, or take 'sla' or 'gcl'."
    )


def test_texts_are_read_and_defaults_filled_in() -> None:
    """Reference: the settings of `las` and their types by hand."""
    got = objective_settings("las", {"smooth_head": "0.3", "smooth_shape": "linear"})
    assert got == {
        "smooth_head": 0.3,
        "smooth_tail": 0.1,
        "smooth_shape": "linear",
        "power": 1.0,
        "smooth_over": "uniform",
    }
    assert objective_settings("class_balanced", {"defer": "160"})["defer"] == 160


@pytest.mark.parametrize(
    ("loss", "settings", "line"),
    [
        (
            "distil",
            {},
            "Loss 'distil' is not for stage 1: it learns from the logits of a finished stage 1. "
            "Take 'ce' here, and 'distil' on the bank, in stage 2.",
        ),
        (
            "ldam",
            {},
            "Loss 'ldam' is a margin on cosines, and the classifier is linear. Take "
            "--classifier cosine, or loss 'class_balanced'.",
        ),
        ("balanced_sofmax", {}, "Unknown loss 'balanced_sofmax'. Did you mean 'balanced_softmax'?"),
        ("los", {"tau": 1}, "The loss 'los' takes no setting 'tau'. Choose from: smoothing, "),
        ("ce", {"tau": 1}, "The loss 'ce' takes no setting 'tau'. It takes none."),
        ("los", {"smoothing": "2"}, "The 'smoothing' of loss 'los' must be a float ≥ 0 and ≤ 1, "),
    ],
)
def test_refusals(loss: str, settings: dict[str, Any], line: str) -> None:
    """Reference: the sentences; each names what to take instead."""
    with pytest.raises(errors.ConfigError) as told:
        AutogradLoss(loss, settings, class_counts=COUNTS, epochs=1)
    assert str(told.value).startswith(line), f"got {told.value}"
    assert "\n" not in str(told.value)


def test_every_loss_is_supported_or_refused() -> None:
    """Reference: the registry; what is offered instead is supported."""
    for name, loss in LOSSES.items():
        if not loss.unsuited:
            made(name)
            assert (classifier_problem(name, "linear") is None) == (not loss.needs_cosine)
            assert classifier_problem(name, "cosine") is None
        if loss.unsuited or loss.needs_cosine:
            assert not LOSSES[loss.instead].unsuited
            assert not LOSSES[loss.instead].needs_cosine


def test_a_class_without_a_sample() -> None:
    """Reference: told as it is made; or left out, which is the loss of the other classes alone."""
    counts = np.array([500.0, 0, 40, 9, 1])
    with pytest.raises(errors.EmptyClass, match="balanced_softmax"):
        AutogradLoss("balanced_softmax", class_counts=counts, epochs=1)
    ignoring = {"empty_classes": "ignore"}
    objective = AutogradLoss("balanced_softmax", ignoring, class_counts=counts, epochs=1)
    there = [0, 2, 3, 4]
    z, _ = batch()
    y = torch.arange(24) % 4
    got = objective(z, torch.tensor(there)[y], 0)
    shifted = z[:, there] + torch.from_numpy(counts[there]).log()
    assert_close(got, F.cross_entropy(shifted, y), 1e-12, "loss without class 1")
    assert_close(torch.autograd.grad(got, z)[0][:, 1], np.zeros(24), 0, "slope of class 1")
