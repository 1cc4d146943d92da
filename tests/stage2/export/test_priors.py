"""Heads under other class priors: given, estimated, and made part of the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from featbank import errors
from stage2.export.estimation import bbse, em, transport
from stage2.export.headfile import load_head, save_head
from stage2.export.headprior import HeadPrior, fitted_correction, soft_confusion
from stage2.export.modules import shifted
from stage2.export.prediction import Predictions
from stage2.export.target import read_prior, under_prior
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from tests.stage2.export.test_export import (
    RECIPES,
    edited,
    exported,
    facts_of,
    features,
    named,
)
from tests.stage2.synthetic import Problem, problem

NAMES = ["ape", "bee", "cat"]


@pytest.fixture(scope="module")
def made() -> Problem:
    """Many / medium / few, and a class without a training row."""
    return problem((120, 36, 20, 12, 4, 0))


def prior_of(source: list[float], **changes: Any) -> HeadPrior:
    """The prior of a calibrated head."""
    k = len(source)
    confusion = torch.full((k, k), 0.1 / k) + 0.9 * torch.eye(k)
    known = HeadPrior(source, [], [9] * k, [5] * k, True, [0.0] * k, confusion)
    return replace(known, **changes)


def head_facts(made: Problem, prior: HeadPrior | None) -> Any:
    """Facts of a head of three classes."""
    return replace(facts_of(Recipe("ridge"), made), class_names=NAMES, prior=prior)


def predictions_of(logits: np.ndarray) -> Predictions:
    """What a head says of rows."""
    z = logits.astype(np.float32)
    return Predictions(z, softmax(z, 1), z.argmax(1), NAMES, None, [])


def gaussians(
    rng: np.random.Generator, shares: np.ndarray, rows: int, centres: np.ndarray, source: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn with `shares`, and their exact log-probabilities under `source`."""
    y = rng.choice(len(shares), rows, p=shares)
    x = rng.normal(size=(rows, centres.shape[1])) + centres[y]
    distance = ((x[:, None] - centres) ** 2).sum(2)
    return y, log_softmax(-distance / 2 + np.log(source), 1)


def test_a_uniform_head_stays_as_it_is(made: Problem) -> None:
    """Bit by bit, also if its prior comes from logarithms and back."""
    predictions = predictions_of(np.random.default_rng(0).normal(size=(20, 3)))
    uniform = np.exp(np.log(np.array([7.0, 7, 7]) / 21)).tolist()
    target = under_prior(predictions, head_facts(made, prior_of(uniform)), "uniform")
    assert target.predictions is predictions


def test_a_given_prior_is_bayes_rule(made: Problem) -> None:
    """Reference: p·π_t/π_s in float64, normalised; and with it the accuracy of resampled rows."""
    rng = np.random.default_rng(0)
    source, wanted = np.array([0.6, 0.3, 0.1]), np.array([1, 4, 5])
    centres = np.eye(3) * 1.5
    y, log_p = gaussians(rng, wanted / 10, 4000, centres, source)
    predictions = predictions_of(log_p)
    target = under_prior(predictions, head_facts(made, prior_of(source.tolist())), "1,4,5")
    expected = predictions.probabilities.astype(np.float64) * wanted / source
    expected /= expected.sum(1, keepdims=True)
    assert np.abs(target.predictions.probabilities - expected).max() < 1e-6
    assert (target.predictions.classes == expected.argmax(1)).all()
    before, after = ((p.classes == y).mean() for p in (predictions, target.predictions))
    assert after > before + 0.05
    confidence = target.predictions.probabilities.max(1)
    assert confidence.mean() == pytest.approx((target.predictions.classes == y).mean(), abs=0.02)


def test_em_is_the_largest_likelihood() -> None:
    """Reference: EM as in the paper, ten thousand steps in float64."""
    rng = np.random.default_rng(1)
    source = np.array([0.5, 0.3, 0.15, 0.05])
    _, log_p = gaussians(rng, np.array([0.1, 0.1, 0.2, 0.6]), 500, np.eye(4), source)
    p, shares = np.exp(log_p), np.full(4, 0.25)
    for _ in range(10_000):
        joint = p * shares / source
        shares = (joint / joint.sum(1, keepdims=True)).mean(0)
    assert em(log_p, source).shares == pytest.approx(shares, abs=1e-3)


