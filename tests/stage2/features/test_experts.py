"""Banks of experts: every recipe means all of them, averaged, and the tables say so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.special import softmax

from featbank import Bank, BankWriter, errors
from featbank.cli import main
from stage2.engine.outcome import Outcome
from stage2.features.experts import averaged, resolved, short_name
from stage2.features.loading import load_view
from stage2.features.requirements import check_bank
from stage2.methods.heads import HEADS
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import COUNTS, Problem, problem

VIEWS = [f"expert{e}/instance" for e in range(3)]
INSTANCE = "+".join(VIEWS)
BALANCED = INSTANCE.replace("instance", "balanced")
BOTH = ("instance", "balanced")
SHORT = {"epochs": 2, "batch_size": 32}

RECIPES = [
    *(Recipe(name, **SHORT) for name in ("crt", "lws", "mislas", "disalign", "los", "sla", "ltwb")),
    *(Recipe(name, **SHORT) for name in ("ldam", "tde", "mlp", "distil", "oracle")),
    *map(Recipe, ("tau_norm", "logit_adjust", "ncm", "ridge", "lda", "knn")),
    Recipe("crt", optimiser="lbfgs"),
    Recipe("glag", beta_step=0.0, **SHORT),
]


def write(path: Path, experts: Sequence[Problem], statistics: Sequence[str] = BOTH) -> Path:
    """A bank of experts; `train_balanced` has the test rows."""
    names = [f"class {k}" for k in range(len(COUNTS))]
    with BankWriter(path, names, dim=8, dtype="float32") as writer:
        for split in (*experts[0].y, "train_balanced"):
            source = "test" if split == "train_balanced" else split
            writer.split(split, experts[0].y[source])
            for e, expert in enumerate(experts):
                for name in statistics:
                    writer.features(split, f"expert{e}/{name}").append(expert.x[source, name])
        for e, expert in enumerate(experts):
            for name in statistics:
                writer.classifier(f"expert{e}/{name}", expert.w0, expert.b0)
        writer.text("instance", experts[0].text[None], 20.0)
    return path


def beside_instance(folder: Path, experts: int) -> Path:
    """A bank with experts and a view ``instance``, as a merge makes it."""
    path = folder / "merged.h5"
    with BankWriter(path, ["a", "b"], dim=2, dtype="float32") as writer:
        for split in ("train", "test"):
            writer.split(split, np.array([0, 1]))
            for view in ("instance", *VIEWS[:experts]):
                writer.features(split, view).append(np.eye(2, dtype=np.float32))
    return path


@pytest.fixture(scope="module")
def experts() -> list[Problem]:
    """The same rows by three experts: features and stage-1 classifiers of their own."""
    first = problem()
    found = [first]
    for e in (1, 2):
        rng = np.random.default_rng(e)
        turn = np.eye(8) + rng.normal(0, 0.3, (8, 8))
        x = {key: rows @ turn + rng.normal(0, 0.8, rows.shape) for key, rows in first.x.items()}
        w0 = first.w0 @ np.linalg.inv(turn).T + rng.normal(0, 0.2, first.w0.shape)
        x = {key: rows.astype(np.float32) for key, rows in x.items()}
        found.append(Problem(x, first.y, w0.astype(np.float32), first.b0 * e))
    return found


@pytest.fixture(scope="module")
def bank(experts: list[Problem], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """They as a bank: ``expert0/instance`` … ``expert2/balanced``."""
    with Bank(write(tmp_path_factory.mktemp("experts") / "bank.h5", experts)) as opened:
        yield opened


@pytest.fixture(scope="module")
def together(bank: Bank) -> dict[Recipe, Outcome]:
    """Every recipe as it is, on the bank of experts; outcomes by the recipe as it was written."""
    outcomes = {o.recipe: o for o in sweep(bank, RECIPES, device="cpu").outcomes}
    assert len(outcomes) == len(RECIPES)
    return {recipe: outcomes[resolved(bank, [recipe])[0]] for recipe in RECIPES}


@pytest.fixture(scope="module")
def alone(bank: Bank) -> dict[Recipe, Outcome]:
    """Every recipe on every expert by itself."""
    recipes = [on(recipe, view) for recipe in RECIPES for view in expert_views(recipe)]
    return {o.recipe: o for o in sweep(bank, recipes, device="cpu").outcomes}


def on(recipe: Recipe, view: str, **settings: object) -> Recipe:
    """A recipe on another view."""
    return Recipe(recipe.name, **{**recipe.settings, "view": view, **settings})


def expert_views(recipe: Recipe) -> list[str]:
    """The views of the experts that stand for the recipe's one."""
    return [f"expert{e}/{recipe.settings['view']}" for e in range(3)]


