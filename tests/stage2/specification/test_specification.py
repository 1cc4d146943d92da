"""Specifications: their meaning, and all their errors at once."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from featbank import Bank, errors, write_bank
from stage2.features.planning import plan_bank
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe, expand
from stage2.specification import Specification, read_specification, ready_specifications
from stage2.specification.ranges import Range
from tests.stage2.synthetic import Problem

EXPERTS = ("expert0/instance", "expert1/instance")


def specification(folder: Path, text: str, **options: object) -> Specification:
    """A text as a specification."""
    (folder / "s.toml").write_text(text)
    return read_specification(folder / "s.toml", **options)  # type: ignore[arg-type]


def refused(folder: Path, text: str, **options: object) -> str:
    """The error of a text, without its folder."""
    with pytest.raises(errors.ConfigError) as error:
        specification(folder, text, **options)
    return str(error.value).replace(f"{folder}/", "")


def bare_bank(path: Path, small: Problem) -> None:
    """Write a bank of one view, without val."""
    x = {s: {"instance": small.x[s, "instance"]} for s in ("train", "test")}
    y = {s: small.y[s] for s in x}
    write_bank(path, x, y, class_names=[str(k) for k in range(6)])


def test_what_a_specification_means(tmp_path: Path) -> None:
    """Reference: `expand` on the same grids; paths are relative to the file."""
    spec = specification(
        tmp_path,
        """# A test. It has two sentences.
        seeds = [3, 5]
        select_on = "val"
        output = "out/r.sqlite"
        [settings]
        epochs = [2, 4]
        weight_decay = 0
        [recipes.crt]
        lr = {log = [0.01, 1], n = 3}
        [recipes.tau_norm]
        tau = {linear = [0, 1], n = 3}
        [recipes.ldam]
        epochs = 1
        loss.scale = 20
        [cross]
        head = ["linear", "cosine", "ncm"]
        loss = ["ce", "focal"]
        sampler = ["instance", "class_aware"]
        gamma = [1, 2.5]
        """,
    )
    both = {"epochs": [2, 4], "weight_decay": [0]}
    expected = [
        *expand({"crt": {"lr": [0.01, 0.1, 1.0], **both}}, seeds=[3, 5]),
        *expand({"tau_norm": {"tau": [0.0, 0.5, 1.0]}}),
        *expand({"ldam": {"loss.scale": [20], "epochs": [1], "weight_decay": [0]}}, seeds=[3, 5]),
        *expand(
            {
                "ce": {
                    "head": ["linear", "cosine", "ncm"],
                    "loss": ["ce", "focal"],
                    "sampler": ["instance", "class_aware"],
                    "gamma": [1, 2.5],
                    **both,
                }
            },
            seeds=[3, 5],
        ),
    ]
    assert set(spec.recipes) == set(expected)
    assert len(spec.recipes) == 12 + 3 + 2 + 2 * (2 * (2 + 2 * 2) * 2) + 1
    assert spec.description == "A test. It has two sentences."
    assert spec.output == tmp_path / "out/r.sqlite"
    assert (spec.seeds, spec.select_on, spec.banks) == ((3, 5), "val", ())


def test_lists_of_names_and_of_tables(tmp_path: Path) -> None:
    """Reference: the recipes by hand; a preset over two grids is both, and seeds default to 0–2."""
    spec = specification(tmp_path, 'recipes = ["crt", "ncm"]')
    assert set(spec.recipes) == {Recipe("ncm"), *(Recipe("crt", seed=s) for s in range(3))}
    text = "seeds = 0\n[[recipes.crt]]\nlr = 0.1\n[[recipes.crt]]\nlr = 0.3\nepochs = 2\n"
    spec = specification(tmp_path, text)
    assert set(spec.recipes) == {Recipe("crt", lr=0.1), Recipe("crt", lr=0.3, epochs=2)}
    spec = specification(tmp_path, '[recipes.ldam]\n"head.scale" = 9\nseed = [4, 6]')
    assert set(spec.recipes) == {Recipe("ldam", **{"head.scale": 9.0}, seed=s) for s in (4, 6)}


def test_ranges() -> None:
    """Reference: geometric and arithmetic progressions; the Kolmogorov–Smirnov test of draws."""
    assert Range("log", 1e-3, 1, 4).values("lr") == [1e-3, 1e-2, 1e-1, 1]
    assert Range("linear", 0, 1, 5).values("tau") == [0, 0.25, 0.5, 0.75, 1]
    assert Range("linear", 0.3, 0.9, 1).values("tau") == [0.3]
    draws = np.array(Range("log", 1e-3, 10, 4000, seed=0).values("lr"))
    assert stats.kstest(np.log10(draws), stats.uniform(-3, 4).cdf).pvalue > 0.01
    uniform = np.array(Range("linear", 2, 5, 4000, seed=0).values("lr"))
    assert stats.kstest(uniform, stats.uniform(2, 3).cdf).pvalue > 0.01
    other = np.array(Range("log", 1e-3, 10, 4000, seed=0).values("tau"))
    assert abs(stats.spearmanr(draws, other).statistic) < 0.05
    assert Range("log", 1e-3, 10, 3, seed=0).values("lr") == draws[:3].tolist()
    assert Range("log", 1e-3, 10, 3, seed=1).values("lr") != draws[:3].tolist()


def test_random_values_are_drawn_together(tmp_path: Path) -> None:
    """Reference: random search: 6 draws are 6 points, crossed with the list; integers are whole."""
    text = """seeds = [0]
    [recipes.crt]
    lr = {log = [1e-2, 1], random = 6}
    weight_decay = {log = [1e-5, 1e-2], random = 6, seed = 2}
    batch_size = {log = [16, 512], random = 6}
    epochs = [1, 2]
    """
    recipes = specification(tmp_path, text).recipes
    points = {(r.settings["lr"], r.settings["weight_decay"]) for r in recipes}
    assert len(recipes) == 12, f"got {len(recipes)}"
    assert len(points) == 6, f"got {points}"
    assert all(isinstance(r.settings["batch_size"], int) for r in recipes)
    assert specification(tmp_path, text).recipes == recipes
    error = refused(tmp_path, text.replace("random = 6, seed", "random = 5, seed"))
    assert "s.toml:2: Recipe 'crt' has 6 of lr, 5 of weight_decay, 6 of batch_size: random" in error


def test_all_errors_at_once(bank: Bank, tmp_path: Path) -> None:
    """Reference: the lines of a file with one defect each, counted by hand."""
    error = refused(
        tmp_path,
        """\