@pytest.mark.parametrize("shares", [np.full(4, 0.25), np.array([0.6, 0.3, 0.1, 0.0])])
def test_transport_fills_the_shares(shares: np.ndarray) -> None:
    """Reference: Sinkhorn's scaling of rows and columns of softmax(z) as a matrix, in float64."""
    rng = np.random.default_rng(4)
    z = rng.normal([5, 2, 0, 0], 3, (300, 4))
    plan = np.exp(z)
    for _ in range(5000):
        plan *= (300 * shares) / np.maximum(plan.sum(0), 1e-300)
        plan /= plan.sum(1, keepdims=True)
    p = softmax(z + transport(z, shares), 1)
    assert p == pytest.approx(plan, abs=2e-3)
    assert p.mean(0) == pytest.approx(shares, abs=2e-3)


def test_sinkhorn_assigns_the_rows_together(made: Problem) -> None:
    """Reference: the shares asked for, of a head of any prior or none; and one line says that it
    looks at all rows. One row alone tells nothing: equal shares make it even."""
    predictions = predictions_of(np.random.default_rng(5).normal([3, 1, 0], 1, (400, 3)))
    for prior, shares in (("sinkhorn", [1 / 3] * 3), ("sinkhorn:5,3,2", [0.5, 0.3, 0.2])):
        target = under_prior(predictions, head_facts(made, None), prior)
        p = target.predictions.probabilities
        assert p.mean(0) == pytest.approx(shares, abs=1e-3)
        assert target.shares == pytest.approx(shares)
        assert "is transductive" in target.predictions.notes[0]
        assert (target.predictions.classes == p.argmax(1)).all()
    alone = under_prior(predictions_of(np.array([[5.0, 1, 0]])), head_facts(made, None), "sinkhorn")
    assert alone.predictions.probabilities == pytest.approx(np.full((1, 3), 1 / 3), abs=1e-3)
    with pytest.raises(errors.DataError, match="no rows to assign by sinkhorn"):
        under_prior(predictions_of(np.zeros((0, 3))), head_facts(made, None), "sinkhorn")
    with pytest.raises(errors.DataError, match="2 values"):
        under_prior(predictions, head_facts(made, None), "sinkhorn:1,2")


def test_bbse_solves_for_the_prior() -> None:
    """Reference: `numpy.linalg.solve`, where its solution is a prior."""
    rng = np.random.default_rng(2)
    confusion = 0.6 * np.eye(4) + 0.1
    p = rng.dirichlet([3, 2, 2, 3], 2000)
    expected = np.linalg.solve(confusion, p.mean(0))
    found = bbse(p, confusion, np.full(4, 50))
    assert found.shares == pytest.approx(expected, abs=1e-3)
    assert (found.low <= found.shares).all()
    assert (found.shares <= found.high).all()


@pytest.mark.parametrize("method", ["em", "bbse"])
def test_intervals_hold_the_prior(method: str) -> None:
    """Reference: the priors that rows were drawn with, each class of each of 15."""
    rng = np.random.default_rng(3)
    source, held = np.array([0.4, 0.3, 0.2, 0.1]), []
    centres = np.eye(4) * 2
    for _ in range(15):
        wanted = rng.dirichlet(np.ones(4))
        _, log_p = gaussians(rng, wanted, 800, centres, source)
        if method == "em":
            found = em(log_p, source)
        else:
            y, val = gaussians(rng, np.full(4, 0.25), 400, centres, source)
            rows = np.bincount(y)
            confusion = soft_confusion(torch.from_numpy(val), torch.from_numpy(y), rows)
            assert confusion is not None
            found = bbse(np.exp(log_p), confusion.numpy(), rows)
        held.append((found.low <= wanted) & (wanted <= found.high))
        assert np.abs(found.shares - wanted).max() < 0.12
    assert np.mean(held) >= 0.9