def logits_of(bank: Bank, outcome: Outcome) -> np.ndarray:
    """Logits [N, K] of a head on one view, by its stored parameters; float64."""
    (view,) = outcome.recipe.views
    data = load_view(bank, view, train_on=outcome.recipe.settings["train_on"])
    parameters = {name: values[None] for name, values in outcome.parameters.items()}
    x = torch.from_numpy(bank.load("test", view)[0])
    z = HEADS[outcome.recipe.head].evaluate(parameters, data.context.batch(x))
    return z[:, 0].double().numpy()


def check_metrics(outcome: Outcome, p: np.ndarray, y: np.ndarray) -> None:
    """An outcome's metrics on test are those of the probabilities `p` [N, K]."""
    metrics = outcome.evaluations["test", "last"].metrics
    right = p.argmax(1) == y
    macro = np.mean([right[y == k].mean() for k in range(p.shape[1])])
    brier = np.square(p - np.eye(p.shape[1])[y]).sum(1).mean()
    assert_close(metrics["top1"], 100 * right.mean(), 1e-9, "top-1")
    assert_close(metrics["macro"], 100 * macro, 1e-9, "macro")
    assert_close(metrics["nll"], -np.log(p[np.arange(len(y)), y]).mean(), 1e-4, "NLL")
    assert_close(metrics["brier"], brier, 1e-5, "Brier")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_a_recipe_averages_what_it_is_on_each_expert(
    recipe: Recipe,
    bank: Bank,
    experts: list[Problem],
    together: dict[Recipe, Outcome],
    alone: dict[Recipe, Outcome],
) -> None:
    """Reference: the recipe on each expert alone; their probabilities, averaged in float64."""
    outcome, of = together[recipe], [alone[on(recipe, view)] for view in expert_views(recipe)]
    assert outcome.recipe.settings["view"] == "+".join(expert_views(recipe))
    for view, single in zip(outcome.recipe.views, of, strict=True):
        for name, values in single.parameters.items():
            assert_close(outcome.parameters[f"{view}.{name}"], values, 1e-5, f"{name} on {view}")
    p = np.mean([softmax(logits_of(bank, single), 1) for single in of], 0)
    check_metrics(outcome, p, experts[0].y["test"])


@pytest.mark.parametrize(
    ("average", "probabilities"),
    [
        ("probabilities", lambda z: softmax(z, 2).mean(0)),
        ("logits", lambda z: softmax(z.mean(0), 1)),
    ],
)
def test_the_stage1_ensemble_is_logit_adjustment_by_nothing(
    average: str,
    probabilities: Callable[[np.ndarray], np.ndarray],
    bank: Bank,
    experts: list[Problem],
) -> None:
    """Reference: W₀x + b₀ of each expert in float64, averaged as asked; no single expert's."""
    recipe = Recipe("logit_adjust", tau=0.0, view=INSTANCE, average=average)
    (outcome,) = sweep(bank, [recipe], device="cpu").outcomes
    z = np.stack([e.x["test", "instance"].astype(float) @ e.w0.T + e.b0 for e in experts])
    check_metrics(outcome, probabilities(z), experts[0].y["test"])
    nll = outcome.evaluations["test", "last"].metrics["nll"]
    for one in z:
        rows = np.arange(len(one))
        other = -np.log(softmax(one, 1)[rows, experts[0].y["test"]]).mean()
        assert abs(nll - other) > 1e-3, f"got {nll}, an expert alone has {other}"