bank = "bank.h5"
seeds = [0,
         -1]
select_on = "tset"
views = "x"
[settings]
epochs = 5
wieght_decay = 3
[recipes.crtt]
[recipes.crt]
lr = [0.1,
      -1, "fast"]
head = "linaer"
nestrov = true
tau = {log = [1, 2]}
batch_size = []
[[recipes.mislas]]
optimiser = "lbfgs"
[[recipes.mislas]]
view = ["instance", "balancd"]
[recipes.ldam]
scale = 3
""",
    ).splitlines()
    assert bank.views == ("instance", "balanced")
    assert error[0] == "s.toml: 14 errors."
    expected = [
        (3, "The 'seed' of the sweep must be an integer ≥ 0 and ≤ 4294967295, got -1."),
        (4, "'select_on' must be val, test or n-fold, got 'tset'. Did you mean 'test'?"),
        (5, "A specification has no 'views'. Choose from: bank, recipes, cross, settings, seeds"),
        (8, "None of the recipes takes a setting 'wieght_decay'. Did you mean 'weight_decay'?"),
        (9, "Unknown recipe 'crtt'. Did you mean 'crt'?"),
        (12, "The 'lr' of recipe 'crt' must be a float > 0, got -1."),
        (12, "The 'lr' of recipe 'crt' must be a float > 0, got 'fast'."),
        (13, "The 'head' of recipe 'crt' must be one of linear, cosine, lws, mislas, disalign,"),
        (14, "Recipe 'crt' takes no setting 'nestrov'. Did you mean 'nesterov'?"),
        (15, "'tau': A range has one of log and linear, and one of n and random."),
        (16, "'batch_size' is empty. Give it a value, or leave it out."),
        (18, "Recipe 'mislas' cannot have optimiser=lbfgs: head 'mislas' is not convex."),
        (20, "Recipe 'mislas' needs the view 'balancd', bank.h5 has: instance, balanced."),
        (22, "Recipe 'ldam' has more than one 'scale'. Write head.scale or loss.scale."),
    ]
    for line, (number, text) in zip(error[1:], expected, strict=False):
        assert line.strip().startswith(f"s.toml:{number}: {text}"), (line, number, text)
    assert len(error) - 1 == len(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 's.toml:1: No recipe is named. Write recipes = ["crt", "lws"], for example.'),
        ("recipes = []", "s.toml:1: No recipe is named."),
        ("recipes = [1]", "s.toml:1: 'recipes' must be a list of names, or tables [recipes.NAME]."),
        ("\nrecipes.crt = 3", "s.toml:2: [recipes.crt] must be a table of settings, got 3."),
        ('recipes = ["crt"]\nbank = [3]', "s.toml:2: 'bank' must be a path, or a list of paths"),
        ('recipes = ["crt"]\nbank = "a\\u0000"', "s.toml:2: 'bank' must be a path"),
        ('recipes = ["crt"]\nbank = "gone.h5"', "s.toml:2: gone.h5: no such file."),
        ('recipes = ["crt"]\noutput = ["a", "b"]', "s.toml:2: 'output' must be a path, got"),
        ('recipes = ["crt"]\nseeds = []', "s.toml:2: 'seeds' is empty."),
        ('recipes = ["crt"]\nseeds = true', "s.toml:2: The 'seed' of the sweep must be"),
        ('recipes = ["crt"]\nsettings = 1', "s.toml:2: [settings] must be a table of settings"),
        ("cross.lr = nan", "s.toml:1: The 'lr' of recipe 'ce' must be a float > 0, got nan."),
        ("cross.lr = 1979-05-27", "s.toml:1: The 'lr' of recipe 'ce' must be a float > 0, got "),
        ("cross.lr = {log = [0, 1], n = 3}", "'lr': A log range has 0 < low < high, got 0 and 1."),
        ("cross.lr = {linear = [2, 1], n = 3}", "'lr': A linear range has low < high, got 2 and 1"),
        ("cross.lr = {log = [1], n = 3}", "'lr': The ends of a range are two numbers, got [1]."),
        ("cross.lr = {log = [1, inf], n = 3}", "'lr': The ends of a range are two numbers"),
        ("cross.lr = {log = [1, 2], n = 0}", "'lr': The 'n' of a range must be an integer ≥ 1"),
        ("cross.lr = {log = [1, 2], n = 2.5}", "'lr': The 'n' of a range must be an integer ≥ 1"),
        ("cross.lr = {log = [1, 2], n = 3, seed = 1}", "'lr': Only a random range has a seed."),
        ("cross.lr = {log = [1, 2], random = 3, seed = -1}", "'lr': The 'seed' of a range must be"),
        ("cross.lr = {lg = [1, 2], n = 3}", "'lr': A range has no 'lg'. Did you mean 'log'?"),
        ("cross.lr = {log = [-1, 1], n = 9, linear = [0, 1]}", "'lr': A range has one of log and"),
        ("cross.head = {log = [1, 2], n = 2}", "The 'head' of recipe 'ce' must be one of linear"),
        ("cross.loss.gama = 3", "s.toml:1: Recipe 'ce' takes no setting 'loss.gama'. "),
        ("cross.lr = {linear = [1, 2], n = 10001}", "must be an integer ≥ 1 and ≤ 10000"),
        (
            "[cross]\nlr = {linear=[1, 2], n=2000}\nweight_decay = {linear=[1, 2], n=2000}",
            "The sweep has 12,000,000 runs, at most 100,000 are planned at once",
        ),
        ("cross.lr = [[1]]", "s.toml:1: The 'lr' of recipe 'ce' must be a float > 0, got [1]."),
    ],
)
def test_one_error_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    """Reference: the message, with its line and remedy."""
    error = refused(tmp_path, text)
    assert message in error, error
    assert "\n" not in error, error


@pytest.mark.parametrize("table", ["", "[recipes.lws]\n"])
def test_thousands_of_errors_take_no_time(table: str, tmp_path: Path) -> None:
    """Reference: the first twenty in the order of the file, and the time of a few."""
    keys = "".join(f"q{n} = {n}\n" for n in range(60_000))
    started = time.process_time()
    title, *error = refused(tmp_path, table + keys).splitlines()
    assert time.process_time() - started < 10  # one on a quiet machine
    assert title.endswith("more than 20 errors.")
    assert len(error) == 20
    assert all(f"'q{n}'" in line for n, line in enumerate(error))


def test_every_recipe_is_checked_on_every_bank(tmp_path: Path, small: Problem) -> None:
    """Reference: one bank lacks a view, the other val; both are reported."""
    with small.bank(tmp_path / "a.h5"):
        pass
    bare_bank(tmp_path / "b.h5", small)
    text = 'bank = ["a.h5", "b.h5"]\nselect_on = "val"\nrecipes = ["crt", "mislas", "glag"]\n'
    error = refused(tmp_path, text)
    assert error.startswith("s.toml: 3 errors.")
    assert "s.toml:2: b.h5 cannot select on 'val'. Choose from: test." in error
    assert "s.toml:3: Recipe 'mislas' needs the view 'balanced', b.h5 has: instance." in error
    assert "s.toml:3: Recipe 'glag' moves β by the accuracy on val, b.h5 has no val." in error
    with pytest.raises(errors.ConfigError, match="needs the view 'balanced'"):
        read_specification(tmp_path / "s.toml", banks=[tmp_path / "b.h5"])
    spec = read_specification(tmp_path / "s.toml", banks=[tmp_path / "a.h5"])
    assert spec.banks == (tmp_path / "a.h5",)
    assert len(spec.recipes) == 10


def test_experts(tmp_path: Path, small: Problem) -> None:
    """Reference: on a bank of experts `instance` is the average, which has a setting of its own."""
    x = {s: dict.fromkeys(EXPERTS, small.x[s, "instance"]) for s in small.y}
    write_bank(tmp_path / "e.h5", x, small.y, class_names=[str(k) for k in range(6)])
    text = 'seeds = [0]\n[settings]\naverage = ["logits", "probabilities"]\n[recipes.crt]\n'
    spec = specification(tmp_path, text)
    assert len(spec.recipes) == 1
    with Bank(tmp_path / "e.h5") as bank:
        views = {(r.settings["view"], r.settings["average"]) for r in spec.on(bank)}
    assert views == {("+".join(EXPERTS), how) for how in ("logits", "probabilities")}


def test_the_command_line_overrides(tmp_path: Path) -> None:
    """Reference: `expand` on the grid that is left; what is wrong is reported with the option, and
    reads the same without a file."""
    text = "[recipes.crt]\nlr = [0.1, 0.2]\n[recipes.lws]\n[recipes.ncm]\n"
    spec = specification(
        tmp_path,
        text,
        only=["crt", "ncm"],
        overrides={"epochs": ["1", "2"], "crt:lr": ["0.5"]},
        seeds=[7],
    )
    expected = expand({"crt": {"lr": [0.5], "epochs": [1, 2]}, "ncm": {}}, seeds=[7])
    assert set(spec.recipes) == set(expected)
    options = {"overrides": ["epochs=1,2", "crt:lr=0.5"], "seeds": "7"}
    assert list(read_specification(only=["crt", "ncm"], **options).recipes) == expected
    for options, message in (
        ({"only": ["lsw"]}, "The specification has no recipe 'lsw'. Did you mean 'lws'?"),
        (
            {"overrides": {"lr": ["fast"]}},
            "--set lr=fast: The 'lr' of recipe 'crt' must be a float",
        ),
        ({"overrides": {"lrr": ["1"]}}, "--set lrr=1: None of the recipes takes a setting 'lrr'."),
        ({"overrides": {"mislas:lr": ["1"]}}, "--set mislas:lr=1: 'mislas' is not swept."),
        ({"seeds": [-1]}, "--seeds -1: The 'seed' of the sweep must be an integer ≥ 0"),
    ):
        error = refused(tmp_path, text, **options)
        assert message in error, error
        if "only" not in options:
            with pytest.raises(errors.ConfigError) as raised:
                read_specification(only=["crt", "lws", "ncm"], **options)
            assert str(raised.value) == error


def test_all_errors_of_options_at_once(bank: Bank) -> None:
    """Reference: the options by eye; a value that several recipes share is reported once."""
    with pytest.raises(errors.SeveralErrors) as error:
        read_specification(
            banks=[bank.path],
            only=["crt", "lsw", "lws"],
            overrides=["lr=-1", "crt:head=linaer", "lr", "ldam:tau=1"],
            precision="fp8",
            seeds="0,x",
            search="optuna",
            search_settings={"eta": 1},
        )
    title, *lines = error.value.lines
    assert title == "8 errors."
    for line, start in zip(
        lines,
        (
            "--eta 1: 'eta' is for the search 'halving'. Choose that, or leave it out.",
            "--set lr is not KEY=V1,V2. ",
            "--seeds 0,x is not a list of integers. ",
            "--set ldam:tau=1: 'ldam' is not swept. ",
            "--set crt:head=linaer: The 'head' of recipe 'crt' must be one of linear, ",
            "--set lr=-1: The 'lr' of recipe 'crt' must be a float > 0, got -1.",
            "--precision fp8: The 'precision' of recipe 'crt' must be one of fp32, ",
            "Unknown recipe 'lsw'. Did you mean 'lws'?",
        ),
        strict=True,
    ):
        assert line.startswith(start), line


def test_without_recipes_it_is_all_that_a_bank_allows(tmp_path: Path, small: Problem) -> None:
    """Reference: the presets; a bank of one view lacks what MiSLAS sees, unless it is asked for."""
    bare_bank(tmp_path / "b.h5", small)
    with Bank(tmp_path / "b.h5") as bank:
        spec = read_specification(banks=[bank.path], seeds=[0], overrides=["crt:lr=0.5"])
        lacking = {name for name, reason in spec.left_out(bank).items() if "view" in reason}
        assert "mislas" in lacking
        usual = {name for name, preset in PRESETS.items() if not preset.variant}
        assert {recipe.name for recipe in spec.on(bank)} == usual - spec.left_out(bank).keys()
        assert Recipe("crt", lr=0.5) in spec.on(bank)
        with pytest.raises(errors.ConfigError, match="'mislas' needs the view 'balanced'"):
            read_specification(banks=[bank.path], overrides=["mislas:lr=0.5"])


@pytest.mark.parametrize("name", list(ready_specifications()))
def test_a_ready_specification_plans(name: str, bank: Bank) -> None:
    """Reference: the bank with both views, val and a classifier; each opens with what it shows."""
    spec = read_specification(name, banks=[bank.path])
    assert plan_bank(bank, spec.on(bank))
    assert ready_specifications()[name]
    assert "et al." in spec.description or "GLAG" in spec.description


def test_ready_specifications_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the issue's list; a file of the same name wins, a wrong name is an error."""
    wanted = (
        "all-heads baseline baselines disalign-ablation glag-ablation gradual-forms la-reweighting "
        "los-delta los-rethink mislas-ablation quick rho-curve smoothing-grid tau-curve text"
    )
    assert list(ready_specifications()) == wanted.split()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.ConfigError, match="no ready specification. Did you mean 'baseline'"):
        read_specification("basline")
    Path("baseline").write_text('recipes = ["ncm"]')
    assert read_specification("baseline").recipes == (Recipe("ncm"),)


def test_smoothing_grid_is_a_grid() -> None:
    """Reference: six by six points of MiSLAS Fig. 5's axes, with the preset's pair among them."""
    pairs = {
        (r.settings["smooth_head"], r.settings["smooth_tail"])
        for r in read_specification("smoothing-grid").recipes
    }
    assert len(pairs) == 36
    assert (0.4, 0.1) in pairs


def test_glag_ablation_is_the_documented_one() -> None:
    """Reference: the command of docs/afg.md, its twelve recipes and four to beat, five seeds."""
    swept = expand(
        {
            "glag": {
                "head": ["lws", "linear"],
                "loss": ["ce", "distil"],
                "distil_weight": [0, 1],
                "beta_step": [0, 0.05],
            },
            **{name: {} for name in ("crt-cifar", "lws-cifar", "balanced_softmax", "logit_adjust")},
        },
        seeds=range(5),
    )
    assert len(swept) == 5 * (12 + 3) + 1
    assert set(read_specification("glag-ablation").recipes) == set(swept)
