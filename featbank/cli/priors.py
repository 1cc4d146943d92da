"""Options and output of commands that move a head to another class prior."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from featbank.cli.options import FILE, Command
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.wording import number

if TYPE_CHECKING:
    from stage2.export.facts import HeadFacts
    from stage2.export.prediction import Predictions

GIVEN = (
    "uniform; values such as 5,3,2; or a file of counts or probabilities in the head's order, "
    ".npy, .npz:KEY or text of a value per line, or of name,value in any order"
)


def prior_options(command: Command) -> Command:
    """Add ``--prior`` and ``--prior-output``."""
    prior = click.option(
        "--prior",
        metavar="PRIOR",
        help=f"Class prior of the rows: {GIVEN}; or estimated from the rows, em or bbse; "
        "or sinkhorn or sinkhorn:PRIOR, which assigns the rows in equal or these shares. "
        "[default: the one that the head is made for]",
    )
    return prior(
        click.option(
            "--prior-output",
            type=FILE,
            help="Write the prior and 95 % intervals here, a line per class, with --prior em or "
            "bbse.",
        )(command)
    )


def moved(
    predictions: Predictions,
    facts: HeadFacts,
    prior: str,
    output: Path | None,
    *,
    err: bool = False,
) -> Predictions:
    """Move predictions to the prior asked for; write an estimate, and report it on stdout or
    stderr."""
    from stage2.export.target import under_prior

    target = under_prior(predictions, facts, prior)
    if (estimate := target.estimate) is not None:
        summary = estimate.summary(facts.class_names)
        say(f"Prior by {prior} from {number(estimate.rows, 'row')}: {summary}", err=err)
        if output is not None:
            estimate.write(output, facts.class_names)
            say(f"Wrote {output}. --prior {output} gives it again.", err=err)
    return target.predictions


def check_prior_output(prior: str | None, output: Path | None) -> None:
    """Raise `ConfigError` for an output without an estimate to write, or in no folder."""
    from stage2.export.target import BBSE, EM

    if output is None:
        return
    if prior not in (EM, BBSE):
        raise ConfigError("--prior-output writes an estimate. Give --prior em or bbse with it.")
    if not output.parent.is_dir():
        raise ConfigError(f"{output.parent} is not a folder. Create it first.")
