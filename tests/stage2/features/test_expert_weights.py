"""Experts that stage 1 weighed: the bank keeps ε_k, and stage 2 averages by it [SLA eq. 19]."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.special import log_softmax, softmax

from featbank import Bank, BankWriter, errors
from featbank.bank import schema
from featbank.bank.merge import merge
from featbank.bank.split import split_shards
from featbank.bank.verify import verify
from featbank.cli import main
from stage2.export.folding import _PLAIN, affine_head
from stage2.export.forms import Affine, AveragedHeads
from stage2.features.experts import resolved, unrecorded
from stage2.methods.averaging import averaged
from stage2.methods.recipe import Recipe
from stage2.specification import read_specification
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import COUNTS, Problem, problem

EPSILON = (1.0, 0.2, 3.0)
WEIGHTS = "1+0.2+3"
VIEWS = tuple(f"expert{e}/instance" for e in range(3))


@pytest.fixture(scope="module")
def experts() -> list[Problem]:
    """Three experts with features of their own."""
    return [problem(seed=seed) for seed in (0, 1, 2)]


def write(
    path: Path,
    experts: list[Problem],
    weights: tuple[float, ...] = EPSILON,
    provenance: dict[str, object] | None = None,
) -> Path:
    """A bank of the experts; labels and rows are those of the first."""
    names = [f"class {k}" for k in range(len(COUNTS))]
    with BankWriter(path, names, dim=8, provenance=provenance) as writer:
        for split, y in experts[0].y.items():
            writer.split(split, y)
            for view, expert in zip(VIEWS, experts, strict=True):
                writer.features(split, view).append(expert.x[split, "instance"])
        for view, expert, weight in zip(VIEWS, experts, weights, strict=True):
            writer.classifier(view, expert.w0, expert.b0)
            if weight != 1:
                writer.expert_weight(view, weight)
    return path


@pytest.fixture(scope="module")
def path(experts: list[Problem], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bank of weighed experts."""
    return write(tmp_path_factory.mktemp("experts") / "bank.h5", experts)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("own", [None, "1+1+1", "2+1+0.5"])
def test_outputs_are_averaged_by_the_weights(
    average: str, own: str | None, path: Path, experts: list[Problem]
) -> None:
    """Reference: Σ_k ε_k·softmax(z_k) / Σ_k ε_k in float64, and likewise of logits; weights of the
    recipe stand in place of the bank's."""
    settings = {} if own is None else {"view": "+".join(VIEWS), "view_weights": own}
    recipe = Recipe("logit_adjust", tau=0.0, average=average, view="+".join(VIEWS))
    recipe = Recipe("logit_adjust", **{**recipe.settings, **settings})
    with Bank(path) as bank:
        (outcome,) = sweep(bank, [recipe], device="cpu").outcomes
    assert outcome.recipe.settings["view_weights"] == (own or WEIGHTS)
    epsilon = np.array(EPSILON if own is None else [float(word) for word in own.split("+")])
    z = np.stack([e.x["test", "instance"].astype(float) @ e.w0.T + e.b0 for e in experts])
    if average == "probabilities":
        p = np.einsum("v,vnk->nk", epsilon, softmax(z, 2)) / epsilon.sum()
    else:
        p = softmax(np.einsum("v,vnk->nk", epsilon, z) / epsilon.sum(), 1)
    y = experts[0].y["test"]
    metrics = outcome.evaluations["test", "last"].metrics
    assert_close(metrics["top1"], 100 * (p.argmax(1) == y).mean(), 1e-9, "top-1")
    assert_close(metrics["nll"], -np.log(p[np.arange(len(y)), y]).mean(), 1e-5, "NLL")


def test_equal_weights_change_no_bit() -> None:
    """Reference: the plain mean of logits, and the plain sum of probabilities."""
    z = [torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(v)) for v in range(3)]
    assert averaged(z, True).equal(torch.stack(z).mean(0))
    expected = torch.log_softmax(torch.stack(z), 3).logsumexp(0)
    assert averaged(z, False).equal(expected)
    third = averaged(z, False, (1 / 3,) * 3)
    assert_close(log_softmax(third.numpy(), 2), log_softmax(expected.numpy(), 2), 1e-6, "thirds")


def test_a_recipe_says_the_weights_where_they_differ(
    path: Path, experts: list[Problem], tmp_path: Path
) -> None:
    """Reference: written out; a recipe's hash is as it was where experts count alike."""
    alike = write(tmp_path / "alike.h5", experts, (0.5, 0.5, 0.5))
    with Bank(path) as bank, Bank(alike) as other:
        (found,) = resolved(bank, [Recipe("crt")])
        assert found.settings["view_weights"] == WEIGHTS
        assert found.shares == pytest.approx([1 / 4.2, 0.2 / 4.2, 3 / 4.2])
        assert "view_weights" not in resolved(other, [Recipe("crt")])[0].settings
        (two,) = resolved(bank, [Recipe("crt", view="expert1/instance+expert2/instance")])
        assert two.settings["view_weights"] == "0.2+3"
        one = Recipe("crt", view="expert1/instance")
        assert resolved(bank, [one]) == [one]
        specification = tmp_path / "s.toml"
        specification.write_text('recipes = ["crt"]\n[settings]\nview = ["instance"]\n')
        (from_file,) = {r.id for r in read_specification(specification).on(bank)}
        assert from_file == found.id