def test_a_correction_makes_val_its_own_prior() -> None:
    """Reference: with many rows, the mean of the corrected probabilities is the shares of val; the
    bias that was taken from a class comes back. A class without rows keeps 0."""
    rng = np.random.default_rng(4)
    source = np.array([0.4, 0.3, 0.2, 0.1])
    y, log_p = gaussians(rng, np.full(4, 0.25), 8000, 2 * np.eye(4), source)
    bias, rows = np.array([0.0, 0.0, 0.3, -0.8]), np.bincount(y)
    z, labels = torch.from_numpy(log_p + bias), torch.from_numpy(y)
    found = fitted_correction(z, labels, source, rows)
    assert found - found[0] == pytest.approx(-bias, abs=0.15)
    moved = z.numpy() + found + np.log(rows / rows.sum() / source)
    assert softmax(moved, 1).mean(0) == pytest.approx(rows / rows.sum(), abs=1e-3)
    few = labels < 3
    assert fitted_correction(z[few], labels[few], source, np.bincount(y[few], minlength=4))[3] == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_every_form_takes_a_prior(recipe: Recipe, made: Problem, tmp_path: Path) -> None:
    """Reference: what is added to its logits, before and after a file."""
    made = problem() if HEADS[recipe.head].uses_counts else made
    module, _ = exported(recipe, made)
    x, shift = features(recipe, made), np.linspace(-2, 3, len(made.w0))
    moved = shifted(module, shift)
    expected = module(x) + torch.from_numpy(shift).float()
    assert torch.allclose(moved(x), expected, atol=1e-4)
    save_head(tmp_path / "h.safetensors", moved, facts_of(recipe, made))
    assert torch.equal(load_head(tmp_path / "h.safetensors")(x), moved(x))


def kept(made: Problem, path: Path, **changes: Any) -> HeadPrior:
    """A head file that knows its prior."""
    recipe = Recipe("ridge")
    prior = prior_of([0.5, 0.2, 0.1, 0.1, 0.1, 0.0], **changes)
    save_head(path, exported(recipe, made)[0], replace(facts_of(recipe, made), prior=prior))
    return prior


def test_a_file_keeps_the_prior(made: Problem, tmp_path: Path) -> None:
    """All of it, twice the same bytes; a head without one is read as before."""
    path = tmp_path / "h.safetensors"
    prior = kept(made, path, caveats=["margins"])
    loaded = load_head(path)
    assert loaded.facts.prior == prior
    assert loaded.facts.prior.confusion is not None
    assert prior.confusion is not None
    assert torch.equal(loaded.facts.prior.confusion, prior.confusion)
    before = path.read_bytes()
    save_head(path, loaded, loaded.facts)
    assert path.read_bytes() == before
    save_head(path, loaded, replace(loaded.facts, prior=None))
    assert load_head(path).facts.prior is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(schema=2), "val.confusion is none of its tensors"),
        (lambda t, m: m.update(prior=3), "its prior is none"),
        (lambda t, m: m["prior"].update(more=1), "its prior is none"),
        (lambda t, m: m["prior"].update(source=[1.0]), "source are not 6 numbers"),
        (lambda t, m: m["prior"].update(source=[0.5] * 6), "source does not sum to 1"),
        (lambda t, m: m["prior"].update(val_rows=[-1] * 6), "val_rows are not 6 numbers"),
        (lambda t, m: m["prior"].update(class_counts=[1.5] * 6), "class_counts are not 6 num"),
        (lambda t, m: m["prior"].update(correction=[1e999] * 6), "correction is not finite"),
        (lambda t, m: m["prior"].update(correction=None), "correction is not 6 numbers"),
        (lambda t, m: m["prior"].update(caveats=[1]), "caveats are not all text"),
        (lambda t, m: m["prior"].update(calibrated=1), "calibrated is no bool"),
        (lambda t, m: t["val.confusion"].fill_(torch.nan), "are no probabilities"),
        (lambda t, m: t.update({"val.confusion": torch.ones(2)}), "val.confusion is torch"),
        (lambda t, m: m["prior"].update(caveats=["x"]), "its digest is another"),
        (lambda t, m: t["val.confusion"][0].add_(1e-6), "its digest is another"),
    ],
)
def test_attacks(change: Callable[..., None], message: str, made: Problem, tmp_path: Path) -> None:
    """A file from anyone: each defect is one line."""
    kept(made, tmp_path / "h.safetensors")
    edited(change, tmp_path / "h.safetensors")
    with pytest.raises(errors.ConfigError, match=message) as caught:
        load_head(tmp_path / "h.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5\n3\n2\n", [0.5, 0.3, 0.2]),
        ("ape,5\nbee,3\ncat,2", [0.5, 0.3, 0.2]),
        ("class,prior,low\nape,0.25,0\nbee,0.25,0\n\ncat,0.5,0\n", [0.25, 0.25, 0.5]),
        ("cat,2\nape,5\nbee,3", [0.5, 0.3, 0.2]),
        ("Cat,2\nAPE,5\nbee ,3", [0.5, 0.3, 0.2]),
    ],
)
def test_priors_of_text(text: str, expected: list[float], tmp_path: Path) -> None:
    """Values, names and values in any order and spelling, and a table with a header."""
    (tmp_path / "p.csv").write_text(text)
    assert read_prior(str(tmp_path / "p.csv"), NAMES) == pytest.approx(expected)