def test_a_temperature_is_fitted_to_the_average(bank: Bank, experts: list[Problem]) -> None:
    """Reference: the smallest NLL on val over a fine grid of T, of log p̄/T in float64."""
    recipe = Recipe("logit_adjust", tau=0.0, calibration="temperature")
    (outcome,) = sweep(bank, [recipe], device="cpu").outcomes
    x = [e.x["val", "instance"].astype(float) @ e.w0.T + e.b0 for e in experts]
    log_p = np.log(softmax(np.stack(x), 2).mean(0))
    y = experts[0].y["val"]
    scales = np.exp(np.linspace(-1, 1, 4001))
    nll = [-np.log(softmax(a * log_p, 1)[np.arange(len(y)), y]).mean() for a in scales]
    got = outcome.parameters["calibration.scale"]
    assert_close(got, [scales[np.argmin(nll)]], 1e-3, "1/T")


def test_every_preset_works_as_it_is(bank: Bank) -> None:
    """Reference: done on the views of all experts, for every preset of rows; β of `glag` moves."""
    names = [name for name in PRESETS if not HEADS[Recipe(name).head].takes_tokens]
    recipes = [Recipe(n, **(SHORT if "epochs" in Recipe(n).settings else {})) for n in names]
    outcomes = sweep(bank, recipes, device="cpu").outcomes
    assert {o.recipe.name for o in outcomes} == set(names)
    for outcome in outcomes:
        expected = averaged(bank, PRESETS[outcome.recipe.name].settings.get("view", "instance"))
        assert outcome.recipe.settings["view"] == expected in (INSTANCE, BALANCED)
        assert outcome.status == "done", f"{outcome.recipe} {outcome.status}"
    (glag,) = (o for o in outcomes if o.recipe.name == "glag")
    assert glag.traces["beta"].shape == (SHORT["epochs"], len(COUNTS))


# Which views are meant ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("instance", INSTANCE),
        ("balanced", BALANCED),
        ("instance+balanced", f"{INSTANCE}+{BALANCED}"),
        ("expert1/instance", "expert1/instance"),
        ("expert1/instance+balanced", f"expert1/instance+{BALANCED}"),
        ("other", "other"),
    ],
)
def test_what_a_view_means(view: str, expected: str, bank: Bank) -> None:
    """Reference: METHODS §7; what a bank has is meant as it is written."""
    assert averaged(bank, view) == expected
    assert averaged(bank, expected) == expected


def test_a_view_that_is_there_is_no_average(tmp_path: Path) -> None:
    """Reference: the same recipes on a bank with `instance` beside experts."""
    with Bank(beside_instance(tmp_path, experts=2)) as bank:
        assert averaged(bank, "instance") == "instance"
        recipes = [Recipe("ncm"), Recipe("crt", seed=3)]
        assert resolved(bank, recipes) == recipes


def test_a_recipe_keeps_all_else(bank: Bank) -> None:
    """Reference: its settings; the same recipe written two ways comes once, with one hash."""
    recipe = Recipe("ldam", seed=7, lr=0.3, **{"loss.scale": 20.0})
    (found,) = resolved(bank, [recipe, on(recipe, INSTANCE)])
    changed = {k for k, v in found.settings.items() if recipe.settings.get(k) != v}
    assert changed == {"view", "average"}
    assert found.settings["average"] == "probabilities"
    assert found.hash == on(recipe, INSTANCE).hash


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (INSTANCE, "expert0+1+2/instance"),
        (f"{INSTANCE}+{BALANCED}", "expert0+1+2/instance+expert0+1+2/balanced"),
        ("clip+expert2/balanced+dino/x", "clip+expert2/balanced+dino/x"),
        ("instance", "instance"),
    ],
)
def test_a_short_name_leaves_nothing_out(view: str, expected: str) -> None:
    """Reference: written out; every view can be told from it."""
    assert short_name(view) == expected