@pytest.mark.parametrize("text", ["1", "1+0", "1+x", "", "1+inf", "1+1+1", "1,2"])
def test_wrong_weights_are_refused(text: str) -> None:
    """Reference: the house's error form; one line that says what is expected."""
    with pytest.raises(errors.ConfigError) as caught:
        Recipe("crt", view="a+b", view_weights=text)
    assert "must be 2 floats > 0 joined by +, one for each view of a+b" in str(caught.value)
    with pytest.raises(errors.ConfigError, match="takes no setting 'view_weights'"):
        Recipe("crt", view_weights="1+1")


def test_the_bank_keeps_them(path: Path, experts: list[Problem], tmp_path: Path) -> None:
    """Schema 4 with weights and the schema without them otherwise; copies keep them; another weight
    is another fingerprint."""
    with Bank(path) as bank, Bank(write(tmp_path / "one.h5", experts, (1, 1, 1))) as plain:
        assert (bank.schema, plain.schema) == (4, 1)
        assert [bank.expert_weight(view) for view in VIEWS] == list(EPSILON)
        assert [plain.expert_weight(view) for view in VIEWS] == [1, 1, 1]
        assert not any(name.startswith("experts/") for name in plain.datasets)
        assert bank.fingerprint != plain.fingerprint
        expected = bank.fingerprint
    parts = split_shards(path, tmp_path / "parts", 2)
    merge(parts, tmp_path / "merged.h5")
    with Bank(tmp_path / "merged.h5") as bank:
        assert bank.fingerprint == expected
    shown = json.loads(CliRunner().invoke(main, ["info", str(path), "--json"]).output)
    assert shown["views"]["expert1/instance"]["expert_weight"] == 0.2
    text = CliRunner().invoke(main, ["info", str(path)]).output
    assert "weight 0.2 in averages of experts" in text


def test_weights_that_only_the_provenance_has_are_warned_of(
    experts: list[Problem], tmp_path: Path
) -> None:
    """Banks of older versions; none where weights are recorded, given, equal or not averaged."""
    old = {"stage1": {"settings": {"expert_weights": "1+0.2+3"}}}
    alike = {"stage1": {"settings": {"expert_weights": "1+1+1"}}}
    average = Recipe("ncm", view="+".join(VIEWS))
    own = Recipe("ncm", view="+".join(VIEWS), view_weights="1+1+1")
    message = "experts are averaged alike; stage 1 weighed them by '1\\+0.2\\+3'. Extract it again"
    with Bank(write(tmp_path / "old.h5", experts, (1, 1, 1), provenance=old)) as bank:
        with pytest.warns(UserWarning, match=message):
            sweep(bank, [average], device="cpu")
        assert unrecorded(bank, [own, Recipe("ncm", view=VIEWS[0])]) is None
    with Bank(write(tmp_path / "new.h5", experts, provenance=old)) as bank:
        assert unrecorded(bank, [average]) is None
    with Bank(write(tmp_path / "alike.h5", experts, (1, 1, 1), provenance=alike)) as bank:
        assert unrecorded(bank, [average]) is None


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_that_is_none_is_reported(
    value: float, experts: list[Problem], tmp_path: Path
) -> None:
    """By the writer, by `verify`, and where it is used."""
    with pytest.raises(errors.DataError, match="has the weight .* It must be > 0"):
        write(tmp_path / "bad.h5", experts, (1.0, 1.0, value))
    path = write(tmp_path / "changed.h5", experts)
    with h5py.File(path, "r+", libver=schema.LIBVER) as file:
        file["experts/expert1/instance/weight"][0] = value
    failed = {check.name for check in verify(path) if check.status == "failed"}
    assert failed == {"digests", "experts"}
    with Bank(path) as bank, pytest.raises(errors.Corrupt, match="which is no weight"):
        resolved(bank, [Recipe("crt")])


def test_an_average_of_logits_folds_by_the_weights() -> None:
    """Reference: Σ_v s_v·(W_v x_v + b_v) in float64."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4))
    forms = [
        Affine(
            {
                "weight": torch.tensor(w[v], dtype=torch.float32),
                "bias": torch.tensor(b[v], dtype=torch.float32),
                "empty": torch.zeros(4, dtype=torch.bool),
            },
            _PLAIN,
        )
        for v in (0, 1)
    ]
    head = affine_head(AveragedHeads(forms, "logits", shares=(0.8, 0.2)), ("a", "b"))
    assert head is not None
    x = rng.normal(size=(2, 7, 3))
    expected = 0.8 * (x[0] @ w[0].T + b[0]) + 0.2 * (x[1] @ w[1].T + b[1])
    got = head({"a": torch.tensor(x[0]).float(), "b": torch.tensor(x[1]).float()})
    assert_close(got, expected, 1e-5, "logits")