def test_a_prior_of_some_classes(tmp_path: Path) -> None:
    """Classes without a line are told and have a share of 0."""
    (tmp_path / "p.csv").write_text("cat,1\nape,3\n")
    with pytest.warns(UserWarning, match=r"lacks 1 class \('bee'\) of the head.*share.* is 0"):
        prior = read_prior(str(tmp_path / "p.csv"), NAMES)
    assert prior == pytest.approx([0.75, 0, 0.25])


def test_priors_of_values_and_arrays(tmp_path: Path) -> None:
    """On the command line, of more than a file name can be long; and as NumPy saves them."""
    assert read_prior("5,3,2", NAMES) == pytest.approx([0.5, 0.3, 0.2])
    many = [str(k) for k in range(500)]
    assert len(read_prior(",".join(["80"] * 500), many)) == 500
    np.save(tmp_path / "p.npy", np.array([[5, 3, 2]]))
    np.savez(tmp_path / "p.npz", a=np.array([1.0, 0, 1]), b=np.ones(3))
    assert read_prior(f"{tmp_path}/p.npy", NAMES) == pytest.approx([0.5, 0.3, 0.2])
    assert read_prior(f"{tmp_path}/p.npz:a", NAMES) == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n2\n", "has 2 values, the head 3 classes"),
        ("1\n-2\n3", "has -2 for class 'bee'"),
        ("0\n0\n0", "sums to 0"),
        ("1\nnan\n3", "has nan for class 'bee'"),
        ("1\ninf\n3", "has inf for class 'bee'"),
        ("1e308\n1e308\n1e308", "sums to inf"),
        ("1\ntwo\n3", "Line 2 of .* has 'two', which is no number"),
        ("bee,1\nape,2\ncut,3", "names 'cut', which is no class of the head. Did you mean 'cat'?"),
        ("bee,1\nbee,2\ncat,3", "has several classes named 'bee'"),
        ("0,1\n1,2\n2,3", "has no names for its 3 classes"),
        ("ape,1\nbee\ncat,3", "Class 'bee' of .* has '', which is no number"),
        ("", "has 0 values"),
        (b"\xff\xfe\x00", "is not a text file"),
    ],
)
def test_wrong_priors(content: str | bytes, message: str, tmp_path: Path) -> None:
    """One line each: the fact, then the remedy."""
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "p.txt").write_bytes(data)
    with pytest.raises((errors.DataError, errors.Mismatch), match=message) as caught:
        read_prior(str(tmp_path / "p.txt"), NAMES)
    assert "\n" not in str(caught.value)


def test_priors_that_are_not_there(tmp_path: Path) -> None:
    """A missing file, and an array of something else."""
    with pytest.raises(errors.DataError, match="no such file"):
        read_prior(str(tmp_path / "gone.txt"), NAMES)
    with pytest.raises(errors.DataError, match="has 2 values"):
        read_prior("1,2", NAMES)
    np.save(tmp_path / "p.npy", np.array(["a", "b", "c"]))
    with pytest.raises(errors.DataError, match="holds <U1"):
        read_prior(f"{tmp_path}/p.npy", NAMES)


def test_what_an_estimate_needs(made: Problem) -> None:
    """A calibration on a clean val, a confusion, rows, and a head that knows its prior."""
    rows = predictions_of(np.zeros((4, 3)))
    source = [1 / 3] * 3
    with pytest.raises(errors.ConfigError, match="was not calibrated on a val that stage 1 never"):
        under_prior(rows, head_facts(made, prior_of(source, calibrated=False)), "em")
    without = prior_of(source, confusion=None, val_rows=[3, 0, 3])
    with pytest.raises(errors.ConfigError, match="1 of 3 classes had none. Give --prior em"):
        under_prior(rows, head_facts(made, without), "bbse")
    with pytest.raises(errors.DataError, match="There are no rows to estimate"):
        under_prior(predictions_of(np.zeros((0, 3))), head_facts(made, prior_of(source)), "em")
    with pytest.raises(errors.ConfigError, match="is of an older version"):
        under_prior(rows, head_facts(made, None), "uniform")


def test_an_unsure_prior_is_noted(made: Problem) -> None:
    """In one line with its reason, as a note."""
    rows = predictions_of(np.zeros((4, 3)))
    facts = head_facts(made, prior_of([1 / 3] * 3, caveats=["margins"]))
    (note,) = under_prior(rows, facts, "1,1,2").predictions.notes
    assert note.endswith("is not known exactly: margins")
