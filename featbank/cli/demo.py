"""``featbank demo``: the whole road, on data that needs no download."""

from __future__ import annotations

import time
from pathlib import Path

import click

from featbank.cli.leaderboard import show, show_verdicts
from featbank.cli.options import device_option, output_option
from featbank.cli.progress import progress
from featbank.cli.terminal import say, styled_stdout

GRIDS: dict[str, dict[str, list[float]]] = {
    **{
        name: {"lr": [0.05, 0.1, 0.2, 0.4], "weight_decay": [0.0, 1e-4, 5e-4], "epochs": [40]}
        for name in ("crt", "lws", "mislas", "disalign", "balanced_softmax", "ldam")
    },
    "los": {"lr": [5e-4, 2e-3, 1e-2, 5e-2], "weight_decay": [0.0, 1e-4, 5e-4], "epochs": [40]},
    **{
        name: {"lr": [0.05, 0.1, 0.2, 0.4], "weight_decay": [0.0, 5e-4], "epochs": [40]}
        for name in ("ce", "weighted", "class_balanced", "focal", "logit_adjusted", "vs")
    },
    "tau_norm": {"tau": [i / 20 for i in range(41)]},
    "logit_adjust": {"tau": [i / 10 for i in range(31)]},
    "ncm": {},
}
"""Grids of the demo: 205 configurations."""

SEEDS = (0, 1, 2)


@click.command()
@output_option(
    "Folder for what the demo makes; an earlier demo's files in it are replaced.",
    required=False,
    default="featbank-demo",
    show_default=True,
)
@device_option
def demo(output: Path, device: str) -> None:
    """Run the whole road on scikit-learn's handwritten digits, made long-tailed.

    Trains a small ResNet, extracts a bank with both BatchNorm views, sweeps more than 200 stage-2
    configurations with three seeds each, and prints the leaderboard.

    \b
    featbank demo
    """
    from featbank.devices import find_device
    from stage1.extraction.extract import extract
    from stage1.training.settings import default_settings
    from stage1.training.train import train
    from stage2.engine.native.library import prepare
    from stage2.methods.precisions import default_precision
    from stage2.methods.recipe import expand
    from stage2.results.verdict import verdict_of
    from stage2.sweep import sweep

    started = time.perf_counter()
    run, bank, results = output / "stage1", output / "bank.h5", output / "results.sqlite"
    output.mkdir(parents=True, exist_ok=True)

    _step(1, "Train a ResNet on long-tailed digits (imbalance 50)")
    checkpoint = train(
        default_settings("digits-lt", device=device),
        run,
        report=say,
        report_every=10,
        overwrite=True,
    )

    _step(2, "Extract a bank: every image's features, under both BatchNorm views")
    extract(run, bank, device=device, report=say, overwrite=True)

    place = str(find_device(device))
    precision = {"precision": [default_precision(place)]}
    recipes = expand({name: {**precision, **grid} for name, grid in GRIDS.items()}, seeds=SEEDS)
    configurations = len({recipe.id for recipe in recipes})
    _step(3, f"Sweep {configurations} stage-2 configurations, seeds {', '.join(map(str, SEEDS))}")
    for stale in output.glob("results.sqlite*"):
        stale.unlink()
    if place == "cpu":
        prepare(say)
    with progress("runs") as report:
        swept = sweep(
            bank, recipes, results=results, device=device, keep_outcomes=False, progress=report
        )

    _step(4, "Rank them")
    assert swept.board  # which only a shard may lack
    show(swept.board.best(), "table")
    show_verdicts({"": verdict_of(swept.board, results)})
    click.echo(f"\nDone in {time.perf_counter() - started:.0f} seconds. The demo wrote:")
    for path, content in (
        (checkpoint, "the backbone"),
        (bank, f"its features: featbank info {bank}"),
        (results, f"all results: featbank leaderboard {results}"),
    ):
        say(f"  {path}  {content}")


def _step(number: int, title: str) -> None:
    click.secho(f"\n{number}. {title}", file=styled_stdout(), bold=True)