def test_what_a_bank_of_experts_lacks_is_named(experts: list[Problem], tmp_path: Path) -> None:
    """Reference: the house's error form, with one expert and the average to choose from."""
    with Bank(write(tmp_path / "bank.h5", experts, ["instance"])) as bank:
        message = (
            "Recipe 'mislas' needs the view 'balanced', PATH has: expert0/instance, "
            "expert1/instance, expert2/instance. Choose with --set view=instance for the average "
            "over experts, or --set view=expert0/instance."
        ).replace("PATH", str(bank.path))
        with pytest.raises(errors.ConfigError, match=f"^{re.escape(message)}$"):
            check_bank(bank, resolved(bank, [Recipe("mislas")]))
        with pytest.raises(errors.ConfigError, match="needs the view 'expert3/instance'"):
            sweep(bank, [Recipe("crt", view="expert3/instance")])


# The command -------------------------------------------------------------------------------------


def test_the_command_compares_experts_with_their_average(bank: Bank, tmp_path: Path) -> None:
    """Reference: one command, resumed by the library; its table, JSON and refusals."""
    results = str(tmp_path / "results.sqlite")
    command = ["sweep", str(bank.path), "--recipe", "crt", "--recipe", "logit_adjust"]
    command += ["--set", f"view=instance,{','.join(VIEWS)}", "--set", "average=logits"]
    command += ["--set", "epochs=1", "--set", "tau=0", "--seeds", "0", "-o", results]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    table, _, _ = done.output.partition("\nbank ")
    for view in ("expert0+1+2/instance", *VIEWS):
        lines = [line for line in table.splitlines() if f"view={view} " in line]
        zero_shot = view == "expert0+1+2/instance"  # a row of every table of a bank with text
        assert len(lines) == 2 + zero_shot, f"got {lines} for {view}\n{done.output}"
    assert max(map(len, table.splitlines())) < 140, done.output
    narrow = {"FORCE_COLOR": "1", "COLUMNS": "80"}
    told = CliRunner().invoke(main, ["leaderboard", results], env=narrow)
    assert "…" not in told.output, f"a name is cut short\n{told.output}"
    told = CliRunner().invoke(main, ["leaderboard", results, "--format", "json"])
    views = {row["parameters"]["view"] for row in json.loads(told.output)}
    assert views == {INSTANCE, *VIEWS}
    recipe = Recipe("logit_adjust", tau=0.0, view=INSTANCE, average="logits")
    again = sweep(bank, [recipe], results=results, select_on="test")
    assert again.skipped == [recipe], f"got {again.outcomes}"


def test_the_command_without_recipes_leaves_none_out(bank: Bank, tmp_path: Path) -> None:
    """Reference: every preset but the variants, and those for tokens, in the plan."""
    done = CliRunner().invoke(main, ["sweep", str(bank.path), "--dry-run", "--seeds", "0"])
    assert done.exit_code == 0, done.output
    usual = [name for name, preset in PRESETS.items() if not preset.variant]
    attend = [name for name in usual if HEADS[Recipe(name).head].takes_tokens]
    assert all(name in attend for name in re.findall(r"Left out (\w+)", done.output)), done.output
    count = len(usual) - len(attend)
    assert f"{count} configurations" in done.output, done.output
    assert "expert0+1+2/balanced, class_aware" in done.output, done.output


def test_info_lists_views_in_one_column(tmp_path: Path) -> None:
    """Reference: one line per view, whatever its name's length; counted where many."""
    path = beside_instance(tmp_path, experts=3)
    told = CliRunner().invoke(main, ["info", str(path)]).output.splitlines()
    assert "features    D = 2, float32, 4 views" in told, told
    lines = [line for line in told if line.strip().startswith(("expert", "instance"))]
    assert len(lines) == 4, told
    assert {line.index("no stage-1 classifier;") for line in lines} == {20}, lines
